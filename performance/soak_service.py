"""Starts the service as a process of its own, watches its memory, and measures the engine alone."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import httpx
import psutil

_ADVRAD = "import sys; from advrad.cli import main; sys.exit(main())"
_ENGINE = """
import json, sys, time
import advrad
from advrad.utils.threads import use_threads
run, threads, seconds, *paths = json.loads(sys.argv[1])
use_threads(threads)
detector = advrad.load_detector(run)
list(detector.predict(paths[:8]))
judged, start = 0, time.perf_counter()
while time.perf_counter() - start < seconds:
    judged += len(list(detector.predict(paths)))
print(judged / (time.perf_counter() - start))
"""


def bare_rate(run: Path, files: Sequence[Path], threads: int, seconds: float, processes: int = 1) -> float:
    """Images for each second that a model judges without a service, files read.

    Args:
        run: Model folder or export.
        files: Image files, judged again and again.
        threads: Threads that compute in each process.
        seconds: Time to judge.
        processes: Number of processes that judge at once.

    Raises:
        RuntimeError: A process failed.
    """
    given = json.dumps([str(run), threads, seconds, *map(str, files)])
    command = [sys.executable, "-c", _ENGINE, given]
    engines = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    rates = [engine.communicate()[0] for engine in engines]
    if any(engine.returncode for engine in engines):
        raise RuntimeError(f"{run}: does not judge images without the service")
    return sum(map(float, rates))


class Service:
    """`advrad serve` as a process, ready when the context begins.

    Args:
        run: Model folder or export.
        product: Name of the product.
        data: Folder for its data; the log is beside it.
        db: Address of the database; None for the file in its data.
        options: Further options.
        python: Interpreter of the environment that holds advrad.
    """

    def __init__(
        self,
        run: Path,
        product: str,
        data: Path,
        db: str | None = None,
        options: Sequence[str] = (),
        python: str = sys.executable,
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.log = data.with_suffix(".log")
        command = [python, "-c", _ADVRAD, "serve", f"{product}={run}", "--data", str(data)]
        command += ["--port", str(self.port), *(["--db", db] if db else []), *options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def __enter__(self) -> Service:
        """Wait until it is ready."""
        end = time.monotonic() + 120
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if httpx.get(f"{self.address}/readyz").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        self.process.kill()
        raise SystemExit(f"the service did not start:\n{self.last_lines()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, if it still runs."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask it to finish and end; returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def last_lines(self) -> str:
        """The end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:]

    @contextmanager
    def memory_watched(self, every_s: float = 0.2) -> Iterator[list[int]]:
        """The resident memory of the process in bytes, as it goes on; complete when the context ends.

        Args:
            every_s: Seconds between two looks.
        """
        seen: list[int] = []
        done = threading.Event()
        process = psutil.Process(self.process.pid)

        def look() -> None:
            while not done.is_set():
                seen.append(process.memory_info().rss)
                done.wait(every_s)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield seen
        finally:
            done.set()
            thread.join()
