"""Sinks: places outside that get each inspection at least once: a webhook, an MQTT broker, a CSV file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

if TYPE_CHECKING:
    from advrad.serving.sinks.base import Sink as Sink
    from advrad.serving.sinks.deliverer import Deliverer as Deliverer
    from advrad.serving.sinks.deliverer import SinkStatus as SinkStatus
    from advrad.serving.sinks.reading import load_sinks as load_sinks
    from advrad.serving.sinks.signature import verify_signature as verify_signature

__all__ = ["Deliverer", "Sink", "SinkStatus", "load_sinks", "verify_signature"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Deliverer": "advrad.serving.sinks.deliverer",
        "Sink": "advrad.serving.sinks.base",
        "SinkStatus": "advrad.serving.sinks.deliverer",
        "load_sinks": "advrad.serving.sinks.reading",
        "verify_signature": "advrad.serving.sinks.signature",
    },
)
