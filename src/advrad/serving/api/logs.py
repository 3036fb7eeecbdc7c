"""The log: one JSON object for each line on standard error.

What is logged is chosen by name at each place: never a key, a picture, a note or the text of a search.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer


def set_up_logs(stream: TextIO | None = None) -> None:
    """Send the log of this process to a stream, also what the libraries log.

    Args:
        stream: The stream; None for standard error.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.PositionalArgumentsFormatter()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # Without the values of variables: pictures and keys are among them.
                structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    # Clients of HTTP log whole addresses, in which a webhook may carry its secret; migrations are of no interest.
    for name in ("httpx", "httpx2", "httpcore", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # A damaged image or form would fill the log; its sender is told.
    for name in ("tifffile", "PIL", "python_multipart"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
