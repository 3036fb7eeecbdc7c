"""The threat model: balls, boxes, steepest directions, and radii as text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from toy_models import generator, generators, random_images
from toy_threats import threat

from advrad.attacks.threat import NORMS, Norm, Threat
from advrad.errors import ConfigError

norms = pytest.mark.parametrize("norm", NORMS)


@settings(max_examples=30, deadline=None)
@given(norm=st.sampled_from(NORMS), seed=st.integers(0, 10**6), eps=st.floats(0, 1), reach=st.floats(0, 3))
def test_projection_ends_in_ball_and_box_and_leaves_what_lies_there(
    norm: Norm, seed: int, eps: float, reach: float
) -> None:
    images = random_images(3, 8, seed)
    images[0, 0] = 1.0
    images[1, 1] = 0.0
    model = threat(norm, eps)
    got = model.project(images + reach * torch.randn(images.shape, generator=generator(seed)), images)
    assert (model.distance(images, got) <= eps + 1e-7).all()
    assert got.min() >= 0 and got.max() <= 1
    torch.testing.assert_close(model.project(got, images), got, rtol=0, atol=1e-5)


@norms
def test_projection_of_a_far_point_reaches_the_rim(norm: Norm) -> None:
    images = torch.full((2, 3, 8, 8), 0.5)
    model = threat(norm, 0.1)
    far = model.project(images + torch.randn(images.shape, generator=generator()), images)
    torch.testing.assert_close(model.distance(images, far), torch.full((2,), 0.1), rtol=1e-4, atol=0)


@norms
def test_radius_zero_leaves_the_image_bit_for_bit(norm: Norm) -> None:
    images = random_images(2, 8)
    model = threat(norm, 0.0)
    assert torch.equal(model.project(images + 1, images), images)
    assert torch.equal(model.start(images, generators(len(images), 0)), images)


@norms
def test_nothing_of_length_one_rises_more_than_the_steepest_direction(norm: Norm) -> None:
    gradients = torch.randn(2, 3, 6, 6, generator=generator(1), dtype=torch.float64)
    best = (threat(norm).steepest(gradients) * gradients).flatten(1).sum(1)
    dual = gradients.flatten(1).abs().sum(1) if norm == "linf" else gradients.flatten(1).norm(dim=1)
    torch.testing.assert_close(best, dual)
    assert torch.equal(threat(norm).steepest(torch.zeros(1, 3, 2, 2)), torch.zeros(1, 3, 2, 2))


@norms
def test_starts_fill_the_ball_and_follow_the_seed(norm: Norm) -> None:
    images = torch.full((200, 3, 2, 2), 0.5)
    model = threat(norm, 0.1)
    starts = model.start(images, generators(len(images), 3))
    distances = model.distance(images, starts)
    assert distances.max() <= 0.1 and distances.max() > 0.09
    assert distances.min() < 0.095, "not all on the rim"
    assert torch.equal(starts, model.start(images, generators(len(images), 3)))
    assert not torch.equal(starts, model.start(images, generators(len(images), 4)))
    assert (starts - images).mean().abs() < 0.01


@pytest.mark.parametrize(
    ("typed", "radius"), [("2/255", 2 / 255), ("0.0078", 0.0078), ("0", 0.0), (0.5, 0.5), ("1", 1.0), ("1e-3", 1e-3)]
)
def test_radii_as_numbers_and_fractions(typed: str | float, radius: float) -> None:
    assert Threat.of("linf", typed).eps == pytest.approx(radius)


@pytest.mark.parametrize("typed", ["", "two", "2/0", "2/x", "nan", "inf", "-1", "-2/255", "8"])
def test_other_radii_are_refused_with_the_option_named(typed: str) -> None:
    with pytest.raises(ConfigError, match=r"^eps"):
        Threat.of("linf", typed)


def test_a_long_way_in_l2_is_allowed_and_in_linf_is_not() -> None:
    assert Threat.of("l2", "3.5").eps == 3.5
    with pytest.raises(ValidationError, match="above 1"):
        Threat(norm="linf", eps=3.5)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match="norm l1: is unknown; choose linf or l2"):
        Threat.of("l1", 0.1)
