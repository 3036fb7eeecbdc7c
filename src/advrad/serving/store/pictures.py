"""The files of the images, named by the SHA-256 of their content, so that one image is kept once."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from advrad.errors import OutputError
from advrad.serving.errors import ArtefactUnavailable, StoreUnavailable
from advrad.serving.store.texts import check_digest
from advrad.utils.files import PART, atomic_path, explain, make_folder

IN_USE_S = 60.0
"""Seconds after it was stored or sent again in which no file is removed: its inspection may be about to be stored."""

_ASIDE = ".aside"


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A file in the folder.

    Attributes:
        path: Path of the file.
        digest: SHA-256 of the content; None for the leftover of a process that was killed.
        size: Number of bytes.
        age_s: Seconds since it was stored or sent again, by the clock of this machine; negative if the clock was set
            back since.
    """

    path: Path
    digest: str | None
    size: int
    age_s: float

    @property
    def is_idle(self) -> bool:
        """Whether the file was not stored or sent again just now."""
        return self.age_s >= IN_USE_S


class Pictures:
    """A folder of images.

    Args:
        folder: The folder; made if missing.

    Raises:
        OutputError: The folder cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = make_folder(folder, private=True).absolute()
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{folder}: may not be written to; change its permissions")

    def put(self, content: bytes) -> str:
        """Store an image. The file is on the disk, whole, when this returns.

        Args:
            content: Content of the image file.

        Returns:
            Its SHA-256 in hexadecimal.

        Raises:
            StoreUnavailable: The disk is full or cannot be written.
        """
        digest = sha256(content).hexdigest()
        path = self._place(digest)
        with suppress(OSError):
            # The time of the file says that it is needed now; retention looks at it again before a file goes.
            os.utime(path)
            if path.stat().st_size == len(content):
                return digest
        try:
            make_folder(path.parent)
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            _flush_folder(path.parent)
        except OutputError as error:
            problem, _, fix = str(error).rpartition("; ")
            raise StoreUnavailable(problem or str(error), fix) from error
        return digest

    def path(self, digest: str) -> Path:
        """Path of an image.

        Args:
            digest: SHA-256 of its content.

        Raises:
            ConfigError: The text is no SHA-256.
            ArtefactUnavailable: The file is gone.
        """
        path = self._place(digest)
        if not path.is_file():
            raise _gone(digest)
        return path

    def has(self, digest: str) -> bool:
        """Whether an image is there.

        Args:
            digest: SHA-256 of its content.
        """
        return self._place(digest).is_file()

    def read(self, digest: str) -> bytes:
        """Read an image, and check that it is what was stored.

        Args:
            digest: SHA-256 of its content.

        Raises:
            ConfigError: The text is no SHA-256.
            ArtefactUnavailable: The file is gone or damaged.
            StoreUnavailable: The disk cannot be read.
        """
        try:
            content = self._place(digest).read_bytes()
        except FileNotFoundError:
            raise _gone(digest) from None
        except OSError as error:
            raise StoreUnavailable(f"{self._place(digest)}: cannot be read", explain(error)) from error
        if sha256(content).hexdigest() != digest:
            raise ArtefactUnavailable(
                f"the image {digest[:12]} is damaged on the disk", "restore the folder of images from a backup"
            )
        return content

    def remove(self, digest: str) -> bool:
        """Remove an image, unless it was stored or sent again just now.

        Args:
            digest: SHA-256 of its content.

        Returns:
            Whether it is gone.

        Raises:
            StoreUnavailable: The file cannot be removed.
        """
        path = self._place(digest)
        aside = path.with_name(f".{secrets.token_hex(6)}{_ASIDE}")
        try:
            if _age_s(path) < IN_USE_S:
                return False
            # Moved first and looked at again: from here on, `put` finds no file and writes a new one. If it has found
            # the old one before, it has set its time.
            os.rename(path, aside)
            if _age_s(aside) < IN_USE_S:
                os.rename(aside, path)
                return False
            aside.unlink()
        except FileNotFoundError:
            return True
        except OSError as error:
            raise StoreUnavailable(f"{path}: cannot be removed", explain(error)) from error
        return True

    def remove_leftover(self, path: Path) -> bool:
        """Remove the leftover of a process that was killed.

        Args:
            path: Path of the file.

        Returns:
            Whether it is gone.

        Raises:
            StoreUnavailable: The file cannot be removed.
        """
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"{path}: cannot be removed", explain(error)) from error
        return True

    def files(self) -> Iterator[PictureFile]:
        """Go through all files of the folder, also those that a killed process left half-written.

        Yields:
            The files.

        Raises:
            StoreUnavailable: The folder cannot be read.
        """
        try:
            for folder in sorted(path for path in self.folder.iterdir() if path.is_dir()):
                for entry in os.scandir(folder):
                    with suppress(FileNotFoundError):
                        found = entry.stat(follow_symlinks=False)
                        path = Path(entry.path)
                        age_s = time.time() - found.st_mtime
                        if entry.name.startswith(".") and path.suffix in (PART, _ASIDE):
                            yield PictureFile(path, None, found.st_size, age_s)
                        elif len(entry.name) == 64 and path == self._place(entry.name):
                            yield PictureFile(path, entry.name, found.st_size, age_s)
        except OSError as error:
            raise StoreUnavailable(f"{self.folder}: cannot be read", explain(error)) from error

    def _place(self, digest: str) -> Path:
        return self.folder / check_digest(digest, "picture")[:2] / digest


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _gone(digest: str) -> ArtefactUnavailable:
    return ArtefactUnavailable(
        f"the image {digest[:12]} is no longer kept", "keep images longer, or for more bytes, to see them later"
    )


def _flush_folder(folder: Path) -> None:
    """Make the name of a new file survive a power cut, as its content does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {explain(error)}") from error
    finally:
        os.close(handle)
