"""Choosing the plans of a closed-form detector: which are compared, and which of them wins."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

import advrad.training.closed_form_selection as selection
from advrad.detectors.registration import RegisteredView
from advrad.training.closed_form_members import Normals
from advrad.training.closed_form_plan import (
    COARSE,
    FIXED,
    FOR_FIXED_PLACE,
    FOR_L2_SURFACES,
    FOR_MOVING_PARTS,
    FOR_SURFACES,
    FOR_TURNED_PARTS,
    REGISTERED,
    TEXTURE,
    MemberPlan,
)
from advrad.training.closed_form_selection import Radius, choose_plans, moves, name_of
from advrad.utils.progress import SILENT, Counter
from tests.helpers.turned_parts import four_bars, turned_bars

Figures = Callable[[str], tuple[float, float]]
Pretend = Callable[[Figures, RegisteredView | None, bool], None]


def normals(count: int, seed: int = 0) -> Normals:
    images = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    rows = tuple(range(count))
    return Normals(images, torch.arange(count), rows, rows, 1.0, seed)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Give each plan figures by its name in place of measured ones; and a view of the product."""

    def replace(figures: Figures, view: RegisteredView | None, moving: bool) -> None:
        def of_members(members: Sequence[MemberPlan], *_: object) -> tuple[float, float]:
            return figures(name_of(members))

        monkeypatch.setattr(selection, "make_view", lambda *_: view)
        monkeypatch.setattr(selection, "moves", lambda *_: moving)
        monkeypatch.setattr(selection, "fit_member", lambda plan, _: plan)
        monkeypatch.setattr(selection, "_with_defects", lambda queries, *_: queries)
        monkeypatch.setattr(selection, "_figures", of_members)

    return replace


@pytest.fixture(scope="module")
def bars() -> RegisteredView:
    view = selection.make_view(REGISTERED, _of(turned_bars(12)))
    assert isinstance(view, RegisteredView)
    return view


@pytest.fixture(scope="module")
def upright(bars: RegisteredView) -> RegisteredView:
    """A view of parts that all lie in about the same direction."""
    parts = tuple(part.model_copy(update={"flip": "none"}) for part in bars.config.parts)
    return RegisteredView(bars.config.model_copy(update={"parts": parts}), bars.background, bars.regions)


def _of(images: Tensor) -> Normals:
    rows = tuple(range(len(images)))
    return Normals(images, torch.arange(len(images)), rows, rows, 1.0, 0)


def test_few_images_get_the_plans_for_a_fixed_place(pretend: Pretend, upright: RegisteredView) -> None:
    pretend(lambda _: (0.5, 0.5), upright, False)
    assert choose_plans(normals(9)) == (FIXED, [])
    assert choose_plans(normals(40)) == (FIXED, []), "centres are no choice with so few images"


@pytest.mark.parametrize(("loss", "centres"), [(0.005, True), (0.02, False)])
def test_centres_are_preferred_if_they_lose_little(
    pretend: Pretend, upright: RegisteredView, loss: float, centres: bool
) -> None:
    pretend(lambda name: (0.9 - loss, 0.9 - loss) if "centres" in name else (0.9, 0.9), upright, False)
    plans, tried = choose_plans(normals(100))
    assert plans == (FOR_FIXED_PLACE[0] if centres else FIXED)
    assert len(tried) == 2 and tried[0].plans == FIXED, "the best is named first"


@pytest.mark.parametrize(("loss", "gain"), [(0.005, True), (0.02, False)])
def test_gain_is_preferred_if_it_loses_little(pretend: Pretend, loss: float, gain: bool) -> None:
    known = {"texture": (0.9, 0.9), "texture with gain": (0.9 - loss, 0.9 - loss)}
    pretend(lambda name: known.get(name, (0.5, 0.5)), None, True)
    plans, tried = choose_plans(normals(60))
    assert [plan.name for plan in plans] == ["texture with gain" if gain else "texture"]
    assert len(tried) == len(FOR_SURFACES) + 1


