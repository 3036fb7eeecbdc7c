"""Decoded and resized images, kept between runs.

Decoding is far slower than reading. So the result lies in a folder under the digest of the files' contents: a
changed, added or reordered image makes another entry, a touched or moved one does not. An entry is two files, the
pixels as ``.npy`` and beside them, as ``.json``, a checksum and why images are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from advrad.utils.files import PART, atomic_path, make_folder, write_json

Entry = tuple[npt.NDArray[np.uint16], dict[int, str]]
"""The normal images, (n, 3, size, size), and by their index among all images the reasons of the bad ones."""

VERSION = 1
"""To be raised whenever the same file would give other numbers than before."""

LIMIT_BYTES = 8 * 2**30
"""The least recently used entries are deleted above this; the one just used never is."""


def default_folder() -> Path | None:
    """Where entries are kept: ADVRAD_CACHE, else ~/.cache/advrad; None if there is no home."""
    named = os.environ.get("ADVRAD_CACHE")
    try:
        return Path(named) if named else Path("~/.cache/advrad").expanduser()
    except RuntimeError:
        return None


def digest(path: Path) -> bytes | None:
    """The digest of a file's content; None if it cannot be read."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError:
        return None


def entry_path(folder: Path, digests: Iterable[bytes | None], size_px: int, max_pixels: int) -> Path | None:
    """Name the entry of some images.

    Args:
        folder: of the cache; need not exist.
        digests: of the image files, in order.
        size_px: side of the square to which they are resized.
        max_pixels: bound on each image as it lies in its file.

    Returns:
        The path of the entry's pixels; None if a digest is, for what is wrong with that file may change without
        its content.
    """
    import PIL

    # Another Pillow may decode a little differently, or read what this one cannot.
    state = f"{VERSION} {size_px} {max_pixels} {PIL.__version__} ".encode()
    whole = hashlib.blake2b(state, digest_size=16)
    for part in digests:
        if part is None:
            return None
        whole.update(part)
    return folder / f"{whole.hexdigest()}.npy"


def take(path: Path, count: int, size_px: int) -> Entry | None:
    """Read an entry, and note that it was used.

    Args:
        path: as of :func:`entry_path`.
        count: of all images, the bad ones included.
        size_px: side of the square.

    Returns:
        The entry, its pixels mapped read-only from the file; None if it is missing or damaged.
    """
    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        bad = {int(index): str(reason) for index, reason in facts["bad"].items()}
        values = np.load(path, mmap_mode="r")
        good = (
            isinstance(values, np.memmap)
            and values.dtype == np.uint16
            and values.shape == (count - len(bad), 3, size_px, size_px)
            and values.flags.c_contiguous
            and zlib.crc32(values.data) == facts["crc32"]
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not good:
        return None
    with suppress(OSError):
        os.utime(path)  # the time of last use, by which old entries are found
    return values, bad


def keep(path: Path, entry: Entry) -> None:
    """Write an entry, and delete what the cache then holds too much.

    Args:
        path: as of :func:`entry_path`; its folder is made if missing.
        entry: what :func:`take` is to give back.

    Raises:
        OutputError: it cannot be written.
    """
    values, bad = entry
    make_folder(path.parent)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, values)
    facts = {"bad": {str(index): reason for index, reason in bad.items()}, "crc32": zlib.crc32(values.data)}
    write_json(path.with_suffix(".json"), facts)
    _trim(path)


def _trim(in_use: Path) -> None:
    """Delete the least recently used entries above the limit, and what interrupted runs left behind."""
    entries = []
    for path in in_use.parent.glob("*"):
        with suppress(OSError):
            facts = path.stat()
            if path.suffix == ".npy" and not path.name.startswith("."):
                entries.append((facts.st_mtime, path, facts.st_size))
            elif PART in path.name and facts.st_mtime < time.time() - 86_400:
                path.unlink()
    total = sum(size for _, _, size in entries)
    for _, path, size in sorted(entries):
        if total > LIMIT_BYTES and path != in_use:
            # Where another process has it open, Windows refuses; elsewhere the open file lives on.
            with suppress(OSError):
                path.unlink()
                path.with_suffix(".json").unlink(missing_ok=True)
                total -= size
