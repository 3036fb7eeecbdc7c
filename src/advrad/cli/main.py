"""The command line: all commands, and how the program starts and ends.

Results go to standard output, everything else to standard error. The exit status is 0 when a command finished (also if
it found defects), 1 when it failed, 2 for bad input and 130 when it was interrupted. Each failure is one line.

Each command is one function in the module of its topic, such as ``data``, ``training`` or ``serving``. The function
imports what it needs when it runs, so that help appears at once.
"""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from advrad.cli import audit_log, bench, data, exporting, prediction, robustness, serving, training, watching
from advrad.cli.exit_status import BAD_INPUT, status_of, terminated
from advrad.cli.terminal import open_closed_streams, say

SUMMARY = "Find defects in images of industrial products. Training needs images of normal products only."

app = typer.Typer(
    name="advrad",
    help=SUMMARY,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with 'advrad demo', which needs no images of your own.",
)
app.add_typer(data.app, name="data")
app.add_typer(audit_log.app, name="audit-log")
for part in (training, exporting, prediction, robustness, bench, serving, watching):
    app.add_typer(part.app)


def main() -> NoReturn:
    """Run the command in ``sys.argv`` and exit with its status."""

    def command() -> object:
        with typer.main.get_command(app).make_context("advrad", sys.argv[1:]) as context:
            return context.command.invoke(context)

    open_closed_streams()
    with terminated():
        status = status_of(command)
    sys.exit(status)


def _version(wanted: bool) -> None:
    if wanted:
        from advrad import __version__

        print(f"advrad {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Show the help if no command is given."""
    if context.invoked_subcommand is None:
        say(context.get_help())
        raise typer.Exit(BAD_INPUT)
