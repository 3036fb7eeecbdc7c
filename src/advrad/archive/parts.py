"""The parts of results that are not finished: a folder beside the results file, which goes when they are.

It holds ``archive.json``, what the results are judged with; ``pieces.jsonl.gz``, the pieces in their order, written
anew at each start; and a Parquet file for each finished piece, named by the piece's fingerprint. One that could not be
read as a whole, and is tried again, ends in ``.again`` instead: what was judged in it stays known.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from advrad.archive.pieces import Piece
from advrad.archive.rows import WRITING, facts_of, schema
from advrad.errors import OutputError
from advrad.utils.files import atomic_path, ensure_writable, make_folder, write_json

_FACTS, _PIECES, _KNOWN = "archive.json", "pieces.jsonl.gz", "known.sqlite"
#: Ending of a part whose piece is tried again.
_AGAIN = ".again"
#: The file that :func:`advrad.utils.run_lock.exclusive` locks.
_LOCK = ".run.lock"
#: Rows of a row group of the results, at least.
_GROUP_ROWS = 65_536
#: Broken images that are named.
_NAMED = 5


@dataclass
class Counts:
    """What the rows of the results say.

    Attributes:
        rows: Number of rows.
        defective: Number of images that are called defective.
        broken: Number of images, or parts of archives, that cannot be read.
        first_broken: The first of them, with the reason.
        doubtful: Number of images whose score is doubtful.
        first_doubt: The first of them, with the reason.
    """

    rows: int = 0
    defective: int = 0
    broken: int = 0
    first_broken: list[str] = field(default_factory=list)
    doubtful: int = 0
    first_doubt: str = ""

    def add(self, table: pa.Table) -> None:
        """Count rows.

        Args:
            table: The rows.
        """
        self.rows += table.num_rows
        self.defective += pc.sum(table["defective"]).as_py() or 0
        broken = table.filter(pc.is_valid(table["error"]))
        self.broken += broken.num_rows
        for row in broken.slice(0, _NAMED - len(self.first_broken)).to_pylist():
            self.first_broken.append(f"{row['path']}: {row['error']}")
        doubtful = table.filter(pc.is_valid(table["warning"]))
        if doubtful.num_rows and not self.doubtful:
            row = doubtful.slice(0, 1).to_pylist()[0]
            self.first_doubt = f"{row['path']}: {row['warning']}"
        self.doubtful += doubtful.num_rows


class Parts:
    """The parts of results.

    Args:
        results: File of the results.
        facts: What they are judged with, as JSON values.

    Raises:
        OutputError: The file or the parts beside it are of something else, or of other settings; or cannot be written.
    """

    def __init__(self, results: Path, facts: Mapping[str, Any]) -> None:
        self.results = results
        self.facts = dict(facts)
        self.folder = folder_of(results)
        ensure_writable(results)
        self._check()
        make_folder(self.folder)

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Begin, or go on, while no other run is at work in the folder; a folder without a finished piece is removed.

        Raises:
            OutputError: Another run has left results of another detector or of other settings.
        """
        self._check()
        write_json(self.folder / _FACTS, self.facts)
        try:
            yield
        finally:
            if self.folder.exists() and not self.has_any():
                self.remove()

    def _check(self) -> None:
        # Both are looked at: the verdicts of both are taken for known.
        begun, finished = begun_facts(self.folder), finished_facts(self.results)
        for place, found, fix in (
            (self.folder, begun, "this folder"),
            (self.results, finished, "this one"),
        ):
            if found is not None and found != self.facts:
                raise OutputError(f"{place}: {_other(found, self.facts)}; name another file, or delete {fix}")

    def has_any(self) -> bool:
        """Whether a piece is finished."""
        return next(_parts_in(self.folder), None) is not None

    def list_pieces(self, pieces: Iterable[Piece]) -> tuple[int, int]:
        """Write down the pieces in their order.

        Args:
            pieces: The pieces.

        Returns:
            Number of pieces, and number of those that are finished.
        """
        count = done = 0
        with (
            atomic_path(self.folder / _PIECES) as temporary,
            gzip.open(temporary, "wt", compresslevel=1, encoding="utf-8") as file,
        ):
            for piece in pieces:
                file.write(piece.to_json() + "\n")
                count += 1
                done += self.is_done(piece)
        return count, done

    def pieces(self) -> Iterator[Piece]:
        """The pieces, in their order."""
        with gzip.open(self.folder / _PIECES, "rt", encoding="utf-8") as file:
            for line in file:
                yield Piece.from_json(line)

    def is_done(self, piece: Piece) -> bool:
        """Whether a piece is finished.

        Args:
            piece: The piece.
        """
        return self._part(piece.fingerprint).is_file()

    def add(self, fingerprint: str, table: bytes) -> None:
        """Keep the rows of a piece.

        Args:
            fingerprint: Fingerprint of the piece.
            table: Content of a Parquet file.

        Raises:
            OutputError: They cannot be written.
        """
        with atomic_path(self._part(fingerprint)) as temporary:
            temporary.write_bytes(table)

    def known(self) -> Path | None:
        """Write down what is known by content.

        Returns:
            The file; None if nothing is known.

        Raises:
            OutputError: The results were replaced by something else.
        """
        from advrad.archive.known import write_known

        path = self.folder / _KNOWN
        path.unlink(missing_ok=True)
        tables = [self.results] if finished_facts(self.results) == self.facts else []
        return path if write_known(path, [*tables, *_parts_in(self.folder)]) else None

    def forget_unreadable(self) -> None:
        """Try pieces again in which something could not be read at all: it may be readable now; and damaged parts."""
        for path in self.folder.glob("*.parquet"):
            try:
                whole = parquet.read_table(path, columns=["content"])["content"].null_count == 0
            except (pa.ArrowException, OSError):
                path.unlink()
                continue
            if not whole:
                path.replace(path.with_suffix(_AGAIN))

    def merge(self) -> Counts:
        """Join the parts to the results, in the order of the pieces, and remove them.

        Raises:
            OutputError: The results cannot be written.
        """
        counts = Counts()
        with (
            atomic_path(self.results) as temporary,
            parquet.ParquetWriter(temporary, schema(self.facts), **WRITING) as writer,
        ):
            group: list[pa.Table] = []
            for piece in self.pieces():
                group.append(parquet.read_table(self._part(piece.fingerprint)))
                counts.add(group[-1])
                if sum(table.num_rows for table in group) >= _GROUP_ROWS:
                    writer.write_table(pa.concat_tables(group))
                    group = []
            if group:
                writer.write_table(pa.concat_tables(group))
        self.remove()
        return counts

    def remove(self) -> None:
        """Remove the folder."""
        # The description goes last: what is left of a removal that was cut off is known by it.
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in (_FACTS, _LOCK):
                path.unlink()
        (self.folder / _FACTS).unlink(missing_ok=True)
        # Behind the lock, another run may begin at once; then the folder is not empty, and is that run's.
        (self.folder / _LOCK).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _part(self, fingerprint: str) -> Path:
        return self.folder / f"{fingerprint}.parquet"


