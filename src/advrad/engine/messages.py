"""What goes between the process that gives out tasks and those that carry them out."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Iterable
from enum import Enum
from multiprocessing.reduction import ForkingPickler
from typing import Any

from advrad.errors import AdvradError, EngineError


class Kind(Enum):
    """Kinds of messages of a process that carries out tasks."""

    READY = "ready"
    ITEM = "item"
    DONE = "done"
    FAILED = "failed"


def encode(value: object) -> bytes:
    """Turn a value into bytes for another process.

    Args:
        value: Value that can be pickled.

    Example:
        >>> decode(encode((Kind.ITEM, 3)))
        (<Kind.ITEM: 'item'>, 3)
    """
    return bytes(ForkingPickler.dumps(value))


def decode(data: bytes) -> Any:
    """The value of :func:`encode`.

    Args:
        data: Bytes from a process of the same run.
    """
    return ForkingPickler.loads(data)


def messages_of(work: Callable[[Any], Iterable[object]], task: bytes) -> Generator[bytes, None, None]:
    """Carry out a task.

    Args:
        work: What carries it out.
        task: The encoded task.

    Yields:
        Encoded pairs of a :class:`Kind` and a value: each item as it is finished, and at last that the task is done, or
        the exception that ended it.
    """
    try:
        for item in work(decode(task)):
            yield encode((Kind.ITEM, item))
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        yield failure(error)
    else:
        yield encode((Kind.DONE, None))


def failure(error: BaseException) -> bytes:
    """The message that an exception ended the work.

    An exception that would not arrive as it is becomes an :class:`advrad.errors.EngineError` with its text. One that is
    not advrad's own carries its traceback as a note.

    Args:
        error: The exception.
    """
    if not isinstance(error, AdvradError):
        error.add_note(f"In the process that carried out the task:\n{''.join(traceback.format_exception(error))}")
    try:
        data = encode((Kind.FAILED, error))
        arrives = str(decode(data)[1]) == str(error)
    except Exception:  # whatever the class of the exception does when it is pickled
        arrives = False
    return data if arrives else encode((Kind.FAILED, _as_text(error)))


def _as_text(error: BaseException) -> EngineError:
    """An error of advrad's with the text of another one, and with its notes."""
    told = EngineError(f"{type(error).__name__}: {error}")
    for note in getattr(error, "__notes__", ()):
        told.add_note(note)
    return told
