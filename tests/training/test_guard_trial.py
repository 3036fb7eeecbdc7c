"""The images and the halves on which a guarded detector's choices rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from advrad.errors import ConfigError, DetectorError
from advrad.training.closed_form import ClosedFormFit, fit_with_plans
from advrad.training.closed_form_plan import MemberPlan
from advrad.training.guard_trial import MOST_JUDGED, judge, memory_for_trial, refuse_direction, split_for_trial

PLAN = MemberPlan(name="tiny", size_px=16, cell_px=2, patch_cells=3)
CENTRES = PLAN.model_copy(update={"name": "tiny centres", "centres": 8, "window_cells": (1, 1)})


def normals(count: int, seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return (0.5 + 0.05 * torch.randn(count, 3, 16, 16, generator=draws)).clamp(0, 1)


def fitted(count: int, plan: MemberPlan = PLAN) -> ClosedFormFit:
    return fit_with_plans(normals(count), [plan], false_alarm_rate=0.1)


@pytest.mark.parametrize("count", [10, 60, 300])
def test_the_judged_images_stay_apart_or_are_left_out_in_turn(count: int) -> None:
    apart = split_for_trial(range(count), 0, apart=True)
    assert sorted((*apart.bank, *apart.judged)) == list(range(count)) and not apart.leaves_one_out
    assert len(apart.judged) == min(MOST_JUDGED, count // 3)
    together = split_for_trial(range(count), 0, apart=False)
    assert together.bank == tuple(range(count)) and together.leaves_one_out
    assert len(together.judged) == min(MOST_JUDGED, count)
    assert split_for_trial(range(count), 1, apart=True) != apart


def test_the_memory_of_a_choice_knows_nothing_of_the_images_of_the_thresholds() -> None:
    fit = fitted(40)
    held_out = fit.detector.config.held_out
    assert fit.leaves_one_out and set(held_out) <= set(fit.normals.memory)
    trial = memory_for_trial(fit, split_for_trial(fit.normals.learn, 0, apart=False))
    groups = {int(group) for group in trial.members[0].memory.groups}  # type: ignore[union-attr, arg-type]
    assert groups == set(fit.normals.learn)
    images = fit.normals.images[torch.tensor(held_out)]
    # The finished memory holds these images, the one of the choice does not.
    assert bool((fit.detector.scores(images) < trial.scores(images)).all())


def test_centres_are_fitted_anew_without_the_judged_images() -> None:
    fit = fitted(75, CENTRES)
    assert not fit.leaves_one_out
    split = split_for_trial(fit.normals.learn, 0, apart=True)
    trial = memory_for_trial(fit, split)
    sheets = [detector.members[0].memory.sheets for detector in (fit.detector, trial)]  # type: ignore[union-attr]
    assert not torch.equal(*sheets)
    changed = fit.normals.images.clone()
    changed[torch.tensor(split.judged)] = 0
    again = fit_with_plans(normals(75), [CENTRES], false_alarm_rate=0.1)
    other = memory_for_trial(type(again)(**vars(again) | {"normals": with_images(again, changed)}), split)
    assert torch.equal(trial.members[0].memory.sheets, other.members[0].memory.sheets)  # type: ignore[union-attr, arg-type]


def with_images(fit: ClosedFormFit, images: Tensor) -> object:
    return type(fit.normals)(**vars(fit.normals) | {"images": images})


def test_plans_and_members_belong_together() -> None:
    fit = fitted(40)
    assert len(fit.plans) == len(fit.detector.members) == 1
    assert sorted(fit.scores) == pytest.approx(fit.detector.calibration.scores)
    assert len(fit.heights) == len(fit.scores) == len(fit.detector.config.held_out)


def test_each_image_is_left_out_as_the_source_of_a_defect_too() -> None:
    fit = fitted(40)
    split = split_for_trial(fit.normals.learn, 0, apart=False)
    images = fit.normals.images[torch.tensor(split.judged)]
    seen: list[int] = []

    def score(images: Tensor, exclude: Tensor) -> Tensor:
        seen.extend(exclude.tolist())
        return images.flatten(1).std(1)

    judged = judge(memory_for_trial(fit, split), {"contrast": score}, images, split.judged, 0)
    normal = len(split.judged)
    assert seen[:normal] == list(split.judged) and set(seen[normal:]) <= set(split.judged)
    assert len(seen) == len(judged.labels) and judged.others.shape == (1, len(seen))
    assert (judged.lower <= judged.memory).all() and (judged.memory <= judged.upper).all()
    assert judged.labels.sum() == len(seen) - normal > 0


def test_a_score_that_is_no_number_is_refused_by_name() -> None:
    fit = fitted(40)
    split = split_for_trial(fit.normals.learn[:3], 0, apart=False)
    images = fit.normals.images[torch.tensor(split.judged)]
    with pytest.raises(DetectorError, match="mine: its score of a normal image is not a finite number"):
        judge(fit.detector, {"mine": lambda images, _: images.sum((1, 2, 3)) / 0}, images, split.judged, 0)


def test_a_score_that_points_the_wrong_way_is_refused() -> None:
    labels = np.repeat([0, 1], 20)
    refuse_direction(labels, np.linspace(0, 1, 40), "mine.py:score")
    with pytest.raises(ConfigError, match=r"features mine.py:score: held-out normal images .* negate it"):
        refuse_direction(labels, np.linspace(1, 0, 40), "mine.py:score")
