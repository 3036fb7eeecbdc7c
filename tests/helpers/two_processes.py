"""Run a program in two processes that share its work, as a launcher starts them."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def kept_port() -> Iterator[int]:
    """A free port of the loopback address, which nobody else gets while the block runs.

    A program that sets ``SO_REUSEADDR``, as servers do, can listen on it all the same. Whoever asks the system for a
    free port gets another one.
    """
    with socket.socket() as keeper:
        keeper.bind(("127.0.0.1", 0))
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after that, so that the port was free
        yield int(keeper.getsockname()[1])


def run_in_two(command: Sequence[str]) -> str:
    """Run a command twice at once, and return what the first process printed.

    The variables are those that ``accelerate launch`` sets; starting it takes as long as starting the program.
    """
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    with kept_port() as port:
        started = [
            subprocess.Popen(
                command,
                env=os.environ | shared | {"MASTER_PORT": str(port), "RANK": rank, "LOCAL_RANK": rank},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in ("0", "1")
        ]
        (printed, _), *_ = said = [process.communicate(timeout=180) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    return printed