def folder_of(results: Path) -> Path:
    """Folder of the parts of a results file.

    Args:
        results: The file. A link and the file that it leads to have the same folder.

    Example:
        >>> folder_of(Path("january.parquet"))
        PosixPath('january.parquet.parts')
    """
    place = Path(os.path.realpath(results)) if results.is_symlink() else results
    return place.with_name(f"{place.name}.parts")


def known_facts(results: Path) -> dict[str, Any] | None:
    """What results that are there, or begun, were judged with.

    Args:
        results: File of the results.

    Returns:
        The values, those of results that are begun first; None if there are none.

    Raises:
        OutputError: What is there is something else.
    """
    begun = begun_facts(folder_of(results))
    return finished_facts(results) if begun is None else begun


def finished_facts(results: Path) -> dict[str, Any] | None:
    """What results that are there were judged with.

    Args:
        results: File of the results.

    Returns:
        The values; None if there is no such file.

    Raises:
        OutputError: The file holds something else.
    """
    if not results.exists():
        return None
    try:
        found = facts_of(parquet.read_schema(results))
    except (pa.ArrowException, OSError, ValueError):
        found = None
    if found is None:
        raise OutputError(f"{results}: holds no results of an archive; name another file")
    return found


def begun_facts(folder: Path) -> dict[str, Any] | None:
    """What unfinished results are judged with.

    Args:
        folder: Folder of the parts.

    Returns:
        The values; None if there is no such folder, or no finished piece in it.

    Raises:
        OutputError: The folder holds something else.
    """
    path = folder / _FACTS
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if folder.exists() and (not folder.is_dir() or any(_seen(folder))):
            raise OutputError(f"{folder}: is in the way of unfinished results; move it, or name another file") from None
        return None
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be read ({error}); delete the folder to begin anew") from None
    if next(_parts_in(folder), None) is None:
        return None
    return values if isinstance(values, dict) else {}


def _parts_in(folder: Path) -> Iterator[Path]:
    """Finished pieces, and those that are tried again."""
    for ending in (".parquet", _AGAIN):
        yield from folder.glob(f"*{ending}")


def _seen(folder: Path) -> Iterator[str]:
    """Names of the files in a folder that are not hidden."""
    return (name for name in os.listdir(folder) if not name.startswith("."))


def _other(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What differs between two descriptions of results, in words."""
    if found.get("model") != wanted["model"]:
        return "holds results of another model"
    if found.get("advrad") != wanted["advrad"]:
        return f"holds results of advrad {found.get('advrad')}, and this is {wanted['advrad']}"
    before, now = found.get("settings") or {}, wanted["settings"]
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    return "holds results of other settings: " + ", ".join(
        f"{name} {before.get(name)} there, {now.get(name)} now" for name in names
    )
