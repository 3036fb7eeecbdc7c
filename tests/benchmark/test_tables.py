"""The rules of the tables, against figures computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_folders import attacked, cell, clean, failed, make_bench, missing

from advrad.benchmark.cells import read_bench
from advrad.benchmark.tables import (
    Entry,
    Row,
    Table,
    certified_auroc_at,
    entry_text,
    figure_of,
    figure_table,
    mark_best,
    mean_entry,
)
from advrad.metrics import auroc, auroc_interval

READ = figure_of("image_auroc", "image_auroc_ci")


def table(folder: Path, cells: list[dict[str, Any]]) -> Table:
    results = read_bench(make_bench(folder / "out", cells))
    return figure_table(results, "t", "short", "Title", lambda place: place.attack is None, READ)


def shown(found: Table) -> dict[str, list[str]]:
    return {row.label: [entry_text(entry, found.decimals) for entry in row.entries] for row in found.rows}


def test_one_seed_stands_as_it_is_and_categories_are_averaged(tmp_path: Path) -> None:
    cells = [
        clean("a", 0.9, "nut"),
        clean("a", 0.7, "bolt", figures={"image_auroc": 0.7, "image_auroc_ci": [0.64, 0.73]}),
    ]
    found = table(tmp_path, cells)
    assert found.columns == ("nut", "bolt", "mean")
    nut, bolt, mean = found.rows[0].entries
    assert (nut.value, nut.interval) == (0.9, (pytest.approx(0.88), pytest.approx(0.92)))
    assert (bolt.value, bolt.interval) == (0.7, (0.64, 0.73))
    # Below: sqrt(0.02^2 + 0.06^2) / 2 = 0.031623; above: sqrt(0.02^2 + 0.03^2) / 2 = 0.018028.
    assert mean.value == pytest.approx(0.8)
    assert mean.interval == pytest.approx((0.8 - 0.0316228, 0.8 + 0.0180278), abs=1e-6)
    assert shown(found) == {"a": ["0.900 [0.880, 0.920]", "0.700 [0.640, 0.730]", "0.800 [0.768, 0.818]"]}


def test_seeds_are_averaged_and_their_spread_is_shown(tmp_path: Path) -> None:
    areas = {("nut", 0): 0.90, ("nut", 1): 0.80, ("bolt", 0): 0.70, ("bolt", 1): 0.50}
    nut, bolt, mean = table(tmp_path, [clean("a", area, *where) for where, area in areas.items()]).rows[0].entries
    assert (nut.value, bolt.value, mean.value) == (pytest.approx(0.85), pytest.approx(0.6), pytest.approx(0.725))
    # The seeds share their images: their intervals are averaged, not narrowed.
    assert nut.interval == pytest.approx((0.83, 0.87))
    assert mean.interval == pytest.approx((0.725 - 0.02 / np.sqrt(2), 0.725 + 0.02 / np.sqrt(2)))
    assert entry_text(nut, 3) == "0.850 ± 0.071 [0.830, 0.870]"  # 0.1 / sqrt(2)
    # Means of the seeds over categories: 0.80 and 0.65.
    assert mean.seeds == {0: pytest.approx(0.80), 1: pytest.approx(0.65)}
    assert entry_text(mean, 3) == "0.725 ± 0.106 [0.711, 0.739]"


def test_the_interval_of_a_mean_covers_as_drawing_the_images_anew_would(tmp_path: Path) -> None:
    """Compare the rule with the bootstrap of the mean itself, for three categories of given scores."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], [40, 60])
    scores = [generator.normal(gap * labels) for gap in (0.8, 1.2, 2.0)]
    entries = [
        Entry("value", auroc(labels, some), auroc_interval(labels, some, seed=place), {0: 0.0}, 1, 1)
        for place, some in enumerate(scores)
    ]
    draws = []
    for _ in range(1000):
        rows = [np.concatenate([generator.integers(0, 40, 40), generator.integers(40, 100, 60)]) for _ in scores]
        draws.append(np.mean([auroc(labels[row], some[row]) for row, some in zip(rows, scores, strict=True)]))
    low, high = np.quantile(draws, [0.025, 0.975])
    interval = mean_entry(entries).interval
    assert interval is not None
    assert interval == pytest.approx((low, high), abs=0.006)


