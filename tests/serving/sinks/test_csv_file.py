"""The CSV file: one row for each inspection, also after kill -9."""

from __future__ import annotations

import csv
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_outbox import inspection

from advrad.serving.csv_text import COLUMNS, csv_header, csv_line, safe_text
from advrad.serving.records import Review, ReviewLabel
from advrad.serving.sinks.base import Unavailable
from advrad.serving.sinks.csv_file import CsvConfig, CsvFile


def sink(folder: Path, name: str = "log.csv") -> CsvFile:
    return CsvFile(CsvConfig(name="log", file=Path(name)), folder, "sinks.toml: sink 'log'")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def ids(path: Path) -> list[str]:
    return [row["id"] for row in rows(path)]


def test_rows_are_appended_below_one_header(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    first = sink(tmp_path)
    first.send([inspection(1), inspection(2, defective=True)])
    first.send([inspection(3)])
    sink(tmp_path).send([inspection(4, score=None)])
    assert path.read_text(encoding="utf-8").count("product,file_name") == 1
    assert ids(path) == ["i00001", "i00002", "i00003", "i00004"]
    row = rows(path)[1]
    assert tuple(row) == COLUMNS
    assert (row["verdict"], row["defective"], row["score"], row["at"]) == (
        "defective",
        "true",
        "2.25",
        "2026-11-27T08:30:02+00:00",
    )
    assert rows(path)[3]["score"] == ""


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("+49 30", "'+49 30"),
        ("-5", "'-5"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  =1", "'  =1"),
        pytest.param("\t=1", "\\t=1", id="tab"),
        ("a;=1", "a;'=1"),
        ("a; =1", "a;' =1"),
        ("\uff1d1", "'\uff1d1"),
        ("A-7 = b", "A-7 = b"),
        ("a\nb\r\x00c", "a\\nb\\r\\x00c"),
        ('a,"b"', 'a,"b"'),
        ("\udcff", "\\udcff"),
        ("\u202egnp", "\\u202egnp"),
    ],
)
def test_no_text_is_a_formula_or_breaks_a_line(tmp_path: Path, given: str, shown: str) -> None:
    review = Review(ReviewLabel.GOOD, given, given, inspection(1).at)
    one = inspection(1, part_id=given, station=given, file_name=given, product=given, review=review, score=-0.5)
    assert csv_line(one).count("\n") == 1
    sink(tmp_path).send([one])
    (row,) = rows(tmp_path / "log.csv")
    assert {row[name] for name in ("part_id", "station", "file_name", "product", "note", "reviewed_by")} == {shown}
    assert row["score"] == "-0.5"  # a number is no text


@given(st.text(alphabet=st.characters(codec=None, exclude_categories=()), max_size=40))
def test_any_text_is_one_harmless_line(given_text: str) -> None:
    text = safe_text(given_text)
    assert len(text.splitlines()) <= 1
    assert text.isprintable()
    assert not any(cell.lstrip().startswith(("=", "+", "-", "@")) for cell in text.split(";"))
    (row,) = csv.DictReader([csv_header(), csv_line(inspection(1, part_id=given_text))])
    assert row["part_id"] == text


def test_what_was_written_before_a_crash_is_not_written_again(tmp_path: Path) -> None:
    batch = [inspection(number) for number in range(4)]
    sink(tmp_path).send(batch)
    # The program died before the outbox knew; the next one meets the same rows, and more.
    again = sink(tmp_path)
    again.send(batch[2:])
    again.send([*batch[:2], inspection(9)])
    assert ids(tmp_path / "log.csv") == ["i00000", "i00001", "i00002", "i00003", "i00009"]


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_a_half_written_row_is_written_anew(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "log.csv"
    sink(tmp_path).send([inspection(1), inspection(2)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    sink(tmp_path).send([inspection(2)])
    assert path.read_bytes() == whole


def test_the_rest_of_a_longer_half_written_row_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    sink(tmp_path).send([inspection(1)])
    whole = path.read_text(encoding="utf-8")
    for sent, added in (([inspection(1)], ""), ([inspection(2)], csv_line(inspection(2)))):
        path.write_text(whole + "i00009," + "x" * 5000, encoding="utf-8")
        sink(tmp_path).send(sent)
        assert path.read_text(encoding="utf-8") == whole + added


def test_a_half_written_header_is_written_anew(tmp_path: Path) -> None:
    for start in ("", csv_header()[:20], csv_header()[:-1]):
        (tmp_path / "log.csv").write_text(start, encoding="utf-8")
        sink(tmp_path).send([inspection(1)])
        assert ids(tmp_path / "log.csv") == ["i00001"]


def test_a_file_that_is_moved_away_is_begun_anew(tmp_path: Path) -> None:
    one = sink(tmp_path)
    one.send([inspection(1)])
    (tmp_path / "log.csv").rename(tmp_path / "monday.csv")
    one.send([inspection(2)])
    assert (ids(tmp_path / "monday.csv"), ids(tmp_path / "log.csv")) == (["i00001"], ["i00002"])


def test_a_full_disk_leaves_no_half_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = sink(tmp_path)
    one.send([inspection(1)])
    before = (tmp_path / "log.csv").read_bytes()
    real = os.pwrite

    def full(file: int, content: bytes, at: int) -> int:
        if at > len(before):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, content[:10], at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Unavailable, match="the disk is full"):
        one.send([inspection(2)])
    assert (tmp_path / "log.csv").read_bytes() == before
    monkeypatch.undo()
    one.send([inspection(2)])
    assert ids(tmp_path / "log.csv") == ["i00001", "i00002"]


def test_a_folder_that_is_gone_and_back(tmp_path: Path) -> None:
    folder = tmp_path / "share"
    folder.mkdir()
    one = sink(folder)
    folder.rmdir()
    with pytest.raises(Unavailable, match="the folder is missing"):
        one.send([inspection(1)])
    folder.mkdir()
    one.send([inspection(1)])
    assert ids(folder / "log.csv") == ["i00001"]


_WRITER = """
import os, sys
from pathlib import Path
from toy_outbox import inspection
from advrad.serving.sinks.csv_file import CsvConfig, CsvFile
sink = CsvFile(CsvConfig(name="log", file=Path("log.csv")), Path(sys.argv[1]), "x")
done = Path(sys.argv[1], "acknowledged")
first = int(done.read_text()) if done.exists() else 0
for number in range(first, 400, 4):
    sink.send([inspection(one, part_id="p" * 3000) for one in range(number, number + 4)])
    print(number, flush=True)
    new = done.with_suffix(".new")
    new.write_text(str(number + 4))
    os.replace(new, done)
print("end", flush=True)
"""


def test_kill_9_leaves_one_row_for_each_inspection(tmp_path: Path) -> None:
    """The writer is killed right after it has written, before it notes what was delivered, or in the middle."""
    helpers = Path(__file__).parents[2] / "helpers"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(helpers), *sys.path])}
    for patience in (7, 20, 1000):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
        ) as writer:
            assert writer.stdout is not None
            for count, line in enumerate(writer.stdout, 1):
                if count == patience or line == "end\n":
                    break
            writer.kill()
    assert ids(tmp_path / "log.csv") == [f"i{number:05d}" for number in range(400)]
