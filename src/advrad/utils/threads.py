"""The number of threads that compute and read images.

Networks as small as ours gain little from many threads, and lose much where threads wait for a processor that another
program uses. So the default counts the processors that this process may use, less those that are busy.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from advrad.errors import ConfigError

#: Most threads by default. More were not found to help with images of this size.
MOST = 8
_CGROUP = Path("/sys/fs/cgroup")
_VARIABLE = "OMP_NUM_THREADS"


def use_threads(count: int | None = None) -> int:
    """Set the number of threads of this process, and of programs that it starts.

    Args:
        count: Number of threads, >= 1; None for the value of OMP_NUM_THREADS, or without it for as many as
            :func:`free_processors`, at most :data:`MOST`.

    Returns:
        The number.

    Raises:
        ConfigError: The number is below 1.

    Example:
        >>> use_threads(1)
        1
    """
    if count is not None and count < 1:
        raise ConfigError("must be 1 or more", option="threads", value=count)
    chosen = count or _named() or min(MOST, free_processors())
    os.environ[_VARIABLE] = str(chosen)  # PyTorch reads it when it is loaded
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != chosen:
        torch.set_num_threads(chosen)
    return chosen


def one_thread_each() -> int:
    """Let each computation of this process take one thread, as where several images are computed side by side.

    Returns:
        Number of computations to do at once: the number of threads before.

    Example:
        >>> _ = use_threads(1)
        >>> one_thread_each()
        1
    """
    count = thread_count()
    use_threads(1)
    return count


def thread_count() -> int:
    """Number of threads that compute, as PyTorch or the environment says; never more than there are processors.

    Example:
        >>> thread_count() >= 1
        True
    """
    torch = sys.modules.get("torch")
    known = torch.get_num_threads() if torch is not None and hasattr(torch, "get_num_threads") else _named()
    return min(known or MOST, usable_processors())


def threads_in_words() -> str:
    """How many threads compute, and whether that is more than there are free processors.

    Example:
        >>> threads_in_words().startswith("computing with ")
        True
    """
    count, free, usable = thread_count(), free_processors(), usable_processors()
    words = f"computing with {count} thread{'s' if count > 1 else ''}"
    if count > free:
        return (
            f"{words}, though only {free} of {usable} processors {'are' if free > 1 else 'is'} free; fewer threads"
            f" may be faster"
        )
    if count < min(usable, MOST):
        return f"{words} on {usable} processors"
    return words


def usable_processors() -> int:
    """Number of processors that this process may use: those it is bound to, within the quota of its container.

    Example:
        >>> 1 <= usable_processors() <= (os.cpu_count() or 1)
        True
    """
    count = os.cpu_count() or 1
    with suppress(AttributeError, OSError):  # not on macOS and Windows
        count = min(count, len(os.sched_getaffinity(0)))
    quota = _quota()
    return max(1, count if quota is None else min(count, int(quota)))


def free_processors() -> int:
    """Number of processors that this process may use and that no other program uses now; at least 1."""
    return max(1, min(usable_processors(), (os.cpu_count() or 1) - busy_processors()))


def busy_processors() -> int:
    """Number of processors that other programs use: in the last minute and at this moment, whichever is less.

    The mean of the last minute alone would count a program that has just ended.
    """
    try:
        lately = os.getloadavg()[0]
    except (AttributeError, OSError):  # not on Windows
        return 0
    if lately < 0.5:
        return 0
    now = []
    for _ in range(5):
        with suppress(OSError, ValueError, IndexError):
            running = Path("/proc/loadavg").read_text(encoding="ascii").split()[3]
            now.append(int(running.partition("/")[0]) - 1)  # without this process
        time.sleep(0.01)
    return round(min(lately, sorted(now)[len(now) // 2])) if now else round(lately)


def _named() -> int | None:
    """The number in OMP_NUM_THREADS, which may be a list for nested threads; None if it holds none."""
    first = os.environ.get(_VARIABLE, "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def _quota() -> float | None:
    """Processors that the control groups of this process may use; None without a limit."""
    limits = [limit for limit in map(_limit, _control_groups()) if limit is not None]
    return min(limits, default=None)


def _control_groups() -> list[Path]:
    """Folders of the control groups of this process, in both versions; in a container it is the root."""
    places = [_CGROUP, _CGROUP / "cpu"]
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
            number, controllers, name = line.split(":", 2)
            if number == "0" or "cpu" in controllers.split(","):
                root = _CGROUP if number == "0" else _CGROUP / "cpu"
                inner = root / name.lstrip("/")
                places += [inner, *(parent for parent in inner.parents if parent.is_relative_to(root))]
    return places


def _limit(group: Path) -> float | None:
    """Processors that one control group may use; None without a limit."""
    with suppress(OSError, ValueError):
        allowed, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return None if allowed == "max" else int(allowed) / int(period)
    with suppress(OSError, ValueError):
        allowed, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        return int(allowed) / int(period) if int(allowed) > 0 else None
    return None
