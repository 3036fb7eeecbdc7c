"""Bounds of whole detectors for all settings: sizes, windows, gains, poolings, norms, and poses that attacks change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from moment_attacks import attacks, pose_of
from tiny_closed_forms import detector_of, draws, member_of, memory_like
from torch import Tensor
from turned_parts import SIZE, pictured, tapered_bar, turned_bars, two_bars

from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_table import PatchTable, Winners
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.registration import RegisteredConfig, RegisteredView
from advrad.detectors.registration_fit import RegistrationOptions, fit_registration
from advrad.detectors.views import Norm, WholeConfig, WholeView


def within(change: Tensor, radius: float, norm: Norm) -> Tensor:
    """A change of exactly the radius: of every pixel in linf, of the whole image in l2."""
    if norm == "linf":
        return radius * change.sign()
    return radius * change / change.norm().clamp_min(1e-12)


def perturbed(detector: ClosedFormDetector, image: Tensor, radius: float, norm: Norm, seed: int) -> Iterator[Tensor]:
    """Images at the radius: random signs, a shift of all pixels, gradients of the score and of all distances."""
    generator = draws(seed)
    for direction in (-1.0, 1.0):
        yield image + within(direction * torch.ones_like(image), radius, norm)
        yield image + within(torch.randn(image.shape, generator=generator), radius, norm)
        for loss in (lambda moved: detector.infer(moved).scores, lambda moved: member_of(detector).distances(moved)):
            moved = image + 0.5 * within(torch.randn(image.shape, generator=generator), radius, norm)
            for _ in range(3):
                moved = moved.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(loss(moved).sum(), moved)
                moved = image + within(direction * gradient, radius, norm)
                yield moved.detach()


def assert_inside(detector: ClosedFormDetector, image: Tensor, found: list[Tensor], radius: float, norm: Norm) -> None:
    """All scores and maps lie within the bounds of the image."""
    bounds = detector.score_bounds(image, radius, norm)
    assert float(bounds.lower) <= float(bounds.scores) <= float(bounds.upper)
    for moved in found:
        with torch.no_grad():
            outputs = (detector.infer(moved.float()), detector.predict_batch(moved.float().clamp(0, 1)))
        for output in outputs:
            assert float(bounds.lower) <= float(output.scores) <= float(bounds.upper)
            assert output.anomaly_maps is not None and bool((output.anomaly_maps >= bounds.lower_map - 1e-4).all())


memories = st.fixed_dictionaries(
    {
        "patch_cells": st.sampled_from([1, 3]),
        "stride_cells": st.sampled_from([1, 2, 3]),
        "window_cells": st.sampled_from([None, (0, 0), (1, 1), (2, 0)]),
        "taper": st.sampled_from(["flat", "gaussian"]),
        "gain": st.sampled_from([0.0, 0.15, 0.5]),
        "chosen_patches": st.sampled_from([None, 5]),
    }
)
poolings = st.sampled_from([0.0, 0.1, 0.5, 1.0])
threats = st.sampled_from([("linf", 0.0), ("linf", 2 / 255), ("linf", 0.05), ("l2", 0.1), ("l2", 0.5)])


def memory_config(shape: tuple[int, int, int], values: dict[str, object]) -> MemoryConfig:
    """Settings that suit sheets of a shape."""
    patch, window = values["patch_cells"], values["window_cells"]
    assert isinstance(patch, int) and isinstance(values["stride_cells"], int)
    changes = {
        "stride_cells": min(values["stride_cells"], patch),
        "chosen_patches": None if window is None else values["chosen_patches"],
    }
    names = ("channels", "height_cells", "width_cells")
    return MemoryConfig.parse(dict(zip(names, shape, strict=True)) | values | changes)


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    cells=st.sampled_from([(4, 1), (8, 2), (12, 3), (8, 1)]),
    channels=st.sampled_from([1, 3]),
    memory=memories,
    pooling=poolings,
    standardised=st.booleans(),
    threat=threats,
    seed=st.integers(0, 1000),
)
def test_no_perturbation_leaves_the_bounds_of_any_detector(
    size: tuple[int, int],
    cells: tuple[int, int],
    channels: int,
    memory: dict[str, object],
    pooling: float,
    standardised: bool,
    threat: tuple[Norm, float],
    seed: int,
) -> None:
    view = WholeView(WholeConfig.parse({"size_px": cells[0], "cell_px": cells[1], "channels": channels}))
    config, generator = memory_config(view.shape, memory), draws(seed)
    image = torch.rand(1, 3, *size, generator=generator)
    sheets = memory_like(config, view.sheets(image)[0, 0], 1 + seed % 4, 0.1, generator)
    detector = detector_of(view, config, sheets, pooling=pooling, standardised=standardised, generator=generator)
    norm, radius = threat
    assert_inside(detector, image, list(perturbed(detector, image, radius, norm, seed)), radius, norm)


@settings(max_examples=12, deadline=None)
@given(
    size=st.tuples(st.integers(24, 100), st.integers(24, 100)),
    aspect=st.sampled_from([0.6, 1.0, 1.5]),
    turns=st.sampled_from([1, 12, 60]),
    flip=st.sampled_from(["reach", "width", "both", "none"]),
    memory=memories,
    pooling=poolings,
    radius=st.sampled_from([0.5 / 255, 2 / 255, 0.02]),
    seed=st.integers(0, 1000),
)
def test_no_attack_leaves_the_bounds_of_any_registered_detector(
    size: tuple[int, int],
    aspect: float,
    turns: int,
    flip: str,
    memory: dict[str, object],
    pooling: float,
    radius: float,
    seed: int,
) -> None:
    parsed = RegisteredConfig.parse(
        {"size_px": 32, "mask_px": 2, "blur_px": 4, "low": 0.15, "high": 0.35, "height_cells": 6, "width_cells": 10}
        | {"aspect": aspect, "turns": turns, "cell_px": 2.0, "limit": 400, "parts": [{"flip": flip}]}
    )
    view, generator = RegisteredView(parsed, torch.full((1, 3, 16, 16), 0.2)), draws(seed)
    x, y = (20 + 24 * torch.rand(2, generator=generator)).tolist()
    image = F.interpolate(pictured(tapered_bar(x, y, seed), seed).float(), size=size, mode="bilinear")
    config = memory_config(view.shape, memory)
    sheets = memory_like(config, view.sheets(image)[0, 0], 3, 0.05, generator)
    detector = detector_of(view, config, sheets, pooling=pooling, generator=generator)
    found = list(perturbed(detector, image, radius, "linf", seed))
    square = view.square(image)
    for moved in attacks(view, square, radius, "linf")[::3]:
        change = F.interpolate((moved - square).float(), size=size, mode="nearest")
        found.append(image + within(change, radius, "linf"))
    assert_inside(detector, image, found, radius, "linf")


# --- the registration's reach ----------------------------------------------------------------------------------------

#: Bars that a small perturbation moves to another pose of the lattice.
NEAR_ANOTHER_POSE = turned_bars(5, seed=50)[3:].float()


@pytest.fixture(scope="module")
def bars() -> ClosedFormDetector:
    """A detector of turned bars, which are compared with normal bars at the same place."""
    view = fit_registration(turned_bars(24), options=RegistrationOptions(size_px=SIZE, step_cells=(1, 1)))
    assert view is not None
    channels, height, width = view.shape
    config = MemoryConfig.parse(
        {"channels": channels, "height_cells": height, "width_cells": width, "patch_cells": 5, "window_cells": (0, 0)}
    )
    sheets = memory_like(config, view.sheets(turned_bars(12).float())[:, 0], 12, 0.0, draws(0))
    return detector_of(view, config, sheets, standardised=False, generator=draws(0))


def attacked_scores(detector: ClosedFormDetector, image: Tensor, radius: float, norm: Norm) -> tuple[Tensor, int]:
    """Scores after attacks on the registration, alone and with the score's gradient; and how many moved a part."""
    view, scores, moved = member_of(detector).view, [], 0
    assert isinstance(view, RegisteredView)
    for changed in attacks(view, image, radius, norm)[::3]:
        moved += pose_of(view, changed) != pose_of(view, image)
        scores.append(detector.scores(changed.float()))
        for direction in (-1.0, 1.0):
            at = changed.float().requires_grad_()
            (gradient,) = torch.autograd.grad(detector.scores(at).sum(), at)
            change = changed + direction * 0.5 * radius * gradient.sign() - image
            scores.append(detector.scores(image + change.clamp(-radius, radius).float()))
    return torch.cat(scores).detach(), moved


