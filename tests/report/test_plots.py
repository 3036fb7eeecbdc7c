"""The plots: described SVG images for any data, and PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from html_page import Page, svg_source

from advrad.certificates.results import CertificationResult
from advrad.report.certificate_plots import certificate_plot, draw_certificates
from advrad.report.plots import (
    ANOMALOUS_COLOUR,
    NORMAL_COLOUR,
    curve_plot,
    draw_curve,
    loss_plot,
    roc_plot,
)
from advrad.report.score_plot import histogram_plot
from advrad.report.stored_results import CurveSummary

LABELS = np.repeat([False, True], [12, 20])
SCORES = np.exp(np.random.default_rng(0).normal(2 * LABELS))


CERTIFICATES: dict[str, Any] = {
    "draws": 200, "confidence": 0.999, "seed": 0, "threshold": 1.0, "n_good": 1, "n_defect": 1, "clean_auroc": 1.0,
    "seconds": 2.0, "method": "two-path", "sigma": None, "quantile": 0.5, "size": [64, 64], "rounding_l2": 0.1,
    "category": "nut", "folder": None, "versions": {},
    "curve": {
        "radii": [0.0, 0.1, 0.2, 0.5],
        "certified_auroc": [1.0, 0.9, 0.4, 0.0],
        "certified_right": [0.8, 0.7, 0.1, 0.0],
        "certified_wrong": [0.1, 0.0, 0.0, 0.0],
    },
    "certified_auroc": {"0.1": 0.9, "0.2": 0.4},
    "attacked": [
        {"attack": "pgd", "eps": 0.1, "robust_auroc": 0.95, "same_pictures": True},
        {"attack": "apgd", "eps": 0.3, "robust_auroc": 0.8, "same_pictures": False},
    ],
}  # fmt: skip

CURVE: dict[str, Any] = {
    "over": "eps", "attack": "pgd", "norm": "linf", "clean_auroc": 0.98,
    "points": [
        {"value": 0.0, "robust_auroc": 0.98, "robust_auroc_ci": [0.9, 1.0]},
        {"value": 2 / 255, "robust_auroc": 0.61, "robust_auroc_ci": [0.5, 0.7]},
    ],
}  # fmt: skip


def image(markup: str) -> dict[str, str | None]:
    """The one element that a plot consists of."""
    [(tag, attributes)] = Page(markup).tags
    assert tag == "img"
    return attributes


def alt(markup: str) -> str | None:
    assert ElementTree.fromstring(svg_source(image(markup))).tag == "{http://www.w3.org/2000/svg}svg"
    return image(markup)["alt"]


def all_plots() -> dict[str, str]:
    steps = np.arange(100.0)
    return {
        "roc": roc_plot(LABELS, SCORES, SCORES > 3.0),
        "histogram": histogram_plot(LABELS, SCORES, 3.0),
        "loss": loss_plot(steps, 2 / (1 + steps)),
        "certificates": certificate_plot(CertificationResult.parse(CERTIFICATES)),
        "curve": curve_plot(CurveSummary.parse(CURVE)),
    }


@pytest.mark.parametrize("name", ["roc", "histogram", "loss", "certificates", "curve"])
def test_a_plot_is_a_described_svg_on_white(name: str) -> None:
    markup = all_plots()[name]
    assert alt(markup) and image(markup)["class"] == "plot"
    root = ElementTree.fromstring(svg_source(image(markup)))
    assert "viewBox" in root.attrib
    namespace = "{http://www.w3.org/2000/svg}"
    assert root.findall(f".//{namespace}text"), "text is stored as text"
    background = root.find(f".//{namespace}g[@id='patch_1']/{namespace}path")
    assert background is not None and "#ffffff" in background.attrib["style"]


def test_plots_are_repeatable() -> None:
    assert all_plots() == all_plots()


def test_the_description_of_a_plot_is_escaped() -> None:
    hostile = '"><script>alert(1)</script>'
    assert (
        alt(curve_plot(CurveSummary.parse(CURVE | {"attack": hostile})))
        == f"AUROC under {hostile} over eps, from 0.980 to 0.610"
    )


def test_the_label_tells_what_the_curve_shows() -> None:
    scores = np.array([0.1, 0.4, 0.9, 0.2])
    labels = np.array([False, False, True, True])
    label = alt(roc_plot(labels, scores, scores > 0.3))
    assert label == "ROC curve of 4 test images; verdicts: 50 % of defects found, 50 % false alarms"
    label = alt(histogram_plot(labels, scores, None))
    assert label == "Histogram of the scores: median of normal images 0.25, median of anomalous images 0.55"
    label = alt(histogram_plot(labels, scores, 0.3))
    assert label is not None and label.endswith("anomalous images 0.55, threshold 0.3")
    for plot in (roc_plot, histogram_plot):
        source = svg_source(image(plot(labels, scores, None)))
        assert "threshold" not in source and "verdicts" not in source


@pytest.mark.parametrize(
    "scores",
    [
        np.zeros(32),
        np.append(np.zeros(31), 1.7e308) - 1e307,
        np.full(32, 1e-30),
        np.linspace(-5, 5, 32),
        np.geomspace(1e-12, 1e12, 32),
        np.arange(32) % 2,
    ],
)
@pytest.mark.parametrize("threshold", [None, 0.0, -3.0, 1e9])
def test_odd_scores(scores: np.ndarray, threshold: float | None) -> None:
    assert alt(roc_plot(LABELS, scores, None if threshold is None else scores > threshold))
    assert alt(histogram_plot(LABELS, scores, threshold))


def test_certificates_are_drawn_with_the_attacks_beside_them(tmp_path: Path) -> None:
    markup = certificate_plot(CertificationResult.parse(CERTIFICATES))
    drawing = svg_source(image(markup))
    assert alt(markup) == "Certified AUROC over the l2 radius: 0.900 at 0.1, 0.400 at 0.2"
    for words in (
        "certified AUROC",
        "verdicts certified right",
        "left by attacks<",
        "left by attacks on other images",
    ):
        assert words in drawing, words
    draw_certificates(tmp_path / "c.png", CertificationResult.parse(CERTIFICATES))
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_linf_radii_are_drawn_in_levels() -> None:
    bounds = {"method": "bounds", "norm": "linf", "certified_auroc": {f"{2 / 255:g}": 0.9}, "radii": [2 / 255]}
    bounds |= {"attacked": []}
    markup = certificate_plot(CertificationResult.parse(CERTIFICATES | bounds))
    assert alt(markup) == "Certified AUROC over the linf radius: 0.900 at 2/255"
    assert "linf radius in units of 1/255" in svg_source(image(markup))


def test_nothing_certified_and_no_verdicts_can_be_drawn(tmp_path: Path) -> None:
    curve = {"radii": [0.0, 0.1], "certified_auroc": [0.0, 0.0]}
    bare = CertificationResult.parse(CERTIFICATES | {"curve": curve, "certified_auroc": {"0": 0.0}, "attacked": []})
    drawing = svg_source(image(certificate_plot(bare)))
    assert "verdicts" not in drawing and "attacks" not in drawing
    draw_certificates(tmp_path / "c.png", bare)


def test_a_curve_is_drawn_as_a_file_too(tmp_path: Path) -> None:
    assert alt(curve_plot(CurveSummary.parse(CURVE))) == "AUROC under pgd over eps, from 0.980 to 0.610"
    assert "levels of 255" in svg_source(image(curve_plot(CurveSummary.parse(CURVE))))
    draw_curve(tmp_path / "c.png", StoredCurve())  # type: ignore[arg-type]
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


class StoredCurve:
    """A result of a curve, as far as a plot asks for it."""

    def to_dict(self) -> dict[str, Any]:
        return CURVE | {"category": "nut", "noise": "unknown", "eps": "2/255"}


def test_the_histogram_names_axis_threshold_and_classes() -> None:
    drawing = svg_source(image(histogram_plot(LABELS, SCORES, 3.0)))
    for words in (
        "threshold 3", "normal (12)", "anomalous (20)", "Share of the class (%)", "Anomaly score (no unit",
        ">normal<", ">anomalous<",  # the rows of single images
    ):  # fmt: skip
        assert words in drawing, words
    assert "called good" in drawing or "called defective" in drawing
    assert NORMAL_COLOUR in drawing and ANOMALOUS_COLOUR in drawing
    assert "pattern" in drawing, "the bars of the classes differ without their colours, too"
    many = np.linspace(0, 1, 5000)
    drawing = svg_source(image(histogram_plot(many > 0.5, many, 0.4)))
    assert ">normal<" not in drawing and len(drawing) < 200_000, "single images are drawn of small sets only"


def test_one_class_alone_has_a_histogram() -> None:
    label = alt(histogram_plot(np.ones(3, bool), np.array([1.0, 2.0, 3.0]), None))
    assert label == "Histogram of the scores: median of anomalous images 2"


def test_the_loss_of_a_long_training_is_thinned_out() -> None:
    steps = np.arange(50_000.0)
    short, long = (loss_plot(part, np.ones_like(part)) for part in (steps[:400], steps))
    assert len(long) < 1.2 * len(short)
    assert "over 49999 steps" in str(alt(long))
    assert alt(loss_plot(np.array([1.0, 2.0]), np.array([2.0, -1.5])))
