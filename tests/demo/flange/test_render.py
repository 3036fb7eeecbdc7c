from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from advrad.demo.flange.render import DEFECTS, render, write_product
from advrad.errors import ConfigError, OutputError
from advrad.utils.progress import CallbackReporter

SIZE = 96
# Even the mildest defect is visible at this size.
VISIBLE_SIZE = 128


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_image_is_well_formed_and_mask_of_a_normal_part_is_empty() -> None:
    image, mask = render(0, SIZE)
    assert image.shape == (SIZE, SIZE, 3) and image.dtype == np.float32
    assert image.min() >= 0 and image.max() <= 1
    assert mask.shape == (SIZE, SIZE) and mask.dtype == np.bool_ and not mask.any()
    # Neither flat nor overexposed.
    assert image.std() > 0.1
    assert (image > 0.99).mean() < 0.02


def test_same_seed_same_image_other_seed_other_image() -> None:
    first, other = render(3, SIZE)[0], render(4, SIZE)[0]
    np.testing.assert_array_equal(first, render(3, SIZE)[0])
    assert np.abs(first - other).mean() > 0.01


def test_the_global_random_state_is_neither_used_nor_changed() -> None:
    np.random.seed(1)
    first = render(5, SIZE, "rust")[0]
    after = np.random.random()
    np.random.seed(1)
    assert np.random.random() == after
    np.testing.assert_array_equal(first, render(5, SIZE, "rust")[0])


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("severity", [0.0, 1.0])
def test_a_defect_changes_the_image_inside_its_mask_only(defect: str, severity: float) -> None:
    for seed in (1, 2, 3):
        good, _ = render(seed, VISIBLE_SIZE)
        bad, mask = render(seed, VISIBLE_SIZE, defect, severity)
        assert 0.0005 < mask.mean() < 0.15
        change = np.abs(bad - good).max(-1)
        # The sensor noise is the same in both, so even small differences stem from the defect.
        near = binary_dilation(mask, iterations=2)
        assert change[~near].max() < 0.12
        assert (change[~near] > 0.03).mean() < 0.001
        # Even the mildest defect is well above the sensor noise.
        assert change[mask].mean() > 0.03
        assert np.sort(change[mask])[-5:].min() > 0.08


def test_severity_from_the_seed_varies() -> None:
    areas = [render(seed, SIZE, "rust")[1].sum() for seed in range(6)]
    assert len(set(areas)) == len(areas)


def test_pose_and_light_vary_between_normal_parts() -> None:
    images = np.stack([render(seed, SIZE)[0] for seed in range(8)])
    assert images.mean((1, 2, 3)).std() > 0.005
    # Variation is visible, but small enough for one product.
    assert 0.01 < images.std(0).mean() < 0.12


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((16,), "size_px"), ((SIZE, "hole"), "defect"), ((SIZE, "rust", 1.5), "severity")],
)
def test_bad_argument_is_named(arguments: tuple[object, ...], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        render(0, *arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_product(tmp_path_factory.mktemp("made") / "new" / "flange", 7, 3, 2, 1, SIZE)


def test_layout(product: Path) -> None:
    files = {path.relative_to(product).as_posix() for path in product.rglob("*") if path.is_file()}
    expected = {"product.json"}
    expected |= {f"train/good/{index:03d}.png" for index in range(3)}
    expected |= {f"test/good/{index:03d}.png" for index in range(2)}
    expected |= {f"test/{defect}/000.png" for defect in DEFECTS}
    expected |= {f"ground_truth/{defect}/000_mask.png" for defect in DEFECTS}
    assert files == expected
    assert not [path for path in product.parent.iterdir() if path != product], "drafts are left behind"
    assert read(product / "train/good/000.png").shape == (SIZE, SIZE, 3)
    for path in product.glob("ground_truth/*/*.png"):
        assert set(np.unique(read(path))) == {0, 255}
        assert read(path).shape == (SIZE, SIZE)


def test_all_images_differ(product: Path) -> None:
    images = [path.read_bytes() for path in product.rglob("*/*/*.png") if "ground_truth" not in path.parts]
    assert len(set(images)) == len(images) == 5 + len(DEFECTS)


def test_an_image_does_not_depend_on_the_number_of_images(product: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    small = write_product(tmp_path / "small", 7, 1, 1, 0, SIZE, CallbackReporter(lambda *call: calls.append(call)))
    for name in ("train/good/000.png", "test/good/000.png"):
        np.testing.assert_array_equal(read(small / name), read(product / name))
    assert calls == [(1, 2), (2, 2)]


def test_same_data_set_is_reused(product: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in product.rglob("*")}
    calls: list[tuple[int, int]] = []
    assert write_product(product, 7, 3, 2, 1, SIZE, CallbackReporter(lambda *call: calls.append(call))) == product
    assert before == {path: path.stat().st_mtime_ns for path in product.rglob("*")}
    assert not calls


def test_other_content_is_refused_and_kept(product: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="another product"):
        write_product(product, 8, 3, 2, 1, SIZE)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "notes.txt").write_text("keep")
    with pytest.raises(OutputError, match="something else"):
        write_product(precious, 7, 1, 0, 0, SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    assert (precious / "notes.txt").read_text() == "keep"
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OutputError):
        write_product(file, 7, 1, 0, 0, SIZE)


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    write_product(tmp_path, 1, 1, 0, 0, SIZE)
    assert json.loads((tmp_path / "product.json").read_text())["seed"] == 1


def test_interrupted_writing_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_product(tmp_path / "flange", 1, 2, 0, 0, SIZE, CallbackReporter(stop))
    assert not list(tmp_path.iterdir())


def test_numbers_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="n_train"):
        write_product(tmp_path / "flange", 1, n_train=-1)
    with pytest.raises(ConfigError, match="size_px"):
        write_product(tmp_path / "flange", 1, size_px=8)
