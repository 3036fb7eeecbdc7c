"""Options that several commands share, and reading them."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Annotated, Any

import typer

from advrad.errors import ConfigError

Data = Annotated[
    Path, typer.Argument(metavar="DATA", help="Folder of images, or FILE.py:NAME for a datamodule (runs the file).")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Model folder, as 'advrad train' made it.")]
Layout = Annotated[str, typer.Option(help="auto, mvtec, visa, btad or folder.")]
Category = Annotated[str | None, typer.Option(help="The product, where DATA holds several.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")]
MaxPixels = Annotated[int, typer.Option(min=1, help="Bound on each image: width times height.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, or what else PyTorch names.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")]


def typed(context: typer.Context, names: Container[str]) -> dict[str, Any]:
    """The options of these names that were typed; defaults are left out, so that they contradict nothing.

    Args:
        context: of the command.
        names: to look for.
    """
    sources = {name: context.get_parameter_source(name) for name in context.params if name in names}
    return {name: context.params[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse what is not offered.

    Raises:
        ConfigError: ``value`` is none of ``allowed``.
    """
    if value not in allowed:
        raise ConfigError(f"{option} {value}: is unknown; choose {', '.join(allowed)}")
