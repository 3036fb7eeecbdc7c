"""Fitting a closed-form detector: leave-one-out statistics and a threshold that keeps its promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from advrad.data import splits
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.closed_form_member import ClosedFormMember
from advrad.errors import ConfigError, DataError
from advrad.training.closed_form import fit_closed_form
from advrad.training.closed_form_plan import MemberPlan

SMALL = [MemberPlan(name="small", size_px=8, cell_px=2, patch_cells=3, window_cells=(1, 1), stride_cells=1)]


def normal_images(count: int, seed: int = 0, spread: float = 0.05) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    common = torch.linspace(0.3, 0.6, 8).expand(3, 8, 8)
    return (common + spread * torch.randn(count, 3, 8, 8, generator=draws)).clamp(0, 1)


def member_of(detector: ClosedFormDetector) -> ClosedFormMember:
    (member,) = detector.members
    assert isinstance(member, ClosedFormMember)
    return member


def test_twenty_images_are_enough_for_five_percent() -> None:
    detector = fit_closed_form(normal_images(20), SMALL)
    assert detector.calibration.n == 20 and detector.calibration.false_alarm_rate == 0.05
    assert detector.config.training.images is not None
    assert detector.config.training.images.train == 0, "with few images, no statistics are learned"
    assert not member_of(detector).mean.any() and not member_of(detector).spread.any()


def test_many_images_are_divided_between_statistics_and_threshold() -> None:
    detector = fit_closed_form(normal_images(60), SMALL)
    counts = detector.config.training.images
    assert counts is not None and counts.train + counts.calibration == 60
    assert counts.train >= splits.LEAST_IN_PART_A and counts.calibration >= 19
    assert splits.split_for_memory(60) == splits.MemorySplit(60, counts.train, counts.calibration)
    assert len(member_of(detector).memory.sheets) == 60, "every image is in the memory"
    assert bool((member_of(detector).spread > 0).all())


def test_statistics_do_not_depend_on_the_images_of_the_threshold() -> None:
    images = normal_images(40)
    detector = fit_closed_form(images, SMALL, seed=3)
    # Change one image at a time: the mean moves if and only if the image belongs to the statistics.
    moved = 0
    for index in range(0, 40, 4):
        other = images.clone()
        other[index] = (other[index] + 0.2).clamp(0, 1)
        again = fit_closed_form(other, SMALL, seed=3)
        moved += not torch.equal(member_of(again).mean, member_of(detector).mean)
    assert 0 < moved < 10


def test_the_threshold_is_that_of_leave_one_out_scores() -> None:
    images = normal_images(19)
    detector = fit_closed_form(images, SMALL)
    scores = [float(detector.scores(images[i : i + 1], torch.tensor([i]))) for i in range(19)]
    assert detector.calibration.threshold == pytest.approx(max(scores), abs=1e-3)  # images are rounded to 8 bits


def test_copies_of_an_image_count_once() -> None:
    images = normal_images(20)
    detector = fit_closed_form(torch.cat([images, images[:5]]), SMALL)
    assert detector.calibration.n == 20
    assert detector.calibration.threshold == pytest.approx(fit_closed_form(images, SMALL).calibration.threshold)


def test_too_few_different_images_are_named() -> None:
    copies = normal_images(1).repeat(30, 1, 1, 1)
    with pytest.raises(ConfigError, match="needs 19 different normal images, but there are 1;") as error:
        fit_closed_form(copies, SMALL)
    assert error.value.option == "false_alarm_rate"


def test_images_that_are_none_are_refused_and_numbers_of_8_bits_taken() -> None:
    images = normal_images(20)
    broken = images[3:4].clone()
    broken[0, 0, 0, 0] = torch.nan
    with pytest.raises(DataError, match=r"images\[0\]: float32 .* divide by 255"):
        fit_closed_form(images * 255, SMALL)
    with pytest.raises(DataError, match=r"images\[3\]: float32 .* 1 value that is NaN"):
        fit_closed_form(torch.cat([images[:3], broken, images[4:]]), SMALL)
    with pytest.raises(DataError, match=r"\(20, 5, 8, 8\); give"):
        fit_closed_form(torch.zeros(20, 5, 8, 8), SMALL)
    numbers = (images * 255).byte()
    wanted = fit_closed_form(numbers, SMALL).calibration.threshold
    assert fit_closed_form(numbers.permute(0, 2, 3, 1).numpy(), SMALL).calibration.threshold == pytest.approx(wanted)


def test_of_many_images_only_those_to_learn_from_enter_the_memory() -> None:
    detector = fit_closed_form(normal_images(90), SMALL)
    groups = set(member_of(detector).memory.groups.tolist())
    assert not groups & set(detector.config.held_out) and len(detector.config.held_out) == 30
    assert len(groups) == 60


@pytest.mark.parametrize("count", [20, 45, 70])
def test_the_false_alarm_rate_is_kept(count: int) -> None:
    """Over many draws of normal images and new ones, at most the promised share are false alarms."""
    rate, runs, new = 0.2, 30, 20
    shares = []
    for run in range(runs):
        images = normal_images(count + new, seed=1000 + run)
        detector = fit_closed_form(images[:count], SMALL, false_alarm_rate=rate)
        scores = detector.predict_batch(images[count:]).scores
        shares.append(float((scores > detector.calibration.threshold).float().mean()))
    # Three standard deviations above the promise: the share beyond an order statistic of n scores has a beta
    # distribution, and the share of the new images beyond it a binomial one.
    deviation = np.sqrt(rate * (1 - rate) / runs * (1 / (detector.calibration.n + 2) + 1 / new))
    assert np.mean(shares) <= rate + 3 * deviation


CENTRES = SMALL[0].model_copy(update={"centres": 16})
TEXTURE_CENTRES = CENTRES.model_copy(update={"window_cells": None, "standardise": False})


@pytest.mark.parametrize("plan", [CENTRES, TEXTURE_CENTRES], ids=["by site", "for all sites"])
def test_centres_need_a_memory_apart_from_the_threshold(plan: MemberPlan, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than 64 different normal images"):
        fit_closed_form(normal_images(60), [plan])
    detector = fit_closed_form(normal_images(70), [plan])
    images = normal_images(8, seed=5)
    bounds = detector.score_bounds(images, 2 / 255, "linf")
    signs = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).sign()
    found = detector.scores(images + 2 / 255 * signs)
    assert bool((bounds.lower <= found).all()) and bool((found <= bounds.upper).all())
    detector.save_pretrained(tmp_path)
    assert torch.equal(ClosedFormDetector.from_pretrained(tmp_path).scores(images), detector.scores(images))


@pytest.mark.parametrize("plan", [CENTRES, TEXTURE_CENTRES], ids=["by site", "for all sites"])
def test_centres_do_not_depend_on_the_images_of_the_threshold(plan: MemberPlan) -> None:
    images = normal_images(70)
    first = fit_closed_form(images, [plan])
    others = images.clone()
    others[list(first.config.held_out)] = others[list(first.config.held_out)].flip(-1)
    one, other = member_of(first), member_of(fit_closed_form(others, [plan]))
    assert torch.equal(one.memory.sheets, other.memory.sheets)
    assert torch.equal(one.mean, other.mean) and one.config.location == other.config.location


def test_nothing_is_estimated_from_images_of_the_threshold_that_are_in_the_memory() -> None:
    plans = [SMALL[0], SMALL[0].model_copy(update={"window_cells": None, "patches": 400, "standardise": False})]
    images = normal_images(40)
    first = fit_closed_form(images, plans)
    others = images.clone()
    others[list(first.config.held_out)] = others[list(first.config.held_out)].flip(-1)
    second = fit_closed_form(others, plans)
    assert first.config.held_out == second.config.held_out and len(first.config.held_out) < 40
    for one, other in zip(first.members, second.members, strict=True):
        assert isinstance(one, ClosedFormMember) and isinstance(other, ClosedFormMember)
        assert not torch.equal(one.memory.sheets, other.memory.sheets), "they are in the memory"
        assert torch.equal(one.mean, other.mean) and torch.equal(one.spread, other.spread)
        assert (one.config.location, one.config.scale) == (other.config.location, other.config.scale)
