"""Shortcuts: statistics, separations, warnings, and planted shortcuts that are found."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from PIL import Image
from toy_datasets import pixels

from advrad.data import shortcuts
from advrad.data.inspection import inspect_dataset
from advrad.data.layouts import find_records
from advrad.data.shortcuts import Separation
from advrad.detectors.loading import load_detector
from advrad.errors import DataError
from advrad.inference.evaluation import evaluate

IMAGES = nps.arrays(
    np.float64, st.tuples(st.integers(1, 4), st.just(3), st.integers(3, 8), st.integers(3, 8)), elements=st.floats(0, 1)
)


@st.composite
def two_groups(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Membership and values, with ties, of two groups that both have members."""
    labels = np.array(draw(st.lists(st.booleans(), min_size=2, max_size=24).filter(lambda x: any(x) and not all(x))))
    return labels, draw(nps.arrays(np.float64, labels.size, elements=st.integers(-5, 5).map(float)))


def only(labels: np.ndarray, values: np.ndarray, name: str = "brightness") -> Separation:
    (found,) = shortcuts.separations(labels, {name: values})
    return found


def make(root: Path, train: int = 0, good: int = 0, odd: int = 0) -> Path:
    """A product whose images, good and defective, differ by chance alone, but for these grey levels added to each."""
    for k, (name, count, shift) in enumerate(
        (("train/good", 40, train), ("test/good", 12, good), ("test/odd", 12, odd))
    ):
        folder = root / name
        folder.mkdir(parents=True)
        for i in range(count):
            values = pixels(32, seed=1000 * k + i)[0].astype(int) + shift
            Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(folder / f"{i:03}.png")
    return root


# --- statistics


