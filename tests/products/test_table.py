"""The table of products: every wrong entry is named with its line and column before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from advrad.errors import DataError, UserError
from advrad.products.table import TableError, read_table


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "b").mkdir()
    (tmp_path / "a-file").touch()
    return tmp_path / "table.csv"


def problems(table: Path, text: str, columns: dict[str, str] | None = None) -> list[str]:
    table.write_text(text, encoding="utf-8")
    with pytest.raises(TableError) as caught:
        read_table(table, columns)
    assert str(caught.value) == f"{table}: {'; '.join(caught.value.problems)}"
    return caught.value.problems


def test_options_of_a_row_are_those_of_a_training(table: Path) -> None:
    text = (
        "name,folder,export,size,false-alarm-rate,skip-bad,harden,report\n"
        "bottle 1,images/a,openvino,128,0.1,yes,,Yes\n"
        "\n"
        "nut,images/b,,,,no,2/255,\n"
    )
    table.write_text(text, encoding="utf-8")
    columns = {
        "size": "size_px",
        "false-alarm-rate": "false_alarm_rate",
        "skip-bad": "skip_bad",
        "harden": "adversarial_eps",
        "minutes": "minutes",
    }
    with pytest.raises(TableError, match="line 4, column harden 2/255: is for a learned denoiser only"):
        read_table(table, columns)
    table.write_text(text.replace("2/255", ""), encoding="utf-8")
    first, second = read_table(table, columns)
    assert (first.name, first.data, first.export, first.line) == ("bottle 1", table.parent / "images/a", "openvino", 2)
    assert (first.options.size_px, first.options.false_alarm_rate, first.options.data.skip_bad) == (128, 0.1, True)
    assert (second.line, second.export, second.options.size_px, second.options.data.skip_bad) == (4, None, None, False)
    assert (first.report, second.report) == (True, False)
    assert first.settings != second.settings


def test_a_spreadsheet_with_semicolons_and_a_byte_order_mark_is_read(table: Path) -> None:
    table.write_text("name;folder;seed\n Öse ; images/a ;7\n", encoding="utf-8-sig")
    (product,) = read_table(table)
    assert (product.name, product.options.seed) == ("Öse", 7)


def test_every_wrong_entry_is_named_with_line_and_column(table: Path) -> None:
    found = problems(
        table,
        "name,folder,export,size_px,seed,skip_bad\n"
        "a,images/a,tflite,small,-1,perhaps\n"
        ",images/none,,,,\n"
        "A,a-file,,,,\n"
        "../b,,,,,\n"
        "c,images/b,,,,,,\n"
        "d,images/b,onnx,64,0,yes\n",
    )
    assert [one.split(": ")[0] for one in found] == [
        "line 2, column export tflite",
        "line 2, column size_px small",
        "line 2, column seed -1",
        "line 2, column skip_bad perhaps",
        "line 3, column name",
        "line 3, column folder images/none",
        "line 4, column name A",
        "line 4, column folder a-file",
        "line 5, column name ../b",
        "line 5, column folder",
        "line 6",
    ]
    assert "choose openvino, onnx" in found[0] and "must be yes or no" in found[3] and "in line 2, too" in found[6]


def test_a_row_is_named_by_the_line_on_which_it_begins_and_values_stay_on_one_line(table: Path) -> None:
    text = 'name,folder\n"a\nb",images/a\n\nc,"images\r\n/none"\nd,"images/Öse\u2028",\n'
    found = problems(table, text)
    assert [one.split(": ")[0] for one in found] == [
        r"line 2, column name a\nb",
        r"line 5, column folder images\r\n/none",
        "line 7",
    ]
    assert all(len(one.splitlines()) == 1 for one in found)
    (one,) = problems(table, 'name,folder,"see\nd"\na,images/a,\n')
    assert one.startswith(r"line 1: column see\nd is unknown")
    table.write_text('name,folder\na,images/a\n"b,images/b\nc,images/b\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"table\.csv: line 3: unexpected end of data"):
        read_table(table)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ("99999999999999999999", "must be at most 16384"),
        ("16385", "must be at most 16384"),
        ("0", "must be at least 1"),
        ("-3", "must be at least 1"),
    ],
)
def test_a_size_that_no_image_can_have_is_refused_before_the_training(table: Path, size: str, words: str) -> None:
    text = f"name,folder,size\na,images/a,16384\nb,images/b,{size}\n"
    assert problems(table, text, {"size": "size_px"}) == [f"line 3, column size {size}: {words}"]


def test_a_name_must_fit_into_the_name_of_a_file(table: Path) -> None:
    table.write_text(f"name,folder\n{'ö' * 100},images/a\n{'検' * 80},images/b\n", encoding="utf-8")
    first, second = read_table(table)
    for suffix in (".html", ".json", "-openvino"):
        (table.parent / f"{first.name}{suffix}").touch()
        (table.parent / f"{second.name}{suffix}").touch()
    (one,) = problems(table, f"name,folder\n{'検' * 81},images/a\n")
    assert one.endswith("検: is the name of a folder, too, and takes 243 bytes of at most 240; use fewer letters")


def test_options_that_contradict_each_other_are_named_by_their_column(table: Path) -> None:
    columns = {"minutes": "minutes", "steps": "steps", "tile": "tile_px", "features": "features"}
    text = "name,folder,minutes,steps,tile,features\na,images/a,1,2,,\nb,images/b,,,512,patchcore\n"
    first, second = problems(table, text, columns)
    assert first == "line 2, column minutes 1: cannot be combined with steps; give one of them"
    assert second.startswith("line 3, column tile 512: cannot be combined with features")


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("name,seed", "line 1: column folder is missing"),
        ("name,folder,sizes", "line 1: column sizes is unknown; the columns may be "),
        ("name,folder,seed,seed", "line 1: column seed is there twice"),
        ("name,folder,", "line 1: a column has no name"),
    ],
)
def test_wrong_columns_are_named(table: Path, head: str, words: str) -> None:
    assert problems(table, f"{head}\na,images/a,1,1\n")[0].startswith(words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; the first line names the columns"),
        (b"name,folder\n", "holds no product"),
        ("name,folder\nÖse,.\n".encode("latin-1"), "is not a text in UTF-8"),
        (b'name,folder\n"a,.\n', "save the table as CSV again"),
    ],
)
def test_a_file_that_is_no_table_is_refused(table: Path, content: bytes, words: str) -> None:
    table.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_table(table)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: cannot be read: No such file"):
        read_table(tmp_path / "none.csv")
