"""The image files below paths that a user gives."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from advrad.data.layouts import CLUTTER, IMAGE_SUFFIXES
from advrad.errors import DataError


def expand_paths(names: Iterable[str | Path], left_out: Path | None = None) -> Iterator[Path | DataError]:
    """The images that were named: files as they are, folders by all images in and below them.

    Args:
        names: files and folders; taken one by one, so a pipe may give them as it goes.
        left_out: a folder that is not searched, such as that of the results.

    Yields:
        Paths, those of one folder in order; an error for a folder without images.
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
            name for name in folders if _seen(name) and (left_out is None or Path(base, name).resolve() != left_out)
        ]
        yield from (Path(base, name) for name in files if _seen(name) and Path(name).suffix.lower() in IMAGE_SUFFIXES)


def _seen(name: str) -> bool:
    return not name.startswith(".") and name not in CLUTTER
