"""Synthetic defects: masks, ranges and seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_models import generator, stack

from advrad.data.synthetic import DEFECTS, SELECTION, TRAINING, VISIBLE, paste_defects

EVERY_FAMILY = pytest.mark.parametrize("kind", DEFECTS)


def products(count: int, size_px: int = 48, colour: bool = True) -> Tensor:
    """Images with structure; grey ones have three equal channels."""
    images = stack(count, size_px).batch(range(count))
    return images if colour else images[:, :1].expand(-1, 3, -1, -1).contiguous()


def paste(images: Tensor, kind: str, seeds: list[int] | None = None) -> tuple[Tensor, Tensor]:
    return paste_defects(images, images.flip(0), seeds or list(range(len(images))), (kind,))


def test_families_of_training_and_selection_are_apart() -> None:
    assert not set(TRAINING) & set(SELECTION)
    assert set(DEFECTS) == set(TRAINING) | set(SELECTION)


def test_the_default_families_are_those_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: object) -> np.ndarray:
        raise AssertionError("a family kept for the selection was shown")

    for kind in SELECTION:
        monkeypatch.setitem(DEFECTS, kind, forbidden)  # type: ignore[arg-type]
    images = products(40, 24)
    assert paste_defects(images, images, range(40))[1].any()
    with pytest.raises(AssertionError, match="kept for the selection"):
        paste_defects(images, images, range(40), tuple(SELECTION))


def bilinear(channel: np.ndarray, places: tuple[np.ndarray, np.ndarray], **options: object) -> np.ndarray:
    """Bilinear interpolation, spelt out."""
    (y, x), (rows, columns) = places, channel.shape
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    y1, x1 = np.minimum(y0 + 1, rows - 1), np.minimum(x0 + 1, columns - 1)
    fy, fx = y - y0, x - x0
    top = channel[y0, x0] * (1 - fx) + channel[y0, x1] * fx
    bottom = channel[y1, x0] * (1 - fx) + channel[y1, x1] * fx
    return top * (1 - fy) + bottom * fy


def test_warps_are_bilinear(monkeypatch: pytest.MonkeyPatch) -> None:
    images = products(12)
    defective, masks = paste(images, "warp")
    monkeypatch.setattr("scipy.ndimage.map_coordinates", bilinear)
    expected, expected_masks = paste(images, "warp")
    torch.testing.assert_close(defective, expected, rtol=0, atol=1e-6)
    assert (masks != expected_masks).float().mean() < 1e-3
    assert not torch.equal(defective, images)


@EVERY_FAMILY
def test_the_mask_is_what_changed(kind: str) -> None:
    images = products(16)
    before = images.clone()
    defective, masks = paste(images, kind)
    assert torch.equal(images, before), "the normal image itself was changed"
    assert masks.shape == (16, 1, 48, 48) and masks.dtype == torch.bool
    change = (defective - images).abs().amax(1, keepdim=True)
    assert (change[~masks] <= VISIBLE).all()
    assert (change[masks] > VISIBLE).all()
    assert (masks.sum((1, 2, 3)) >= 4).float().mean() > 0.8, "most defects must be visible"
    assert (masks.float().mean((1, 2, 3)) < 0.8).all(), "a defect must not be the whole image"


@EVERY_FAMILY
@pytest.mark.parametrize("size_px", [16, 33, 256])
def test_images_of_any_size_stay_in_range(kind: str, size_px: int) -> None:
    count = 24 if size_px < 100 else 3
    images = products(count, size_px)
    images[::2] = images[::2].round()  # black and white at the very ends of the range
    defective, _ = paste(images, kind)
    assert defective.shape == images.shape and defective.dtype == torch.float32
    assert defective.min() >= 0 and defective.max() <= 1
    assert defective.isfinite().all()


@EVERY_FAMILY
def test_images_need_not_be_square(kind: str) -> None:
    images = products(12)[:, :, :, :24].contiguous()
    defective, masks = paste(images, kind)
    assert defective.shape == images.shape and masks.any()
    assert paste(images.transpose(2, 3).contiguous(), kind)[1].any()


@EVERY_FAMILY
def test_defects_follow_from_the_seeds(kind: str) -> None:
    images = products(6)
    first, again, other = paste(images, kind), paste(images, kind), paste(images, kind, list(range(100, 106)))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert all(not torch.equal(a, b) for a, b in zip(first[0], other[0], strict=True))


def test_a_row_depends_on_its_own_image_donor_and_seed_only() -> None:
    images, donors, seeds = products(8), products(8).flip(0), list(range(8))
    together, masks = paste_defects(images, donors, seeds, tuple(DEFECTS))
    for i in (7, 3, 0):
        alone, mask = paste_defects(images[i : i + 1], donors[i : i + 1], seeds[i : i + 1], tuple(DEFECTS))
        assert torch.equal(alone[0], together[i]) and torch.equal(mask[0], masks[i])


@EVERY_FAMILY
def test_grey_stays_grey(kind: str) -> None:
    defective, masks = paste(products(24, colour=False), kind)
    assert masks.any()
    assert torch.equal(defective[:, 0], defective[:, 1]) and torch.equal(defective[:, 0], defective[:, 2])


def test_colour_images_get_colourful_defects() -> None:
    defective, _ = paste(products(24), "texture")
    assert (defective[:, 0] - defective[:, 1]).abs().max() > 0.1


@EVERY_FAMILY
@pytest.mark.parametrize("shade", [0.0, 0.5, 1.0])
def test_flat_images_stay_in_range(kind: str, shade: float) -> None:
    images = torch.full((8, 3, 32, 32), shade)
    defective, masks = paste(images, kind)
    assert defective.min() >= 0 and defective.max() <= 1
    assert ((defective - images).abs().amax(1, keepdim=True) > VISIBLE).equal(masks)


@pytest.mark.parametrize("kind", ["texture", "specks", "scratch", "stain", "grain", "dent", "shade"])
def test_added_material_is_visible_on_flat_grey(kind: str) -> None:
    _, masks = paste(torch.full((16, 3, 64, 64), 0.5), kind)
    assert (masks.flatten(1).sum(1) >= 4).float().mean() > 0.8


def test_an_invisible_defect_is_drawn_again() -> None:
    """On flat images matter moved about is invisible, so other families take its turn."""
    flat = torch.full((40, 3, 128, 128), 0.5)
    kinds = ("patch", "texture")
    once = paste_defects(flat, flat, range(40), kinds, attempts=1)[1].flatten(1).any(1)
    often = paste_defects(flat, flat, range(40), kinds, attempts=8)[1].flatten(1).any(1)
    assert 5 < once.sum() < 35
    assert often.sum() >= 38


def test_pieces_come_from_the_donor() -> None:
    images = torch.full((12, 3, 32, 32), 0.2)
    donors = torch.rand(12, 3, 32, 32, generator=generator(0)) * 0.1 + 0.8
    for kind in ("swap", "patch"):
        defective, masks = paste_defects(images, donors, range(12), (kind,))
        touched = masks.flatten(1).any(1)
        assert touched.sum() > 3
        assert defective[touched].amax() > 0.6
    swapped, masks = paste_defects(images, donors, range(12), ("swap",))
    pieces = swapped[masks.expand_as(swapped)]
    assert ((pieces >= 0.8) & (pieces <= 0.9)).all()


def test_gradients_and_layouts_of_the_input_do_not_matter() -> None:
    images = products(2)
    wanted, _ = paste(images, "stain")
    odd = images.to(memory_format=torch.channels_last).requires_grad_()
    got, _ = paste(odd, "stain")
    assert torch.equal(got, wanted) and not got.requires_grad


def test_the_limit_of_visibility() -> None:
    assert 4 / 255 < VISIBLE < 6 / 255
