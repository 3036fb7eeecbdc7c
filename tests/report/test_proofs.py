"""What the report shows of certificates without randomness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from html_page import Page, svg_source
from PIL import Image
from torch import Tensor
from toy_bounds import IMAGES, LEVEL, RADII, RESULT, Brightest, ToyConfig, Unbounded, bounds_of, proof

from advrad.certificates.lipschitz import LARGEST_RADIUS
from advrad.detectors.config import RobustCalibration
from advrad.errors import DataError
from advrad.report.certificate_plots import certificate_plot, draw_certificates
from advrad.report.evaluation_report import GalleryItem, ReportContent, write_report
from advrad.report.proofs import ImageProof, ImageProofs, attacked_points, image_rows, radius_rows
from advrad.report.stored_results import read_certificates


def attacked(points: dict[float, float], same: bool = True) -> list[dict[str, Any]]:
    return [{"attack": "pgd", "eps": eps, "robust_auroc": area, "same_pictures": same} for eps, area in points.items()]


def test_the_lowest_auroc_of_the_attacks_on_the_same_images_counts() -> None:
    points = attacked({LEVEL: 0.9, 2 * LEVEL: 0.6}) + attacked({LEVEL: 0.8}) + attacked({LEVEL: 0.1}, same=False)
    assert attacked_points(proof(attacked=points)) == [(LEVEL, 0.8), (2 * LEVEL, 0.6)]


def test_figures_at_each_radius() -> None:
    first, second = radius_rows(proof(attacked=attacked({LEVEL / 2: 0.95, 2 * LEVEL: 0.8})))
    assert (first.radius, second.radius) == ("1/255", "2/255")
    assert (first.certified_auroc, second.certified_auroc) == (1.0, 0.75)
    assert (first.interval, second.interval) == ((0.9, 1.0), None)
    assert (first.attacked_auroc, second.attacked_auroc) == (0.95, 0.8), "an attack counts for larger radii"
    assert second.verdicts is not None and (second.verdicts.right, second.verdicts.abstained) == (0.25, 0.75)
    bare = radius_rows(proof(threshold=None, verdicts=None, certified_auroc_ci=None))[0]
    assert (bare.interval, bare.attacked_auroc, bare.verdicts) == (None, None, None)


def test_each_image_has_the_largest_radius_of_its_verdict() -> None:
    rows = image_rows(proof())
    assert [(row.name, row.defective, row.verdict, row.right, row.radius) for row in rows] == [
        ("good/2.png", False, "defective", False, ""),
        ("good/1.png", False, "good", True, "1/255"),
        ("dent/1.png", True, "defective", True, "2.5/255"),
    ]
    assert image_rows(proof(threshold=None)) == []


def test_proofs_and_attacks_are_drawn_in_one_plot(tmp_path: Path) -> None:
    [(_, image)] = Page(certificate_plot(proof(attacked=attacked({2 * LEVEL: 0.8})))).tags
    assert image["alt"] == (
        "Certified AUROC over the linf radius: 1.000 at 1/255, 0.750 at 2/255; left by attacks: 0.800 at 2/255"
    )
    drawing = svg_source(image)
    for words in ("proven: never below", "left by attacks", "linf radius in units of 1/255", "chance"):
        assert words in drawing, words
    draw_certificates(tmp_path / "c.png", proof())
    with Image.open(tmp_path / "c.png") as drawn:
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(1 << 20)}
    filled = [abs(np.subtract(colour, (228, 238, 246))).max() <= 1 for colour in colours]
    assert any(filled), "the file shows what is proven, filled as on the page"
    alone = svg_source(Page(certificate_plot(proof(norm="l2", clean_auroc=None))).tags[0][1])
    assert "attacks" not in alone and "1/255" not in alone and "l2 radius" in alone


def test_stored_proofs_come_with_their_images(tmp_path: Path) -> None:
    place = tmp_path / "certificates" / "bounds-1"
    place.mkdir(parents=True)
    (place / "result.json").write_text(json.dumps(RESULT), encoding="utf-8")
    lines = [json.dumps(bounds_of(*image).to_dict()) for image in IMAGES]
    (place / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    [found] = read_certificates(tmp_path, "nut")
    assert image_rows(found) == image_rows(proof()) and found.radii == RADII
    assert read_certificates(tmp_path, "bolt") == ()
    # An attack that was run later is compared as well, if it was on the same images and the same detector.
    (place / "plan.json").write_text(json.dumps({"pictures": "images", "detector": "nuts bounds"}), encoding="utf-8")
    for name, images, detector in (("a", "images", "nuts"), ("b", "others", "nuts"), ("c", "images", "bolts")):
        run = tmp_path / "attacks" / name
        run.mkdir(parents=True)
        values = {"norm": "linf", "category": "nut", "attack": name, "eps": LEVEL, "robust_auroc": 0.2}
        (run / "result.json").write_text(json.dumps(values), encoding="utf-8")
        (run / "plan.json").write_text(json.dumps({"pictures": images, "detector": detector}), encoding="utf-8")
    [later] = read_certificates(tmp_path, "nut")
    assert found.attacked == () and [point.attack for point in later.attacked] == ["a"]
    assert "a at linf 1/255 left 0.2000 of the same images; no perturbation can do that" in later.warnings[0]
    (place / "rows.jsonl").write_text(lines[0] + "\n{}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl: is damaged"):
        read_certificates(tmp_path, "nut")


def spot(value: float) -> Tensor:
    image = torch.full((1, 3, 8, 8), 0.1)
    image[..., 2:4, 5:7] = value
    return image


def prove(detector: Any, image: Tensor) -> ImageProof | None:
    return ImageProofs(detector).prove("a.png", float(image.amax()), image[0], image[0])


def test_the_proven_area_is_what_no_change_hides() -> None:
    assert ImageProofs(Brightest()).area_radius == "linf 2/255"
    for value, proven in ((0.5 + 3 * LEVEL, True), (0.5 + LEVEL, False)):
        found = prove(Brightest(), spot(value))
        assert found is not None
        expected = np.zeros((8, 8), dtype=bool)
        expected[2:4, 5:7] = proven
        np.testing.assert_array_equal(found.area, expected)


def test_the_proofs_follow_a_threshold_that_was_set_for_attacks() -> None:
    values: dict[str, Any] = {"false_alarm_rate": 0.05, "n": 20, "radius": 0.1}
    for threshold, verdict, distance in ((0.6, "good", 0.04), (0.4, "defective", 0.16)):
        robust = RobustCalibration(threshold=threshold, **values)
        detector = Brightest(ToyConfig(image_size_px=8, robust_calibration=robust))
        assert ImageProofs(detector).area_radius == "l2 0.1"
        found = prove(detector, spot(0.56))
        assert found is not None and found.text.startswith(f"proven {verdict} up to l2 ")
        reach, _, shown = found.text.partition(", at the threshold under attack ")
        assert shown == f"{threshold:g}", "the verdict beside it is that of the other threshold"
        assert distance - LARGEST_RADIUS["l2"] / 256 <= float(reach.split()[-1]) <= distance
        # 0.46 is left within the radius. Normal maps reach 0.5, so it is no proven area even at the threshold 0.4.
        assert not found.area.any()
    noisy = RobustCalibration(threshold=0.6, n_samples=64, confidence=0.999, **values)
    assert ImageProofs(Brightest(ToyConfig(robust_calibration=noisy))).area_radius == "linf 2/255"


def test_the_radius_of_an_image_is_searched() -> None:
    for value, verdict in ((0.5 + 10 * LEVEL, "defective"), (0.5 - 10 * LEVEL, "good")):
        found = prove(Brightest(), spot(value))
        assert found is not None and found.text.startswith(f"proven {verdict} up to linf ")
        shown = float(found.text.removesuffix("/255").split()[-1])
        assert 10 - 16 / 256 - 0.01 <= shown <= 10
    found = prove(Brightest(), spot(0.5 + 1e-7))
    assert found is not None and found.text == "not proven"


def test_a_detector_without_bounds_or_threshold_proves_nothing() -> None:
    for detector in (Unbounded(), Brightest(ToyConfig(calibration=None))):
        assert ImageProofs(detector).area_radius == "" and prove(detector, spot(0.9)) is None


def test_the_report_says_what_is_proven(tmp_path: Path) -> None:
    values = np.full((16, 16, 3), 0.5)
    item = GalleryItem("dent/1.png", 1, "dent", 0.9, values, values, proof="proven up to linf 3/255", proven_share=0.04)
    report = ReportContent(
        "nut", [1, 0, 0], [0.9, 0.4, 0.7], ("dent", "good", "good"), threshold=0.5, finds=(item,),
        certificates=(proof(attacked=attacked({2 * LEVEL: 0.8})),), proven_radius="linf 2/255",
        description=("cells of 4 px", "patches of 7 x 7 cells"),
    )  # fmt: skip
    write_report(tmp_path / "a.html", report)
    page = Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    for words in (
        "Proven means:", "chance plays no part", "Proven without randomness, linf, 3 images of 256 px", "62.5 %",
        "Certified linf radius of each of the 3 images", "2.5/255", "not proven", "proven up to linf 3/255",
        "0.900 to 1.000", "A sticker of 32 px", "leaves 50 % of the defects found (80 % without it)", "Mind the scale.",
        "broken line: proven defect area", "every change within linf 2/255", "cells of 4 px",
    ):  # fmt: skip
        assert words in page.text, words
    assert page.text.count("Proven means:") == 1 and "Nothing was certified yet" not in page.text
    alts = [str(image["alt"]) for image in page.all("img")]
    assert any("proven defect area outlined, 4 % of the image" in text for text in alts)
    assert any("0.750 at 2/255; left by attacks: 0.800 at 2/255" in text for text in alts)
