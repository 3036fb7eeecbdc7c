"""What an engine does: it carries out tasks that do not depend on each other, and hands on what each of them gives."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from advrad.utils.threads import threads_in_words

TaskT = TypeVar("TaskT")
ItemT = TypeVar("ItemT")

#: Number of times in a row that the process or the machine of one task may die without progress before the run ends.
MOST_LOSSES = 3


@dataclass(frozen=True, slots=True)
class Resources:
    """What one task needs; engines that place tasks on machines go by it.

    Attributes:
        cpus: Number of processors, > 0; also the number of threads that the task computes with.
        gpus: Number of GPUs, >= 0; a part of one for tasks that share it.
        memory_mb: Memory in MB; None if it is not known.
    """

    cpus: float = 1
    gpus: float = 0
    memory_mb: int | None = None


def everything(task: TaskT) -> TaskT:
    """Say that a task whose process died must be done again as a whole.

    Args:
        task: The task.
    """
    return task


class Engine(Protocol):
    """Carries out tasks."""

    @property
    def workers(self) -> int:
        """Number of tasks that are carried out at once, >= 1, as far as it is known."""

    @property
    def shares_files(self) -> bool:
        """Whether all tasks see the files of this process. Where they do not, each machine keeps its own."""

    def in_words(self) -> str:
        """What computes, in words for the user."""

    def run(
        self,
        work: Callable[[TaskT], Iterable[ItemT]],
        tasks: Iterable[TaskT],
        *,
        left: Callable[[TaskT], TaskT | None] = everything,
        resources: Resources = Resources(),
    ) -> Generator[ItemT, None, None]:
        """Carry out tasks, in any order.

        Tasks are taken one by one, as they can be begun, so there may be any number of them. A generator that is closed
        before its end stops all work.

        Args:
            work: Carries out a task, and gives items as they are finished. It is pickled once for each process, so it
                may keep what it loads. Tasks and items are pickled too.
            tasks: The tasks.
            left: Called in this process when the process or the machine of a task died, after the items that it gave
                were handed on: what is left of the task; None for nothing.
            resources: What a task needs.

        Yields:
            The items of all tasks, those of one task in order, as soon as they are there.

        Raises:
            EngineError: The process or the machine of a task died :data:`MOST_LOSSES` times in a row without progress,
                or nothing can be started.
            Exception: What ``work`` raises ends the run, and is raised here.
        """


class SerialEngine:
    """Carries out tasks one after the other in this process.

    Example:
        >>> list(SerialEngine().run(lambda count: range(count), [1, 3]))
        [0, 0, 1, 2]
    """

    workers = 1
    shares_files = True

    def in_words(self) -> str:
        """What computes, see :meth:`Engine.in_words`."""
        return threads_in_words()

    def run(
        self,
        work: Callable[[TaskT], Iterable[ItemT]],
        tasks: Iterable[TaskT],
        *,
        left: Callable[[TaskT], TaskT | None] = everything,
        resources: Resources = Resources(),
    ) -> Generator[ItemT, None, None]:
        """Carry out tasks, see :meth:`Engine.run`."""
        for task in tasks:
            yield from work(task)
