"""Bounds of the closed form on real products: no attack and no random sign leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from moment_attacks import attacks, pose_of, stray_attacks
from tiny_closed_forms import member_of
from torch import Tensor

import advrad
from advrad.attacks.base import AttackInput
from advrad.attacks.objectives import available_objectives, make_objective
from advrad.attacks.registry import ATTACKS
from advrad.attacks.suite import suite_attacks
from advrad.attacks.threat import Threat
from advrad.data.images import read_resized
from advrad.detectors.base import ScoreBounds
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.registration import RegisteredView
from advrad.training.closed_form import fit_closed_form
from advrad.training.closed_form_plan import CENTRES, COARSE, FINE, REGISTERED, TEXTURE, MemberPlan

EPS = 2 / 255
SMALL: dict[str, object] = {"sheets": 12, "patches": 2000}
#: So small that thousands of scores take seconds: half the side, and for parts coarser cells, too.
SMALLER: dict[str, object] = {"sheets": 8, "size_px": 128}
COARSER: dict[str, object] = {**SMALLER, "cell_px": 8 / 3, "patch_cells": 5, "window_cells": (2, 4)}
FIXED: dict[str, tuple[MemberPlan, ...]] = {
    "mvtec_ad/toothbrush": (COARSE, FINE),
    "mvtec_ad/bottle": (COARSE.with_gain(),),
}
MOVING: dict[str, tuple[MemberPlan, ...]] = {"mvtec_ad/screw": (REGISTERED,), "visa/macaroni1": (REGISTERED,)}
#: Centres need more images than are read for these.
PRODUCTS = {**FIXED, "mvtec_ad/grid": (TEXTURE.model_copy(update={"centres": None}),), **MOVING}
#: An attack of the suite is given a tenth of its steps here, and at most so many.
MOST_STEPS = 200

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(3600)]


def read(paths: Sequence[Path]) -> Tensor:
    return torch.stack([read_resized(path, 256) for path in paths])


def fitted(folder: Path, plans: Sequence[MemberPlan], changes: dict[str, object]) -> ClosedFormDetector:
    # With centres the images of the threshold stay out of the memory, and only many images allow it.
    count = 80 if any(plan.centres is not None for plan in plans) else 32
    paths = sorted((folder / "train" / "good").iterdir())[:count]
    aspect = 1.5 if folder.name == "macaroni1" else 1.0
    return fit_closed_form(read(paths), [plan.model_copy(update=changes) for plan in plans], aspect=aspect)


def two_images(folder: Path) -> Tensor:
    """A normal and an anomalous test image, (2, 3, 256, 256)."""
    normal = sorted((folder / "test" / "good").iterdir())[:1]
    anomalous = [path for path in sorted((folder / "test").glob("*/*")) if path.parent.name != "good"][:1]
    return read([*normal, *anomalous])


def near_other_poses(view: RegisteredView, folder: Path, count: int) -> list[Tensor]:
    """Of forty test images those with the most poses within reach, (1, 3, 256, 256) each."""
    normal = sorted((folder / "test" / "good").iterdir())[:20]
    anomalous = [path for path in sorted((folder / "test").glob("*/*")) if path.parent.name != "good"][:20]
    ranked: list[tuple[int, int, Tensor]] = []
    for place, path in enumerate([*normal, *anomalous]):
        listed = view.reachable_poses(read([path]), EPS, "linf")
        if listed is not None:
            ranked.append((-sum(map(len, listed)), place, read([path])))
    return [image for _, _, image in sorted(ranked, key=lambda one: one[:2])[:count]]


def inside(bounds: ScoreBounds, scores: Tensor) -> bool:
    return bool((bounds.lower <= scores).all()) and bool((scores <= bounds.upper).all())


def scores_of(detector: ClosedFormDetector, images: Tensor) -> Tensor:
    """Scores of images whose values may lie outside of [0, 1], which `predict_batch` refuses."""
    with torch.no_grad():
        return torch.cat([detector.infer(image[None]).scores for image in images])


def random_signs(images: Tensor, count: int) -> list[Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [images + EPS * torch.randn(images.shape, generator=draws).sign() for _ in range(count)]


@pytest.mark.parametrize("product", PRODUCTS)
def test_nothing_leaves_the_bounds(shared_data: Path, product: str) -> None:
    """The quick suite on detectors of the usual size, as `advrad attack` runs it."""
    folder = shared_data / product
    detector, images = fitted(folder, PRODUCTS[product], SMALL), two_images(folder)
    bounds = detector.score_bounds(images, EPS, "linf")
    assert inside(bounds, bounds.scores)
    result = advrad.attack(detector, (images, [0, 1]), norm="linf", eps=EPS, budget="quick")
    assert result.bounds is not None and result.bounds.violations == ()
    third = detector.score_bounds(images, EPS / 3, "linf")
    worst = torch.tensor([row.worst for row in result.rows])
    assert inside(bounds, worst)
    assert not inside(third, worst), "a third is too narrow"
    for changed in random_signs(images, 5):
        assert inside(bounds, scores_of(detector, changed))


@pytest.mark.parametrize(
    ("product", "plan"),
    [
        ("mvtec_ad/bottle", CENTRES[0].model_copy(update={"centres": 8})),
        ("mvtec_ad/grid", TEXTURE.model_copy(update={"centres": 300})),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_nothing_leaves_the_bounds_where_centres_stand_for_patches(
    shared_data: Path, product: str, plan: MemberPlan
) -> None:
    """Chosen patches at each place, as of a bottle, and centres that count anywhere, as of a texture."""
    folder = shared_data / product
    detector, images = fitted(folder, (plan,), {"size_px": 128}), two_images(folder)
    assert (member_of(detector).memory.chosen is not None) == (plan.window_cells is not None)
    bounds, third = (detector.score_bounds(images, eps, "linf") for eps in (EPS, EPS / 3))
    result = advrad.attack(detector, (images, [0, 1]), norm="linf", eps=EPS, budget="quick")
    worst = torch.tensor([row.worst for row in result.rows])
    assert inside(bounds, bounds.scores) and inside(bounds, worst)
    assert result.bounds is not None and result.bounds.violations == ()
    assert not inside(third, worst), "a third is too narrow"
    for changed in random_signs(images, 5):
        assert inside(bounds, scores_of(detector, changed))


@pytest.mark.parametrize("product", [*FIXED, *MOVING])
def test_no_attack_of_the_full_suite_leaves_the_bounds(shared_data: Path, product: str) -> None:
    """Every attack raises and lowers the scores of both images, and never stops early."""
    folder = shared_data / product
    detector = fitted(folder, PRODUCTS[product], COARSER if product in MOVING else SMALLER)
    images = two_images(folder)
    bounds, half = (detector.score_bounds(images, eps, "linf") for eps in (EPS, EPS / 2))
    threat, left_half, count = Threat.of("linf", EPS), 0, 0
    for spec in suite_attacks("full", detector.surrogates):
        if spec.if_noisy or spec.surrogate not in available_objectives(detector):
            continue
        for sign in (-1.0, 1.0):
            # The score has no noise: to average several draws would change nothing.
            objective = make_objective(detector, torch.full((2,), sign), spec.surrogate, torch.Generator())
            draws = [torch.Generator().manual_seed(row) for row in range(2)]
            given = AttackInput(objective, images, threat, draws, min(spec.steps // 10, MOST_STEPS), None)
            found = ATTACKS[spec.attack](given)
            for changed in (found.images, found.last):
                scores = scores_of(detector, changed)
                assert float((changed - images).abs().max()) <= EPS + 1e-7
                assert inside(bounds, scores), spec.name
                left_half += not inside(half, scores)
        count += 1
    assert count >= 10 and left_half > 0, "they are strong enough to leave the bounds for half the radius"
    for changed in random_signs(images, 20):
        assert inside(bounds, scores_of(detector, changed))


@pytest.mark.parametrize("product", MOVING)
def test_no_attack_on_the_registration_leaves_the_bounds(shared_data: Path, product: str) -> None:
    """Attacks on the pose of every part, and on what lies outside, alone and followed by the score's gradient."""
    folder = shared_data / product
    detector = fitted(folder, PRODUCTS[product], COARSER)
    view, moved = member_of(detector).view, 0
    assert isinstance(view, RegisteredView)
    for image in near_other_poses(view, folder, 4):
        bounds, listed = detector.score_bounds(image, EPS, "linf"), view.reachable_poses(image, EPS, "linf")
        assert listed is not None
        square = view.square(image)
        found = stray_attacks(view, square, EPS, "linf", steps=2)[::2]
        for part in range(view.parts):
            found += attacks(view, square, EPS, "linf", part)[:: 2 * view.parts]
        for place, pushed in enumerate(found):
            change = torch.nn.functional.interpolate((pushed - square).sign().float(), size=image.shape[2:])
            changed = image + EPS * change
            poses = [pose_of(view, changed, part) for part in range(view.parts)]
            assert all(pose in some for pose, some in zip(poses, listed, strict=True))
            moved += any(pose != some[0] for pose, some in zip(poses, listed, strict=True))
            assert inside(bounds, scores_of(detector, changed))
            start = changed.requires_grad_()
            (gradient,) = torch.autograd.grad(detector.scores(start).sum(), start)
            then = (changed.detach() - image + (-1.0) ** place * EPS / 2 * gradient.sign()).clamp(-EPS, EPS)
            assert inside(bounds, scores_of(detector, image + then))
    assert moved > 5
