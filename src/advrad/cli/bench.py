"""Commands about benchmarks: bench, and the part of report that is about a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from advrad.cli.exit_status import interruptible
from advrad.cli.options import add_command
from advrad.cli.terminal import is_first_process, say, warn
from advrad.errors import ConfigError
from advrad.utils.formatting import quoted

app = typer.Typer(rich_markup_mode=None)


@add_command(app)
def bench(
    grid: Annotated[Path, typer.Argument(metavar="GRID", help="TOML file that lists what to compare.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the results.")],
    data: Annotated[
        Path, typer.Option("--data", metavar="DATA", help="Folder that holds the product categories of GRID.")
    ] = Path("."),
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL", help="Work on this detector, category, attack or certificate only; may be repeated."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what is left to do and an estimate of the time; compute nothing.")
    ] = False,
) -> int:
    """Compare several detectors on several products.

    Trains, attacks and certifies each. The same command continues an interrupted benchmark. Several processes, on one
    or several machines, may work in one folder at the same time. The exit status is 1 if a part failed.

    Example: advrad bench grids/smoke.toml -o results --dry-run
    """
    from advrad.benchmark import run as benchmark
    from advrad.benchmark.estimate import estimates
    from advrad.benchmark.grid import read_grid
    from advrad.benchmark.jobs import jobs_of
    from advrad.cli.screen import Screen
    from advrad.cli.tables import show_estimates

    parsed = read_grid(grid)
    if dry_run:
        jobs = jobs_of(parsed, data, only or [])
        show_estimates(estimates(jobs, output), f"{parsed.name}: what is left to do")
        for note in benchmark.grid_progress(output, jobs).notes:
            say(note)
        return 0
    first = is_first_process()
    with interruptible("interrupted; finished cells are kept, and the same command continues"), Screen() as screen:
        outcome = benchmark.bench(parsed, data, output, only=only or [], progress=screen)
    if not first:
        return 0
    print(f"done    {outcome.done} of {outcome.planned} cells")
    if outcome.elsewhere:
        print(f"        other processes are working on {outcome.elsewhere} cells in this folder")
    warn(f"failed: {line}" for line in outcome.failed)
    if outcome.done:
        print(f"next    advrad report {quoted(output)}")
    return 1 if outcome.failed else 0


def write_bench_report(folder: Path, output: Path | None) -> None:
    """Write the tables and plots of a benchmark, and print the names of the files.

    Args:
        folder: Folder of the benchmark.
        output: Folder for the files; None for one inside ``folder``.

    Raises:
        ConfigError: The folder is a model folder.
    """
    from advrad.benchmark.report import bench_report
    from advrad.detectors.model_folder import CONFIG_NAME

    if not (folder / "grid.json").is_file() and (folder / CONFIG_NAME).is_file():
        raise ConfigError(f"{folder}: is a model folder; also name the folder of images, and the HTML file with -o")
    for path in bench_report(folder, output or folder / "report"):
        print(path)
