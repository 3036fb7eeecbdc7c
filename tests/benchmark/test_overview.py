"""Which tables there are, their titles and notes, and the families over their noise level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmark_folders import attacked, cell, clean, failed, make_bench, missing

from advrad.benchmark.cells import read_bench
from advrad.benchmark.overview import Tables, make_tables
from advrad.benchmark.tables import Table, entry_text


def tables(folder: Path, cells: list[dict[str, Any]]) -> Tables:
    return make_tables(read_bench(make_bench(folder / "out", cells)))


def shown(table: Table) -> dict[str, list[str]]:
    return {row.label: [entry_text(entry, table.decimals) for entry in row.entries] for row in table.rows}


def proof(detector: str, areas: dict[str, float | None], **changes: Any) -> dict[str, Any]:
    figures = {
        "certified_auroc": areas,
        "method": "median smoothing",
        "draws": 40,
        "confidence": 0.9,
        "clean_auroc": 0.8,
    }
    return cell(detector, **{"certificate": "l2", "figures": figures} | changes)


def test_the_overview_holds_the_means_of_all_tables(tmp_path: Path) -> None:
    cells = [
        clean("a", 0.9, "nut"),
        clean("a", 0.7, "bolt"),
        attacked("a", 0.2, "nut"),
        attacked("a", 0.4, "bolt"),
        proof("a", {"0.1": 0.5, "0.5": 0.25}),
        clean("b", 0.6, "nut"),
        missing(attacked("b", 0.5, "nut")),
    ]
    found = tables(tmp_path, cells)
    assert found.overview.columns == ("clean", "attacked: pgd", "l2 at 0.1", "l2 at 0.5")
    assert {label: [text.partition(" [")[0] for text in row] for label, row in shown(found.overview).items()} == {
        "a": ["0.800", "0.300", "0.500", "0.250"],
        "b": ["0.600", "not run", "\N{EN DASH}", "\N{EN DASH}"],
    }
    assert [table.name for table in found.all] == [
        "overview",
        "standard",
        "robust-1",
        "certified-1",
        "certified-2",
        "progress",
        "time",
    ]
    assert [table.title for table in found.certified] == [
        "Certified AUROC by l2, l2 radius 0.1",
        "Certified AUROC by l2, l2 radius 0.5",
    ]
    assert "Method: median smoothing, 40 noise samples, confidence 90 %." in found.certified[0].notes


def test_a_radius_that_exact_bounds_certify_has_a_table(tmp_path: Path) -> None:
    bounds = {"certified_at_eps": 0.75, "certified_at_eps_ci": [0.7, 0.8]}
    cells = [
        clean("closed", 0.9),
        clean("plain", 0.9),
        attacked("closed", 0.8, figures=bounds),
        attacked("plain", 0.2),
        attacked("closed", 0.8, attack="suite", figures=bounds),
        attacked("closed", 0.9, attack="l2", figures=bounds | {"norm": "l2", "eps": 0.5}),
        proof("plain", {"0.1": 0.5}),
    ]
    found = tables(tmp_path, cells)
    assert [(table.name, table.short) for table in found.certified] == [
        ("certified-1", "certified linf 2/255"),
        ("certified-2", "certified l2 0.5"),
        ("certified-3", "l2 at 0.1"),
    ]
    assert shown(found.certified[0]) == {"closed": ["0.750 [0.700, 0.800]"] * 2, "plain": ["n/a"] * 2}
    assert "no attack leaves less" in found.certified[0].notes[0]
    assert "certified linf 2/255" in found.overview.columns


def test_defects_that_no_attack_hides_have_a_table(tmp_path: Path) -> None:
    bounds = {"certified_at_eps": 0.75, "found_at_eps": 0.5}
    cells = [
        clean("closed", 0.9),
        clean("plain", 0.9),
        attacked("closed", 0.8, figures=bounds),
        attacked("closed", 0.8, "bolt", figures=bounds | {"found_at_eps": 0.75}),
        attacked("plain", 0.2),
    ]
    found = tables(tmp_path, cells)
    (table,) = found.verdicts
    assert (table.name, table.short) == ("certainly-found-1", "certainly found linf 2/255")
    assert table.title == "Share of defects certainly found within linf 2/255"
    assert shown(table) == {"closed": ["0.500", "0.750", "0.625"], "plain": ["n/a", "\N{EN DASH}", "n/a"]}
    assert "whatever an attack of this size does" in table.notes[0]
    assert table.name in [one.name for one in found.all]


def test_found_defects_and_false_alarms_have_tables_where_a_detector_decides(tmp_path: Path) -> None:
    rates = {"image_auroc": 0.9, "tpr": 0.75, "fpr": 0.05}
    cells = [
        clean("decides", 0.9, figures=rates),
        clean("also", 0.9, figures=rates | {"tpr": 0.5, "fpr": 0.0}),
        clean("scores", 0.9),
    ]
    found, alarms = tables(tmp_path, cells).verdicts
    assert shown(found) == {"decides": ["0.750"] * 2, "also": ["0.500"] * 2, "scores": ["n/a"] * 2}
    assert shown(alarms) == {"decides": ["0.050"] * 2, "also": ["0.000"] * 2, "scores": ["n/a"] * 2}
    assert [row.entries[0].best for row in found.rows] == [True, False, False]
    assert not any(entry.best for row in alarms.rows for entry in row.entries), "more false alarms are not better"
    assert tables(tmp_path / "none", [clean("scores", 0.9)]).verdicts == ()


@pytest.mark.parametrize(
    ("attack", "figures", "title"),
    [
        ("pgd", {}, "Robust AUROC under pgd (linf 2/255)"),
        ("pgd linf 2/255", {}, "Robust AUROC under pgd linf 2/255"),
        ("pgd", {"eps": 0.5 / 255}, "Robust AUROC under pgd (linf 0.5/255)"),
        ("pgd", {"eps": 0.01}, "Robust AUROC under pgd (linf 2.55/255)"),
        ("pgd", {"eps": 1 / 3000}, "Robust AUROC under pgd (linf 0.0003333)"),
        ("pgd", {"norm": "l2", "eps": 1.5}, "Robust AUROC under pgd (l2 1.5)"),
    ],
)
def test_a_title_names_the_threat(tmp_path: Path, attack: str, figures: dict[str, Any], title: str) -> None:
    assert tables(tmp_path, [attacked("a", 0.5, attack=attack, figures=figures)]).robust[0].title == title


def test_labels_that_attacks_and_certificates_share_do_not_mix(tmp_path: Path) -> None:
    cells = [
        clean("a", 0.9),
        attacked("a", 0.3, attack="standard"),
        proof("a", {"0.1": 0.2}, certificate="standard", seconds=7.0),
    ]
    found = tables(tmp_path, cells)
    assert [text.partition(" [")[0] for text in shown(found.overview)["a"]] == ["0.900", "0.300", "0.200"]
    assert shown(found.time)["a"] == ["60", "10", "10", "7", "500"]


def test_notes_say_what_speaks_against_a_table(tmp_path: Path) -> None:
    flag = {"name": "flat", "words": "no gradient anywhere."}
    cells = [
        clean("a", 0.9),
        clean("b", 0.9),
        attacked("a", 0.3, figures={"n_good": 3, "n_defect": 3, "flags": [flag], "note": "confined to a part"}),
        attacked("b", 0.3, figures={"n_good": 3, "n_defect": 3, "flags": [flag]}),
    ]
    notes = tables(tmp_path, cells).robust[0].notes
    assert "Confined to a part." in notes
    assert any(note.startswith("On part of the test images") and "nut 6 of 20" in note for note in notes)
    assert "† a on nut (seed 0); b on nut (seed 0): flat: no gradient anywhere." in notes


def test_a_certificate_of_which_nothing_is_done_has_a_table(tmp_path: Path) -> None:
    found = tables(tmp_path, [clean("a", 0.9), failed(proof("a", {}))])
    assert [table.title for table in found.certified] == ["Certified AUROC by l2"]
    assert shown(found.certified[0]) == {"a": ["failed", "failed"]}


def test_pixel_figures_have_tables_where_there_are_any(tmp_path: Path) -> None:
    assert tables(tmp_path, [clean("a", 0.9)]).pixels == ()
    found = tables(tmp_path / "more", [cell("a", figures={"image_auroc": 0.9, "aupro": 0.4})]).pixels
    assert [(table.title, shown(table)) for table in found] == [("AUPRO, no attack", {"a": ["0.400", "0.400"]})]


def test_cells_are_counted_by_what_became_of_them(tmp_path: Path) -> None:
    flag = {"name": "flat", "words": "no gradient"}
    cells = [
        clean("a", 0.9, "nut"),
        attacked("a", 0.9, "nut", figures={"flags": [flag]}),
        failed(clean("a", 0.9, "bolt")),
        missing(clean("a", 0.9, "bolt", 1)),
        missing(clean("b", 0.9)),
    ]
    assert shown(tables(tmp_path, cells).progress) == {"a": ["4", "2", "1", "1", "1"], "b": ["1", "0", "0", "0", "1"]}


def test_time_is_averaged_over_fits_and_cells(tmp_path: Path) -> None:
    cells = [
        clean("a", 0.9, "nut", fit_seconds=100.0, seconds=2.0),
        clean("a", 0.9, "bolt", fit_seconds=50.0, seconds=4.0),
        attacked("a", 0.4, "nut", fit_seconds=100.0, seconds=30.0, gradients=600),
        attacked("a", 0.4, "bolt", fit_seconds=50.0, seconds=50.0, gradients=200),
    ]
    found = tables(tmp_path, cells).time
    assert found.columns == ("fit (s)", "clean (s)", "pgd (s)", "pgd (gradients)")
    assert shown(found) == {"a": ["75", "3", "40", "400"]}


def noisy(label: str, kind: str, sigma: object, area: float, left: float, **options: Any) -> list[dict[str, Any]]:
    common = {"kind": kind, "options": {"sigma": sigma} | options}
    return [clean(label, area, **common), attacked(label, left, **common)]


def test_detectors_that_differ_in_sigma_only_are_a_family(tmp_path: Path) -> None:
    cells = [
        *noisy("p much", "purified", 0.4, 0.6, 0.5, inner="patchcore"),
        *noisy("p little", "purified", 0.1, 0.9, 0.1, inner="patchcore"),
        *noisy("q 1", "purified", 0.1, 0.8, 0.2, inner="padim"),
        *noisy("q 2", "purified", 0.2, 0.7, 0.3, inner="padim"),
        *noisy("ours 1", "paper", 0.1, 0.95, 0.6),
        *noisy("ours 2", "paper", 0.2, 0.96, 0.7),
        *noisy("alone", "anoddpm", 0.1, 0.5, 0.5),
        *noisy("no number", "own", "much", 0.5, 0.5),
        *noisy("no number 2", "own", "more", 0.5, 0.5),
    ]
    found = tables(tmp_path, cells)
    assert {family.name: [(point.sigma, point.label) for point in family.points] for family in found.families} == {
        "purified, inner patchcore": [(0.1, "p little"), (0.4, "p much")],
        "purified, inner padim": [(0.1, "q 1"), (0.2, "q 2")],
        "paper": [(0.1, "ours 1"), (0.2, "ours 2")],
    }
    first = found.families[0].points[0]
    assert (first.standard.value, first.robust[0].value, first.certified) == (0.9, 0.1, ())
    assert found.dilemma is not None
    # The dilemma: the purifier's best noise level without attack is its worst under attack.
    best = {row.label: [entry.best for entry in row.entries] for row in found.dilemma.rows}
    assert best["purified, inner patchcore, sigma 0.1"] == [True, False]
    assert best["purified, inner patchcore, sigma 0.4"] == [False, True]
    assert best["paper, sigma 0.2"] == [True, True]


def test_without_families_there_is_no_dilemma(tmp_path: Path) -> None:
    cells = [*noisy("a", "paper", 0.1, 0.9, 0.5), *noisy("b", "paper", 0.2, 0.9, 0.5, draws=2)]
    found = tables(tmp_path, cells)
    assert found.families == () and found.dilemma is None


def test_a_family_keeps_its_place_for_what_failed(tmp_path: Path) -> None:
    cells = [
        *noisy("a", "paper", 0.1, 0.9, 0.5),
        clean("b", 0.8, kind="paper", options={"sigma": 0.2}),
        failed(attacked("b", 0.8, kind="paper", options={"sigma": 0.2})),
    ]
    found = tables(tmp_path, cells)
    assert [point.robust[0].state for point in found.families[0].points] == ["value", "failed"]


def test_a_table_says_which_version_of_the_suite_attacked(tmp_path: Path) -> None:
    def notes(folder: str, *versions: int | None) -> list[str]:
        cells = [
            attacked(name, 0.3, figures={"suite_version": version})
            for name, version in zip("abc", versions, strict=False)
        ]
        found = tables(tmp_path / folder, [clean("a", 0.9), *cells]).robust[0].notes
        return [note for note in found if "suite" in note]

    assert notes("one", 3, 3) == ["Version of the suite: 3."]
    assert notes("several", 3, 2, None) == ["Version of the suite: 2 and 3, others not recorded."]
    assert notes("no suite", None, None) == []
