"""The contract of every attack under every norm, and optima that are known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from toy_models import assert_gradient, detector, generator, generators, random_images
from toy_threats import threat

from advrad.attacks.auto_pgd import apgd, checkpoints
from advrad.attacks.base import Attack, AttackInput, Objective, value_and_gradient
from advrad.attacks.projected_gradient import pgd
from advrad.attacks.registry import ATTACKS
from advrad.attacks.square_attack import square
from advrad.attacks.threat import NORMS, Norm, Threat

every = pytest.mark.parametrize(("name", "norm"), list(itertools.product(ATTACKS, NORMS)))
STEPS = {"pgd": 12, "apgd": 12, "square": 60, "lowfrequency": 12, "patch": 12}


def quadratic(images: Tensor) -> Tensor:
    """Smooth, and largest far away from every image."""
    return (images - 0.4).square().flatten(1).sum(1)


# --- the contract, over every row of the table -----------------------------------------------------------------------


@every
def test_what_is_found_lies_in_ball_and_box_and_is_what_it_says(name: str, norm: Norm) -> None:
    images, model = random_images(3, 12), threat(norm)
    before = images.clone()
    found = ATTACKS[name](AttackInput(quadratic, images, model, generators(len(images), 1), STEPS[name]))
    assert torch.equal(images, before), "the input must stay untouched"
    assert (model.distance(images, found.images) <= model.eps + 1e-7).all()
    assert found.images.min() >= 0 and found.images.max() <= 1
    torch.testing.assert_close(quadratic(found.images), found.values)
    assert (found.values > quadratic(images)).all(), "it gained nothing"


@every
def test_radius_zero_is_the_image_itself(name: str, norm: Norm) -> None:
    images = random_images(2, 12)
    found = ATTACKS[name](AttackInput(quadratic, images, threat(norm, 0.0), generators(len(images), 1), STEPS[name]))
    assert torch.equal(found.images, images)


@every
def test_the_seed_decides(name: str, norm: Norm) -> None:
    # Few steps, or all end in the same corner.
    first, again, other = (
        ATTACKS[name](AttackInput(quadratic, random_images(2, 12), threat(norm), generators(2, seed), 3)).images
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@every
def test_an_image_with_nan_stays_and_changes_no_other(name: str, norm: Norm) -> None:
    def broken(images: Tensor) -> Tensor:
        values = quadratic(images)
        return torch.cat([values[:1] * math.nan, values[1:]])

    images = random_images(2, 12)
    found = ATTACKS[name](AttackInput(broken, images, threat(norm), generators(len(images), 1), STEPS[name]))
    assert torch.equal(found.images[0], images[0]) and found.values[0] == -math.inf
    assert torch.isfinite(found.images).all() and found.values[1] > quadratic(images)[1]


@every
def test_the_batch_does_not_matter(name: str, norm: Norm) -> None:
    images = random_images(3, 12)
    together = ATTACKS[name](AttackInput(quadratic, images, threat(norm), generators(3, 1), STEPS[name]))
    for row, own in enumerate(generators(3, 1)):
        alone = ATTACKS[name](AttackInput(quadratic, images[row : row + 1], threat(norm), [own], STEPS[name]))
        torch.testing.assert_close(alone.images[0], together.images[row], rtol=0, atol=1e-6)
        torch.testing.assert_close(alone.last[0], together.last[row], rtol=0, atol=1e-6)


@every
def test_the_last_images_are_allowed_too(name: str, norm: Norm) -> None:
    images, model = random_images(2, 12), threat(norm)
    last = ATTACKS[name](AttackInput(quadratic, images, model, generators(2, 1), STEPS[name])).last
    assert (model.distance(images, last) <= model.eps + 1e-7).all()
    assert last.min() >= 0 and last.max() <= 1
    assert (quadratic(last) > quadratic(images)).all()


@every
def test_calls_are_counted(name: str, norm: Norm) -> None:
    calls = []

    def counted(images: Tensor) -> Tensor:
        calls.append(images.requires_grad)
        return quadratic(images)

    found = ATTACKS[name](AttackInput(counted, random_images(1, 12), threat(norm), generators(1, 1), STEPS[name]))
    assert found.queries.tolist() == [len(calls)] and found.gradients.tolist() == [sum(calls)]
    assert found.gradients.item() == (0 if name == "square" else STEPS[name])


@every
def test_a_row_stops_whatever_the_others_need(name: str, norm: Norm) -> None:
    calls = []

    def counted(images: Tensor) -> Tensor:
        calls.append(len(images))
        return quadratic(images)

    images, steps = random_images(3, 12), 5 * STEPS[name]
    whole = ATTACKS[name](AttackInput(quadratic, images, threat(norm), generators(3, 1), steps))
    # Half way from the image to what can be reached; the last row never stops.
    stop_above = (quadratic(images) + whole.values) / 2
    stop_above[2] = math.inf
    mixed = ATTACKS[name](AttackInput(counted, images, threat(norm), generators(3, 1), steps, stop_above))
    assert (mixed.values[:2] > stop_above[:2]).all(), "it stopped too early"
    assert (mixed.queries[:2] < mixed.queries[2]).all() and mixed.queries[2] == len(calls) == whole.queries[2]
    torch.testing.assert_close(mixed.images[2], whole.images[2], rtol=0, atol=1e-6)
    assert torch.equal(mixed.last[:2], mixed.images[:2])
    calls.clear()
    alone = ATTACKS[name](AttackInput(counted, images[:1], threat(norm), generators(3, 1)[:1], steps, stop_above[:1]))
    assert alone.queries.item() == len(calls) == mixed.queries[0] and mixed.gradients[0] == alone.gradients.item()
    torch.testing.assert_close(alone.images[0], mixed.images[0], rtol=0, atol=1e-6)


@every
def test_more_steps_find_no_less(name: str, norm: Norm) -> None:
    few, many = (
        ATTACKS[name](
            AttackInput(quadratic, random_images(3, 12), threat(norm), generators(3, 1), count * STEPS[name])
        ).values
        for count in (1, 5)
    )
    assert (many >= few * (1 - 1e-3)).all()


# --- what is known to be reachable -----------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", [pgd, apgd])
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_reach_the_optimum_of_a_linear_objective(attack: Attack, norm: Norm) -> None:
    weights = torch.randn(3, 12, 12, generator=generator(5))
    images = torch.full((2, 3, 12, 12), 0.5)  # the box is out of reach
    model = threat(norm, 0.05)
    rise = 0.05 * (weights.abs().sum() if norm == "linf" else weights.norm())
    found = attack(
        AttackInput(lambda x: (x * weights).flatten(1).sum(1), images, model, generators(len(images), 1), 30)
    )
    gained = found.values - (images * weights).flatten(1).sum(1)
    torch.testing.assert_close(gained, rise.expand(2), rtol=0.01, atol=0)


@pytest.mark.parametrize(("norm", "part"), [("linf", 0.7), ("l2", 0.4)])
def test_squares_come_a_good_part_of_the_way(norm: Norm, part: float) -> None:
    """A coarse pattern is what squares can paint; twins of opposite sign paint less of it."""
    weights = torch.ones(3, 12, 12)
    weights[:, :, 6:] = -1
    images = torch.full((6, 3, 12, 12), 0.5)
    rise = 0.05 * (weights.abs().sum() if norm == "linf" else weights.norm())
    found = square(
        AttackInput(lambda x: (x * weights).flatten(1).sum(1), images, threat(norm, 0.05), generators(6, 1), 600)
    )
    gained = found.values - (images * weights).flatten(1).sum(1)
    assert gained.mean() > part * rise and (gained <= rise * 1.001).all()


def rugged(images: Tensor) -> Tensor:
    """Curved much more in some directions than in others: a fixed step is too long for some, too short for others."""
    flat = images.flatten(1) - 0.5
    scales = torch.logspace(-2, 2, flat.shape[1])
    return (flat * scales).sin().sum(1) - 30 * flat.square().mean(1)


@pytest.mark.parametrize("norm", NORMS)
def test_apgd_finds_a_peak_inside_the_ball_by_shortening_its_step(norm: Norm) -> None:
    """The first step is as long as the ball is wide; one that stayed so would never come near."""
    images = torch.full((4, 3, 8, 8), 0.5)
    model = threat(norm, 0.1)
    peak = model.start(images, generators(4, 7))

    def nearness(x: Tensor) -> Tensor:
        return -(x - peak).flatten(1).norm(dim=1)

    found = apgd(AttackInput(nearness, images, model, generators(len(images), 1), 100))
    assert (found.values > 0.05 * nearness(images)).all(), "19 parts of 20 of the way"


def test_checkpoints_are_those_of_the_paper() -> None:
    """Of 100 steps: 0, 22, then periods 0.03 shorter each, at least 0.06."""
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]


def test_momentum_and_halving_follow_the_algorithm_line_by_line() -> None:
    """Against the algorithm as printed, written plainly for one image."""
    model, steps = Threat(norm="linf", eps=0.08), 40
    images = random_images(1, 8)

    def oracle(objective: Objective) -> Tensor:
        draws = generators(1, 9)
        step = 2 * model.eps
        points = [model.start(images, draws)]

        def gradient(x: Tensor) -> Tensor:
            return value_and_gradient(objective, x)[1]

        def value(x: Tensor) -> float:
            return float(objective(x))

        points.append(model.project(points[0] + step * gradient(points[0]).sign(), images))
        top = max(points, key=value)
        rises = int(value(points[1]) > value(points[0]))
        marks = checkpoints(steps)
        step_then, top_then, last = step, value(points[0]), 0
        now, before, now_value = points[1], points[0], value(points[1])
        for k in range(1, steps):
            if k in marks:
                halve = rises < 0.75 * (k - last) or (step == step_then and value(top) == top_then)
                step_then, top_then, last, rises = step, value(top), k, 0
                if halve:
                    step, now = step / 2, top
                    now_value = value(top)
            ahead = model.project(now + step * gradient(now).sign(), images)
            after = model.project(now + 0.75 * (ahead - now) + 0.25 * (now - before), images)
            before, now = now, after
            rises += int(value(now) > now_value)
            now_value = value(now)
            if now_value > value(top):
                top = now
        return top

    wanted = oracle(rugged)
    got = apgd(AttackInput(rugged, images, model, generators(len(images), 9), steps))
    torch.testing.assert_close(got.images, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_a_patch_changes_one_square_only(norm: Norm) -> None:
    images = random_images(2, 16)
    changed = ATTACKS["patch"](AttackInput(quadratic, images, threat(norm), generators(2, 1), 8)).last != images
    for row in changed:
        rows, columns = row.any(0).any(1).nonzero(), row.any(0).any(0).nonzero()
        assert 1 < rows.max() - rows.min() + 1 <= 4 and 1 < columns.max() - columns.min() + 1 <= 4


@pytest.mark.parametrize("norm", NORMS)
def test_a_low_frequency_change_is_smooth_and_uses_its_radius(norm: Norm) -> None:
    images, model = torch.full((1, 3, 64, 64), 0.5), threat(norm, 0.05)
    weights = torch.ones(3, 64, 64)
    weights[:, :, 32:] = -1
    last = ATTACKS["lowfrequency"](
        AttackInput(lambda x: (x * weights).flatten(1).sum(1), images, model, generators(1, 1), 40)
    ).last
    change = last - images
    steps = change.diff(dim=2).abs().max()
    assert steps <= change.abs().max() / 4, "no sharper than its grid"
    torch.testing.assert_close(model.distance(images, last), torch.tensor([0.05]), rtol=0.05, atol=0)
    gained = float((change * weights).sum())
    assert gained > 0.8 * 0.05 * float(weights.sum().abs() if norm == "linf" else weights.norm())


# --- on the detector -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_beat_squares_on_the_real_score(norm: Norm) -> None:
    made = detector(calibrated=False)
    images = random_images(2, 32)
    model = threat(norm, 4 / 255 if norm == "linf" else 0.3)

    def objective(x: Tensor) -> Tensor:
        return made.score(x, generator(1))

    with torch.no_grad():
        clean = objective(images)
    white = apgd(AttackInput(objective, images, model, generators(len(images), 2), 25)).values - clean
    black = square(AttackInput(objective, images, model, generators(len(images), 2), 50)).values - clean
    assert (white > 0).all() and (white > black).all()


def test_a_gradient_that_is_no_number_is_zero() -> None:
    values, gradient = value_and_gradient(lambda x: x.flatten(1).sum(1).sqrt(), torch.zeros(1, 3, 2, 2))
    assert float(values) == 0 and torch.equal(gradient, torch.zeros(1, 3, 2, 2))


def test_the_objective_of_a_test_is_differentiable() -> None:
    assert_gradient(rugged, random_images(1, 6, dtype=torch.float64))
