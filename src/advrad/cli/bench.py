"""Commands about benchmarks: bench, and the part of report that is about a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from advrad.cli.exit_status import interruptible
from advrad.cli.options import Address, Jobs, TaskEngine, add_command
from advrad.cli.terminal import say, warn
from advrad.errors import ConfigError
from advrad.utils.buckets import is_url
from advrad.utils.formatting import quoted
from advrad.utils.memory import reuse_freed_memory

app = typer.Typer(rich_markup_mode=None)


@add_command(app)
def bench(
    grid: Annotated[Path, typer.Argument(metavar="GRID", help="TOML file that lists what to compare.")],
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", metavar="DIR", help="Folder for the results, or URL of one: s3://bucket/results."
        ),
    ],
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
    jobs: Jobs = None,
    engine: TaskEngine = "local",
    address: Address = None,
) -> int:
    """Compare several detectors on several products.

    Trains, attacks and certifies each. The same command continues an interrupted benchmark. One run at a time works in
    a folder; it may have several processes, on this machine or on several. The exit status is 1 if a part failed.

    Example: advrad bench grids/smoke.toml -o results --jobs 2
    """
    from advrad.benchmark import run as benchmark
    from advrad.benchmark.estimate import estimates
    from advrad.benchmark.grid import read_grid
    from advrad.benchmark.jobs import jobs_of
    from advrad.benchmark.store import open_store
    from advrad.cli.screen import Screen
    from advrad.cli.tables import show_estimates
    from advrad.engine import open_engine

    reuse_freed_memory()
    parsed = read_grid(grid)
    if dry_run:
        found, store = jobs_of(parsed, data, only or []), open_store(output)
        show_estimates(estimates(found, store), f"{parsed.name}: what is left to do")
        for note in benchmark.grid_progress(store, found).notes:
            say(note)
        return 0
    kept = "interrupted; finished cells are kept, and the same command continues"
    with interruptible(kept), open_engine(engine, jobs, address) as chosen, Screen() as screen:
        outcome = benchmark.bench(parsed, data, output, only=only or [], engine=chosen, progress=screen)
    print(f"done    {outcome.done} of {outcome.planned} cells")
    warn(f"failed: {line}" for line in outcome.failed)
    if outcome.done:
        print(f"next    advrad report {quoted(output)}")
    return 1 if outcome.failed else 0


def write_bench_report(place: str, output: Path | None) -> None:
    """Write the tables and plots of a benchmark, and print the names of the files.

    Args:
        place: Folder of the benchmark, or its URL.
        output: Folder for the files; None for one inside the benchmark's.

    Raises:
        ConfigError: The folder is a model folder, or the benchmark is in a bucket and no folder is named.
    """
    from advrad.benchmark.report import bench_report
    from advrad.detectors.model_folder import CONFIG_NAME

    folder = Path(place)
    if is_url(place):
        if output is None:
            raise ConfigError(f"is missing; name a folder for the report of {place}", option="output")
    elif not (folder / "grid.json").is_file() and (folder / CONFIG_NAME).is_file():
        raise ConfigError(f"{folder}: is a model folder; also name the folder of images, and the HTML file with -o")
    for path in bench_report(place, output or folder / "report"):
        print(path)