def test_attacks_on_the_registration_stay_within_the_bounds(bars: ClosedFormDetector) -> None:
    moved = 0
    for image in NEAR_ANOTHER_POSE.split(1):  # type: ignore[no-untyped-call]
        bounds = bars.score_bounds(image, 0.02, "linf")
        scores, some = attacked_scores(bars, image, 0.02, "linf")
        assert float(bounds.upper) < float("inf")
        assert bool((bounds.lower <= scores).all()) and bool((scores <= bounds.upper).all())
        moved += some
    assert moved > 10


def test_bounds_at_the_pose_of_the_image_alone_are_wrong(
    bars: ClosedFormDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attacks of the test above are strong enough to tell bounds that ignore the reach of the registration."""
    view = member_of(bars).view
    assert isinstance(view, RegisteredView)
    every = view.reachable_poses

    def own_pose_alone(*arguments: object) -> object:
        listed = every(*arguments)  # type: ignore[arg-type]
        return None if listed is None else tuple(poses[:1] for poses in listed)

    image = NEAR_ANOTHER_POSE[:1]
    monkeypatch.setattr(view, "reachable_poses", own_pose_alone)
    bounds = bars.score_bounds(image, 0.02, "linf")
    scores = attacked_scores(bars, image, 0.02, "linf")[0]
    assert bool(((scores < bounds.lower) | (scores > bounds.upper)).any())


def test_attacks_on_two_parts_stay_within_bounds_that_take_one_search(monkeypatch: pytest.MonkeyPatch) -> None:
    view = fit_registration(two_bars(24), options=RegistrationOptions(size_px=SIZE, step_cells=(1, 1)))
    assert view is not None and view.parts == 2
    channels, height, width = view.shape
    config = MemoryConfig.parse(
        {"channels": channels, "height_cells": height, "width_cells": width, "patch_cells": 5, "window_cells": (0, 0)}
    )
    sheets = memory_like(config, view.sheets(two_bars(12).float()).flatten(0, 1), 24, 0.0, draws(0))
    detector = detector_of(view, config, sheets, standardised=False, generator=draws(0))
    search, searched = PatchTable.search, []

    def counted(table: PatchTable, patches: Tensor, excluded: Tensor | None) -> Winners:
        searched.append(len(patches))
        return search(table, patches, excluded)

    for image in two_bars(3, seed=70).float().split(1):  # type: ignore[no-untyped-call]
        with monkeypatch.context() as counting:
            counting.setattr(PatchTable, "search", counted)
            found = detector.predict_batch(image)
            bounds = [detector.score_bounds(image, radius, "linf") for radius in (0.01, 0.03)]
        assert all(torch.equal(part.scores, found.scores) for part in bounds)
        scores = torch.cat([detector.scores(changed.float()) for changed in attacks(view, image, 0.03, "linf")[::3]])
        assert bool((bounds[1].lower <= scores).all()) and bool((scores <= bounds[1].upper).all())
        assert float(bounds[1].upper) < float("inf") and float(bounds[1].lower) < float(bounds[0].lower)
    assert searched == [2, 2, 2]