def test_statistics_of_known_images() -> None:
    y, x = np.mgrid[:6, :6]
    images = np.stack([np.full((6, 6), 0.25), (y + x) % 2, x / 5]).astype(np.float32)
    found = shortcuts.image_statistics(np.repeat(images[:, None], 3, axis=1))
    np.testing.assert_allclose(found["brightness"], [0.25, 0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(found["contrast"], [0, 0.5, np.std(np.arange(6) / 5)], atol=1e-6)
    np.testing.assert_allclose(found["sharpness"], [0, 4, 0], atol=1e-6)


@settings(deadline=None)
@given(IMAGES, st.floats(0, 0.5))
def test_a_constant_changes_brightness_only(images: np.ndarray, light: float) -> None:
    before, after = shortcuts.image_statistics(images), shortcuts.image_statistics(images + light)
    np.testing.assert_allclose(after["brightness"], before["brightness"] + light, atol=1e-9)
    for name in ("contrast", "sharpness"):
        np.testing.assert_allclose(after[name], before[name], atol=1e-9)


@settings(deadline=None)
@given(IMAGES, st.floats(0, 1))
def test_a_factor_scales_all_statistics(images: np.ndarray, exposure: float) -> None:
    before, after = shortcuts.image_statistics(images), shortcuts.image_statistics(exposure * images)
    for name, values in before.items():
        np.testing.assert_allclose(after[name], exposure * values, atol=1e-9)


@settings(deadline=None)
@given(IMAGES)
def test_positions_and_the_batch_do_not_matter(images: np.ndarray) -> None:
    found = shortcuts.image_statistics(images)
    turned = shortcuts.image_statistics(np.rot90(images, axes=(2, 3)))
    alone = shortcuts.join_statistics([shortcuts.image_statistics(images[i : i + 1]) for i in range(len(images))])
    assert set(found) == set(turned) == set(alone)
    for name, values in found.items():
        np.testing.assert_allclose(turned[name], values, atol=1e-12)
        np.testing.assert_allclose(alone[name], values, atol=1e-12)


# --- two groups


@settings(deadline=None)
@given(two_groups())
def test_the_auroc_is_that_of_the_better_direction(groups: tuple[np.ndarray, np.ndarray]) -> None:
    labels, values = groups
    found = only(labels, values)
    wins = [(b > a) + (b == a) / 2 for a, b in product(values[~labels], values[labels])]
    area = float(np.mean(wins))
    assert found.auroc == pytest.approx(max(area, 1 - area), abs=1e-12)
    assert 0.5 <= found.auroc <= 1
    assert 0 <= found.interval[0] <= found.interval[1] <= 1
    assert found.images == min(labels.sum(), (~labels).sum())
    if found.auroc > 0.5:
        assert found.direction == ("are darker" if area > 0.5 else "are brighter")


@settings(deadline=None)
@given(two_groups(), st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(groups: tuple[np.ndarray, np.ndarray], chance: object) -> None:
    labels, values = groups
    order = list(range(labels.size))
    chance.shuffle(order)  # type: ignore[attr-defined]
    assert only(labels[order], values[order]) == only(labels, values)


@settings(deadline=None)
@given(two_groups())
def test_the_order_of_the_groups_changes_the_direction_only(groups: tuple[np.ndarray, np.ndarray]) -> None:
    labels, values = groups
    one, other = only(labels, values), only(~labels, values)
    assert one.auroc == other.auroc
    assert one.auroc == 0.5 or one.direction != other.direction


def test_one_group_has_no_separations() -> None:
    assert shortcuts.separations([0, 0], {"brightness": np.arange(2.0)}) == ()
    with pytest.raises(DataError, match="NaN"):
        shortcuts.separations([0, 1], {"brightness": np.array([0.0, np.nan])})


@pytest.mark.parametrize(("count", "strong"), [(shortcuts.ENOUGH - 1, False), (shortcuts.ENOUGH, True)])
def test_few_images_give_no_warning(count: int, strong: bool) -> None:
    labels = np.repeat([0, 1], [count, 20])
    found = only(labels, labels.astype(float))
    assert found.auroc == 1
    assert found.strong == strong
    assert bool(shortcuts.warn_of_shortcuts([found])) == bool(shortcuts.warn_of_conditions([found])) == strong


def test_the_interval_decides_on_a_warning() -> None:
    wide = Separation("contrast", 0.95, (0.8, 1.0), "have less contrast", 12)
    narrow = Separation("contrast", 0.85, (0.81, 0.89), "have less contrast", 300)
    assert not wide.strong
    assert narrow.strong
    assert shortcuts.warn_of_shortcuts([wide]) == []


# --- warnings


def test_a_warning_lists_all_strong_statistics() -> None:
    labels = np.repeat([0, 1], 30)
    noise = np.random.default_rng(0).normal(size=(2, 60))
    found = shortcuts.separations(
        labels, {"contrast": noise[0] - 3 * labels, "sharpness": noise[1], "brightness": labels + 0.0}
    )
    assert list(shortcuts.aurocs(found)) == ["brightness", "contrast", "sharpness"]
    (words,) = shortcuts.warn_of_shortcuts(found)
    assert words == (
        "Brightness alone separates normal from anomalous test images with AUROC 1.000 (normal ones are darker), "
        f"contrast alone with {found[1].auroc:.3f} (normal ones have more contrast). "
        "A detector may score well here without seeing a defect; compare its AUROC with these."
    )
    (words,) = shortcuts.warn_of_shortcuts(found[:1])
    assert words.endswith("compare its AUROC with this one.")


# --- in folders


def test_a_planted_shortcut_is_found(tmp_path: Path, widget_run: Path) -> None:
    dataset = find_records(make(tmp_path, train=20, odd=20))
    figures = evaluate(load_detector(widget_run, "cpu"), dataset)
    assert figures.shortcuts["brightness"] == 1
    (words,) = figures.warnings
    assert "with AUROC 1.000 (normal ones are darker)" in words
    found = inspect_dataset(dataset)
    assert found.shortcuts["brightness"] == found.conditions["brightness"] == 1
    assert found.warnings[0].startswith("Brightness alone separates normal from anomalous test images")
    assert found.warnings[1].startswith(
        "Brightness alone separates normal training images from normal test images with AUROC 1.000"
        " (test images are darker)"
    )


def test_no_shortcut_gives_no_warning(tmp_path: Path, widget_run: Path) -> None:
    dataset = find_records(make(tmp_path))
    figures = evaluate(load_detector(widget_run, "cpu"), dataset)
    found = inspect_dataset(dataset)
    assert figures.warnings == found.warnings == ()
    for areas in (figures.shortcuts, found.shortcuts, found.conditions):
        assert set(areas) == {"brightness", "contrast", "sharpness"}


def test_bright_defects_do_not_warn_of_conditions(tmp_path: Path) -> None:
    found = inspect_dataset(find_records(make(tmp_path, odd=-20)))
    (words,) = found.warnings
    assert "(normal ones are brighter)" in words


@pytest.mark.real
def test_the_brightness_of_real_screws_is_a_shortcut(shared_data: Path) -> None:
    found = inspect_dataset(find_records(shared_data / "mvtec_ad" / "screw"))
    assert found.shortcuts["brightness"] > 0.99
    assert found.conditions["brightness"] > 0.99
    assert "(normal ones are darker)" in found.warnings[0]
    assert inspect_dataset(shared_data / "mvtec_ad" / "bottle").warnings == ()
