"""What the commands about benches do once their options are read."""

from __future__ import annotations

import sys
from pathlib import Path

from advrad.benchmark import run as benches
from advrad.benchmark.estimate import estimates
from advrad.benchmark.grid import jobs_of, read_grid
from advrad.benchmark.report import bench_report
from advrad.cli.console import Screen, show_estimates
from advrad.cli.exit_status import INTERRUPTED
from advrad.cli.terminal import is_first_process, warn
from advrad.detectors.model_folder import CONFIG_NAME
from advrad.errors import ConfigError
from advrad.utils.formatting import quoted


def run(grid_path: Path, data: Path, folder: Path, only: list[str], *, dry_run: bool) -> int:
    """Measure the cells of a grid, or say which there are and how long they may take.

    Returns:
        The exit status: 1 where a cell failed.
    """
    grid = read_grid(grid_path)
    if dry_run:
        jobs = jobs_of(grid, data, only)
        show_estimates(estimates(jobs, folder), f"{grid.name}: what is left to do")
        for note in benches.grid_progress(folder, jobs).notes:
            print(note, file=sys.stderr)
        return 0
    first = is_first_process()
    with Screen() as screen:
        try:
            outcome = benches.bench(grid, data, folder, only=only, progress=screen)
        except KeyboardInterrupt:
            screen.close()
            print("interrupted; the same command goes on where it stopped", file=sys.stderr)
            return INTERRUPTED
    if not first:
        return 0
    print(f"done    {outcome.done} of {outcome.planned} cells")
    if outcome.elsewhere:
        print(f"        {outcome.elsewhere} are being measured by other processes in this folder")
    for line in outcome.failed:
        warn([f"failed: {line}"])
    if outcome.done:
        print(f"next    advrad report {quoted(folder)}")
    return 1 if outcome.failed else 0


def report(folder: Path, output: Path | None) -> None:
    """Make the tables and plots of a bench, and name the files."""
    if not (folder / "grid.json").is_file() and (folder / CONFIG_NAME).is_file():
        raise ConfigError(f"{folder}: is a model folder; name its DATA, too, and the HTML file with -o")
    for path in bench_report(folder, output or folder / "report"):
        print(path)
