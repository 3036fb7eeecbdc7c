"""Runs advrad as a process of its own on some processors, and says what it took: time, computing, memory. On Linux."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

#: Seconds between two looks at the memory.
EVERY_S = 0.2
_ADVRAD = """
import os, sys
processors, *sys.argv[1:] = sys.argv[1:]
os.sched_setaffinity(0, [int(number) for number in processors.split(",")])
from advrad.cli import main
sys.exit(main())
"""


@dataclass(frozen=True)
class Taken:
    """What a command took.

    Attributes:
        seconds: Time from its start to its end.
        driver_cpu_s: Time that its first process computed.
        driver_mb: Most memory that its first process held, MB.
        worker_mb: Most memory that any one of its other processes held, MB; 0 without others.
        processes: Largest number of other processes at once.
    """

    seconds: float
    driver_cpu_s: float
    driver_mb: float
    worker_mb: float
    processes: int


def advrad(arguments: Sequence[str], processors: Sequence[int]) -> Taken:
    """Run `advrad` with arguments, and watch it.

    Args:
        arguments: Arguments of the command line.
        processors: Numbers of the processors that it may use.

    Raises:
        SystemExit: It failed; what it said is shown.
    """
    command = [sys.executable, "-c", _ADVRAD, ",".join(map(str, processors)), *arguments]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        watch = _Watch(process.pid)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, but its times can still be read
        seconds, computed = time.perf_counter() - began, _computed_s(process.pid)
        watch.stop()
        status = process.wait()
        if status:
            said.seek(0)
            raise SystemExit(f"advrad {' '.join(arguments)}: exit status {status}\n{said.read()[-3000:]}")
    return Taken(seconds, computed, watch.driver_mb, max(watch.workers.values(), default=0.0), watch.most)


class _Watch:
    """Looks at the memory of a process and of those below it, until it is stopped.

    Args:
        pid: Number of the process.
    """

    def __init__(self, pid: int) -> None:
        self.driver_mb, self.most = 0.0, 0
        self.workers: dict[int, float] = {}
        self._driver = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.is_set():
            self.driver_mb = max(self.driver_mb, most_megabytes(self._driver.pid))
            with suppress(psutil.NoSuchProcess):
                others = [process.pid for process in self._driver.children(recursive=True)]
                self.most = max(self.most, len(others))
                self.workers |= {pid: max(most_megabytes(pid), self.workers.get(pid, 0.0)) for pid in others}
            self._over.wait(EVERY_S)


def most_megabytes(pid: int) -> float:
    """Most memory that a process has held so far, MB; 0 for one that has ended.

    Args:
        pid: Number of the process.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    found = [line.split()[1] for line in text.splitlines() if line.startswith("VmHWM")]
    return int(found[0]) / 1024 if found else 0.0


def _computed_s(pid: int) -> float:
    """Time that a process itself computed, in seconds; it may have ended, but nobody may have waited for it."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
