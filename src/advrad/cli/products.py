"""What the command ``train`` does with a table of products."""

from __future__ import annotations

from pathlib import Path

from advrad.cli.exit_status import BAD_INPUT, FAILED, interruptible
from advrad.cli.options import option_name
from advrad.cli.terminal import say, warn
from advrad.training.options import RunOptions
from advrad.utils.formatting import quoted


def train_table(table: Path, output: Path, jobs: int | None, engine: str, address: str | None) -> int:
    """Make the models of a table of products, and print what came of them.

    Args:
        table: CSV file.
        output: Folder for the models.
        jobs: Number of processes; None for the engine's.
        engine: Name of the engine.
        address: Address of the engine; None for its own.

    Returns:
        The exit status.

    Raises:
        UserError: The table, the folder or the engine cannot be used.
    """
    from advrad.cli.screen import Screen
    from advrad.engine import open_engine
    from advrad.products.run import train_products
    from advrad.products.table import TableError, read_table

    try:
        products = read_table(table, columns())
        with (
            interruptible("interrupted; finished products are kept, and the same command continues"),
            Screen() as screen,
            open_engine(engine, jobs, address) as chosen,
        ):
            outcome = train_products(products, output, table=table, engine=chosen, progress=screen)
    except TableError as error:
        for problem in error.problems:
            say(f"advrad: error: {table}: {problem}")
        return BAD_INPUT
    warned = [record for record in outcome.finished if record.warnings]
    warn(f"{record.name}: {text}" for record in warned for text in record.warnings)
    warn(f"{record.name}: failed: {record.error}" for record in outcome.failed)
    print(f"done      {len(outcome.finished)} of {len(outcome.records)} products")
    if warned:
        print(f"warnings  for {len(warned)} of them")
    print(f"overview  {outcome.overview}")
    print(f"models    {output / 'models'}")
    if outcome.finished:
        print(f"look      advrad serve {quoted(output / 'models' / outcome.finished[0].name)}")
    return FAILED if outcome.failed else 0


def columns() -> dict[str, str]:
    """The fields of the options of a training by the names of the command line, without dashes in front.

    Example:
        >>> columns()["false-alarm-rate"], columns()["size"]
        ('false_alarm_rate', 'size_px')
    """
    fields = RunOptions.flat_fields()
    return {option_name(field.alias or name).removeprefix("--"): name for name, field in fields.items()}
