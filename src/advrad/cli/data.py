"""Commands about a folder of images."""

from __future__ import annotations

from typing import Annotated

import typer

from advrad.cli.exit_status import BAD_INPUT
from advrad.cli.options import AsJson, Data, Seed, add_command
from advrad.cli.terminal import put_json, say, warn
from advrad.data.options import DataOptions
from advrad.training.options import RunOptions

app = typer.Typer(help="Look at a folder of images before training.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    """Show the help if no command is given."""
    if context.invoked_subcommand is None:
        say(context.get_help())
        raise typer.Exit(BAD_INPUT)


@add_command(app, "inspect", only=DataOptions.model_fields.keys() - {"skip_bad"})
def inspect_data(
    data: Data,
    options: DataOptions,
    false_alarm_rate: Annotated[
        float,
        typer.Option(
            metavar="FLOAT",
            help="False alarm rate that training will be asked for; it decides how normal images are split.",
        ),
    ] = RunOptions.model_fields["false_alarm_rate"].default,
    size_px: Annotated[
        int,
        typer.Option(
            "--size", min=16, metavar="INTEGER", help="Side in pixels to which images are scaled for the comparison."
        ),
    ] = 256,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Show what a folder of images holds, and warn of what would spoil a training or its evaluation.

    Prints the number of normal and anomalous images, masks, image sizes, unreadable files, what training would use the
    normal images for, and warnings, such as that brightness alone separates normal from anomalous images.

    Example: advrad data inspect images
    """
    from advrad.cli.screen import Screen
    from advrad.cli.tables import show_inspection
    from advrad.data.inspection import inspect_dataset
    from advrad.data.layouts import find_records

    dataset = find_records(data, options)
    with Screen() as screen:
        screen.stage("Reading images")
        found = inspect_dataset(
            dataset, options, seed=seed, false_alarm_rate=false_alarm_rate, size_px=size_px, progress=screen
        )
    if as_json:
        put_json(found.to_dict())
        warn(found.warnings)
    else:
        show_inspection(found)
