"""Each known cause of weak attacks is found, and a detector without faults raises no flag."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from broken_detectors import (
    Autoencoder,
    Detached,
    HardRounding,
    HiddenReseeding,
    Noisy,
    Reseeding,
    Rounding,
    Saturated,
    VeryNoisy,
    Wild,
    honest,
    labelled_images,
)
from torch import Tensor, nn
from toy_feature_detectors import anomalous_images, normal_images, quick_detector
from toy_guarded import closed_form
from toy_models import detector

import advrad
from advrad.attacks import sanity_checks as checks
from advrad.attacks.evaluation import RobustnessResult, evaluate_robustness
from advrad.attacks.plan import AttackPlan, AttackSpec
from advrad.attacks.sanity_checks import Flag, check_detector, check_escalation, check_result
from advrad.attacks.threat import Threat
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.detectors.wrappers import wrap

THREAT = Threat(norm="linf", eps=0.02)


def names(flags: list[Flag]) -> set[str]:
    assert all(flag.words and not flag.words.endswith(".") for flag in flags)
    return {flag.name for flag in flags}


@pytest.mark.parametrize(
    "target",
    [honest(), wrap(Autoencoder()), wrap(Noisy()), wrap(lambda images: images.square().mean((1, 2, 3)))],
    ids=["deterministic", "says nothing", "noisy", "function"],
)
def test_detectors_without_faults_raise_no_flag(target: object) -> None:
    assert check_detector(target, labelled_images().images[:4]) == []  # type: ignore[arg-type]


def test_our_detector_raises_no_flag() -> None:
    assert (
        check_detector(
            WhiteBoxAdvRAD(detector()), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)), eot=2
        )
        == []
    )


@pytest.mark.parametrize(
    ("planted", "flag"),
    [
        (Detached, "gradient mismatch"),
        (Rounding, "rounded inside"),
        (HardRounding, "zero gradient"),
        (Saturated, "zero gradient"),
        (Reseeding, "reseeded inside"),
        (HiddenReseeding, "reseeded inside"),
        (Wild, "randomness of its own"),
        (VeryNoisy, "noisy gradient"),
    ],
)
def test_a_planted_fault_is_caught(planted: type[Autoencoder], flag: str) -> None:
    found = check_detector(wrap(planted()), labelled_images().images[:4])
    assert flag in names(found), found


def test_small_steps_reveal_rounding() -> None:
    """A straight-through gradient is right over long steps: it is the short ones that give it away."""
    found = check_detector(wrap(Rounding()), labelled_images().images[:4])
    assert names(found) == {"rounded inside"}


class _Folded(nn.Module):
    """A steep score with a kink near every image, on one side of it or all around, as the largest of many features."""

    def __init__(self, spacing: float, missing: float) -> None:
        super().__init__()
        self.spacing, self.missing = spacing, missing

    def forward(self, images: Tensor) -> Tensor:
        along = images.double().sum((1, 2, 3)) / images[0].numel() ** 0.5
        along = along - self.missing * (along - along.detach())
        place = along / self.spacing
        return 40 + 600 * self.spacing * (place - 2 * torch.floor((place + 1) / 2)).abs()


@pytest.mark.parametrize("spacing", [3e-4, 2e-3])
def test_kinks_beside_a_right_gradient_raise_no_flag(spacing: float) -> None:
    images = labelled_images().images
    assert check_detector(wrap(_Folded(spacing, missing=0)), images) == []
    assert "gradient mismatch" in names(check_detector(wrap(_Folded(spacing, missing=0.3)), images))


@pytest.mark.parametrize("guarded", [False, True])
def test_detectors_on_features_raise_no_flag(guarded: bool) -> None:
    images = torch.cat([normal_images(2, 5), anomalous_images(2, 6)])
    detector: AnomalyDetector = quick_detector()
    if guarded:
        memory = closed_form(normal_images(16, 3))
        memory.calibrate([normal_images(39, 4)], 0.1)
        detector = advrad.guard(detector, memory, normal_images(39, 9), ceiling=0.3)
    assert check_detector(detector, images) == []


def test_randomness_that_is_not_declared() -> None:
    target = wrap(
        lambda images, generator: images.mean((1, 2, 3)) + torch.rand((), generator=generator), deterministic=True
    )
    assert "undeclared randomness" in names(check_detector(target, labelled_images().images[:2]))


def test_no_gradient_and_gradients_without_a_number() -> None:
    blind = wrap(lambda images: images.mean((1, 2, 3)).detach())
    assert names(check_detector(blind, labelled_images().images[:2])) == {"no gradient"}

    def cliff(images: Tensor) -> Tensor:
        return (images - images.detach()).square().sum((1, 2, 3)).sqrt() + 1

    assert "gradient is no number" in names(check_detector(wrap(cliff), labelled_images().images[:2]))


def test_averaging_more_draws_settles_a_noisy_gradient() -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    flagged = [names(check_detector(WhiteBoxAdvRAD(detector()), images, eot=eot)) for eot in (1, 2)]
    assert flagged == [{"noisy gradient"}, set()]


# --- the results of the images ---------------------------------------------------------------------------------------


def attacked(tmp_path: Path, *members: AttackSpec, eps: float = 0.02) -> RobustnessResult:
    plan = AttackPlan(threat=Threat(norm="linf", eps=eps), attacks=members or (AttackSpec(attack="pgd", steps=10),))
    return evaluate_robustness(honest(), labelled_images(), plan, tmp_path)


def test_a_result_without_faults_raises_no_flag(tmp_path: Path) -> None:
    assert (
        check_result(attacked(tmp_path, AttackSpec(attack="pgd", steps=20), AttackSpec(attack="square", steps=20)))
        == []
    )


def test_images_outside_the_ball(tmp_path: Path) -> None:
    result = attacked(tmp_path)
    rows = (replace(result.rows[0], distance=0.03), *result.rows[1:])
    assert names(check_result(replace(result, rows=rows))) == {"outside the ball"}


def test_eps_0_that_is_not_clean(tmp_path: Path) -> None:
    result = attacked(tmp_path, eps=0.0)
    assert check_result(result) == []
    rows = tuple(replace(row, worst=row.clean + 0.1) for row in result.rows)
    assert names(check_result(replace(result, rows=rows))) == {"eps 0 is not clean"}


def test_square_that_beats_gradients(tmp_path: Path) -> None:
    """With gradients that point the wrong way, and nothing else amiss, this is what gives them away."""

    class Wrong(Autoencoder):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            scores, maps = super().forward(images)
            return 2 * scores.detach() - scores, maps

    members = (AttackSpec(attack="pgd", steps=10), AttackSpec(attack="square", steps=60))
    result = evaluate_robustness(wrap(Wrong()), labelled_images(), AttackPlan(threat=THREAT, attacks=members), tmp_path)
    assert "black box wins" in names(check_result(result))


# --- attacks of rising strength --------------------------------------------------------------------------------------


def test_rising_strength_raises_no_flag_without_faults(tmp_path: Path) -> None:
    flags, areas = check_escalation(honest(), labelled_images(), THREAT, tmp_path, steps=10)
    assert flags == []
    assert areas["eps 0"] == areas["clean"] and areas["eps 64/255"] <= 0.1
    assert areas["eps, 4 x the steps"] <= areas["eps"] + 0.01


def test_a_detector_that_survives_the_impossible_is_named(tmp_path: Path) -> None:
    """Its score looks at the labels' trace, a pixel that no gradient shows."""

    def stubborn(images: Tensor) -> Tensor:
        spot = images[:, :, 4:8, 4:8].mean((1, 2, 3)) - images.mean((1, 2, 3))
        return (spot > 0.05).float() + 0 * images.mean((1, 2, 3))

    flags, areas = check_escalation(wrap(stubborn), labelled_images(), THREAT, tmp_path, steps=5)
    assert "survives the impossible" in names(flags) and areas["eps 64/255"] > 0.1


def test_more_that_helps_the_defender_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    areas = iter([1.0, 1.0, 0.5, 0.9, 0.8, 0.0, 0.5])  # clean, then rung by rung
    monkeypatch.setattr(checks, "_area", lambda *_: next(areas))
    flags, _ = check_escalation(honest(), labelled_images(), THREAT, tmp_path, steps=2)
    assert names(flags) == {"more helps the defender"}
    assert len(flags) == 2
