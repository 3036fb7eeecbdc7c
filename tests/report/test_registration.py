"""Drawings of where a detector finds the parts of a product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from html_page import Page
from torch import nn
from turned_parts import SIZE, pictured, tapered_bar, turned_bars, two_bars

from advrad.detectors.registration import RegisteredView
from advrad.detectors.registration_fit import RegistrationOptions, fit_registration
from advrad.report.evaluation_report import ReportContent, write_report
from advrad.report.registration import ORANGE, RegisteredImage, draw_registration, registered_views

OPTIONS = RegistrationOptions(size_px=SIZE, step_cells=(1, 1))


@pytest.fixture(scope="module")
def view() -> RegisteredView:
    found = fit_registration(turned_bars(24), options=OPTIONS)
    assert found is not None
    return found


def test_the_registrations_of_a_detector_are_found(view: RegisteredView) -> None:
    assert registered_views(nn.Sequential(nn.Identity(), view)) == (view,)
    assert registered_views(nn.Identity()) == () and registered_views(object()) == ()


def test_the_box_is_drawn_around_the_part(view: RegisteredView) -> None:
    opacity = tapered_bar(32.0, 34.0, 30.0, half=12.0)
    image = pictured(opacity, 0)[0].permute(1, 2, 0).numpy()
    found = draw_registration("a.png", image, view)
    assert found.parts == 1
    line = (found.image == np.float32(ORANGE)).all(axis=2)
    assert line.sum() > 20 and not (line & (opacity.numpy() > 0.5)).any()
    large = draw_registration("a.png", np.kron(image, np.ones((2, 1, 1))), view)
    assert large.image.shape == (128, 64, 3)
    scaled = (large.image == np.float32(ORANGE)).all(axis=2)
    assert np.flatnonzero(scaled.any(0)).tolist() == np.flatnonzero(line.any(0)).tolist()


def test_every_part_has_a_box() -> None:
    pairs = fit_registration(two_bars(24), options=OPTIONS)
    assert pairs is not None
    image = two_bars(1, seed=9)[0].permute(1, 2, 0).numpy()
    assert draw_registration("a.png", image, pairs).parts == 2


def test_the_report_shows_where_the_parts_are_found(tmp_path: Path) -> None:
    image = np.full((16, 16, 3), 0.5, dtype=np.float32)
    registered = (RegisteredImage("good/1.png", image, 1), RegisteredImage("good/2.png", image, 2))
    write_report(tmp_path / "a.html", ReportContent("nut", [0], [0.1], ("good",), registered=registered))
    page = Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert "Where the parts are found" in page.text
    alts = [str(found["alt"]) for found in page.all("img")]
    assert "good/1.png with the box of the part that the detector compares" in alts
    assert "good/2.png with the boxes of 2 parts that the detector compares" in alts