def test_an_interval_that_is_missing_somewhere_is_missing_in_the_mean(tmp_path: Path) -> None:
    cells = [clean("a", 0.9, "nut"), cell("a", "bolt", figures={"image_auroc": 0.7})]
    assert shown(table(tmp_path, cells)) == {"a": ["0.900 [0.880, 0.920]", "0.700", "0.800"]}


def test_what_is_not_there_is_said_and_never_averaged_over(tmp_path: Path) -> None:
    cells = [
        clean("partial", 0.9, "nut"),
        missing(clean("partial", 0.0, "bolt")),
        failed(clean("broken", 0.9, "nut")),
        failed(clean("broken", 0.9, "bolt")),
        missing(clean("later", 0.9, "nut")),
        failed(clean("later", 0.9, "bolt")),
        clean("one seed", 0.5, "nut", 0),
        failed(clean("one seed", 0.5, "nut", 1)),
        cell("no figure", "nut"),
        cell("no figure", "bolt"),
    ]
    assert shown(table(tmp_path, cells)) == {
        "partial": ["0.900 [0.880, 0.920]", "not run", "0.900 [0.880, 0.920] (1 of 2)"],
        "broken": ["failed", "failed", "failed"],
        "later": ["not run", "failed", "not run"],
        "one seed": ["0.500 [0.480, 0.520] (1 of 2)", "\N{EN DASH}", "0.500 [0.480, 0.520] (1 of 2)"],
        "no figure": ["n/a", "n/a", "n/a"],
    }


def test_a_distrusted_figure_is_marked_and_so_is_its_mean(tmp_path: Path) -> None:
    flag = {"name": "flat", "words": "no gradient"}
    cells = [attacked("a", 0.5, "nut", figures={"flags": [flag]}), attacked("a", 0.7, "bolt")]
    results = read_bench(make_bench(tmp_path / "out", cells))
    found = figure_table(results, "t", "s", "T", lambda place: place.attack == "pgd", figure_of("robust_auroc"))
    assert shown(found) == {"a": ["0.500 †", "0.700", "0.600 †"]}


def entry(value: float | None, parts: int = 1, distrusted: bool = False) -> Entry:
    return Entry("missing" if value is None else "value", value, parts=parts, planned=1, distrusted=distrusted)


@pytest.mark.parametrize(
    ("column", "best"),
    [
        ([entry(0.5), entry(0.7), entry(0.6)], [1]),
        ([entry(0.7001), entry(0.7004), entry(0.6)], [0, 1]),  # equal in the digits shown
        ([entry(0.5), entry(0.9, distrusted=True), entry(0.6)], [2]),
        ([entry(0.5), entry(0.9, parts=0), entry(0.6)], [2]),
        ([entry(0.5), entry(None)], []),  # nothing to compare with
        ([entry(None), entry(None)], []),
        ([entry(0.0), entry(0.0)], [0, 1]),
    ],
)
def test_the_best_of_a_column_is_marked(column: list[Entry], best: list[int]) -> None:
    rows = mark_best([Row(str(place), (one,)) for place, one in enumerate(column)])
    assert [place for place, row in enumerate(rows) if row.entries[0].best] == best


def test_no_rows_are_no_error() -> None:
    assert mark_best([]) == ()


def test_a_certified_area_is_read_at_its_radius(tmp_path: Path) -> None:
    values = cell("a", certificate="l2", figures={"certified_auroc": {"0.1": 0.6, "0.5": None}})
    figures = read_bench(make_bench(tmp_path / "out", [values])).done[0].figures
    assert [certified_auroc_at(radius)(figures) for radius in ("0.1", "0.5", "1")] == [
        (0.6, None),
        (None, None),
        (None, None),
    ]
