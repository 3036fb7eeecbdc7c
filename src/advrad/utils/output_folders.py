"""Folders for results: what is in them is looked at before anything is written.

Results go into a folder that is new, empty, or written by advrad before. Such a folder is known by its own files, or by
a marker: the hidden file :data:`MARKER`, whose first line names what it holds. Files of others are never replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

from advrad.errors import OutputError
from advrad.utils.files import check_folder, ensure_writable, is_stream, make_folder, write_text

MARKER = ".advrad-output"
"""File that marks a folder that advrad has written. Data sets leave such folders out."""

CONFIG_NAME = "config.json"
"""File of a model folder that describes the model."""

FORMAT = "advrad"
"""Value of ``format`` in that file."""

EXPORT_NAME = "detector.json"
"""File of an export that describes it."""

EXPORT_FORMAT = "advrad export"
"""Value of ``format`` in that file."""

Contents = Literal["model", "export", "results", "heat maps", "benchmark", "report", "demonstration", "products"]
"""What a folder of advrad holds."""

ALL: tuple[Contents, ...] = get_args(Contents)
"""All that a folder of advrad may hold."""

_WORDS: dict[Contents, str] = {
    "model": "a model",
    "export": "an exported detector",
    "results": "results of an evaluation, an attack or a certification",
    "heat maps": "heat maps of predictions",
    "benchmark": "a benchmark",
    "report": "the report of a benchmark",
    "demonstration": "a demonstration",
    "products": "models of a table of products",
}
_NOTE = "advrad wrote this folder and may add to it. Data sets leave it out as long as this file is here.\n"
_OWN_IMAGE = re.compile(r"-[0-9a-f]{10}-(heat|reconstruction)\.png$")
_MODEL_FILES = (CONFIG_NAME, "model.safetensors", "README.md", EXPORT_NAME, "model.xml", "model.bin", "model.onnx")
_CLUTTER = ("thumbs.db", "desktop.ini", "icon\r")


def contents_of(folder: Path) -> Contents | None:
    """Find out what a folder of advrad holds.

    Args:
        folder: Folder; it may be missing.

    Returns:
        What it holds; None for a folder that advrad did not write.

    Example:
        >>> _ = claim_folder(Path("maps"), "heat maps")
        >>> contents_of(Path("maps")), contents_of(Path("."))
        ('heat maps', None)
    """
    folder = Path(folder)
    if not folder.is_dir():
        return None
    return _marked(folder) or _recognised(folder)


def is_own_image(name: str) -> bool:
    """Whether a file of this name is a heat map or a reconstruction that a prediction has written.

    Args:
        name: Name of the file.
    """
    return _OWN_IMAGE.search(name) is not None


def check_output(
    folder: Path,
    contents: Contents,
    also: tuple[Contents, ...] = (),
    *,
    guards: Callable[[Path], bool] | None = None,
) -> None:
    """Refuse a folder that results must not go into, before any work. Nothing is made.

    Args:
        folder: Folder for the results.
        contents: What will be written.
        also: What else a folder of advrad may hold already.
        guards: Function that says whether a file of others keeps results out; None for all files. Hidden and empty
            files never do.

    Raises:
        OutputError: The folder holds files of others or other results, is a file, or cannot be made.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; name a folder")
    check_folder(folder)
    if not folder.is_dir():
        return
    fix = f"name a new or empty folder, such as {folder / contents.replace(' ', '-')}"
    # Files first: another process marks the folder before it writes any.
    others = [path for path in _visible(folder) if guards is None or guards(path)]
    held = contents_of(folder)
    if held is not None:
        if held != contents and held not in also:
            raise OutputError(f"{folder}: holds {_WORDS[held]}; {fix}")
        return
    if others:
        raise OutputError(f"{folder}: holds {_listed(others)}, which advrad did not write; {fix}")


