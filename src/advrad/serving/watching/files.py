"""What the watched folder does with files: read them whole, set unreadable ones aside, move inspected ones."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from advrad.errors import OutputError
from advrad.serving.watching.scanning import Stamp
from advrad.utils.files import atomic_path, explain, make_folder, write_text

_KEY_CHARACTERS = 16
_SET_ASIDE = re.compile(r"-([0-9a-f]{16})(?:\.[A-Za-z0-9]{1,8})?\.txt$")
_ENDING = re.compile(r"\.[A-Za-z0-9]{1,8}")


def read_whole(path: Path, stamp: Stamp) -> bytes | None:
    """Read a file that must not have changed.

    Args:
        path: The file.
        stamp: Its stamp when it was found.

    Returns:
        Its content; None if it has another stamp, before or after, or is gone.

    Raises:
        OSError: It cannot be read.
    """
    try:
        # Not to wait for a writer, should a pipe have taken the place of the file.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(number, "rb", buffering=0) as file:
        before = os.fstat(number)
        if not stat.S_ISREG(before.st_mode) or Stamp.of(before) != stamp:
            return None
        content = file.readall()
        whole = Stamp.of(os.fstat(number)) == stamp and len(content) == stamp.size
    return content if whole and has_stamp(path, stamp) else None


def has_stamp(path: Path, stamp: Stamp) -> bool:
    """Whether a file is there and unchanged.

    Args:
        path: The file.
        stamp: Its stamp.
    """
    try:
        return Stamp.of(path.stat()) == stamp
    except OSError:
        return False


class SetAside:
    """The folder of files that are no images: a copy of each, and beside it a text that says why.

    The text is written last, and its name holds the identity of the file: as long as it is there, the file counts as
    set aside, also after a restart. Whoever removes the text has the file looked at again at the next start.

    Args:
        folder: The folder; made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = os.listdir(folder) if folder.is_dir() else []
        self._keys = {found.group(1) for name in names if (found := _SET_ASIDE.search(name))}

    def holds(self, key: str) -> bool:
        """Whether a file was set aside.

        Args:
            key: Its identity, a SHA-256 in hexadecimal.
        """
        return key[:_KEY_CHARACTERS] in self._keys

    def put(self, path: Path, content: bytes | None, reason: str, key: str) -> Path:
        """Set a file aside.

        Args:
            path: The file; it stays where it is.
            content: Its content; None to make no copy.
            reason: Why it is set aside.
            key: Its identity, a SHA-256 in hexadecimal.

        Returns:
            The text with the reason.

        Raises:
            OutputError: The copy or the text cannot be written.
        """
        make_folder(self.folder)
        place = self.place_of(path, key)
        if content is not None:
            with atomic_path(place) as temporary:
                temporary.write_bytes(content)
        time = datetime.now(UTC).isoformat(timespec="seconds")
        text = place.with_name(f"{place.name}.txt")
        write_text(text, f"file    {shown(path.absolute())}\nreason  {reason}\ntime    {time}\n")
        self._keys.add(key[:_KEY_CHARACTERS])
        return text

    def place_of(self, path: Path, key: str) -> Path:
        """Where the copy of a file is: below its own name in plain letters, and its identity.

        Args:
            path: The file.
            key: Its identity.
        """
        ending = path.suffix if _ENDING.fullmatch(path.suffix) else ""
        plain = re.sub(r"[^\w.-]", "_", path.name.removesuffix(ending), flags=re.ASCII).strip(".")[:80] or "file"
        return self.folder / f"{plain}-{key[:_KEY_CHARACTERS]}{ending}"


def move(path: Path, stamp: Stamp, target: Path, key: str) -> bool:
    """Move a file that must not have changed; nothing is overwritten.

    Args:
        path: The file. A link stays where it is.
        stamp: Its stamp when it was read.
        target: Where to; its folder is made. If the name is taken, the identity is added to it.
        key: Identity of the file, a SHA-256 in hexadecimal.

    Returns:
        Whether it was moved; False for a link, and for a file that has changed or is gone.

    Raises:
        OutputError: It cannot be moved.
    """
    if path.is_symlink() or not has_stamp(path, stamp):
        return False
    make_folder(target.parent)
    if target.exists():
        target = target.with_name(f"{target.stem}-{key[:_KEY_CHARACTERS]}{target.suffix}")
    try:
        return _renamed(path, stamp, target)
    except OSError as error:
        raise OutputError(f"{shown(path)}: cannot be moved: {explain(error)}") from None


def _renamed(path: Path, stamp: Stamp, target: Path) -> bool:
    try:
        os.rename(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return _copied(path, stamp, target)
    moved = Stamp.of(target.stat())
    if (moved.size, moved.mtime_ns, moved.inode) == (stamp.size, stamp.mtime_ns, stamp.inode):
        return True
    # Another file has taken the name in this moment: put it back, unless a third one is there.
    with suppress(FileExistsError):
        os.link(target, path)
        target.unlink()
    return False


def _copied(path: Path, stamp: Stamp, target: Path) -> bool:
    """Move a file to another disk: the copy is on that disk before the file is removed."""
    with atomic_path(target) as temporary:
        shutil.copy2(path, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
    if not has_stamp(path, stamp):
        target.unlink()
        return False
    path.unlink()
    return True


def shown(path: Path) -> str:
    r"""A path as it is told to people: on one line, whatever characters it holds.

    Args:
        path: Any path.

    Example:
        >>> shown(Path("in/part\n7.png"))
        'in/part\\n7.png'
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in str(path))
