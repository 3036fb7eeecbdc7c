"""Engines: what carries out independent pieces of work, in this process, in several, or on several machines."""

from advrad.engine.base import MOST_LOSSES, Engine, Resources, SerialEngine, everything
from advrad.engine.choice import ENGINES, open_engine
from advrad.engine.local import LocalEngine

__all__ = [
    "ENGINES",
    "MOST_LOSSES",
    "Engine",
    "LocalEngine",
    "Resources",
    "SerialEngine",
    "everything",
    "open_engine",
]
