"""Where heat maps and reconstructions are written, and under which names."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from advrad.data.folder_names import IMAGE_SUFFIXES
from advrad.utils.output_folders import check_output, claim_folder, is_own_image


def check_heat_map_folder(folder: Path) -> None:
    """Refuse a folder for heat maps that holds images or folders that advrad did not write. Nothing is made.

    Args:
        folder: Folder for heat maps.

    Raises:
        OutputError: It cannot be used.
    """
    check_output(folder, "heat maps", guards=_keeps_out)


def claim_heat_map_folder(folder: Path) -> Path:
    """Make a folder for heat maps, and mark it, so that data sets leave it out.

    Args:
        folder: Folder for heat maps.

    Returns:
        The folder.

    Raises:
        OutputError: It holds images or folders that advrad did not write, or cannot be written.
    """
    return claim_folder(folder, "heat maps", guards=_keeps_out)


def stem_of(path: Path) -> str:
    """The beginning of the names of what is drawn of an image: its folder, its name, and a digest of its place.

    The digest keeps files of the same name apart. It is the same however the path was written.

    Args:
        path: Image file.

    Example:
        >>> stem_of(Path("good/part-0001.png")).startswith("good-part-0001-")
        True
    """
    digest = hashlib.blake2b(os.fsencode(path.resolve()), digest_size=5).hexdigest()
    folder = _shortened(Path(os.path.abspath(path)).parent.name, 60)
    return "-".join(part for part in (folder, _shortened(path.stem, 140), digest) if part)


def _keeps_out(path: Path) -> bool:
    """Whether a file beside heat maps would be taken for one, or be lost for data sets, which leave the folder out."""
    return path.is_dir() or (path.suffix.lower() in IMAGE_SUFFIXES and not is_own_image(path.name))


def _shortened(name: str, n_bytes: int) -> str:
    """The beginning of a name. File systems allow 255 bytes for a whole one."""
    while len(os.fsencode(name)) > n_bytes:
        name = name[:-1]
    return name
