"""Lists of paths on standard input, as programs of all systems write them."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from advrad.cli.path_list import paths_from_stdin
from advrad.errors import DataError

TWO = [Path("in/a b.png"), Path("in/c.png")]


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some files, so that readings of a line can be told apart."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for path in (*TWO, Path("in/new\nline.png"), Path("in/space.png "), Path('in/"quoted".png')):
        path.touch()


def read(data: bytes, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    return list(paths_from_stdin())


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "  \n", "\t\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("last", [True, False])
def test_lines_of_any_encoding(encoding: str, end: str, last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    text = end.join(map(str, TWO)) + (end if last else "")
    assert read(text.encode(encoding), monkeypatch) == TWO


@pytest.mark.parametrize("line", ['"in/a b.png"', "'in/a b.png'", "in\\a b.png", ' "in\\a b.png" ', "  in/a b.png"])
def test_quotation_marks_backslashes_and_spaces(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(f"{line}\nin/c.png\n".encode(), monkeypatch) == TWO


def test_a_name_that_exists_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["in/space.png ", 'in/"quoted".png']
    assert read("\n".join(names).encode(), monkeypatch) == list(map(Path, names))


def test_names_that_end_with_a_zero_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["in/new\nline.png", *map(str, TWO)]
    assert read("\0".join(names).encode() + b"\0", monkeypatch) == list(map(Path, names))
    assert read(b"in/\xff.png\0", monkeypatch) == [Path(os.fsdecode(b"in/\xff.png"))]


def test_missing_files_are_named_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(b'none.png\r\n"no ne.png"\n\xff.png\n', monkeypatch) == [
        Path("none.png"),
        Path("no ne.png"),
        Path("\udcff.png"),
    ]


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\r\n  \r\n", b"\xef\xbb\xbf", b"\xff\xfe", b"\0\0"])
def test_an_empty_list_is_an_error(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="standard input: names no image; pipe in paths"):
        read(data, monkeypatch)


class Slow(io.RawIOBase):
    """Gives a piece at a time, and remembers how many it has given."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces, self.given = list(pieces), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        piece = self.pieces.pop(0) if self.pieces else b""
        self.given += 1
        buffer[: len(piece)] = piece
        return len(piece)


@pytest.mark.parametrize("pieces", [(b"in/a b.png\n", b"in/c.png\n"), (b"\xef", b"\xbb\xbfin/a b.png\nin", b"/c.png")])
def test_each_path_is_given_as_soon_as_it_was_read(pieces: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    raw = Slow(*pieces)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(raw)))
    paths: Iterator[Path] = paths_from_stdin()
    assert next(paths) == TWO[0]
    assert raw.given == (1 if len(pieces) == 2 else 2)
    assert list(paths) == TWO[1:]


def test_characters_may_come_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    data = "in/a b.png\r\nin/c.png\r\n".encode("utf-16")
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BufferedReader(Slow(*(data[i : i + 3] for i in range(0, 48, 3)))))
    )
    assert list(paths_from_stdin()) == TWO


def test_text_without_bytes_is_read_by_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("in/a b.png\nin/c.png"))
    assert list(paths_from_stdin()) == TWO


def test_input_that_cannot_be_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Slow):
        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Broken())))
    with pytest.raises(DataError, match="standard input: cannot be read"):
        list(paths_from_stdin())
