"""How an image becomes the working image, and how maps and masks go back."""

from __future__ import annotations

import pytest
import torch

from advrad.data.framing import PADDING, Framing, as_framing
from advrad.data.resize_norm import framed_norm, framed_radius
from advrad.data.transforms import resize


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_stretching_is_resizing() -> None:
    images = noise(20, 50)
    assert torch.equal(as_framing(32).apply(images), resize(images, 32))
    assert torch.equal(Framing(24, 48).apply(images), resize(images, (24, 48)))
    assert Framing(24, 48).window(20, 50) == (slice(0, 24), slice(0, 48))


@pytest.mark.parametrize(("height", "width", "inner"), [(20, 80, (8, 32)), (90, 30, (32, 11)), (7, 900, (1, 32))])
def test_padding_keeps_the_aspect_ratio(height: int, width: int, inner: tuple[int, int]) -> None:
    framing, images = Framing.square(32, pad=True), noise(height, width)
    found = framing.apply(images)
    rows, columns = framing.window(height, width)
    assert (rows.stop - rows.start, columns.stop - columns.start) == inner == framing.scaled_size(height, width)
    assert torch.equal(found[:, :, rows, columns], resize(images, inner))
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[rows, columns] = False
    assert (found[:, :, outside] == PADDING).all()
    # In the middle, up to a pixel.
    assert abs(rows.start - (32 - rows.stop)) <= 1 and abs(columns.start - (32 - columns.stop)) <= 1


def test_a_square_image_is_not_padded() -> None:
    images = noise(40, 40)
    assert torch.equal(Framing.square(32, pad=True).apply(images), resize(images, 32))
    assert Framing.square(40, pad=True).apply(images) is not None
    assert torch.equal(Framing.square(40, pad=True).apply(images), images)


def test_gradients_reach_the_image_and_stay_inside() -> None:
    images = noise(20, 80).requires_grad_()
    Framing.square(32, pad=True).apply(images).sum().backward()
    assert images.grad is not None and (images.grad > 0).all()


@pytest.mark.parametrize("framing", [Framing(24, 96), Framing.square(32, pad=True), Framing.square(64, pad=True)])
@pytest.mark.parametrize(("height", "width"), [(20, 80), (40, 130), (33, 20)])
def test_no_change_grows_beyond_the_radius(framing: Framing, height: int, width: int) -> None:
    images = noise(height, width)
    working = framing.apply(images)
    generator = torch.Generator().manual_seed(1)
    # The worst change in l2 is the largest singular vector; a power iteration finds it.
    change = torch.rand(images.shape, generator=generator)
    for _ in range(60):
        change = change / change.norm()
        change.requires_grad_()
        moved = framing.apply(images + change) - working
        (change,) = torch.autograd.grad(moved.square().sum(), change)
        change = change.detach()
    change = change / change.norm()
    worst = float((framing.apply(images + change) - working).norm())
    bound = framed_norm(height, width, framing)
    assert worst <= bound * (1 + 1e-4)
    assert worst >= 0.98 * bound, "the bound is not tight, so a wrong constant might pass"
    assert framed_radius(height, width, framing, 1.0, "l2") >= worst
    signs = 0.1 * torch.randint(0, 2, images.shape, generator=generator).mul(2).sub(1).float()
    for changed in (signs, torch.full_like(images, 0.1)):
        reached = float((framing.apply(images + changed) - working).abs().max())
        assert reached <= framed_radius(height, width, framing, 0.1, "linf")
    assert reached == pytest.approx(0.1, abs=1e-5), "a constant change stays as large as it is"


def test_the_key_differs_where_the_working_image_does() -> None:
    framings = [Framing.square(32), Framing.square(32, pad=True), Framing(32, 64), Framing(64, 32), Framing.square(64)]
    assert len({framing.key for framing in framings}) == 5
    assert Framing.square(32).key == "32", "entries of older versions stay valid"
