"""Registered parts: their poses, and every pose and cell that a perturbation can cause."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import floats, integers, sampled_from
from moment_attacks import attacked, attacks, pose_of
from safetensors.torch import load, save
from scipy.optimize import linprog
from torch import Tensor
from turned_parts import BACKGROUND, SIZE, pictured, tapered_bar, turned_bars, two_bars

from advrad.data.resize_norm import resize_matrix
from advrad.detectors.registration import RegisteredConfig, RegisteredView
from advrad.detectors.registration_bounds import Pose, _constraints
from advrad.detectors.registration_fit import RegistrationOptions, fit_registration
from advrad.detectors.views import Norm, View
from advrad.errors import ConfigError

OPTIONS = RegistrationOptions(size_px=SIZE, step_cells=(1, 1))


@pytest.fixture(scope="module")
def bars() -> RegisteredView:
    view = fit_registration(turned_bars(24), options=OPTIONS)
    assert view is not None
    return view


@pytest.fixture(scope="module")
def pairs() -> RegisteredView:
    view = fit_registration(two_bars(24), options=OPTIONS)
    assert view is not None
    return view


def missed(view: RegisteredView, images: Tensor, radius: float, norm: Norm, share: float = 1.0) -> tuple[int, int]:
    """Attacks whose pose is not listed for a share of the radius, and attacks that changed the pose."""
    outside, moved = 0, 0
    for image in images.split(1):  # type: ignore[no-untyped-call]
        listed = view.reachable_poses(image, share * radius, norm)
        assert listed is not None
        for changed in attacks(view, image, radius, norm):
            poses = [pose_of(view, changed, part) for part in range(view.parts)]
            outside += any(pose not in some for pose, some in zip(poses, listed, strict=True))
            moved += any(pose != some[0] for pose, some in zip(poses, listed, strict=True))
    return outside, moved


@pytest.mark.parametrize(("norm", "radius"), [("linf", 2 / 255), ("linf", 0.03), ("l2", 0.03), ("l2", 0.06)])
def test_attacks_reach_listed_poses_only(bars: RegisteredView, norm: Norm, radius: float) -> None:
    outside, moved = missed(bars, turned_bars(6, seed=50), radius, norm)
    assert outside == 0
    assert moved > 20


def test_attacks_on_two_parts_reach_listed_poses_only(pairs: RegisteredView) -> None:
    outside, moved = missed(pairs, two_bars(6, seed=50), 0.04, "linf")
    assert outside == 0
    assert moved > 20


def test_half_the_reach_is_too_little(bars: RegisteredView) -> None:
    assert missed(bars, turned_bars(6, seed=50), 0.03, "linf", share=0.5)[0] > 0


@pytest.mark.parametrize("view_name", ["bars", "pairs"])
def test_a_cell_moves_by_at_most_the_radius(view_name: str, request: pytest.FixtureRequest) -> None:
    view: RegisteredView = request.getfixturevalue(view_name)
    images = turned_bars(3, seed=70) if view_name == "bars" else two_bars(3, seed=70)
    radius, largest = 0.03, 0.0
    for image in images.split(1):  # type: ignore[no-untyped-call]
        listed, sheets = view.reachable_poses(image, radius, "linf"), view.reachable(image, radius, "linf")
        assert listed is not None and sheets is not None
        for changed in attacks(view, image, radius, "linf"):
            cells = view.sheets(changed)[0]
            for part in range(view.parts):
                place = listed[part].index(pose_of(view, changed, part))
                largest = max(largest, float((cells[part] - sheets[part][place]).abs().max()))
    assert 0.99 * radius <= largest <= radius * (1 + 1e-7)


@pytest.mark.parametrize("view_name", ["bars", "pairs"])
def test_the_sheet_of_the_image_is_listed_first(view_name: str, request: pytest.FixtureRequest) -> None:
    view: RegisteredView = request.getfixturevalue(view_name)
    for image in (turned_bars(3, seed=70) if view_name == "bars" else two_bars(3, seed=70)).float().split(1):  # type: ignore[no-untyped-call]
        sheets, reached = view.sheets(image)[0], view.reachable(image, 2 / 255, "linf")
        assert reached is not None
        for part in range(view.parts):
            assert float((reached[part][0] - sheets[part]).abs().max()) < 1e-6


def test_excluded_poses_are_impossible_by_linear_programming(bars: RegisteredView) -> None:
    image = turned_bars(1, seed=50)
    interval = bars.intervals(image, 0.03, "linf")[0]
    listed = bars.reachable_poses(image, 0.03, "linf")
    assert listed is not None
    here = listed[0][0]
    near = [
        Pose(here.turn + turn, here.row + row, here.column + column, here.flipped)
        for turn, row, column in itertools.product((-2, -1, 0, 1, 2), (-1, 0, 1), (-2, -1, 0, 1, 2))
    ]
    moving = interval.high > interval.low
    fixed = bars.basis[:, ~moving] @ interval.value[~moving]
    wrong = loose = 0
    for pose, rows in zip(near, _constraints(bars.lattices[0], near), strict=True):
        box = list(zip(interval.low[moving].tolist(), interval.high[moving].tolist(), strict=True))
        sides = (-(rows @ bars.basis[:, moving])).numpy(), (rows @ fixed).numpy()
        answer = linprog([0.0] * len(box), A_ub=sides[0], b_ub=sides[1], bounds=box, method="highs")
        wrong += answer.status == 0 and pose not in listed[0]
        loose += answer.status == 2 and pose in listed[0]
    assert wrong == 0
    assert loose <= 1
    assert any(pose not in listed[0] for pose in near)


def test_turned_parts_give_the_same_sheet(bars: RegisteredView) -> None:
    sheets = torch.cat([bars.sheets(pictured(tapered_bar(33, 31, turn), 0)) for turn in range(0, 360, 10)])
    assert float((sheets.mean(2) - sheets.mean((0, 2))).abs().mean()) < 0.02
    assert len({int(pose) for pose in bars.poses(turned_bars(20, seed=3)).turn}) > 10


@pytest.mark.parametrize("aspect", [1.0, 1.5])
def test_parts_turn_in_the_scene_not_in_the_square(aspect: float) -> None:
    turns = range(0, 360, 15)
    images = torch.cat([pictured(tapered_bar(33, 31, turn, wide=4, half=12, aspect=aspect), turn) for turn in turns])
    spreads = []
    for told in (1.0, 1.5):
        view = fit_registration(images, told, OPTIONS)
        assert view is not None and view.config.turns > 1
        sheets = view.sheets(images).mean((1, 2))
        spreads.append(float((sheets - sheets.mean(0)).abs().mean()))
    right, wrong = (0, 1) if aspect == 1 else (1, 0)
    assert spreads[right] < 0.75 * spreads[wrong]


@settings(max_examples=20, deadline=None)
@given(
    height=integers(20, 150),
    width=integers(20, 150),
    aspect=sampled_from([0.5, 1.0, 1.7]),
    turns=sampled_from([1, 7, 90]),
    cell_px=sampled_from([1.0, 4 / 3, 3.0]),
    flip=sampled_from(["reach", "width", "both", "none"]),
    radius=floats(0.0, 0.03),
    seed=integers(0, 10_000),
)
def test_poses_and_cells_hold_for_all_settings(
    height: int, width: int, aspect: float, turns: int, cell_px: float, flip: str, radius: float, seed: int
) -> None:
    config = RegisteredConfig.parse(
        {"size_px": 32, "mask_px": 2, "blur_px": 4, "low": 0.15, "high": 0.35, "height_cells": 9, "width_cells": 14}
        | {
            "aspect": aspect,
            "turns": turns,
            "cell_px": cell_px,
            "limit": 100_000,
            "parts": [{"flip": flip, "balance": 3.0}],
        }
    )
    view = RegisteredView(config, torch.full((1, 3, 16, 16), 0.2))
    opacity = tapered_bar(*(20 + 24 * torch.rand(2, generator=torch.Generator().manual_seed(seed))).tolist(), seed)
    image = torch.nn.functional.interpolate(pictured(opacity, seed), size=(height, width), mode="bilinear")
    listed, sheets = view.reachable_poses(image, radius, "linf"), view.reachable(image, radius, "linf")
    if listed is None or sheets is None:
        return
    draws = torch.Generator().manual_seed(seed)
    for _ in range(5):
        polynomial = torch.randn(1, 10, generator=draws).double()
        small = attacked(view, view.square(image), polynomial, radius, "linf") - view.square(image)
        change = torch.nn.functional.interpolate(small, size=(height, width), mode="nearest")
        pose = pose_of(view, image + change)
        assert pose in listed[0]
        moved = view.sheets(image + change)[0, 0] - sheets[0][listed[0].index(pose)]
        assert float(moved.abs().max()) <= radius * (1 + 2e-6) + 1e-12


@pytest.mark.parametrize(("height", "width"), [(SIZE, SIZE), (SIZE, 200), (1000, 700), (3000, 20)])
def test_the_interval_of_a_weight_covers_the_rounding_of_all_sums(
    bars: RegisteredView, height: int, width: int
) -> None:
    image = torch.full((1, 3, height, width), BACKGROUND + (bars.config.low + bars.config.high) / 2)
    (interval,) = bars.intervals(image, 0.0, "linf")
    summed = bars.config.blur_px**2
    for length in (height, width):
        matrix = resize_matrix(length, SIZE)
        summed += 0 if length == SIZE else int((matrix > 0).sum(1).max())
    # Sums of n float32 products, once for the image and once for the perturbed image.
    slope = 1 / (bars.config.high - bars.config.low)
    assert float((interval.high - interval.low).median()) >= 2 * slope * 2 * summed * 2.0**-24


def test_too_many_poses_are_reported(bars: RegisteredView) -> None:
    assert bars.reachable(turned_bars(1), 0.4, "linf") is None


def test_a_missing_part_has_its_default_pose(pairs: RegisteredView) -> None:
    assert pairs.parts == 2
    alone = pictured(tapered_bar(32, 48, 0), 1)
    poses = pairs.poses(alone)
    assert poses.present.sum() == 1
    gone = int(poses.present[0].int().argmin())
    settings = pairs.config.parts[gone]
    listed = pairs.reachable_poses(alone, 0.01, "linf")
    assert listed is not None
    assert listed[gone] == [Pose(pairs.lattices[gone].turns // 2, settings.row, settings.column, False)]


@pytest.mark.parametrize("shape", [(SIZE, SIZE), (90, 50)])
def test_the_l2_norm_holds_at_every_pose(bars: RegisteredView, shape: tuple[int, int]) -> None:
    for image in turned_bars(3, seed=20).split(1):  # type: ignore[no-untyped-call]
        poses = bars.poses(image)
        change = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
        for _ in range(30):
            (gradient,) = torch.autograd.grad(bars.sheets_at(change, poses).square().sum(), change)
            change = (gradient / gradient.norm()).requires_grad_()
        assert float(bars.sheets_at(change.detach(), poses).norm()) <= bars.l2_norm(*shape)


def test_maps_go_back_to_where_the_sheet_was_cut(bars: RegisteredView) -> None:
    image = pictured(tapered_bar(32, 32, 130), 0)
    sheets, poses = bars.sheets(image), bars.poses(image)
    back = bars.back(sheets.mean(2), poses)
    seen = back > float(back.min()) + 0.1
    assert float((back - image.mean(1, keepdim=True))[seen].abs().mean()) < 0.05
    assert back.shape == (1, 1, SIZE, SIZE)


def test_sheets_have_gradients(bars: RegisteredView) -> None:
    image = turned_bars(1).requires_grad_()
    bars.sheets(image).sum().backward()
    assert image.grad is not None and float(image.grad.min()) >= 0 and float(image.grad.max()) > 0


def test_the_view_survives_its_files(pairs: RegisteredView) -> None:
    images = two_bars(2, seed=9).float()
    config = RegisteredConfig.parse(pairs.config.model_dump(mode="json"))
    again = RegisteredView(config, **load(save(dict(pairs.state_dict()))))
    assert torch.equal(again.sheets(images), pairs.sheets(images))


def test_shapes_of_tensors_are_checked(bars: RegisteredView) -> None:
    with pytest.raises(ConfigError, match="background: expected the shapes"):
        RegisteredView(bars.config, torch.zeros(1, 3, 5, 5))


def test_a_texture_has_no_part() -> None:
    draws = torch.Generator().manual_seed(0)
    assert fit_registration(torch.rand(8, 3, SIZE, SIZE, generator=draws), options=OPTIONS) is None
    assert fit_registration(torch.full((4, 3, SIZE, SIZE), 0.5), options=OPTIONS) is None


@pytest.mark.parametrize("count", [1, 2])
def test_few_images_are_enough(count: int) -> None:
    view = fit_registration(turned_bars(count), options=OPTIONS)
    assert view is None or view.sheets(turned_bars(1).float()).isfinite().all()


def test_no_image_is_an_error() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        fit_registration(torch.zeros(0, 3, SIZE, SIZE))


def test_the_view_says_what_it_does(bars: RegisteredView, pairs: RegisteredView) -> None:
    view: View = bars
    assert view.parts == 1 and view.shape == tuple(bars.sheets(turned_bars(1)).shape[2:])
    assert "turn" in bars.describe()[0] and "which end is which" in bars.describe()[0]
    assert "2 parts" in pairs.describe()[0]


def test_the_box_of_a_sheet_lies_around_the_part(bars: RegisteredView) -> None:
    for x, y, degrees in ((30.0, 35.0, 20.0), (34.0, 29.0, 110.0)):
        image = pictured(tapered_bar(x, y, degrees), 0)
        boxes = bars.boxes(image)
        assert boxes.shape == (1, 1, 4, 2)
        corners = boxes[0, 0] * 64
        assert torch.allclose(
            corners.mean(0), torch.tensor([x, y], dtype=torch.float64), atol=4
        )  # nearer to the wide end
        long, short = corners[1] - corners[0], corners[3] - corners[0]
        assert float(long @ short) == pytest.approx(0, abs=1e-9)
        _, height, width = bars.shape
        assert float(long.norm() / short.norm()) == pytest.approx(width / height)
        turn = math.degrees(math.atan2(float(long[1]), float(long[0]))) - degrees
        assert abs((turn + 90) % 180 - 90) < 10
