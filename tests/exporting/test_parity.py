"""When an export answers as its detector does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from advrad.errors import ExportError
from advrad.exporting.parity import TOLERANCES, ImageParity, Parity, check_parity


def image(name: str, expected: float, found: float, flipped: bool = False, map_difference: float = 0.0) -> ImageParity:
    return ImageParity(name, np.array([expected]), np.array([found]), map_difference, 1.0, False, flipped)


def parity(images: list[ImageParity], spread: float = 1.0, *, of_score: bool = False) -> Parity:
    return Parity.of(images, np.array([spread]), heat=1.0, of_score=of_score)


def test_the_unit_is_the_spread_or_for_float32_the_score_if_that_is_larger() -> None:
    images = [image("a", 25.0, 25.5), image("b", 0.1, 0.6)]
    assert parity(images).scores == pytest.approx([0.5, 0.5])
    assert parity(images, of_score=True).scores == pytest.approx([0.02, 0.5])
    assert TOLERANCES["float32"].of_score
    assert not TOLERANCES["bfloat16"].of_score and not TOLERANCES["int8"].of_score


def test_each_number_of_a_guarded_detector_has_its_own_unit() -> None:
    one = ImageParity("a", np.array([0.0, 10.0]), np.array([0.1, 11.0]), 0.0, 1.0, False, False)
    found = Parity.of([one], np.array([1.0, 5.0]), heat=1.0, of_score=False)
    assert found.scores == pytest.approx([0.2])


def test_the_unit_of_a_map_is_its_largest_value_or_the_range_of_normal_maps() -> None:
    images = [
        ImageParity("a", np.zeros(1), np.zeros(1), 0.3, 0.01, False, False),
        ImageParity("b", np.zeros(1), np.zeros(1), 0.3, 6.0, False, False),
    ]
    assert Parity.of(images, np.ones(1), heat=3.0, of_score=True).maps == pytest.approx([0.1, 0.05])


def test_what_is_within_the_tolerance_passes_and_is_recorded() -> None:
    found = parity([image("a", 1.0, 1.0005), image("b", 2.0, 2.0)])
    check_parity(found, TOLERANCES["float32"], "float32")
    record = found.record(TOLERANCES["float32"])
    assert (record.n, record.flips, record.worst) == (2, 0, "a")
    assert record.score_difference == pytest.approx(5e-4) and record.score_tolerance == 1e-3


def test_images_beyond_the_tolerance_are_named_the_worst_first() -> None:
    found = parity([image("a", 0.0, 0.0), image("b", 0.0, 0.3), image("c", 0.0, 0.5), image("d", 0.0, math.nan)])
    with pytest.raises(ExportError, match=r"scores differ by up to nan, 0\.28 may be \(d, c, b\)"):
        check_parity(found, TOLERANCES["int8"], "int8")


def test_a_map_beyond_the_tolerance_is_refused() -> None:
    with pytest.raises(ExportError, match=r"anomaly maps differ by up to 0\.01, 0\.001 may be \(b\)"):
        check_parity(
            parity([image("a", 0, 0), image("b", 0, 0, map_difference=0.01)]), TOLERANCES["float32"], "float32"
        )


def test_another_verdict_is_refused_for_float32_and_more_than_two_for_the_others() -> None:
    flips = [image(name, 0, 0, flipped=True) for name in "abc"]
    with pytest.raises(ExportError, match="the verdict of a differs; nothing was written: report this as a bug"):
        check_parity(parity(flips[:1]), TOLERANCES["float32"], "float32")
    check_parity(parity(flips[:2]), TOLERANCES["bfloat16"], "bfloat16")
    with pytest.raises(ExportError, match="the verdicts of a, b, c differ, 2 may; nothing was written: choose float32"):
        check_parity(parity(flips), TOLERANCES["bfloat16"], "bfloat16")


@pytest.mark.parametrize(("precision", "allowed"), [("bfloat16", 0.005), ("int8", 0.01)])
def test_the_tolerance_of_scores_keeps_the_auroc_of_normal_distributions(precision: str, allowed: float) -> None:
    r = TOLERANCES[precision].score  # type: ignore[index]
    distances = np.linspace(0, 8, 801)
    lost = norm.cdf(distances / math.sqrt(2)) - norm.cdf(distances / math.sqrt(2 * (1 + r**2)))
    assert 0.9 * allowed < lost.max() <= allowed
