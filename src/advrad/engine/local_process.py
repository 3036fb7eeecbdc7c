"""The inside of a process of the local engine, and what must hold when one is started."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from types import FrameType

from advrad.engine.messages import Kind, decode, encode, failure, messages_of
from advrad.utils.memory import reuse_freed_memory
from advrad.utils.threads import use_threads


class _EndedError(BaseException):
    """The process was told to end; what it has open is tidied up on the way out."""


def serve(pipe: Connection, threads: int) -> None:
    """Carry out tasks until there is no one who gives them.

    Ctrl-C is left to the process that gives the tasks. What the work prints goes to standard error, because standard
    output belongs to that process.

    Args:
        pipe: Brings what carries out the tasks, then one task after the other; takes the messages.
        threads: Number of threads that compute, >= 1.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(2, 1)
    use_threads(threads)
    reuse_freed_memory()
    try:
        signal.signal(signal.SIGTERM, _leave)  # until here there is nothing to tidy up
        with suppress(EOFError, OSError):  # the other end of the pipe is gone
            _carry_out_all(pipe)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    except _EndedError:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Keep Ctrl-C away from processes that are started in the block, and from this thread until its end.

    A process that is started in it keeps that until it has its own answer to Ctrl-C.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # it would let interrupts through again when it is started in the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for processes that are started in the block.

    Args:
        variables: The variables with their values.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _carry_out_all(pipe: Connection) -> None:
    """Get the work, and carry out tasks until the pipe is closed."""
    data = pipe.recv_bytes()
    try:
        work = decode(data)
    except Exception as error:  # whatever loading the modules of the work raises
        pipe.send_bytes(failure(error))
        return
    pipe.send_bytes(encode((Kind.READY, None)))
    while True:
        with closing(messages_of(work, pipe.recv_bytes())) as messages:  # what the work has open is tidied up at once
            for message in messages:
                pipe.send_bytes(message)


def _leave(number: int, frame: FrameType | None) -> None:
    raise _EndedError


def _end_with_parent() -> None:
    """End this process as soon as the one that started it is dead, whatever killed it."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        sys.stderr.flush()
        os._exit(1)
