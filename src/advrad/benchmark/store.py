"""Where a bench keeps its results: a folder, or a bucket that a URL names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from advrad.data import cache
from advrad.errors import DataError, OutputError
from advrad.utils.buckets import bucket_errors, check_whole, is_url, open_bucket
from advrad.utils.files import make_folder, write_text
from advrad.utils.output_folders import check_output, claim_folder
from advrad.utils.run_lock import exclusive


class BenchStore(Protocol):
    """Files of a bench by name, such as ``cells/KEY.json``."""

    @property
    def place(self) -> Path | str:
        """The folder, or the URL."""

    @property
    def beside(self) -> Path:
        """Folder of this machine for what is not stored: trained models, and what interrupted tests have so far."""

    def check(self) -> None:
        """Refuse a place that a bench must not be written to. Nothing is made.

        Raises:
            UserError: The folder holds something else, or others could find half of a file in the bucket.
        """

    def alone(self) -> AbstractContextManager[None]:
        """Make the place, and keep other runs out of it while the block runs.

        Raises:
            OutputError: Another run is at work there, or it cannot be made.
        """

    def read(self, names: Sequence[str]) -> list[bytes | None]:
        """Contents of files; None for those that are missing.

        Args:
            names: Names of the files.

        Raises:
            DataError: A file or a bucket cannot be read.
        """

    def write(self, name: str, text: str) -> None:
        """Write a file, which appears whole or not at all.

        Args:
            name: Name of the file.
            text: Its content.

        Raises:
            OutputError: It cannot be written.
        """

    def stems(self, folder: str) -> set[str]:
        """Names of the JSON files in a folder of the place, without suffix and without hidden ones.

        Args:
            folder: Name of the folder.

        Raises:
            DataError: A bucket cannot be read.
        """


def open_store(place: Path | str) -> BenchStore:
    """The store of a folder, or of a bucket.

    Args:
        place: Path of the folder, or URL of one, such as ``s3://bucket/results``.

    Raises:
        ConfigError: The protocol of the URL is unknown, or its package is missing.

    Example:
        >>> open_store("results").place, open_store("memory://results/").place
        (PosixPath('results'), 'memory://results')
    """
    if isinstance(place, str) and is_url(place):
        return _Bucket(place.rstrip("/"))
    return _Folder(Path(place))


class _Folder:
    def __init__(self, place: Path) -> None:
        self.place = place

    @property
    def beside(self) -> Path:
        return self.place

    def check(self) -> None:
        check_output(self.place, "benchmark")

    @contextmanager
    def alone(self) -> Iterator[None]:
        with exclusive(claim_folder(self.place, "benchmark"), "benchmark"):
            yield

    def read(self, names: Sequence[str]) -> list[bytes | None]:
        return [_content(self.place / name) for name in names]

    def write(self, name: str, text: str) -> None:
        path = self.place / name
        make_folder(path.parent)
        write_text(path, text)

    def stems(self, folder: str) -> set[str]:
        return {path.stem for path in (self.place / folder).glob("[!.]*.json")}


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; check its permissions") from error


class _Bucket:
    def __init__(self, place: str) -> None:
        self.place = place
        self._files, self._root = open_bucket(place)

    @property
    def beside(self) -> Path:
        return cached_folder() / hashlib.sha256(self.place.encode()).hexdigest()[:16]

    def check(self) -> None:
        check_whole(self.place)

    @contextmanager
    def alone(self) -> Iterator[None]:
        # A bucket has no locks. What this machine keeps of it has one, so two runs of one machine exclude each other.
        with exclusive(make_folder(self.beside), f"benchmark of {self.place}"):
            yield

    def read(self, names: Sequence[str]) -> list[bytes | None]:
        if not names:
            return []
        paths = [f"{self._root}/{name}" for name in names]
        with bucket_errors(self.place):
            found = self._files.cat(paths, on_error="return")
            return [_answer(found[path]) for path in paths]

    def write(self, name: str, text: str) -> None:
        url = f"{self.place}/{name}"
        try:
            with bucket_errors(url, OutputError):
                self._files.pipe_file(f"{self._root}/{name}", text.encode("utf-8"))
        except FileNotFoundError:
            raise OutputError(f"{url}: cannot be written: there is no such bucket; make it first") from None

    def stems(self, folder: str) -> set[str]:
        try:
            with bucket_errors(self.place):
                names = [Path(name).name for name in self._files.ls(f"{self._root}/{folder}", detail=False)]
        except FileNotFoundError:
            return set()
        return {name.removesuffix(".json") for name in names if name.endswith(".json") and name[0] != "."}


def _answer(found: bytes | Exception) -> bytes | None:
    """What a bucket answered for one file: its content, None if there is none, or an error."""
    if isinstance(found, FileNotFoundError):
        return None
    if isinstance(found, Exception):
        raise found
    return found


def cached_folder() -> Path:
    """Folder of this machine for what benches keep whose folder it does not see.

    Raises:
        OutputError: There is no home folder.
    """
    folder = cache.default_folder()
    if folder is None:
        raise OutputError("there is no home folder to keep trained models in; set ADVRAD_CACHE to a folder")
    return folder / "bench"
