"""Predictions as a CSV file."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from advrad.errors import OutputError
from advrad.inference.prediction_table import write_table

ROW = {"path": "a.png", "score": 0.1, "threshold": 0.5, "verdict": "good"}


def test_rows_of_all_kinds_fit_one_table(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.csv"
    proven = ROW | {"path": 'b "1", 2.png', "certified": "proven good", "lower": None, "warning": "odd"}
    write_table(path, [{"path": "c.png", "error": "is empty"}, ROW, proven])
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "score", "threshold", "verdict", "certified", "lower", "warning", "error"]
    assert [row["path"] for row in rows] == ["c.png", "a.png", 'b "1", 2.png']
    assert (rows[0]["error"], rows[0]["score"], rows[2]["lower"]) == ("is empty", "", "")
    assert float(rows[1]["score"]) == 0.1


def test_no_rows_give_the_names_of_the_columns(tmp_path: Path) -> None:
    write_table(tmp_path / "none.csv", [])
    assert (tmp_path / "none.csv").read_text() == "path,score,threshold,verdict\n"


def test_names_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", [ROW | {"path": "\udcff\nü.png"}])
    assert '"\\udcff\nü.png",0.1' in (tmp_path / "a.csv").read_text(encoding="utf-8")


def test_an_image_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    with pytest.raises(OutputError, match="is not a text"):
        write_table(tmp_path / "a.png", [ROW])
