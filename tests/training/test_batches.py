"""Batches: they depend on seed, step and configuration only, for any number of processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from toy_models import stack
from toy_training import config

from advrad.data.loading import ImageStack
from advrad.data.records import Record
from advrad.training.batches import TrainConfig, View, find_symmetry, make_batch, whole_images


def stacked(values: np.ndarray) -> ImageStack:
    records = tuple(Record(Path(f"{i}.png"), "train", 0, "good", None) for i in range(len(values)))
    return ImageStack(np.rint(values.clip(0, 1) * 65535).astype(np.uint16), records)


def test_configs_out_of_range_are_refused() -> None:
    for wrong in (
        {"steps": -1},
        {"views": ()},
        {"learning_rate": 0},
        {"restore": 1.5},
        {"symmetry": "round"},
        {"x": 1},
    ):
        with pytest.raises(ValidationError):
            config(**{"steps": 1} | wrong)  # type: ignore[arg-type]
    assert TrainConfig.parse(config().model_dump(mode="json"), "here") == config()


# --- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize("symmetry", ["none", "square"])
def test_the_shares_of_processes_make_up_the_batch(step: int, symmetry: str) -> None:
    pictures, settings = stack(), config(batch_size=6, symmetry=symmetry)
    whole = make_batch(pictures, settings, step, slice(0, 6))
    for world in (2, 3):
        share = 6 // world
        parts = [make_batch(pictures, settings, step, slice(i * share, (i + 1) * share)) for i in range(world)]
        for one, rows in zip(whole, zip(*parts, strict=True), strict=True):
            # Kernels may round differently for another number of rows.
            torch.testing.assert_close(torch.cat(rows), one, rtol=1e-6, atol=1e-6)


def test_a_step_is_drawn_from_seed_and_step_alone() -> None:
    pictures, rows = stack(), slice(0, 4)
    torch.manual_seed(1)
    first = make_batch(pictures, config(), 3, rows)
    torch.manual_seed(2)
    for one, other in zip(first, make_batch(pictures, config(), 3, rows), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first[3], make_batch(pictures, config(), 5, rows)[3])
    assert not torch.equal(first[3], make_batch(pictures, config(seed=1), 3, rows)[3])


def test_batches_take_turns_among_the_views() -> None:
    settings = config(views=(View(image_px=32, window_px=24), View(image_px=16, window_px=16)))
    sides = [make_batch(stack(), settings, step, slice(0, 4))[0].shape for step in range(4)]
    assert sides == [(4, 3, 24, 24), (4, 3, 16, 16)] * 2


def test_windows_give_the_position_of_the_pixels() -> None:
    """Images whose red and green are the row and the column of each pixel."""
    at = (np.arange(64) + 0.5) / 64
    y, x = np.meshgrid(at, at, indexing="ij")
    pictures = stacked(np.stack([y, x, 0 * x])[None].repeat(3, 0))
    corners = set()
    for step in range(6):
        settings = config(
            views=(View(image_px=32, window_px=16),), defect_probability=0.0, brightness_jitter=0.0, batch_size=8
        )
        images, _, _, _, windows = make_batch(pictures, settings, step, slice(0, 8))
        for image, (top, left, bottom, right) in zip(images, windows.tolist(), strict=True):
            assert bottom - top == pytest.approx(1) and right - left == pytest.approx(1)
            rows = 2 * image[0, :, 0] - 1
            columns = 2 * image[1, 0] - 1
            inside = (torch.arange(16) + 0.5) / 16
            # Only the outermost pixels feel the border in resizing.
            torch.testing.assert_close(rows, top + inside, rtol=0, atol=0.02)
            torch.testing.assert_close(columns, left + inside, rtol=0, atol=0.02)
            assert round((top + 1) * 16) % 2 == 0 and round((left + 1) * 16) % 2 == 0
            corners.add((top, left))
    assert len(corners) > 20 and min(corners)[0] == -1 and max(corners)[0] == 0, "windows reach from border to border"


def test_whole_images_have_the_whole_window() -> None:
    settings = config(views=(View(image_px=16, window_px=16),))
    windows = make_batch(stack(), settings, 0, slice(0, 4))[4]
    assert windows.tolist() == [[-1, -1, 1, 1]] * 4


def test_the_share_that_shows_a_defect() -> None:
    for share, low, high in ((0.0, 0, 0), (0.6, 30, 60), (1.0, 60, 80)):
        settings = config(batch_size=80, defect_probability=share)
        images, corrupted, _, _, _ = make_batch(stack(), settings, 0, slice(0, 80))
        changed = int((images != corrupted).flatten(1).any(1).sum())
        assert low <= changed <= high


def test_the_brightness_varies_from_row_to_row() -> None:
    grey = stacked(np.full((3, 3, 16, 16), 0.3))
    whole = View(image_px=16, window_px=16)
    settings = config(views=(whole,), defect_probability=0.0, brightness_jitter=0.2, batch_size=400)
    images, corrupted, _, _, _ = make_batch(grey, settings, 0, slice(0, 400))
    assert torch.equal(images, corrupted), "the light is no defect to undo"
    assert float(images.flatten(1).std(1).max()) < 1e-6
    gains = torch.log(images[:, 0, 0, 0] / 0.3)
    assert float(gains.mean()) == pytest.approx(0, abs=0.03) and float(gains.std()) == pytest.approx(0.2, abs=0.03)
    white = make_batch(stacked(np.ones((3, 3, 16, 16))), settings, 0, slice(0, 8))[0]
    assert float(white.max()) == 1.0 and float(white.min()) < 1.0


def test_noise_levels_are_spread_evenly_over_every_batch() -> None:
    level = make_batch(stack(), config(batch_size=16), 4, slice(0, 16))[2]
    assert (level * 16).floor().tolist() == list(range(16))


def test_noise_is_standard_and_independent_of_the_row() -> None:
    noise = make_batch(stack(), config(batch_size=8), 0, slice(0, 8))[3]
    assert abs(float(noise.mean())) < 0.05 and float(noise.std()) == pytest.approx(1, abs=0.05)
    assert not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize(
    ("symmetry", "expected"), [("none", 1), ("horizontal", 2), ("vertical", 2), ("both", 4), ("square", 8)]
)
def test_mirror_images_are_those_allowed(symmetry: str, expected: int) -> None:
    corner = np.zeros((1, 3, 16, 16))
    corner[0, :, 0, 1] = 1.0
    whole = View(image_px=16, window_px=16)
    settings = config(views=(whole,), symmetry=symmetry, defect_probability=0.0, brightness_jitter=0.0, batch_size=64)
    images = make_batch(stacked(corner), settings, 0, slice(0, 64))[0]
    places = {tuple((row[0] == 1).nonzero()[0].tolist()) for row in images}
    assert len(places) == expected
    if symmetry == "horizontal":
        assert places == {(0, 1), (0, 14)}
    if symmetry == "vertical":
        assert places == {(0, 1), (15, 1)}


# --- symmetry of the product ---------------------------------------------------------------------------------------


def product(template: np.ndarray, count: int = 24) -> ImageStack:
    rng = np.random.default_rng(0)
    return stacked(template + rng.normal(0, 0.02, (count, 3, 32, 32)))


def test_symmetry_is_found_where_there_is_one() -> None:
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    disc = 0.2 + 0.5 * ((x**2 + y**2) < 0.5)
    assert find_symmetry(product(disc)) == "square"
    assert find_symmetry(product(0.5 + 0 * x)) == "square"
    ellipse = 0.2 + 0.5 * ((x**2 + 3 * y**2) < 0.7)
    assert find_symmetry(product(ellipse)) == "both"
    face = ellipse - 0.15 * (y > 0.3)
    assert find_symmetry(product(face)) == "horizontal"
    assert find_symmetry(product(face.T)) == "vertical"


def test_symmetry_is_not_found_where_there_is_none() -> None:
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    assert find_symmetry(product(0.5 + 0.2 * x + 0.1 * y)) == "none"
    # Point symmetry alone (a turn by 180 degrees) allows neither mirror image.
    assert find_symmetry(product(0.5 + 0.4 * x * y)) == "none"


def test_a_product_in_any_orientation_may_be_turned() -> None:
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    rng = np.random.default_rng(0)
    pictures = []
    for turn in rng.uniform(0, 2 * np.pi, 80):
        along = x * np.cos(turn) + y * np.sin(turn)
        across = y * np.cos(turn) - x * np.sin(turn)
        pictures.append(0.2 + 0.6 * ((np.abs(along) < 0.8) & (np.abs(across) < 0.2)))
    values = np.stack(pictures)[:, None].repeat(3, 1)
    assert find_symmetry(stacked(values)) == "square"


# --- whole images --------------------------------------------------------------------------------------------------


def test_whole_images_have_no_synthetic_defects() -> None:
    pictures, settings = stack(), config(brightness_jitter=0.0, defect_probability=1.0, symmetry="none")
    batches = list(whole_images(pictures, settings, 5))
    assert [batch.shape for batch in batches] == [(4, 3, 32, 32)] * 5
    known = {pictures.batch([i]).numpy().tobytes() for i in range(len(pictures))}
    rows = [row[None].numpy().tobytes() for batch in batches for row in batch]
    assert set(rows) <= known, "the images as they are"
    assert len(set(rows)) > 4, "not always the same ones"


def test_whole_images_are_augmented_and_follow_the_seed() -> None:
    first, again, other = (list(whole_images(stack(), config(seed=seed), 3)) for seed in (0, 0, 1))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    plain = list(whole_images(stack(), config(brightness_jitter=0.0), 3))
    assert (first[0] - plain[0]).abs().max() > 0.01
