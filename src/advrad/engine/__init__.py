"""Engines: what carries out independent pieces of work, in this process, in several, or on several machines."""

from advrad.engine.base import MOST_LOSSES, Engine, Resources, SerialEngine, everything

__all__ = ["MOST_LOSSES", "Engine", "Resources", "SerialEngine", "everything"]
