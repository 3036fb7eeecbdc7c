"""The parts of a running service, as the routes find them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

if TYPE_CHECKING:
    from advrad.serving.access import Access
    from advrad.serving.api.metrics import Metrics
    from advrad.serving.drift.monitor import DriftMonitor
    from advrad.serving.inspecting import InspectionService
    from advrad.serving.model_export import ModelExports
    from advrad.serving.products import ProductTable
    from advrad.serving.settings import ServeSettings
    from advrad.serving.store import Store


@dataclass(slots=True)
class State:
    """What changes while the service runs.

    Attributes:
        stopping: Whether a stop was asked for.
    """

    stopping: bool = False


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a running service; ``request.app.state.parts`` holds them.

    Attributes:
        settings: The settings.
        access: Who may do what.
        store: The history.
        products: The products and their models.
        service: What judges images.
        monitor: What watches for drift.
        metrics: The counters.
        exports: Packs detectors to take along.
        sinks: Names of the sinks that verdicts are sent to.
        state: What changes while the service runs.
    """

    settings: ServeSettings
    access: Access
    store: Store
    products: ProductTable
    service: InspectionService
    monitor: DriftMonitor
    metrics: Metrics
    exports: ModelExports
    sinks: tuple[str, ...] = ()
    state: State = field(default_factory=State)


async def parts_of(request: HTTPConnection) -> Parts:
    """The parts of the service that a request came to, as a dependency of routes. It waits for no thread.

    Args:
        request: The request.
    """
    parts: Parts = request.app.state.parts
    return parts
