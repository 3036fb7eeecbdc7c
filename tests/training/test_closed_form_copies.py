"""Shifted, turned and mirrored copies of normal images in the memory of a closed-form detector."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from advrad.denoisers.patch_memory import PatchMemory
from advrad.detectors.closed_form_member import ClosedFormMember
from advrad.detectors.registration import RegisteredView
from advrad.detectors.views import WholeConfig, WholeView
from advrad.training.closed_form import fit_closed_form
from advrad.training.closed_form_copies import (
    TURN_DEGREES,
    number_of_copies,
    sheets_with_copies,
    turned_at_random,
)
from advrad.training.closed_form_members import Normals, fit_member, make_view
from advrad.training.closed_form_plan import REGISTERED, CopyKind, MemberPlan
from tests.helpers.turned_parts import turned_bars

SIZE, CELL = 32, 4
KINDS: tuple[CopyKind, ...] = ("shifted", "turned", "mirrored")
SUBSETS = [kinds for count in range(4) for kinds in combinations(KINDS, count)]
VIEW = WholeView(WholeConfig(size_px=SIZE, cell_px=CELL))


def plan(*kinds: CopyKind, **settings: object) -> MemberPlan:
    shape = {"size_px": SIZE, "cell_px": CELL, "patch_cells": 3, "window_cells": (1, 1), "stride_cells": 1}
    return MemberPlan.model_validate({"name": "small", "copies": kinds, **shape, **settings})


def normals_of(images: Tensor, learn: bool = False) -> Normals:
    rows = tuple(range(len(images)))
    return Normals(images, torch.arange(len(images)), rows if learn else (), rows, 1.0, 0)


def fitted(images: Tensor, of: MemberPlan, learn: bool = False) -> ClosedFormMember:
    member = fit_member(of, normals_of(images, learn))
    assert member is not None
    return member


def scenes(count: int, seed: int = 0) -> Tensor:
    """Smooth images that differ a little."""
    draws = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 9, 9, generator=draws) + 0.05 * torch.randn(count, 3, 9, 9, generator=draws)
    return F.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear").clamp(0, 1)


def shifted(images: Tensor, down: int, across: int) -> Tensor:
    return F.pad(images, (across, 0, down, 0), mode="replicate")[..., :SIZE, :SIZE]


@pytest.mark.parametrize("kinds", SUBSETS)
def test_copies_follow_the_images_and_are_counted(kinds: tuple[CopyKind, ...]) -> None:
    images = scenes(2)
    found = sheets_with_copies(VIEW, images, kinds)
    assert found.shape == (number_of_copies(VIEW, kinds), 2, 3, SIZE // CELL, SIZE // CELL)
    assert torch.equal(found[0], VIEW.sheets(images)[:, 0])


def test_shifted_copies_are_images_shifted_by_half_a_cell() -> None:
    images, half = scenes(2), CELL // 2
    expected = [shifted(images, down, across) for down in (0, half) for across in (0, half)]
    for copy, image in zip(sheets_with_copies(VIEW, images, ["shifted"]), expected, strict=True):
        assert torch.allclose(copy, VIEW.sheets(image)[:, 0], atol=1e-5)


def test_mirrored_copies_are_mirrored_images() -> None:
    images = scenes(2)
    expected = [images, images.flip(-1), images.flip(-2), images.flip(-1, -2)]
    for copy, image in zip(sheets_with_copies(VIEW, images, ["mirrored"]), expected, strict=True):
        assert torch.allclose(copy, VIEW.sheets(image)[:, 0], atol=1e-6)


@pytest.mark.parametrize("aspect", [1.0, 2.0])
def test_turned_copies_turn_the_scene_not_the_square(aspect: float) -> None:
    fine = WholeView(WholeConfig(size_px=SIZE, cell_px=1, channels=1))
    rows = torch.linspace(-1 + 1 / SIZE, 1 - 1 / SIZE, SIZE)  # height in the scene, in half heights
    ramp = (0.5 + 0.2 * rows)[:, None].expand(1, 3, SIZE, SIZE)
    _, one, other = sheets_with_copies(fine, ramp, ["turned"], aspect)[:, 0, 0, 8:-8, 8:-8]
    for turned, sign in ((one, 1), (other, -1)):
        across, down = turned.diff(dim=1).mean(), turned.diff(dim=0).mean()
        # The scene is wider than the square by the aspect, so its slope across is, too.
        assert float(across / down) == pytest.approx(sign * aspect * np.tan(np.radians(TURN_DEGREES)), rel=0.02)


def test_parts_are_mirrored_at_their_long_axis() -> None:
    images = turned_bars(12)
    view = make_view(REGISTERED, normals_of(images, learn=True))
    assert isinstance(view, RegisteredView)
    sheets = view.sheets(images[:2]).flatten(0, 1)
    found = sheets_with_copies(view, images[:2], ["mirrored"])
    assert torch.equal(found, torch.stack([sheets, sheets.flip(-2)])) and number_of_copies(view, ["mirrored"]) == 2
    assert len(sheets_with_copies(view, images[:2], ["shifted"])) == number_of_copies(view, ["shifted"]) == 4


@pytest.mark.parametrize("window", [(1, 1), None])
def test_copies_belong_to_the_group_of_their_image(window: tuple[int, int] | None) -> None:
    shades = torch.arange(5) * 40
    images = (shades / 255).view(5, 1, 1, 1).expand(5, 3, SIZE, SIZE)
    memory = fitted(images, plan(*KINDS, window_cells=window, patches=500)).memory
    assert torch.equal(memory.sheets.flatten(1).amax(1).long(), shades[memory.groups])
    assert torch.equal(memory.sheets.flatten(1).amin(1).long(), shades[memory.groups])
    assert torch.equal(memory.groups.bincount(), torch.full((5,), len(memory.groups) // 5))


@pytest.mark.parametrize("kinds", SUBSETS)
def test_leaving_an_image_out_leaves_its_copies_out(kinds: tuple[CopyKind, ...]) -> None:
    images = scenes(4)
    images[0] = shifted(images[0:1], 2, 1)[0].roll(5, 0) * 0.5
    left_out = fitted(images, plan(*kinds)).distances(images[:1], torch.tensor([0]))
    without = fitted(images[1:], plan(*kinds)).distances(images[:1])
    assert torch.allclose(left_out, without, atol=1e-5) and float(without.min()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_moved_like_a_copy_is_nearer(kind: CopyKind) -> None:
    images = scenes(6)
    plain, larger = fitted(images, plan()), fitted(images, plan(kind))
    assert bool((larger.distances(images) <= plain.distances(images) + 1e-6).all()), "a larger memory is nearer"
    turn = torch.tensor([[[0.9994, -0.0349, 0.0], [0.0349, 0.9994, 0.0]]])
    grid = F.affine_grid(turn, [1, 3, SIZE, SIZE], align_corners=False)
    moved = {
        "shifted": shifted(images[:1], CELL // 2, CELL // 2),
        "turned": F.grid_sample(images[:1], grid, padding_mode="border", align_corners=False),
        "mirrored": images[:1].flip(-1),
    }[kind]
    assert float(larger.distances(moved).mean()) < 0.2 * float(plain.distances(moved).mean())


def test_patches_that_lie_anywhere_are_mirrored_and_turned_in_all_ways() -> None:
    patch = torch.arange(9.0).view(1, 1, 3, 3)
    every = {
        kinds: {
            tuple(found.flatten().tolist())
            for found in turned_at_random(patch.expand(400, -1, -1, -1), kinds, torch.Generator().manual_seed(0))
        }
        for kinds in SUBSETS
    }
    assert [len(every[kinds]) for kinds in SUBSETS] == [1, 1, 4, 4, 4, 4, 8, 8]
    assert tuple(patch.rot90(1, (2, 3)).flatten().tolist()) in every["turned",]
    assert tuple(patch.flip(3).flatten().tolist()) in every["mirrored",]


def test_turned_patches_find_a_turned_texture() -> None:
    stripes = (torch.arange(SIZE) // CELL % 2).float().expand(4, 3, SIZE, SIZE)
    settings = {"window_cells": None, "patches": 400}
    plain, turned = (fitted(stripes, plan(*kinds, **settings)) for kinds in ((), ("turned",)))
    assert float(turned.distances(stripes[:1].mT).max()) < 0.01 < float(plain.distances(stripes[:1].mT).min())


def test_shifted_patches_lie_between_the_cells_too() -> None:
    stripes = (torch.arange(SIZE) // CELL % 2).float().expand(4, 3, SIZE, SIZE)
    member = fitted(stripes, plan("shifted", window_cells=None, patches=400))
    grey = ((member.memory.sheets[..., 1].float() - 127.5).abs() < 2).all(-1).all(-1)
    assert 0.3 < float(grey.float().mean()) < 0.7, "half of the patches are shifted across"


def test_copies_count_as_sheets_of_the_memory() -> None:
    images = scenes(70)
    member = fitted(images, plan("shifted", sheets=9), learn=True)
    assert len(member.memory.sheets) == 8 and len(set(member.memory.groups.tolist())) == 2


def test_impossible_copies_are_refused() -> None:
    with pytest.raises(ValueError, match="name each kind once"):
        plan("shifted", "shifted")
    with pytest.raises(ValueError, match="turned copies add nothing"):
        plan("turned", view="registered")


@pytest.mark.parametrize("window", [(1, 1), None])
@pytest.mark.parametrize(("norm", "radius"), [("linf", 2 / 255), ("l2", 0.3)])
def test_no_perturbation_leaves_the_bounds(window: tuple[int, int] | None, norm: str, radius: float) -> None:
    detector = fit_closed_form(scenes(24), [plan(*KINDS, window_cells=window, patches=600, gain=0.1)])
    images = torch.cat([scenes(2, seed=1), shifted(scenes(2, seed=2), 2, 2)])
    bounds = detector.score_bounds(images, radius, norm)  # type: ignore[arg-type]
    draws = torch.Generator().manual_seed(3)
    for _ in range(20):
        change = torch.randn(images.shape, generator=draws)
        change = change.sign() if norm == "linf" else change / change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        scores = detector.scores(images + radius * change)
        assert bool((bounds.lower <= scores).all()) and bool((scores <= bounds.upper).all())


def test_the_false_alarm_rate_is_kept_with_copies() -> None:
    """Over many draws of normal images and a new one, at most the promised share are false alarms."""
    rate, runs, alarms = 0.2, 100, 0
    for run in range(runs):
        images = scenes(21, seed=100 + run)
        small = plan("shifted", "mirrored", size_px=16)
        detector = fit_closed_form(images[:-1], [small], false_alarm_rate=rate)
        alarms += float(detector.scores(images[-1:])) > detector.calibration.threshold
    # Three standard deviations of a binomial share above the promise.
    assert alarms / runs <= rate + 3 * np.sqrt(rate * (1 - rate) / runs)


def test_the_memory_keeps_copies_as_rounded_sheets() -> None:
    images = scenes(3)
    memory = fitted(images, plan("shifted")).memory
    expected = PatchMemory.quantised(sheets_with_copies(VIEW, images, ["shifted"]).flatten(0, 1))
    assert torch.equal(memory.sheets, expected)
