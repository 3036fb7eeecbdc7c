"""Import time of advrad: what it adds to importing PyTorch, and how long its help takes.

Every command runs in new processes, in alternation::

    python performance/startup.py

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

COMMANDS = {
    "python alone": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import advrad": ["-c", "import advrad"],
    "import advrad, use AdvRAD": ["-c", "import advrad; advrad.AdvRAD"],
    "advrad --help": ["-c", "from advrad.cli.main import main; main()", "--help"],
}


def seconds(arguments: Sequence[str]) -> float:
    """Measure the wall time of one process of this interpreter.

    Raises:
        subprocess.CalledProcessError: The process failed.
    """
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print a table and a line of JSON, and return the values of that line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each command")
    parser.add_argument("--cold", action="store_true", help="include the first round, which fills the disk cache")
    given = parser.parse_args(arguments)
    if not given.cold:
        for command in COMMANDS.values():
            seconds(command)
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(given.rounds):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    # The difference within each round, because the speed of a shared machine varies between rounds.
    added = statistics.median(
        ours - theirs for ours, theirs in zip(times["import advrad, use AdvRAD"], times["import torch"], strict=True)
    )
    for name, value in medians.items():
        print(f"{name:28}{value:>8.3f} s")
    print(f"{'AdvRAD adds to torch':28}{added:>8.3f} s")
    result = {"benchmark": "startup", "rounds": given.rounds, "seconds": medians, "added_to_torch_s": added}
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
