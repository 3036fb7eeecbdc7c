"""The report: complete, self-contained, safe against hostile names, and clear about missing parts."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_page import Page, svg_source

from advrad.certificates.results import CertificationResult
from advrad.errors import DataError, OutputError
from advrad.report.evaluation_report import Candidate, GalleryItem, ReportContent, pick_gallery, write_report
from advrad.report.stored_results import AttackSummary, CurveSummary, read_results


def item(name: str = "scratch/004.png", label: int = 1, size: int = 48, **changes: Any) -> GalleryItem:
    generator = np.random.default_rng(len(name))
    mask = np.zeros((size, size), dtype=bool)
    mask[size // 4 : size // 2, size // 4 : size // 2] = True
    values: dict[str, Any] = {
        "name": name,
        "label": label,
        "defect": "scratch" if label else "good",
        "score": 0.9,
        "image": generator.random((size, size, 3)),
        "heat": generator.random((size, size, 3)),
        "reconstruction": generator.random((size, size, 3)),
        "mask": mask if label else None,
    }
    return GalleryItem(**(values | changes))


def content(**changes: Any) -> ReportContent:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], [12, 20])
    values: dict[str, Any] = {
        "category": "bottle",
        "labels": labels,
        "scores": np.exp(generator.normal(2 * labels)),
        "defects": ("good",) * 12 + ("scratch", "dent") * 10,
        "threshold": 3.0,
        "threshold_source": "Quantile of 40 held-out normal images.",
        "image_auroc": 0.98765,
        "image_auroc_interval": (0.9512, 0.9991),
        "pixel_auroc": 0.91234,
        "aupro": 0.87654,
        "misses": (item("scratch/001.png", score=0.5),),
        "false_alarms": (item("good/002.png", 0, score=7.0),),
        "finds": (item("scratch/003.png", score=8.0),),
        "training": tuple(
            {"step": step, "loss": 2.0 / (1 + step), "images_per_s": 40.0, "elapsed_s": step * 0.6}
            for step in range(0, 1001, 10)
        ),
        "candidates": (Candidate("plain", 0.81), Candidate("normalised", 0.93), Candidate("failed", None)),
        "selected": "normalised",
        "selection_reason": "It leads on every kind of synthetic defect.",
        "configuration": {
            "denoiser": {"kind": "lean", "widths": [32, 64]},
            "ema": True,
            "sigma": 0.2,
            "cap": None,
        },
        "provenance": {"seed": 7, "torch": "2.13.0"},
    }
    return ReportContent(**(values | changes))


def render(path: Path, report: ReportContent) -> Page:
    write_report(path, report)
    return Page(path.read_text(encoding="utf-8"))


def test_full_report(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    page = render(path, content())
    for words in (
        "bottle", "0.988", "0.951 to 0.999", "0.912", "0.877", "Quantile of 40 held-out normal images.",
        "scratch", "dent", "missed", "false alarm", "found", "normalised (selected)", "It leads on every kind",
        "denoiser.widths", "32, 64", "1000 steps in 10.0 minutes", "40 images per second", "2.13.0",
    ):  # fmt: skip
        assert words in page.text, words
    assert len(page.all("img")) == 9 + 3 and all(image["alt"] for image in page.all("img"))
    assert len(page.plots()) == 3
    assert len(page.all("caption")) == len(page.all("table")) == 4
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert list(tmp_path.iterdir()) == [path]


ATTACK = AttackSummary.parse({
    "attack": "suite", "budget": "quick", "norm": "linf", "eps": 2 / 255, "noise": "unknown", "n_good": 5,
    "n_defect": 7, "clean_auroc": 0.987, "robust_auroc": 0.654, "robust_tpr": 0.432, "robust_fpr": None,
    "flags": [{"name": "black box wins", "words": "gradients mislead"}], "of a later version": 1,
})  # fmt: skip
CURVE = CurveSummary.parse({
    "over": "eps", "attack": "pgd", "norm": "linf", "clean_auroc": 0.98,
    "points": [
        {"value": 0.0, "robust_auroc": 0.98, "robust_auroc_ci": [0.9, 1.0]},
        {"value": 2 / 255, "robust_auroc": 0.61, "robust_auroc_ci": [0.5, 0.7]},
    ],
})  # fmt: skip


def test_attacks_and_curves_are_shown_with_their_flags(tmp_path: Path) -> None:
    page = render(tmp_path / "a.html", content(attacks=(ATTACK,), curves=(CURVE,)))
    for words in ("suite quick, linf 2/255", "0.987", "0.654", "43.2 %", "black box wins", "gradients mislead"):
        assert words in page.text, words
    assert any("from 0.980 to 0.610" in str(plot["alt"]) for plot in page.plots())
    assert "No attack was run yet" in render(tmp_path / "b.html", content()).text


CERTIFICATE: dict[str, Any] = {
    "confidence": 0.999, "seed": 0, "threshold": 1.0, "seconds": 2.0, "quantile": 0.5, "rounding_l2": 0.5,
    "category": "bottle", "folder": None, "versions": {},
    "method": "two-path", "sigma": None, "draws": 200, "n_good": 5, "n_defect": 7, "size": [256, 256],
    "clean_auroc": 0.987, "certified_auroc": {"0.1": 0.876, "0.2": 0.543}, "median_radius": 0.1921, "attacked": [],
    "verdicts": {
        name: {
            "right": 0.321, "wrong": 0.012, "abstained": 0.667, "certified": 0.333, "early_certified": 0.3,
            "draws_saved": 0.75,
        }
        for name in ("0.1", "0.2")
    },
    "curve": {"radii": [0.0, 0.1, 0.2], "certified_auroc": [0.9, 0.876, 0.543], "certified_right": [0.5, 0.4, 0.3]},
    "meaning": ["All 12 images hold together.", "Mind the scale."], "notes": ["the threshold promises nothing"],
    "warnings": ["more is certified than an attack left"],
}  # fmt: skip


def test_certificates_are_shown_with_their_meaning(tmp_path: Path) -> None:
    others = {"method": "percentile", "sigma": 0.25, "size": "own", "notes": [], "warnings": []}
    bare = {name: value for name, value in CERTIFICATE.items() if name not in ("verdicts", "median_radius")} | others
    page = render(tmp_path / "a.html", content(certificates=tuple(map(CertificationResult.parse, (CERTIFICATE, bare)))))
    for words in (
        "two-path, 200 noise samples, 12 images of 256 px", "smoothed score 0.987", "median certified radius 0.1921",
        "0.876", "0.543", "32.1 %", "1.2 %", "66.7 %", "75 %", "All 12 images hold together. Mind the scale.",
        "Note: the threshold promises nothing.", "Do not trust this. more is certified than an attack left.",
        "percentile, noise 0.25", "12 images at their own sizes",
    ):  # fmt: skip
        assert words in page.text, words
    assert sum("0.876 at 0.1, 0.543 at 0.2" in str(plot["alt"]) for plot in page.plots()) == 2
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert "Nothing was certified yet" in render(tmp_path / "b.html", content()).text


def test_stored_results_are_read_by_product(tmp_path: Path) -> None:
    for name, category in (("a", "bottle"), ("b", "nut")):
        (tmp_path / name).mkdir()
        CertificationResult.parse(CERTIFICATE | {"category": category}).save(tmp_path / name)
    [found] = read_results(tmp_path, "*/result.json", "bottle", CertificationResult)
    assert found.to_dict() == CertificationResult.parse(CERTIFICATE).to_dict()
    (tmp_path / "a" / "result.json").write_text('{"category": "bottle"}', encoding="utf-8")
    with pytest.raises(DataError, match=r"a/result\.json: is damaged .*delete it"):
        read_results(tmp_path, "*/result.json", "bottle", CertificationResult)


def test_self_contained(tmp_path: Path) -> None:
    page = render(tmp_path / "report.html", content())
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in {"src", "href", "xlink:href", "data", "poster", "srcset", "action"}:
                assert value is not None and value.startswith(("data:image/", "#")), (tag, name, value)
            assert not name.startswith("on"), (tag, name)
    assert "@import" not in source
    for drawing in (source, *map(svg_source, page.plots())):
        assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", drawing))
        assert "<script" not in drawing and "<image" not in drawing
    assert "default-src 'none'" in source
    assert "prefers-color-scheme: dark" in source


def test_warnings_are_above_the_figures(tmp_path: Path) -> None:
    assert render(tmp_path / "report.html", content()).all("aside") == []
    page = render(tmp_path / "report.html", content(warnings=("Beware & look.", "Twice.")))
    assert len(page.all("aside")) == 2
    assert (
        page.text.index("Warning. Beware & look.") < page.text.index("Warning. Twice.") < page.text.index("Image AUROC")
    )


HOSTILE = "<img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}\u202egnp.\udcff.png"


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    report = content(
        category=HOSTILE,
        defects=("good",) * 12 + (HOSTILE,) * 20,
        misses=(item(HOSTILE, defect=HOSTILE),),
        threshold_source=HOSTILE,
        candidates=(Candidate(HOSTILE, 0.5),),
        selected=HOSTILE,
        candidate_metric=HOSTILE,
        selection_reason=HOSTILE,
        configuration={HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE]}},
        provenance={HOSTILE: HOSTILE},
    )
    page = render(tmp_path / "report.html", report)
    assert page.text.count("<img src=x onerror=alert(1)>") >= 10  # as text, never as a tag
    assert all(image["src"] != "x" and "onerror" not in image for image in page.all("img"))
    assert "49" not in re.findall(r"alert\(1\)>\"'&(.{2})", page.text)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    page = render(tmp_path / "report.html", ReportContent("nut", [0, 0, 0], [0.1, 0.2, 0.2], ("good",) * 3))
    for words in (
        "needs normal and anomalous images", "needs ground-truth masks", "has no threshold", "no ROC curve",
        "no anomalous test images", "This report has no images", "No candidates were compared", "no training log",
        "No configuration or origin was recorded",
    ):  # fmt: skip
        assert words in page.text, words
    assert len(page.plots()) == 1
    assert "There are no test images." in render(tmp_path / "b.html", ReportContent("nut", [], [], ())).text
    only = render(tmp_path / "c.html", ReportContent("nut", [1], [0.5], ("dent",), threshold=0.5))
    assert "All test images are anomalous" in only.text and "0 of 1 at the threshold" in only.text


def test_a_report_says_why_nothing_was_compared(tmp_path: Path) -> None:
    page = render(tmp_path / "a.html", content(candidates=(), selection_reason="the part lies still"))
    assert "No candidates were compared: the part lies still." in page.text and "was given" not in page.text


def test_advice_on_the_threshold_is_shown_as_text(tmp_path: Path) -> None:
    advice = "`advrad calibrate RUN DATA -o NEW --false-alarm-rate 0.1` finds <b>more</b>"
    assert f"Another threshold? {advice}" in render(tmp_path / "a.html", content(advice=advice)).text
    assert "Another threshold?" not in render(tmp_path / "b.html", content()).text


def test_missing_panels(tmp_path: Path) -> None:
    bare = item(heat=None, reconstruction=None, mask=None)
    page = render(tmp_path / "report.html", content(misses=(bare,), false_alarms=(), finds=()))
    assert len(page.all("img")) - len(page.plots()) == 1
    page = render(tmp_path / "b.html", content(misses=(item(heat=None),), false_alarms=(), finds=()))
    assert any("true defect outlined" in str(image["alt"]) for image in page.all("img"))


def test_kinds_of_defects(tmp_path: Path) -> None:
    report = ReportContent(
        "nut",
        [0, 0, 1, 1, 1],
        [0.1, 0.4, 0.9, 0.2, 0.3],
        ("good", "good", "hole", "dent", "dent"),
        threshold=0.35,
    )
    rows = re.sub(r"\s+", " ", render(tmp_path / "report.html", report).text).replace("\N{EN DASH}", "-")
    # The lowest AUROC first; the share that is called defective; normal images last.
    assert "dent20.500 0 (0 %) 0.20.250.3 hole11.000 1 (100 %) 0.90.90.9 good2- 1 (50 %) 0.10.250.4" in rows


def test_size_and_repeatability(tmp_path: Path) -> None:
    noisy = tuple(item(f"scratch/{number:03d}.png", size=640) for number in range(4))
    report = content(misses=noisy, false_alarms=noisy, finds=noisy)
    write_report(tmp_path / "a.html", report)
    write_report(tmp_path / "b.html", report)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert (tmp_path / "a.html").stat().st_size < 5_000_000


def test_short_training_logs(tmp_path: Path) -> None:
    one = ({"step": 1, "loss": 2.0},)
    assert "no training log" in render(tmp_path / "a.html", content(training=one)).text
    two = (*one, {"step": 2, "loss": -1.5})
    assert "2 steps; loss 2 at the start, -1.5 at the end" in render(tmp_path / "b.html", content(training=two)).text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scores": np.zeros(3)}, "do not match"),
        ({"defects": ()}, "do not match"),
        ({"labels": np.full(32, 2)}, "neither 0 nor 1"),
        ({"scores": np.full(32, np.nan)}, "NaN or infinite"),
        ({"misses": (item(image=np.zeros((4, 4))),)}, "not a colour image"),
        ({"misses": (item(reconstruction=np.full((4, 4, 3), np.nan)),)}, "NaN or infinite"),
    ],
)
def test_refusals(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        write_report(tmp_path / "report.html", content(**changes))
    assert list(tmp_path.iterdir()) == []


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write_report(tmp_path / "file" / "report.html", content())


def test_content_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        content().category = "other"  # type: ignore[misc]


def test_pick_gallery() -> None:
    labels, scores = [0, 1, 0, 1, 1, 0, 1], [0.3, 0.9, 0.1, 0.2, 0.5, 0.8, 0.7]
    assert pick_gallery(labels, scores, 2) == ((3, 4), (5, 0), (1, 6))
    assert pick_gallery(labels, scores, 9) == ((3, 4), (5, 0, 2), (1, 6))  # never one image twice
    assert pick_gallery([1], [0.5]) == ((0,), (), ())
    assert pick_gallery([0, 0], [0.5, 0.5]) == ((), (0, 1), ())
    assert pick_gallery([], []) == ((), (), ())
