"""A service of toy detectors: one that waits until a test lets it go on, and one that fails on dark images."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from toy_bounds import Brightest

from advrad.errors import CheckpointError
from advrad.inference.judging import ImageJudge
from advrad.serving.errors import UnknownProduct
from advrad.serving.inspecting import InspectionService
from advrad.serving.products import Product
from advrad.serving.records import Inspection
from advrad.serving.settings import ServeSettings
from advrad.serving.store import Store

WAIT_S = 60.0
"""Longest wait for an answer; a test that reaches it fails."""


def picture(level: int = 60, *, seed: int = 0, size: int = 32, format: str = "PNG", **options: Any) -> bytes:
    """The content of an image file: a texture whose brightest pixel has the level."""
    values = np.random.default_rng(seed).integers(0, level, (size, size, 3)).astype(np.uint8)
    values[size // 2, size // 2] = level
    file = io.BytesIO()
    Image.fromarray(values).save(file, format, **options)
    return file.getvalue()


@dataclass
class Gated(Brightest):
    """Waits before each batch until the gate is open."""

    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    sizes: list[int] = field(default_factory=list)

    def predict_batch(self, images: Any) -> Any:
        self.entered.set()
        assert self.gate.wait(WAIT_S)
        self.sizes.append(len(images))
        return super().predict_batch(images)


@dataclass
class Meeting(Brightest):
    """Notes how many threads score at once; each waits for a second one, up to a time."""

    patience_s: float = WAIT_S
    together: int = 0
    most: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def predict_batch(self, images: Any) -> Any:
        with self.changed:
            self.together += 1
            self.most = max(self.most, self.together)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.most > 1, self.patience_s)
        found = super().predict_batch(images)
        with self.changed:
            self.together -= 1
        return found


@dataclass
class SlowBounds(Brightest):
    """Waits before it computes bounds until the gate is open, and counts how often it does."""

    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    calls: int = 0

    def score_bounds(self, images: Any, radius: float, norm: Any) -> Any:
        self.calls += 1
        self.entered.set()
        assert self.gate.wait(WAIT_S)
        return super().score_bounds(images, radius, norm)


class AfraidOfTheDark(Brightest):
    """Fails on batches that hold a dark image."""

    def predict_batch(self, images: Any) -> Any:
        if (images.amax((1, 2, 3)) < 0.1).any():
            raise CheckpointError("the image is dark")
        return super().predict_batch(images)


def product(name: str = "nut", detector: Any = None, model: str = "m1", *, side_by_side: bool = False) -> Product:
    """A product of a toy detector."""
    judge = ImageJudge(Brightest() if detector is None else detector, max_pixels=1_000_000)
    return Product(name, Path(name), model, judge, datetime.now(UTC), side_by_side=side_by_side)


class Table(dict[str, Product]):
    """Products in memory."""

    def get(self, name: str) -> Product:  # type: ignore[override]
        if name not in self:
            raise UnknownProduct(f"there is no product named {name}", "take another")
        return self[name]


@dataclass
class Noted:
    """A drift monitor that notes what it is told."""

    told: list[Inspection] = field(default_factory=list)

    def observe(self, inspections: Sequence[Inspection]) -> list[Any]:
        self.told += inspections
        return []


@contextmanager
def serving(
    store: Store,
    *products: Product,
    monitor: Any = None,
    sinks: tuple[str, ...] = (),
    threads: int = 1,
    **settings: Any,
) -> Iterator[InspectionService]:
    """A started service, which is stopped at the end; its deadline is late unless the settings say otherwise."""
    table = Table({one.name: one for one in products or (product(),)})
    service = InspectionService(
        store,
        table,  # type: ignore[arg-type]
        monitor,
        ServeSettings(**{"deadline_s": 300, **settings}),
        sinks=sinks,
        threads=threads,
    )
    service.start()
    try:
        yield service
    finally:
        service.stop(WAIT_S)
