"""A watched folder: inspects each image that lands in it, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

if TYPE_CHECKING:
    from advrad.serving.watching.options import WatchOptions as WatchOptions
    from advrad.serving.watching.running import watch as watch
    from advrad.serving.watching.watcher import WatchReporter as WatchReporter
    from advrad.serving.watching.watcher import WatchSummary as WatchSummary

__all__ = ["WatchOptions", "WatchReporter", "WatchSummary", "watch"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "WatchOptions": "advrad.serving.watching.options",
        "WatchReporter": "advrad.serving.watching.watcher",
        "WatchSummary": "advrad.serving.watching.watcher",
        "watch": "advrad.serving.watching.running",
    },
)
