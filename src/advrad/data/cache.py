"""Cache of decoded and resized images.

Decoding takes far longer than reading the result. An entry is named after a digest of the files' contents: changed,
added or reordered images make another entry, renamed or moved files do not. An entry has two files: the pixels as
``.npy``, and as ``.json`` a checksum, the smallest and largest value of each file, and the errors of images that cannot
be read.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from advrad.data.framing import Framing
from advrad.data.value_range import ImageLevels
from advrad.utils.files import PART, atomic_path, make_folder, write_json

VERSION = 2
"""Version of the entries; raise it when the same file would give other values than before."""

LIMIT_BYTES = 8 * 2**30
"""Size limit: above it, the least recently used entries are deleted, except the one in use."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """Decoded images.

    Attributes:
        values: The readable images, (n, 3, height, width).
        levels: Values of their files, n.
        bad: Errors of the other images by their position among all images.
    """

    values: npt.NDArray[np.uint16]
    levels: tuple[ImageLevels, ...]
    bad: dict[int, str]


def default_folder() -> Path | None:
    """Folder of the cache: ADVRAD_CACHE, else ~/.cache/advrad; None if there is no home folder."""
    named = os.environ.get("ADVRAD_CACHE")
    try:
        return Path(named) if named else Path("~/.cache/advrad").expanduser()
    except RuntimeError:
        return None


def digest(path: Path) -> bytes | None:
    """Digest of the content of a file; None if it cannot be read."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError:
        return None


def entry_path(folder: Path, digests: Iterable[bytes | None], framing: Framing, max_pixels: int) -> Path | None:
    """Name the entry of a list of images.

    Args:
        folder: Folder of the cache; need not exist.
        digests: Digests of the image files, in order.
        framing: How the images become working images.
        max_pixels: Largest accepted image file, width times height.

    Returns:
        Path of the entry's pixels; None if a digest is None, because such a file may become readable unchanged.
    """
    import PIL

    # Another version of a decoder may decode slightly differently, or read more files.
    decoders = f"{PIL.__version__} {version('tifffile')} {version('imagecodecs')}"
    state = f"{VERSION} {framing.key} {max_pixels} {decoders} ".encode()
    whole = hashlib.blake2b(state, digest_size=16)
    for part in digests:
        if part is None:
            return None
        whole.update(part)
    return folder / f"{whole.hexdigest()}.npy"


def read_entry(path: Path, count: int, framing: Framing) -> Entry | None:
    """Read an entry, and record that it was used.

    Args:
        path: Path from :func:`entry_path`.
        count: Number of all images, including those that cannot be read.
        framing: How the images become working images.

    Returns:
        The entry, with pixels mapped read-only from the file; None if it is missing or damaged.
    """
    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        bad = {int(index): str(reason) for index, reason in facts["bad"].items()}
        levels = tuple(ImageLevels.from_json(level) for level in facts["levels"])
        values = np.load(path, mmap_mode="r")
        good = (
            isinstance(values, np.memmap)
            and values.dtype == np.uint16
            and values.shape == (count - len(bad), 3, framing.height_px, framing.width_px)
            and len(levels) == len(values)
            and values.flags.c_contiguous
            and zlib.crc32(values.data) == facts["crc32"]
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not good:
        return None
    with suppress(OSError):
        os.utime(path)  # the time of last use, for deleting old entries
    return Entry(values, levels, bad)


def write_entry(path: Path, entry: Entry) -> None:
    """Write an entry, and delete old entries if the cache is too large.

    Args:
        path: Path from :func:`entry_path`; its folder is made if missing.
        entry: Entry.

    Raises:
        OutputError: The entry cannot be written.
    """
    values = entry.values
    make_folder(path.parent)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, values)
    facts = {
        "bad": {str(index): reason for index, reason in entry.bad.items()},
        "levels": [level.to_json() for level in entry.levels],
        "crc32": zlib.crc32(values.data),
    }
    write_json(path.with_suffix(".json"), facts)
    _trim(path)


def _trim(in_use: Path) -> None:
    """Delete the least recently used entries above the limit, and files of interrupted runs."""
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
            # Windows refuses while another process has the file open; elsewhere the open file stays usable.
            with suppress(OSError):
                path.unlink()
                path.with_suffix(".json").unlink(missing_ok=True)
                total -= size
