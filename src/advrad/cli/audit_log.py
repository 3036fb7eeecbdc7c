"""Commands about the audit log of the service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advrad.cli.exit_status import BAD_INPUT, FAILED
from advrad.cli.options import AsJson, add_command
from advrad.cli.terminal import put, put_json, say
from advrad.errors import ConfigError

if TYPE_CHECKING:
    from advrad.serving.store.audit import AuditLog

app = typer.Typer(help="Check or show the log of who did what in the service.", rich_markup_mode=None)

_Place = Annotated[
    str,
    typer.Argument(
        metavar="DB", help="Data folder of 'advrad serve', its SQLite file, or the URL of a PostgreSQL database."
    ),
]


@app.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    """Show the help if no command is given."""
    if context.invoked_subcommand is None:
        say(context.get_help())
        raise typer.Exit(BAD_INPUT)


@add_command(app, "verify")
def verify(
    place: _Place,
    head: Annotated[
        str | None,
        typer.Option(
            metavar="HASH",
            help="Head that an earlier check printed: finds out, too, whether the log up to there was written anew.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Check that no row of the audit log was changed, removed, inserted or moved.

    Prints the number of rows and the head, the hash of the last row. Write the head down elsewhere: whoever may write
    to the database can compute a false log with hashes that fit, but not one that holds your head. Exits with status 1
    if the log is not as it was written.

    Example: advrad audit-log verify advrad-data
    """
    with _audit_log(place) as log:
        report = log.verify(head)
    if as_json:
        put_json({"whole": report.whole} | asdict(report))
    elif report.whole:
        put(f"the audit log is whole: {report.rows} rows, head {report.head}")
    else:
        put(f"the audit log is NOT as it was written: {report.problem}")
    return 0 if report.whole else FAILED


@add_command(app, "show")
def show(
    place: _Place,
    limit: Annotated[int, typer.Option(min=1, metavar="INTEGER", help="Number of rows, the newest ones.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show the newest rows of the audit log, the last one at the bottom.

    Example: advrad audit-log show advrad-data --limit 10
    """
    from advrad.cli.tables import show_table

    with _audit_log(place) as log:
        rows = log.rows(limit=limit, newest_first=True)[::-1]
    if as_json:
        listed: list[dict[str, Any]] = [asdict(row) | {"at": row.at.isoformat()} for row in rows]
        put_json({"rows": listed})
        return
    texts = [
        (str(row.n), f"{row.at:%Y-%m-%d %H:%M:%S}", row.by, row.action, row.subject, row.facts_json) for row in rows
    ]
    show_table("Audit log, times in UTC", texts, ("row", "at", "by", "action", "subject", "facts"))


@contextmanager
def _audit_log(place: str) -> Iterator[AuditLog]:
    try:
        from advrad.serving.store.reading import audit_log
    except ModuleNotFoundError as error:
        raise ConfigError(f"the audit log needs {error.name}: pip install 'advrad[serve]'") from None
    with audit_log(place) as log:
        yield log
