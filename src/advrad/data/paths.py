"""Find the image files in a list of files and folders, and name the files that are passed over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from advrad.data.folders import Folder, is_image
from advrad.data.signatures import RAW_SUFFIXES
from advrad.errors import DataError
from advrad.utils.output_folders import contents_of, is_own_image


def expand_paths(names: Iterable[str | Path], passed_over: list[Path] | None = None) -> Iterator[Path | DataError]:
    """Replace folders by the image files in and below them.

    A file is taken for an image if its ending says so, or if it begins like one. Left out are hidden files, what file
    managers leave behind, and folders that advrad has written.

    Args:
        names: Files and folders; they are taken one by one, so they may come from a pipe.
        passed_over: List to which the other files of the folders are added; None if they do not matter.

    Yields:
        Files, those of one folder sorted by path; an error for a folder without images, or one that cannot be listed.

    Example:
        >>> _ = Path("notes.txt").write_text("no image")
        >>> others: list[Path] = []
        >>> [str(error) for error in expand_paths(["."], others)]
        ['.: holds no images, but 1 other file: notes.txt (.txt); name a folder that does']
        >>> others
        [PosixPath('notes.txt')]
    """
    for name in names:
        path = Path(name)
        if not path.is_dir():
            yield path
            continue
        if contents_of(path) == "heat maps":
            yield DataError(f"{path}: holds heat maps that advrad has drawn; name the folder of the images")
            continue
        others: list[Path] = []
        try:
            found = sorted(_images_below(Folder(path), others), key=Path.as_posix)
        except DataError as error:
            yield error
            continue
        if passed_over is not None:
            passed_over += others
        if found:
            yield from found
        else:
            count = f"{len(others)} other file{'' if len(others) == 1 else 's'}"
            what = f"no images, but {count}: {describe_files(others)}" if others else "no images"
            yield DataError(f"{path}: holds {what}; name a folder that does")


def describe_files(paths: list[Path]) -> str:
    """Describe files that were not taken for images: the first names, and the endings.

    Args:
        paths: Files, at least one.

    Example:
        >>> describe_files([Path("in/a.txt"), Path("in/b.dng"), Path("in/c")])
        'a.txt, b.dng, c (no ending, .dng, .txt; raw files of cameras are not read)'
    """
    names = ", ".join(path.name for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
    endings = ", ".join(sorted({path.suffix.lower() or "no ending" for path in paths}, key=lambda e: (e[0] == ".", e)))
    raw = any(path.suffix.lower() in RAW_SUFFIXES for path in paths)
    return f"{names} ({endings}{'; raw files of cameras are not read' if raw else ''})"


def _images_below(folder: Folder, others: list[Path]) -> Iterator[Path]:
    """Images in a folder and below it; other files that are neither hidden nor clutter are added to ``others``."""
    for path in folder.files:
        if is_own_image(path.name):
            continue
        if is_image(path):
            yield path
        else:
            others.append(path)
    for below in folder.folders:
        if contents_of(below.path) is None:
            yield from _images_below(below, others)
