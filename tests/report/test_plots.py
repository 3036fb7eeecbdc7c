"""The drawings: whole markup for any data, in the colours of the page, and able to stand beside one another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from advrad.report.plots import certificate_plot, draw_certificates, histogram_plot, loss_plot, roc_plot

LABELS = np.repeat([False, True], [12, 20])
SCORES = np.exp(np.random.default_rng(0).normal(2 * LABELS))


CERTIFICATES: dict[str, Any] = {
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
}


def drawn(markup: str) -> ElementTree.Element:
    """The drawing, which must be XML by itself once the names of its parts are declared."""
    return ElementTree.fromstring(str(markup).replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1))


def drawings() -> dict[str, str]:
    steps = np.arange(100.0)
    return {
        "roc": roc_plot(LABELS, SCORES, 3.0),
        "histogram": histogram_plot(LABELS, SCORES, 3.0),
        "loss": loss_plot(steps, 2 / (1 + steps)),
        "certificates": certificate_plot(CERTIFICATES, 0),
        "more certificates": certificate_plot(CERTIFICATES, 1),
    }


@pytest.mark.parametrize("name", ["roc", "histogram", "loss", "certificates"])
def test_a_drawing_is_named_and_takes_the_style_of_the_page(name: str) -> None:
    markup = drawings()[name]
    root = drawn(markup)
    assert root.get("role") == "img" and root.get("aria-label") and "viewBox" in root.attrib
    assert "width" not in root.attrib and "height" not in root.attrib
    assert "currentColor" in markup and "#0102" not in markup
    assert "<metadata>" not in markup
    fonts = re.findall(r"(?:font|font-family): [^;\"]*", markup)
    assert fonts and all(font.endswith(" var(--font)") for font in fonts)
    assert "DejaVu" not in markup


def test_drawings_are_repeatable_and_share_no_identifier() -> None:
    first = drawings()
    assert drawings() == first
    identifiers = [name for markup in first.values() for name in re.findall(r'\bid="([^"]*)"', markup)]
    assert len(identifiers) == len(set(identifiers)) > 20
    for markup in first.values():
        targets = re.findall(r'(?:url\(|href=")#([^")]*)', markup)
        assert targets and set(targets) <= set(re.findall(r'\bid="([^"]*)"', markup))


def test_the_label_tells_what_the_curve_shows() -> None:
    scores = np.array([0.1, 0.4, 0.9, 0.2])
    labels = np.array([False, False, True, True])
    label = drawn(roc_plot(labels, scores, 0.3)).get("aria-label")
    assert label == "ROC curve of 4 test images; at the threshold 50 % of defects found, 50 % false alarms"
    label = drawn(histogram_plot(labels, scores, None)).get("aria-label")
    assert label == "Histogram of the scores: median of good 0.25, median of defective 0.55"
    assert "threshold" not in roc_plot(labels, scores, None)


@pytest.mark.parametrize(
    "scores",
    [
        np.zeros(32),
        np.full(32, 1e-30),
        np.linspace(-5, 5, 32),
        np.geomspace(1e-12, 1e12, 32),
        np.arange(32) % 2,
    ],
)
@pytest.mark.parametrize("threshold", [None, 0.0, -3.0, 1e9])
def test_odd_scores(scores: np.ndarray, threshold: float | None) -> None:
    for plot in (roc_plot, histogram_plot):
        assert drawn(plot(LABELS, scores, threshold)).get("aria-label")


def test_certificates_are_drawn_with_the_attacks_beside_them(tmp_path: Path) -> None:
    markup = certificate_plot(CERTIFICATES, 0)
    assert drawn(markup).get("aria-label") == "Certified AUROC over the l2 radius: 0.900 at 0.1, 0.400 at 0.2"
    for words in (
        "certified AUROC",
        "verdicts certified right",
        "left by attacks<",
        "left by attacks on other images",
    ):
        assert words in markup, words
    draw_certificates(tmp_path / "c.png", CERTIFICATES)
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_certified_and_no_verdicts_can_be_drawn(tmp_path: Path) -> None:
    curve = {"radii": [0.0, 0.1], "certified_auroc": [0.0, 0.0]}
    bare = {"curve": curve, "certified_auroc": {"0": 0.0}, "attacked": []}
    markup = certificate_plot(bare, 0)
    assert "verdicts" not in markup and "attacks" not in markup
    draw_certificates(tmp_path / "c.png", bare)


def test_one_class_alone_has_a_histogram() -> None:
    label = drawn(histogram_plot(np.ones(3, bool), np.array([1.0, 2.0, 3.0]), None)).get("aria-label")
    assert label == "Histogram of the scores: median of defective 2"


def test_the_loss_of_a_long_training_is_thinned_out() -> None:
    steps = np.arange(50_000.0)
    short, long = (loss_plot(part, np.ones_like(part)) for part in (steps[:400], steps))
    assert len(long) < 1.2 * len(short)
    assert "over 49999 steps" in str(drawn(long).get("aria-label"))
    assert drawn(loss_plot(np.array([1.0, 2.0]), np.array([2.0, -1.5])))
