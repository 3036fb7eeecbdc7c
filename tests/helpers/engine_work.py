"""Work for engines: functions of a module, because other processes import them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from advrad.errors import ImageError
from advrad.utils.threads import thread_count

#: Seconds of work that goes on for longer than any test waits for it.
LONG_S = 300.0


@dataclass(frozen=True)
class Squares:
    """The squares from one number up to another one; the process dies by a signal before the number `deadly`.

    A file in `deaths` says that it died already, unless it always dies.
    """

    first: int
    end: int
    deadly: int | None = None
    deaths: Path | None = None
    always: bool = False


def squares(task: Squares) -> Iterator[tuple[int, int]]:
    """Numbers and their squares."""
    for number in range(task.first, task.end):
        if number == task.deadly and task.deaths is not None:
            death = task.deaths / f"{task.deadly}"
            if task.always or not death.exists():
                death.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        yield number, number * number


def pids(count: int) -> Iterator[int]:
    """The number of this process, several times."""
    for _ in range(count):
        yield os.getpid()


def parents(_: int) -> Iterator[int]:
    """The number of this process, and of the one that started it."""
    yield os.getpid()
    yield os.getppid()


def one_then_death(_: int) -> Iterator[int]:
    """Give the number of this process, and die."""
    yield os.getpid()
    os.kill(os.getpid(), signal.SIGKILL)


def environment(name: str) -> Iterator[tuple[int, str | None]]:
    """An environment variable in this process; it takes a moment, so that no process gets two of few tasks."""
    time.sleep(1)
    yield os.getpid(), os.environ.get(name)


def threads(_: int) -> Iterator[tuple[int, int]]:
    """How many threads compute, before and after PyTorch is loaded."""
    before = thread_count()
    import torch

    yield before, torch.get_num_threads()


def stay(folder: Path) -> Iterator[int]:
    """Give the number of this process, and work until it is told to end; tidy up then."""
    temporary = folder / f"{os.getpid()}.part"
    temporary.touch()
    try:
        yield os.getpid()
        time.sleep(LONG_S)
    finally:
        temporary.unlink()


def hold_on(folder: Path) -> Iterator[int]:
    """Give the number of this process, and do not end when told to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield os.getpid()
    time.sleep(LONG_S)


def big(size: int) -> Iterator[bytes]:
    """An item that no pipe takes at once."""
    yield b"x" * size


def pid_then_big(size: int) -> Iterator[int | bytes]:
    """The number of this process, and an item that no pipe takes at once."""
    yield os.getpid()
    yield b"x" * size


def stay_with_big_items(folder: Path) -> Iterator[bytes]:
    """Give items that no pipe takes at once, and tidy up at the end."""
    temporary = folder / f"{os.getpid()}.part"
    temporary.touch()
    try:
        while True:
            yield b"x" * 5_000_000
    finally:
        temporary.unlink()


def talk(word: str) -> Iterator[str]:
    """Print a word, and give it."""
    print(word, flush=True)
    yield word


class TwoPartsError(Exception):
    """An exception that pickle cannot make again."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def fail(kind: str) -> Iterator[int]:
    """Give an item, then raise an exception."""
    yield 1
    match kind:
        case "image":
            raise ImageError(Path("part.png"), "the file is empty")
        case "zero":
            print(1 // 0)
        case "parts":
            raise TwoPartsError("this", "that")
        case "exit":
            sys.exit("enough")


class Meeting:
    """Work that waits until it is carried out on two Ray nodes, and counts its tasks since it was loaded.

    Args:
        folder: Folder in which the nodes show that they are there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0

    def __call__(self, task: int) -> Iterator[tuple[int, str, int]]:
        self._count += 1
        node = _ray_node()
        (self._folder / node).touch()
        until = time.monotonic() + LONG_S
        while len(list(self._folder.iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        yield task, node, self._count


def slow_squares(task: Squares) -> Iterator[tuple[int, int, str]]:
    """Numbers, their squares, and the Ray node that computes them, with pauses."""
    for number in range(task.first, task.end):
        yield number, number * number, _ray_node()
        time.sleep(0.5)


def _ray_node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def unsendable(_: int) -> Iterator[object]:
    """An item that cannot be pickled."""
    yield lambda: None


class Unreadable:
    """Work that another process cannot load."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return _refuse, ("no module of that name here",)

    def __call__(self, task: int) -> Iterator[int]:
        yield task


def _refuse(text: str) -> None:
    raise ImportError(text)


def left_of(task: Squares, given: list[tuple[int, int]]) -> Squares | None:
    """What is left of a task after the items that were given."""
    done = [number for number, _ in given if task.first <= number < task.end]
    first = max(done, default=task.first - 1) + 1
    if first >= task.end:
        return None
    return Squares(first, task.end, task.deadly, task.deaths, task.always)


def is_running(pid: int) -> bool:
    """Whether a process lives; one that ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_end(pid: int, seconds: float = 20.0) -> bool:
    """Whether a process ends within a time."""
    until = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not is_running(pid)