def claim_folder(
    folder: Path,
    contents: Contents,
    also: tuple[Contents, ...] = (),
    *,
    guards: Callable[[Path], bool] | None = None,
) -> Path:
    """Make a folder for results, and mark it.

    Args:
        folder: Folder for the results.
        contents: What will be written.
        also: What else a folder of advrad may hold already.
        guards: See :func:`check_output`.

    Returns:
        The folder.

    Raises:
        OutputError: See :func:`check_output`; or the folder cannot be written.
    """
    check_output(folder, contents, also, guards=guards)
    place = make_folder(folder)
    if contents_of(place) is None:
        write_text(place / MARKER, f"{contents}\n{_NOTE}")
    return place


def unmark_folder(folder: Path, contents: Contents) -> None:
    """Remove the marker of a folder whose own files now tell what it holds.

    Args:
        folder: Folder, as of :func:`claim_folder`.
        contents: What the marker names; a marker that names something else stays.
    """
    if _marked(folder) == contents:
        with suppress(OSError):
            (folder / MARKER).unlink()


def check_output_file(path: Path) -> None:
    """Refuse a file that a text must not replace, such as an image, before any work. Its folder is made.

    Args:
        path: File for results in words or figures. A text that is there is replaced.

    Raises:
        OutputError: The file is an image or another file that is not text, or belongs to a model; or it cannot be
            written.
    """
    path = Path(path)
    ensure_writable(path)
    if is_stream(path):
        return
    belongs = (path.name in _MODEL_FILES and contents_of(path.parent) in ("model", "export", "demonstration")) or (
        path.parent.name == "training" and contents_of(path.parent.parent) in ("model", "demonstration")
    )
    if belongs:
        raise OutputError(f"{path}: belongs to a model; name another file")
    try:
        with path.open("rb") as file:
            text = b"\0" not in file.read(1024)
    except OSError:
        return  # there is no such file yet
    if not text:
        raise OutputError(f"{path}: is not a text, such as results are written to; name another file")


def _marked(folder: Path) -> Contents | None:
    """What the marker of a folder names; None without one."""
    try:
        text = (folder / MARKER).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    first = text.partition("\n")[0].strip()
    return next((name for name in ALL if name == first), "results")


def _recognised(folder: Path) -> Contents | None:
    """What a folder without a marker holds, by its files; older versions made no markers."""
    if _json(folder / CONFIG_NAME).get("format") == FORMAT or (folder / "training" / "plan.json").is_file():
        return "demonstration" if (folder / "flange" / "product.json").is_file() else "model"
    if _json(folder / EXPORT_NAME).get("format") == EXPORT_FORMAT:
        return "export"
    if {"format", "cells"} <= _json(folder / "grid.json").keys():
        return "benchmark"
    if _holds_results(folder):
        return "results"
    if all((folder / name).is_file() for name in ("index.html", "tables.md", "tables.tex", "results.csv")):
        return "report"
    shown = _visible(folder)
    if shown and all(is_own_image(path.name) for path in shown):
        return "heat maps"
    # Inside a model folder, ``attacks`` holds a folder for each attack.
    if any(path.is_dir() for path in shown) and all(_is_part_of_results(path) for path in shown):
        return "results"
    return None


def _holds_results(folder: Path) -> bool:
    plan = _json(folder / "plan.json")
    checks = _json(folder / "checks.json")
    return {"names", "pictures", "detector"} <= plan.keys() or {"flags", "auroc"} <= checks.keys()


def _is_part_of_results(path: Path) -> bool:
    if path.is_dir():
        return _holds_results(path)
    return path.name.startswith("curve-") and path.suffix in (".json", ".png")


def _json(path: Path) -> dict[str, object]:
    """A JSON file's values; empty if there is none, or something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _visible(folder: Path) -> list[Path]:
    """What a folder holds, without hidden files, empty files and those of file managers."""
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return []
    return [path for path in paths if path.name.lower() not in _CLUTTER and path.name[:1] != "." and not _empty(path)]


def _empty(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size == 0
    except OSError:
        return False


def _listed(paths: list[Path]) -> str:
    """The first names, and how many more there are."""
    names = ", ".join(path.name for path in paths[:3])
    return names if len(paths) <= 3 else f"{names} and {len(paths) - 3} more"
