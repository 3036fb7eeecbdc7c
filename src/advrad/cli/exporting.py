"""The command that writes a detector for other runtimes: export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advrad.cli.exit_status import interruptible
from advrad.cli.options import add_command
from advrad.exporting.options import ExportOptions
from advrad.utils.formatting import quoted

if TYPE_CHECKING:
    from advrad.detectors.exported_config import ExportedConfig

app = typer.Typer(rich_markup_mode=None)


@add_command(app)
def export(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="Model folder, written by 'advrad train'.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="Folder for the export; it must be new or empty.")
    ],
    options: ExportOptions,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Folder of the images that RUN was trained on. Only the normal images that set its threshold are used."
            "  [default: where they were]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a model as a graph that runs without PyTorch.

    The graph takes an image of any size and gives score, anomaly map and verdict. It is run in its own runtime on the
    normal images that set the threshold, and compared with RUN: an export that differs by more than rounding does is
    refused, with the names of the images. The threshold is set anew from its own scores. 'advrad predict' and the other
    commands take the folder like a model. Needs the extra: pip install 'advrad[export]'.

    Example: advrad export run -o exported
    """
    from advrad.cli.screen import Screen
    from advrad.exporting.run import export as run_export

    with interruptible("interrupted; nothing was written"), Screen() as screen:
        exported = run_export(model, output, to=options.to, precision=options.precision, data=data, progress=screen)
    _print_export(exported, output)


def _print_export(config: ExportedConfig, folder: Path) -> None:
    """Print how the export compares with the model, and the commands that use it."""
    parity = config.parity
    if parity is not None:
        print(f"compared   on the {parity.n} normal images that set the threshold, in {config.engine}")
        print(f"scores     differ by at most {parity.score_difference:.2g}; {parity.score_tolerance:g} may be")
        print(f"maps       differ by at most {parity.map_difference:.2g}; {parity.map_tolerance:g} may be")
        print(f"verdicts   {parity.flips or 'none'} of {parity.n} {'differs' if parity.flips == 1 else 'differ'}")
    tests = [] if config.guarded is None else zip(config.guarded.names, config.guarded.tests, strict=True)
    for name, test in tests:
        print(f"{name:<11}{test.threshold:.6g}")
    if config.guarded is None:
        print(f"threshold  {config.calibration.threshold:.6g}")
    kept = "set by scores of the export" if config.rescored else "as RUN has it, which holds these images"
    print(f"           {kept}")
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"export     {folder}, {size / 1e6:.1f} MB, {config.precision}")
    print(f"next       advrad predict {quoted(folder)} IMAGE -o heat-maps")
