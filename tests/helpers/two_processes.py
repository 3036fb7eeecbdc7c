"""Run a program in two processes that share its work, as a launcher starts them."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence


def run_in_two(command: Sequence[str]) -> str:
    """Run a command twice at once, and return what the first process printed.

    The variables are those that ``accelerate launch`` sets; starting it takes as long as starting the program.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    (printed, _), *_ = said = [process.communicate(timeout=180) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    return printed
