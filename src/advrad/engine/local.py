"""The engine that carries out tasks in several processes of this machine."""

from __future__ import annotations

import atexit
import os
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from advrad.engine.base import ItemT, Resources, TaskT, everything
from advrad.engine.local_process import environment, interrupts_blocked, serve
from advrad.engine.messages import Kind, decode, encode
from advrad.engine.orders import Order, Orders
from advrad.errors import ConfigError, EngineError
from advrad.utils.threads import thread_count, usable_processors

#: Seconds that processes have to end by themselves before they are killed.
GRACE_S = 5.0
#: Seconds after which it is looked at whether processes that say nothing are alive.
LOOK_S = 1.0


class LocalEngine:
    """Carries out tasks in several processes of this machine, each one task at a time.

    The processes compute with so many threads that all of them together use each processor once. They live as long as a
    run, and end with this process, however it ends.

    Args:
        jobs: Number of processes, >= 1.

    Raises:
        ConfigError: The number is below 1.

    Example:
        >>> LocalEngine(2).workers
        2
    """

    shares_files = True

    def __init__(self, jobs: int) -> None:
        if jobs < 1:
            raise ConfigError("must be 1 or more", option="jobs", value=jobs)
        self.workers = jobs

    @property
    def threads(self) -> int:
        """Number of threads of each process: no more than this process would use, nor than its share of processors."""
        return max(1, min(thread_count(), usable_processors() // self.workers))

    def in_words(self) -> str:
        """What computes, in words for the user, and whether it is more than there are processors."""
        count, threads, usable = self.workers, self.threads, usable_processors()
        processes, each = "processes" if count > 1 else "process", "threads each" if threads > 1 else "thread each"
        words = f"computing with {count} {processes} of {threads} {each}"
        if count > usable:
            return f"{words}, though there are only {usable} processors; fewer jobs may be faster"
        return f"{words} on {usable} processors"

    def run(
        self,
        work: Callable[[TaskT], Iterable[ItemT]],
        tasks: Iterable[TaskT],
        *,
        left: Callable[[TaskT], TaskT | None] = everything,
        resources: Resources = Resources(),
    ) -> Generator[ItemT, None, None]:
        """Carry out tasks, see :meth:`Engine.run`."""
        crew = _Crew(encode(work), self.threads, _gpus() if resources.gpus > 0 else [])
        orders = Orders(tasks, left)
        atexit.register(crew.end)  # a generator that is never closed must not keep Python from ending
        try:
            while True:
                while len(crew.busy) < self.workers and (order := orders.next()) is not None:
                    crew.begin(order)
                if not crew.busy:
                    return
                for worker in crew.speaking():
                    match worker.receive():
                        case Kind.ITEM, item:
                            yield item
                        case Kind.DONE, _:
                            crew.free(worker)
                        case Kind.FAILED, error:
                            raise error
                        case None:
                            orders.lost(worker.order, crew.bury(worker))
        finally:
            crew.end()
            atexit.unregister(crew.end)


class _Worker:
    """A process, the pipe to it, and the task that it carries out."""

    def __init__(self, process: SpawnProcess, pipe: Connection, gpu: str | None) -> None:
        self.process, self.pipe, self.gpu, self.ready = process, pipe, gpu, False
        self.order = Order(None)
        if isinstance(pipe, Connection):  # not on Windows, where no process is forked from another one
            pipe._recv = partial(pipe._recv, read=self._read)  # type: ignore[attr-defined]

    def receive(self) -> tuple[Kind, Any] | None:
        """The next message, or None if the process died.

        A process that was forked from it may keep the pipe open. So what comes after its death is not waited for, nor
        is the rest of a message.
        """
        try:
            data = self.pipe.recv_bytes()
        except (EOFError, OSError):  # also in the middle of a message
            return None
        message: tuple[Kind, Any] = decode(data)
        if message[0] is Kind.READY:
            self.ready = True
        return message

    def _read(self, handle: int, size: int) -> bytes:
        """Read a part of a message; nothing, as at the end of the pipe, if the process is dead and nothing is left."""
        while True:
            lives = self.process.is_alive()  # asked first: what it sent before its death is in the pipe then
            if self.pipe.poll(LOOK_S if lives else 0.0):
                return os.read(handle, size)
            if not lives:
                return b""

    def cause(self) -> str:
        """How the process ended, after its end."""
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"with exit status {code}"
        with suppress(ValueError):
            return f"by {signal.Signals(-code).name}"
        return f"by signal {-code}"


class _Crew:
    """The processes of a run: those that carry out a task, and those that have none."""

    def __init__(self, work: bytes, threads: int, gpus: Sequence[str]) -> None:
        self._work, self._threads, self._gpus = work, threads, gpus
        self.busy: list[_Worker] = []
        self._idle: list[_Worker] = []

    def begin(self, order: Order) -> None:
        """Give a task to a process that has none, or to a new one."""
        task = encode(order.task)
        worker = self._idle.pop() if self._idle else self._started()
        self.busy.append(worker)
        worker.order = order
        with suppress(OSError):  # it is dead, which is seen when its message is read
            worker.pipe.send_bytes(task)

    def speaking(self) -> Iterator[_Worker]:
        """Wait until a process has something to say or is dead, and give all of which that is true."""
        ready = wait([worker.pipe for worker in self.busy], LOOK_S)
        for worker in list(self.busy):
            # A pipe may outlive its process, in a process that was forked from it.
            if worker.pipe in ready or (not worker.process.is_alive() and not worker.pipe.poll()):
                yield worker

    def free(self, worker: _Worker) -> None:
        """Keep a process that finished its task for the next one."""
        self.busy.remove(worker)
        self._idle.append(worker)

    def bury(self, worker: _Worker) -> str:
        """Forget a dead process, and say how it ended.

        Raises:
            EngineError: It never began to work, and would not do so again.
        """
        self.busy.remove(worker)
        _end([worker])
        cause = worker.cause()
        if not worker.ready and (worker.process.exitcode or 0) >= 0:
            raise EngineError(
                f"a process ended {cause} before it began to work; what it printed says why (a Python script that"
                f" starts processes must do so below: if __name__ == '__main__')"
            )
        return cause

    def end(self) -> None:
        """End all processes."""
        workers = [*self.busy, *self._idle]
        for worker in workers:
            worker.process.terminate()
        _end(workers)
        self.busy, self._idle = [], []

    def _started(self) -> _Worker:
        """A new process, which has got the work.

        Raises:
            EngineError: The system starts no process.
        """
        ours, theirs = get_context("spawn").Pipe()
        process = get_context("spawn").Process(target=serve, args=(theirs, self._threads), name="advrad")
        variables = {"OMP_NUM_THREADS": str(self._threads)}
        taken = [worker.gpu for worker in self.busy + self._idle]
        gpu = min(self._gpus, key=taken.count, default=None)
        if gpu is not None:
            variables["CUDA_VISIBLE_DEVICES"] = gpu
        try:
            with interrupts_blocked(), environment(variables):
                process.start()
        except OSError as error:
            raise EngineError(f"no further process can be started ({error.strerror}); use fewer jobs") from error
        finally:
            theirs.close()
        worker = _Worker(process, ours, gpu)
        with suppress(OSError):
            ours.send_bytes(self._work)
        return worker


def _gpus() -> list[str]:
    """The GPUs of this machine that this process may use, by the names that CUDA_VISIBLE_DEVICES has for them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _end(workers: Sequence[_Worker]) -> None:
    """Wait until processes have ended, and kill those that do not."""
    until = time.monotonic() + GRACE_S
    for worker in workers:
        worker.pipe.close()
        worker.process.join(max(0.0, until - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
