"""Find the image files in a list of files and folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from advrad.data.layouts import CLUTTER, IMAGE_SUFFIXES
from advrad.errors import DataError


def expand_paths(names: Iterable[str | Path], left_out: Path | None = None) -> Iterator[Path | DataError]:
    """Replace folders by the image files in and below them.

    Args:
        names: Files and folders; they are taken one by one, so they may come from a pipe.
        left_out: Folder that is not searched, such as the folder for the results.

    Yields:
        Files, those of one folder sorted by path; an error for a folder without images.
    """
    for name in names:
        path = Path(name)
        if not path.is_dir():
            yield path
            continue
        found = sorted(_below(path, left_out.resolve() if left_out else None), key=Path.as_posix)
        if found:
            yield from found
        else:
            yield DataError(f"{path}: holds no images; name a folder that does")


def _below(folder: Path, left_out: Path | None) -> Iterator[Path]:
    for base, folders, files in os.walk(folder):
        folders[:] = [
            name for name in folders if _visible(name) and (left_out is None or Path(base, name).resolve() != left_out)
        ]
        yield from (
            Path(base, name) for name in files if _visible(name) and Path(name).suffix.lower() in IMAGE_SUFFIXES
        )


def _visible(name: str) -> bool:
    return not name.startswith(".") and name not in CLUTTER
