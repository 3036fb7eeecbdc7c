"""The inside of a task on a machine of a Ray cluster."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from typing import Any

from advrad.engine.messages import decode, failure, messages_of
from advrad.errors import EngineError
from advrad.utils.environment import code_digest
from advrad.utils.threads import use_threads

#: What carries out the tasks of a run, by the name of the run: a process of Ray carries out many tasks.
_WORK: dict[str, Callable[[Any], Any]] = {}


def code_of_this_machine() -> str:
    """The version of advrad and the digest of its source: what gives the same results has the same.

    Example:
        >>> code_of_this_machine().split()[0]
        '0.1.0'
    """
    from advrad import __version__

    return f"{__version__} ({code_digest()})"


def carry_out(code: str, run: str, work: bytes, task: bytes, threads: int) -> Iterator[bytes]:
    """Carry out a task, see :func:`advrad.engine.messages.messages_of`.

    Args:
        code: What :func:`code_of_this_machine` says where the run was begun.
        run: Name of the run, which is another one for each.
        work: What carries out the tasks, encoded.
        task: The encoded task.
        threads: Number of threads that compute, >= 1.
    """
    if code != code_of_this_machine():
        yield failure(
            EngineError(
                f"{platform.node()} has advrad {code_of_this_machine()}, and this machine has {code}; install the same"
                f" on all machines of the cluster"
            )
        )
        return
    use_threads(threads)
    if run not in _WORK:
        _WORK.clear()
        try:
            _WORK[run] = decode(work)
        except Exception as error:  # whatever loading the modules of the work raises
            yield failure(error)
            return
    yield from messages_of(_WORK[run], task)
