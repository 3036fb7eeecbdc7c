"""Certificates without randomness: verdicts, the certified AUROC, and the reach of a verdict."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import advrad
from advrad.certificates.lipschitz import (
    LARGEST_RADIUS,
    certified_auroc,
    certify_bounds,
    proven_verdict,
    verdict_radius,
)
from advrad.detectors.base import ScoreBounds
from advrad.errors import ConfigError


@dataclass
class Brightness:
    """Scores the mean value, which a perturbation of eps changes by exactly eps."""

    threshold: float | None = 0.5

    def score_bounds(self, images: Tensor, radius: float, norm: Literal["linf", "l2"]) -> ScoreBounds:
        scores = images.mean((1, 2, 3))
        reach = radius if norm == "linf" else radius / images[0].numel() ** 0.5
        return ScoreBounds(scores, scores - reach, scores + reach, images.mean(1, keepdim=True) - reach)


def flat(*values: float) -> Tensor:
    return torch.stack([torch.full((3, 16, 16), value) for value in values])


@pytest.mark.parametrize(
    ("lower", "upper", "verdict"),
    [(0.6, 0.7, "proven defective"), (0.5, 0.7, "not proven"), (0.2, 0.5, "proven good"), (0.2, 0.6, "not proven")],
)
def test_a_verdict_is_proven_by_the_bounds(lower: float, upper: float, verdict: str) -> None:
    assert proven_verdict(lower, upper, 0.5) == verdict


@given(
    anomalous=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    normal=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    reach=st.floats(0, 0.3),
    seed=st.integers(0, 100),
)
def test_no_scores_within_the_bounds_have_a_lower_auroc(
    anomalous: list[float], normal: list[float], reach: float, seed: int
) -> None:
    labels = np.array([1] * len(anomalous) + [0] * len(normal))
    scores = np.array(anomalous + normal)
    certified = certified_auroc(labels, scores - reach, scores + reach)
    draws = np.random.default_rng(seed)
    for _ in range(5):
        moved = scores + draws.uniform(-reach, reach, len(scores))
        share = np.mean([a > n for a in moved[labels == 1] for n in moved[labels == 0]])
        assert certified is not None and certified <= share + 1e-12


def test_one_class_has_no_certified_auroc() -> None:
    assert certified_auroc(np.array([1, 1]), np.zeros(2), np.ones(2)) is None


@pytest.mark.parametrize("value", [0.52, 0.47])
def test_the_reach_of_a_verdict_is_the_distance_to_the_threshold(value: float) -> None:
    found = verdict_radius(Brightness(), flat(value)[0], 0.5, "linf")
    assert abs(value - 0.5) - LARGEST_RADIUS["linf"] / 256 <= found <= abs(value - 0.5)


def test_a_verdict_far_from_the_threshold_reaches_the_largest_radius() -> None:
    assert verdict_radius(Brightness(), flat(0.9)[0], 0.5, "linf") == LARGEST_RADIUS["linf"]


def test_certificates_of_test_images(tmp_path: Path) -> None:
    images = flat(0.4, 0.45, 0.52, 0.6)
    result = certify_bounds(Brightness(), (images, [0, 0, 1, 1]), radii=(0.02, 0.04, 0.08))
    assert result.clean_auroc == 1.0
    # 0.45 and 0.52 are certainly in order up to 0.035, 0.4 and 0.52 up to 0.06, 0.45 and 0.6 up to 0.075.
    assert list(result.certified_auroc.values()) == [1.0, 0.75, 0.25]
    assert result.verdicts(0.02) == ("proven good", "proven good", "not proven", "proven defective")
    result.save(tmp_path)
    stored = json.loads((tmp_path / "lipschitz.json").read_text(encoding="utf-8"))
    assert stored["certified_auroc"] == {"0.02": 1.0, "0.04": 0.75, "0.08": 0.25}
    assert len(stored["rows"]) == 4 and len(stored["rows"][0]["lower"]) == 3
    assert "clean_auroc=1.0" in repr(result)


def test_what_cannot_be_certified_is_refused() -> None:
    data = (flat(0.4, 0.6), [0, 1])
    with pytest.raises(ConfigError, match="cannot bound its scores"):
        certify_bounds(advrad.wrap(lambda images: images.mean((1, 2, 3))), data)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be at least 0"):
        certify_bounds(Brightness(), data, radii=(-0.1,))
    result = certify_bounds(Brightness(threshold=None), data, radii=(0.1,))
    with pytest.raises(ConfigError, match="no threshold"):
        result.verdicts(0.1)
    with pytest.raises(ConfigError, match="was not certified"):
        result.verdicts(0.2)
