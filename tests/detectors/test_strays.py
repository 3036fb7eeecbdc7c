"""What lies outside the parts of a registered product: its score, its bounds, and missing and further parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import floats, integers, sampled_from
from moment_attacks import attacks, stray_attacks
from torch import Tensor
from turned_parts import BACKGROUND, SIZE, four_bars, pictured, tapered_bar, turned_bars

import advrad
from advrad.denoisers.memory_config import MemoryConfig
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.closed_form_config import MemberConfig, StrayConfig
from advrad.detectors.closed_form_member import ClosedFormMember
from advrad.detectors.registration import RegisteredConfig, RegisteredView
from advrad.detectors.registration_fit import RegistrationOptions, fit_registration
from advrad.detectors.strays import Strays
from advrad.detectors.views import Norm, WholeConfig
from advrad.errors import ConfigError
from advrad.training.closed_form import fit_closed_form
from advrad.training.closed_form_plan import MemberPlan

PLAN = MemberPlan(name="small", view="registered", size_px=SIZE, cell_px=4 / 3, patch_cells=5, window_cells=(1, 1))
#: Centre and half side, pixels, of the crumb of :func:`crumbs`.
CRUMB = (31, 30, 3)


@pytest.fixture(scope="module")
def bars() -> RegisteredView:
    view = fit_registration(turned_bars(24), options=RegistrationOptions(size_px=SIZE, step_cells=(1, 1)))
    assert view is not None
    return view


@pytest.fixture(scope="module")
def detector() -> ClosedFormDetector:
    return fit_closed_form(four_bars(48).float(), [PLAN])


def strays_of(detector: ClosedFormDetector) -> Strays:
    (member,) = detector.members
    assert isinstance(member, ClosedFormMember) and member.strays is not None
    return member.strays


def crumbs(count: int) -> Tensor:
    """Four bars and a crumb between them."""
    images, (x, y, half) = four_bars(count, seed=77).float(), CRUMB
    images[:, :, y - half : y + half, x - half : x + half] += 0.5
    return images


def without_one(count: int) -> Tensor:
    """Four bars, one of them covered by the background."""
    images = four_bars(count, seed=77).float()
    images[:, :, :32, :32] = BACKGROUND + 0.02 * torch.randn(
        count, 3, 32, 32, generator=torch.Generator().manual_seed(0)
    )
    return images


def with_a_fifth(count: int) -> Tensor:
    """Four bars and one more in the middle."""
    return four_bars(count, seed=77).float() + 0.5 * tapered_bar(32, 32, 90, wide=4, narrow=2, half=8).float()


def specks(count: int) -> Tensor:
    """Four bars and a speck at the border, too small to move the box of the bar above it."""
    images = four_bars(count, seed=77).float()
    images[:, :, 62:, 14:18] += 0.5
    return images


def with_debris(x: int = 55, y: int = 2) -> Tensor:
    """A bar, and a speck whose edge is soft."""
    image = pictured(tapered_bar(32, 32, 30), 0)
    image[:, :, y : y + 5, x : x + 5] += 0.5
    image[:, :, y + 5 : y + 9, x : x + 5] += 0.13
    return image


def broken(view: RegisteredView, image: Tensor, radius: float, norm: Norm, poses: int | None = None) -> int:
    """Attacks that leave the interval of the share; ``poses`` limits those that count as possible."""
    reached = view.reachable_poses(image, radius, norm)
    if reached is not None:
        reached = tuple(listed[:poses] for listed in reached)
    bounds = view.outside_bounds(image, radius, norm, reached)
    found = [image, *attacks(view, image, radius, norm), *stray_attacks(view, image, radius, norm)]
    return sum(not bounds.lower <= float(view.outside(changed)) <= bounds.upper for changed in found)


@pytest.mark.parametrize(("norm", "radius"), [("linf", 2 / 255), ("linf", 0.03), ("l2", 0.05), ("linf", 0.4)])
def test_no_attack_leaves_the_interval_of_the_share(bars: RegisteredView, norm: Norm, radius: float) -> None:
    for image in (with_debris(), with_debris().float(), turned_bars(1, seed=50)):
        assert broken(bars, image, radius, norm) == 0


def test_the_interval_is_narrow_and_reached(bars: RegisteredView) -> None:
    image, radius = with_debris(), 0.03
    assert float(bars.outside(pictured(tapered_bar(32, 32, 30), 0))) == 0
    bounds = bars.outside_bounds(image, radius, "linf", bars.reachable_poses(image, radius, "linf"))
    shares = [float(bars.outside(changed)) for changed in stray_attacks(bars, image, radius, "linf")]
    assert 0 < bounds.lower < float(bars.outside(image)) < bounds.upper
    assert max(shares) - min(shares) > 0.3 * (bounds.upper - bounds.lower)


def test_bounds_that_ignore_the_reachable_poses_are_wrong(bars: RegisteredView) -> None:
    images = [with_debris(42, 4), with_debris(46, 8)]
    assert all(broken(bars, image, 0.03, "linf", poses=1) for image in images)
    assert sum(broken(bars, image, 0.03, "linf") for image in images) == 0


def test_a_weight_on_the_edge_of_a_sheet_may_count_or_not() -> None:
    config = RegisteredConfig(
        size_px=32, mask_px=2, blur_px=2, cell_px=2, height_cells=11, width_cells=11, low=0.1, high=0.3, usual_mass=1.0
    )
    view, image = RegisteredView(config, torch.zeros(1, 3, 16, 16)), torch.zeros(1, 3, 32, 32)
    image[:, :, 14:18, 14:18] = 1  # around the middle of the sheet
    image[:, :, 14:18, 26:28] = 0.2  # its middle is on the right edge
    image[:, :, 14:18, 4:6] = 0.2  # on the left edge
    assert float(view.outside(image)) == 0
    bounds = view.outside_bounds(image, 0.0, "linf", view.reachable_poses(image, 0.0, "linf"))
    assert bounds.lower == 0 and bounds.upper >= 2 and float(bounds.least.sum()) == 0


@settings(max_examples=15, deadline=None)
@given(
    size=sampled_from([32, 45, 64]),
    aspect=sampled_from([0.6, 1.0, 1.5]),
    turns=sampled_from([1, 7, 60]),
    sheet=sampled_from([(5, 7), (9, 14)]),
    parts=sampled_from([1, 2]),
    radius=floats(0.0, 0.03),
    norm=sampled_from(["linf", "l2"]),
    seed=integers(0, 10_000),
)
def test_the_interval_holds_for_all_settings(
    size: int, aspect: float, turns: int, sheet: tuple[int, int], parts: int, radius: float, norm: Norm, seed: int
) -> None:
    config = RegisteredConfig.parse(
        {"size_px": 32, "mask_px": 2, "blur_px": 4, "low": 0.15, "high": 0.35, "cell_px": 2.0, "limit": 10_000}
        | {"height_cells": sheet[0], "width_cells": sheet[1], "aspect": aspect, "turns": turns, "usual_mass": 50.0}
        | {"parts": [{"flip": "reach", "least_mass": 5.0}, {"least_mass": 20.0}][:parts]}
    )
    regions = (torch.arange(16)[:, None] * parts // 16).expand(16, 16).to(torch.uint8)
    view = RegisteredView(config, torch.full((1, 3, 16, 16), 0.2), regions)
    draws = torch.Generator().manual_seed(seed)
    x, y, turn, debris = torch.rand(4, generator=draws).tolist()
    opacity = tapered_bar(20 + 24 * x, 20 + 24 * y, 360 * turn)
    opacity[:8, int(50 * debris) : int(50 * debris) + 9] = 0.2 + 0.3 * debris
    image = torch.nn.functional.interpolate(pictured(opacity, seed).float(), size=(size, size), mode="bilinear")
    bounds = view.outside_bounds(image, radius, norm, view.reachable_poses(image, radius, norm))
    changes = [torch.randn(image.shape, generator=draws) for _ in range(3)]
    for sign in (-1, 1):
        moved = image.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(sign * view.outside(moved).sum(), moved)
        changes += [gradient, gradient + 0.1 * gradient.abs().amax() * changes[0]]
    for change in changes:
        step = change.sign() if norm == "linf" else change / change.norm().clamp_min(1e-12)
        assert bounds.lower <= float(view.outside(image + radius * step)) <= bounds.upper


def test_a_missing_and_a_further_part_and_a_crumb_are_anomalies(detector: ClosedFormDetector) -> None:
    (member,) = detector.members
    assert isinstance(member, ClosedFormMember) and member.view.parts == 4
    assert (
        float((detector.predict_batch(four_bars(20, seed=500).float()).scores > detector.threshold).float().mean())
        < 0.2
    )
    for anomalous in (without_one(6), with_a_fifth(6), crumbs(6)):
        assert bool((detector.predict_batch(anomalous).scores > detector.calibration.threshold).all())


def test_a_speck_is_seen_by_the_score_of_the_strays_alone(detector: ClosedFormDetector) -> None:
    strays, clean, threshold = strays_of(detector), four_bars(20, seed=500).float(), detector.calibration.threshold
    assert bool((strays.scores(clean) <= 0).all()) and bool((strays.scores(specks(6)) > threshold).all())
    assert torch.equal(strays.infer(specks(6))[0], strays.scores(specks(6)))
    (member,) = detector.members
    assert isinstance(member, ClosedFormMember)
    assert bool((member.scores(specks(6), share=0.0) < threshold).all()), "strays do not count here"


def test_the_map_marks_the_crumb(detector: ClosedFormDetector) -> None:
    output, (x, y, half) = detector.predict_batch(crumbs(1)), CRUMB
    assert output.anomaly_maps is not None and float(output.anomaly_maps.amax()) == pytest.approx(float(output.scores))
    row, column = divmod(int(output.anomaly_maps[0, 0].argmax()), SIZE)
    assert abs(row - y) <= half + 1 and abs(column - x) <= half + 1
    lower = detector.score_bounds(crumbs(1), 2 / 255, "linf").lower_map
    assert float(lower[0, 0, y - 1 : y + 1, x - 1 : x + 1].min()) > 1


@pytest.mark.parametrize("defects", [specks, without_one])
def test_attacks_on_the_detector_stay_within_its_bounds(
    detector: ClosedFormDetector, defects: Callable[[int], Tensor]
) -> None:
    images = torch.cat([four_bars(1, seed=90).float(), defects(1)])
    bounds = detector.score_bounds(images, 2 / 255, "linf")
    assert bool((bounds.lower <= bounds.scores).all()) and bool((bounds.scores <= bounds.upper).all())
    result = advrad.attack(detector, (images, [0, 1]), norm="linf", eps=2 / 255, attack="pgd", steps=5)
    assert result.bounds is not None and not result.bounds.violations
    for image, low in zip(images.split(1), bounds.lower_map, strict=True):  # type: ignore[no-untyped-call]
        for changed in stray_attacks(strays_of(detector).view, image, 2 / 255, "linf", steps=1)[:4]:
            maps = detector.predict_batch(changed).anomaly_maps
            assert maps is not None and bool((maps[0] >= low).all())


@pytest.mark.parametrize("radius", [0.0, 2 / 255])
def test_the_lower_map_of_an_anomalous_part_says_nothing_about_the_others(
    detector: ClosedFormDetector, radius: float
) -> None:
    image = four_bars(1, seed=77).float()
    image[:, 0, :32, :32] = 1 - image[:, 0, :32, :32]  # no cell of this part is normal
    low = detector.score_bounds(image, radius, "linf").lower_map
    maps = detector.predict_batch(image).anomaly_maps
    assert maps is not None and bool((low <= maps).all())
    assert float(low[..., 8:24, 8:24].min()) > 10 > float(low[..., 33:, :].max())


def test_a_perturbation_changes_the_score_of_normal_images_by_one_at_most(detector: ClosedFormDetector) -> None:
    strays = strays_of(detector)
    for image in four_bars(8, seed=500).float().split(1):  # type: ignore[no-untyped-call]
        reached = strays.view.reachable_poses(image, 2 / 255, "linf")
        found = strays.bounds(image, 2 / 255, "linf", reached)
        assert reached is None or float(found.upper - found.lower) <= 1


def test_the_score_of_the_strays_survives_the_model_folder(detector: ClosedFormDetector, tmp_path: Path) -> None:
    detector.save_pretrained(tmp_path / "run")
    again = ClosedFormDetector.from_pretrained(tmp_path / "run")
    assert torch.equal(again.predict_batch(crumbs(2)).scores, detector.predict_batch(crumbs(2)).scores)
    assert strays_of(again).config == strays_of(detector).config
    assert any("outside the parts" in line for line in detector.describe())


def test_strays_need_a_registered_view() -> None:
    settings = {"location": 0.0, "scale": 1.0}
    memory = MemoryConfig(height_cells=64, width_cells=64)
    with pytest.raises(ConfigError, match="needs a view that finds parts"):
        MemberConfig.parse({"view": WholeConfig().model_dump(), "memory": memory.model_dump(), "strays": settings})
    assert StrayConfig.parse(settings).scale == 1
