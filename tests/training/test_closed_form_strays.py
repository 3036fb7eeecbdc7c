"""Fitting the score of what lies outside the parts: its location and scale."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from turned_parts import SIZE, four_bars

from advrad.detectors.closed_form_config import StrayConfig
from advrad.detectors.closed_form_member import ClosedFormMember
from advrad.detectors.registration import RegisteredView
from advrad.training.closed_form_members import Normals, fit_member
from advrad.training.closed_form_plan import MemberPlan
from advrad.training.closed_form_strays import with_strays

PLAN = MemberPlan(name="small", size_px=SIZE, cell_px=4, patch_cells=5, window_cells=(1, 1))
REGISTERED = PLAN.model_copy(update={"view": "registered", "cell_px": 4 / 3})
LEARN = tuple(range(16))


def normals_of(images: Tensor) -> Normals:
    return Normals(images, torch.arange(len(images)), LEARN, LEARN, aspect=1.0, seed=0)


def with_dust(px: int, rows: int = 20) -> Tensor:
    """Four bars, with a row of bright pixels at the border in some images."""
    images = four_bars(20).float()
    images[:rows, :, -1, 20 : 20 + px] += 0.5
    return images


@pytest.fixture(scope="module")
def member() -> ClosedFormMember:
    found = fit_member(REGISTERED, normals_of(four_bars(20).float()))
    assert found is not None
    return found


def fitted(member: ClosedFormMember, images: Tensor) -> tuple[StrayConfig, float]:
    """Settings of the strays, and the usual sum of all weights."""
    assert isinstance(member.view, RegisteredView)
    strays = with_strays(member, normals_of(images)).config.strays
    assert strays is not None
    return strays, member.view.config.usual_mass


def test_clean_normal_images_give_the_scale_of_one_weight(member: ClosedFormMember) -> None:
    strays, usual = fitted(member, four_bars(20).float())
    assert strays.scale * usual == pytest.approx(1) and strays.location == strays.scale


def test_what_normal_images_usually_have_outside_is_no_anomaly(member: ClosedFormMember) -> None:
    images = with_dust(6)
    strays, usual = fitted(member, images)
    assert strays.location * usual == pytest.approx(6 + strays.scale * usual, abs=0.5)
    found = with_strays(member, normals_of(images)).strays
    assert found is not None and bool((found.scores(images[list(LEARN)]) <= 0).all())


def test_more_spread_among_normal_images_makes_the_score_more_cautious(member: ClosedFormMember) -> None:
    few, many = (fitted(member, with_dust(px, rows=8))[0] for px in (3, 12))
    assert many.scale > 2 * few.scale and many.location > few.location


def test_weights_that_a_perturbation_moves_make_the_score_more_cautious(member: ClosedFormMember) -> None:
    assert isinstance(member.view, RegisteredView)
    images = four_bars(20).float()
    config = member.view.config
    bright = float(member.view.background.mean()) + (config.low + config.high) / 2
    images[:, :, -1, :] = bright  # half a weight in 64 places, all on the ramp
    strays, usual = fitted(member, images)
    assert strays.scale * usual > 64 * (2 / 255) / (config.high - config.low)


def test_other_images_than_those_to_learn_from_do_not_count(member: ClosedFormMember) -> None:
    images = four_bars(20).float()
    images[len(LEARN) :, :, -4:] += 0.5
    assert fitted(member, images) == fitted(member, four_bars(20).float())


def test_a_member_that_compares_whole_images_stays_as_it_is() -> None:
    normals = normals_of(four_bars(20).float())
    whole = fit_member(PLAN, normals)
    assert whole is not None and with_strays(whole, normals) is whole
