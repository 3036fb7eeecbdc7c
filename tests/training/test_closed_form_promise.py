"""The promise of the thresholds of fitted detectors, plain and under attack, over a thousand fits."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from advrad.certificates.threshold import robust_threshold_of_bounds
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.training.closed_form import fit_closed_form
from advrad.training.closed_form_plan import MemberPlan

PLAN = MemberPlan(name="small", size_px=8, cell_px=2, patch_cells=3, window_cells=(0, 0), stride_cells=1)
#: Four scores and a rate of 0.2: the threshold is their largest, and a new image exceeds it once in five fits.
REPETITIONS, NORMALS, RATE, EPS = 1000, 4, 0.2, 2 / 255
#: Three standard errors of a share of RATE.
MARGIN = 3 * (RATE * (1 - RATE) / REPETITIONS) ** 0.5


def attacked(detector: ClosedFormDetector, image: Tensor) -> float:
    """The largest score that gradient steps within the radius find."""
    change, scores = torch.zeros_like(image), []
    for _ in range(4):
        moved = (image + change).requires_grad_()
        (gradient,) = torch.autograd.grad(detector.scores(moved).sum(), moved)
        change = EPS * gradient.sign()
        scores.append(float(detector.scores(image + change)))
    return max(scores)


@dataclass
class Shares:
    """Shares of the fits in which a new normal image raises a false alarm.

    Attributes:
        plain: Of images as they are, with the plain threshold.
        attacked: Of attacked images, with the threshold that allows for attacks.
        unprotected: Of attacked images, with the plain threshold.
        too_little: Of attacked images, with a threshold that allows for a quarter of the radius.
    """

    plain: float
    attacked: float
    unprotected: float
    too_little: float


@pytest.fixture(scope="module")
def shares() -> Shares:
    counts = torch.zeros(4)
    for repetition in range(REPETITIONS):
        draws = torch.Generator().manual_seed(repetition)
        # All images of a repetition share their mean and their spread: exchangeable, not independent.
        common, spread = torch.rand(3, 1, 1, generator=draws) / 2 + 0.25, 0.01 + 0.03 * torch.rand(1, generator=draws)
        images = common + spread * torch.randn(NORMALS + 1, 3, 8, 8, generator=draws)
        detector = fit_closed_form(images[:-1], [PLAN], false_alarm_rate=RATE)
        # The memory holds every image, so each is bounded without itself.
        robust = []
        for radius in (EPS, EPS / 4):
            held = [detector.score_bounds(images[i : i + 1], radius, "linf", torch.tensor([i])) for i in range(NORMALS)]
            upper = [float(one.upper) for one in held]
            robust.append(
                robust_threshold_of_bounds(upper, false_alarm_rate=RATE, radius=radius, norm="linf").threshold
            )
        score, worst = float(detector.predict_batch(images[-1:]).scores), attacked(detector, images[-1:])
        plain = detector.calibration.threshold
        counts += torch.tensor([score > plain, worst > robust[0], worst > plain, worst > robust[1]])
    return Shares(*(counts / REPETITIONS).tolist())


@pytest.mark.slow
def test_a_plain_threshold_keeps_its_rate(shares: Shares) -> None:
    assert RATE - 2 * MARGIN < shares.plain <= RATE + MARGIN


@pytest.mark.slow
def test_a_threshold_for_attacks_keeps_its_rate_under_attack(shares: Shares) -> None:
    assert 0 < shares.attacked <= RATE + MARGIN


@pytest.mark.slow
def test_thresholds_that_allow_for_less_than_the_attack_do_not(shares: Shares) -> None:
    assert shares.unprotected > shares.too_little > RATE + MARGIN