def test_the_clean_figure_counts_twice_and_for_an_l2_radius_the_certified_one_alone(pretend: Pretend) -> None:
    known = {"texture": (0.9, 0.5), "coarse texture": (0.6, 0.8)}
    pretend(lambda name: known.get(name, (0.1, 0.1)), None, True)
    assert choose_plans(normals(60))[0] == (TEXTURE,)
    assert choose_plans(normals(60), Radius("l2", 0.2))[0] == FOR_L2_SURFACES[0]


def test_an_l2_radius_may_choose_other_patches_at_a_fixed_place(pretend: Pretend, upright: RegisteredView) -> None:
    known = {"coarse": (0.7, 0.8), "coarse with gain": (0.7, 0.795)}
    pretend(lambda name: known.get(name, (0.9, 0.785)), upright, False)
    plans, tried = choose_plans(normals(40), Radius("l2", 0.2))
    assert plans == (COARSE.with_gain(),), "the plans for a fixed place have no advance, and gain is preferred"
    assert {one.name for one in tried} == {"coarse with gain and fine with gain", "coarse", "coarse with gain"}


def test_moving_parts_are_compared_with_plans_that_find_them(
    pretend: Pretend, bars: RegisteredView, upright: RegisteredView
) -> None:
    pretend(lambda name: (0.9, 0.9) if name == "registered, standardised" else (0.8, 0.8), bars, True)
    plans, tried = choose_plans(normals(60))
    assert name_of(plans) == "registered with gain" and len(tried) == len(FOR_TURNED_PARTS) + 1
    pretend(lambda name: (0.9, 0.9) if name == "registered, standardised" else (0.8, 0.8), upright, True)
    plans, tried = choose_plans(normals(60))
    assert name_of(plans) == "registered, standardised", "small patches get no gain"
    assert len(tried) == len(FOR_MOVING_PARTS)


def test_images_in_use_are_a_little_brighter_or_darker_and_shifted() -> None:
    images = turned_bars(6).float()
    changed = selection._as_in_use(images, 0)
    again = selection._as_in_use(images, 0)
    assert torch.equal(changed, again) and changed.shape == images.shape
    light = changed.mean((1, 2, 3)) / images.mean((1, 2, 3))
    assert bool(((light - 1).abs() < 0.12).all()) and float(light.std()) > 0.01


def test_parts_that_turn_move_and_several_parts_always_do(bars: RegisteredView) -> None:
    assert moves(bars, turned_bars(12))
    still = turned_bars(1).expand(6, -1, -1, -1)
    assert not moves(bars, still)
    several = selection.make_view(REGISTERED, _of(four_bars(12)))
    assert isinstance(several, RegisteredView) and several.parts == 4
    assert moves(several, four_bars(1).expand(6, -1, -1, -1))


def test_a_comparison_of_real_members_prefers_what_sees_the_defects() -> None:
    draws = torch.Generator().manual_seed(1)
    common = _enlarged(torch.rand(1, 3, 8, 8, generator=draws))
    images = (0.3 + 0.4 * common + 0.01 * torch.randn(30, 3, 64, 64, generator=draws)).clamp(0, 1)
    good = COARSE.model_copy(update={"size_px": 64})
    blind = good.model_copy(update={"name": "blind", "gain": 0.5, "tolerance": 10.0})
    figures = [
        selection._figures(
            [member for member in [selection.fit_member(plan, _of(images[:20]))] if member is not None],
            images[20:],
            (images[20:] + 0.4 * (torch.arange(64) < 16)).clamp(0, 1),
            Radius("linf", 2 / 255),
            Counter(SILENT, 20),
        )
        for plan in (good, blind)
    ]
    assert figures[0] >= figures[1] and figures[0][0] == 1.0 and 0 <= figures[0][1] <= 1


def _enlarged(values: Tensor) -> Tensor:
    return values.repeat_interleave(8, 2).repeat_interleave(8, 3)
