"""Bench folders are read back exactly; anything damaged or foreign is refused with the fix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmark_folders import attacked, cell, clean, failed, make_bench, missing, write

from advrad.benchmark.cells import CellKey, read_bench, read_cells
from advrad.benchmark.store import open_store
from advrad.errors import DataError


def test_cells_are_read_in_grid_order_with_what_became_of_them(tmp_path: Path) -> None:
    cells = [clean("b", 0.9), failed(clean("a", 0.8)), missing(clean("c", 0.7)), attacked("b", 0.4)]
    results = read_bench(make_bench(tmp_path / "out", cells))
    assert results.name == "by hand" and results.grid == 'name = "by hand"'
    assert [place.detector for place in results.planned] == ["b", "a", "c", "b"]
    assert [(one.detector, one.attack) for one in results.done] == [("b", None), ("b", "pgd")]
    assert [one.error for one in results.failed] == ["ValueError: no such thing"]
    assert results.order(lambda place: place.detector) == ("b", "a", "c")
    assert results.order(lambda place: place.attack) == ("pgd",)
    first, second = results.done
    assert first.figures.image_auroc == 0.9 and first.figures.images == 20
    assert second.gradients == 500 and second.figures.norm == "linf"
    assert first.machine.words == "Processor A, 2 cores, 7.5 GiB"


def test_more_than_is_known_may_stand_in_a_cell(tmp_path: Path) -> None:
    values = clean("a", 0.9) | {"future": 1}
    values["figures"] = values["figures"] | {"per_defect": {}}
    assert read_bench(make_bench(tmp_path / "out", [values])).done


def test_results_of_another_grid_are_counted_and_left_out(tmp_path: Path) -> None:
    folder = make_bench(tmp_path / "out", [clean("a", 0.9)])
    write(folder / "cells" / "stranger.json", clean("z", 0.1))
    (folder / "cells" / ".hidden.part.json").write_text("half", encoding="utf-8")
    results = read_bench(folder)
    assert results.orphans == 1
    assert [one.detector for one in results.done] == ["a"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"detector": "other"}, r"is of another cell \(detector other, not a\); delete it"),
        ({"key": "other"}, r"is of another cell \(key other"),
        ({"seed": 3}, r"is of another cell \(seed 3, not 0\)"),
        ({"status": "perhaps"}, r"is damaged \(status: .*\); delete it, and `advrad bench` measures the cell again"),
        ({"figures": {"image_auroc": 1.5}}, r"is damaged \(figures.image_auroc: "),
        ({"figures": {"image_auroc": float("nan")}}, r"is damaged \(figures.image_auroc: "),
        ({"figures": {"image_auroc_ci": [0.1]}}, r"is damaged \(figures.image_auroc_ci"),
        ({"figures": {"certified_auroc": {"wide": 0.5}}}, r"is damaged \(figures.certified_auroc: "),
    ],
)
def test_a_cell_that_is_damaged_or_of_another_place_is_refused(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    values = clean("a", 0.9)
    folder = make_bench(tmp_path / "out", [values])
    path = folder / "cells" / f"{values['key']}.json"
    write(path, values | change)
    with pytest.raises(DataError, match=words) as caught:
        read_bench(folder)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "[" * 200_000, '{"status": 1}'])
def test_a_cell_that_is_no_cell_is_refused(tmp_path: Path, text: str) -> None:
    values = clean("a", 0.9)
    folder = make_bench(tmp_path / "out", [values])
    (folder / "cells" / f"{values['key']}.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=f"{values['key']}.json: is damaged.*; delete it"):
        read_bench(folder)


def test_a_cell_that_did_not_end_is_left_out(tmp_path: Path) -> None:
    folder = make_bench(tmp_path / "out", [])
    assert read_cells(open_store(folder), [CellKey.model_validate(missing(cell("a")))]) == {}


def test_a_folder_that_is_no_bench_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no grid\.json; name a folder made by `advrad bench"):
        read_bench(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", r"is damaged \(.*\); run `advrad bench` with its grid again, which keeps"),
        ("[]", "not a set of named values"),
        ('{"format": 2}', "is of format 2, not 1; use the advrad that wrote it"),
        ('{"format": 1}', "cells: not a list of cells"),
        ('{"format": 1, "cells": [3]}', "cells: not a list of cells"),
        ('{"format": 1, "cells": [{"key": "a"}]}', r"is damaged \(detector: "),
    ],
)
def test_a_damaged_plan_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "grid.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words) as caught:
        read_bench(tmp_path)
    assert str(tmp_path / "grid.json") in str(caught.value)


def test_a_key_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    values = clean("a", 0.9) | {"key": "../outside"}
    folder = make_bench(tmp_path / "out", [])
    write(folder / "outside.json", values)
    plan = json.loads((folder / "grid.json").read_text(encoding="utf-8"))
    write(folder / "grid.json", plan | {"cells": [missing(values)]})
    with pytest.raises(DataError, match=r"grid.json: is damaged \(key: "):
        read_bench(folder)


def test_nothing_done_is_said_with_the_first_reason(tmp_path: Path) -> None:
    cells = [failed(clean("a", 0.9), "RuntimeError: out of memory"), missing(clean("b", 0.9))]
    with pytest.raises(
        DataError, match=r"none of 2 cells is done \(1 failed, the first with: RuntimeError: out of memory\); run"
    ):
        read_bench(make_bench(tmp_path / "out", cells))


def test_a_certificate_that_an_attack_beats_is_distrusted(tmp_path: Path) -> None:
    proof = cell("a", certificate="l2", figures={"warnings": ["more is certified than was left"]})
    flag = {"name": "no gradient", "words": "the score is flat", "more": 1}
    cells = [proof, attacked("a", 0.5, figures={"flags": [flag]}), clean("a", 0.9)]
    reasons = [
        [(one.name, one.words) for one in part.reasons] for part in read_bench(make_bench(tmp_path / "o", cells)).done
    ]
    assert reasons == [
        [("distrust the certificate", "more is certified than was left")],
        [("no gradient", "the score is flat")],
        [],
    ]
