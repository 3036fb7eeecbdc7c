"""Trees of empty files, for what is decided by names alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from advrad.data.layouts import Dataset


def numbered(folder: str, count: int, ending: str = ".png") -> list[str]:
    """Names of files in a folder, such as ``good/000.png``."""
    return [f"{folder}{number:03}{ending}" for number in range(count)]


def make_tree(root: Path, *names: Iterable[str]) -> Path:
    """Write empty files below a folder; a name with a slash at its end is a folder. Returns the folder."""
    for name in (name for group in names for name in group):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.touch()
    return root


def counts(dataset: Dataset) -> dict[str, int]:
    """Number of images by use, such as ``{"train good": 12}``."""
    return dict(Counter(f"{record.split} {record.defect}" for record in dataset.records))


def masks(dataset: Dataset) -> dict[str, str | None]:
    """Mask of each anomalous image, both relative to the data set's folder."""
    return {
        record.path.relative_to(dataset.root).as_posix(): (
            None if record.mask is None else record.mask.relative_to(dataset.root).as_posix()
        )
        for record in dataset.records
        if record.label
    }


def left_out(dataset: Dataset) -> dict[str, int]:
    """Number of files that are left out, by reason."""
    return {entry.what: entry.count for entry in dataset.account.left_out}
