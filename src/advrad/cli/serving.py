"""The commands of the service: serve, and keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from advrad.cli.options import add_command
from advrad.cli.terminal import put, say
from advrad.errors import ConfigError
from advrad.serving.settings import ServeSettings, named_runs

app = typer.Typer(rich_markup_mode=None)
keys = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Keys for the service: who may inspect, review, and decide.",
)
app.add_typer(keys, name="keys")

_File = Annotated[Path, typer.Argument(metavar="FILE", help="File of keys.")]


@add_command(app)
def serve(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]RUN ...", help="Models or exports, each with the name of its product, or the folder's name."
        ),
    ],
    settings: ServeSettings,
) -> None:
    """Inspect images over HTTP, and show a page to people.

    Keeps the history of what was inspected; on the page people look at it, review it, and set thresholds.

    Open the printed address in a browser on this machine. Programs send images to /v1/products/NAME/inspections;
    /openapi.json describes everything. The log is JSON lines on standard error.

    Without --keys only this machine is served, and whoever uses it may do everything. For others, make keys by
    'advrad keys add', and let them come by HTTPS. Ctrl-C or SIGTERM stops: what was taken is finished first. Needs the
    extra: pip install 'advrad[serve]'.

    Example: advrad serve run
    """
    with extra():
        from advrad.serving.running import serve as run_service
    run_service(settings, named_runs(runs), _greeting(settings))


@contextmanager
def extra() -> Iterator[None]:
    """Name the extra where a library of the service is missing.

    Raises:
        ConfigError: A library is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("advrad"):
            raise
        raise ConfigError(f"the service needs {error.name}: pip install 'advrad[serve]'") from None


def _greeting(settings: ServeSettings) -> Callable[[str], None]:
    def greet(address: str) -> None:
        put(f"serving  {address}")
        if settings.keys is None:
            say("without --keys only this machine is served, and whoever uses it may do everything")

    return greet


@add_command(keys, computes=False)
def add(
    file: _File,
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the person or machine; the audit log shows it.")],
    role: Annotated[
        str,
        typer.Option(
            metavar="inspect|review|admin",
            help="inspect sends images and reads the history; review also says where verdicts are wrong and makes"
            " thresholds; admin also activates thresholds, deletes, and reads the audit log.",
        ),
    ],
) -> None:
    """Make a key, and print it once. The file holds its SHA-256 only.

    A service that runs with this file takes the key at once. Programs send it as 'Authorization: Bearer KEY'; people
    type it on the page.

    Example: advrad keys add keys.txt --name line-2 --role inspect
    """
    with extra():
        from advrad.serving.access import Role, add_key

    if role not in list(Role):
        raise ConfigError(f"is unknown; choose {', '.join(Role)}", option="role", value=role)
    put(add_key(file, name, Role(role)))
    say("keep this key now: it is stored nowhere")


@add_command(keys, "list", computes=False)
def list_keys(file: _File) -> None:
    """Print the name and the role of each key.

    Example: advrad keys list keys.txt
    """
    with extra():
        from advrad.serving.access import read_rows

    for row in read_rows(file):
        put(f"{row.name}  {row.role}")


@add_command(keys, computes=False)
def remove(
    file: _File,
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the key, as 'advrad keys list' has it.")],
) -> None:
    """Remove a key. A service that runs with this file refuses it from its next request on.

    Example: advrad keys remove keys.txt --name line-2
    """
    with extra():
        from advrad.serving.access import remove_key

    remove_key(file, name)
    put(f"removed  {name}")
