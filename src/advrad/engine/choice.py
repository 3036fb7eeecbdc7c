"""The engine that options name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from advrad.engine.base import Engine, SerialEngine
from advrad.engine.local import LocalEngine
from advrad.errors import ConfigError

#: Names of engines: the processes of this machine, and the machines of a Ray cluster.
ENGINES = ("local", "ray")


@contextmanager
def open_engine(name: str = "local", jobs: int | None = None, address: str | None = None) -> Iterator[Engine]:
    """Open an engine, and close it after the block.

    Args:
        name: "local" for processes of this machine, "ray" for Ray.
        jobs: Number of processes, >= 1; 1 for this process alone. None for 1, or with Ray for as many as the machines
            take.
        address: Address of a Ray cluster, HOST:PORT; None for one on this machine that lives as long as the block.

    Yields:
        The engine.

    Raises:
        ConfigError: The options do not fit together, or the package of the engine is missing.
        EngineError: The engine cannot be reached.

    Example:
        >>> with open_engine() as engine:
        ...     print(*engine.run(range, [2, 3]))
        0 1 0 1 2
    """
    if name not in ENGINES:
        raise ConfigError(f"unknown; use {' or '.join(ENGINES)}", option="engine", value=name)
    if jobs is not None and jobs < 1:
        raise ConfigError("must be 1 or more", option="jobs", value=jobs)
    if name == "ray":
        from advrad.engine.ray_engine import RayEngine

        with RayEngine(address, jobs) as engine:
            yield engine
        return
    if address is not None:
        raise ConfigError("is for the engine ray only; choose that engine too, or no address", option="address")
    yield SerialEngine() if jobs in (None, 1) else LocalEngine(jobs)
