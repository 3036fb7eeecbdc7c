"""The detector on features: scores against a slow search, gradients, images left out, verdicts, the model folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_feature_detectors import SIZE_PX, anomalous_images, normal_images, quick_detector
from toy_models import assert_gradient, generator

import advrad
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.feature_config import FeatureConfig
from advrad.detectors.feature_memory import FeatureDetector, features_of
from advrad.detectors.model_folder import load_folder, save_folder
from advrad.errors import CheckpointError, ConfigError, DataError, NotCalibratedError


@pytest.fixture(scope="module")
def detector() -> FeatureDetector:
    return quick_detector()


@pytest.fixture(scope="module")
def comparing() -> FeatureDetector:
    return quick_detector(leave_one_out=True)


def slow_distances(detector: FeatureDetector, images: Tensor, without: int | None = None) -> np.ndarray:
    """Mean distance of every position to its nearest neighbours in the bank, (b, rows, columns)."""
    with torch.no_grad():
        features = features_of(detector.network, detector.config, images).double().numpy()
    kept = np.ones(len(detector.bank), bool) if without is None else (detector.groups != without).numpy()
    bank = detector.bank.double().numpy()[kept]
    found = np.empty((len(features), *features.shape[2:]))
    for image, row, column in np.ndindex(found.shape):
        away = np.sqrt(((bank - features[image, :, row, column]) ** 2).sum(1))
        found[image, row, column] = np.sort(away)[: detector.config.neighbours].mean()
    return found


def slow_scores(distances: np.ndarray, reach: int = 1) -> list[float]:
    """The largest mean over windows that are cut off at the border."""
    best = []
    for image in distances:
        rows, columns = image.shape
        means = [
            image[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1].mean()
            for row in range(rows)
            for column in range(columns)
        ]
        best.append(max(means))
    return best


@pytest.mark.parametrize("neighbours", [1, 3])
def test_scores_are_those_of_a_slow_search(detector: FeatureDetector, neighbours: int) -> None:
    other = FeatureDetector(
        detector.config.model_copy(update={"neighbours": neighbours}), detector.network, detector.bank, detector.groups
    )
    images = torch.cat([normal_images(2, seed=5), anomalous_images(2)])
    expected = slow_distances(other, images)
    np.testing.assert_allclose(other.distances(images)[:, 0], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(other.scores(images), slow_scores(expected), rtol=1e-4, atol=1e-4)
    output = other.infer(images)
    assert torch.equal(output.scores, other.scores(images))
    assert output.anomaly_maps is not None and output.anomaly_maps.shape == (4, 1, SIZE_PX, SIZE_PX)


def test_an_image_left_out_is_compared_with_the_others(comparing: FeatureDetector) -> None:
    images = normal_images()[:3]
    found = comparing.scores(images, exclude=torch.tensor([0, 1, 2]))
    for row in range(3):
        expected = slow_scores(slow_distances(comparing, images[row : row + 1], without=row))
        np.testing.assert_allclose(found[row], expected[0], rtol=1e-4, atol=1e-4)
    assert bool((found > comparing.scores(images)).all()), "each image was its own nearest neighbour"


@settings(max_examples=15, deadline=None)
@given(count=st.integers(2, 5), left_out=st.integers(0, 5), seed=st.integers(0, 50))
def test_one_image_more_in_the_bank_only_lowers_scores(count: int, left_out: int, seed: int) -> None:
    detector = quick_detector(leave_one_out=True, images=normal_images(count, seed))
    images = torch.cat([normal_images(2, seed + 1), anomalous_images(1, seed)])
    whole = detector.scores(images)
    less = detector.scores(images, exclude=torch.full((3,), left_out % count))
    assert bool((whole <= less * (1 + 1e-5) + 1e-6).all())


def test_nothing_that_was_chosen_by_its_look_can_be_left_out(detector: FeatureDetector) -> None:
    with pytest.raises(ConfigError, match="leave_one_out") as refused:
        detector.scores(normal_images(1), exclude=torch.tensor([0]))
    assert refused.value.option == "exclude"


def test_an_empty_bank_is_refused(comparing: FeatureDetector) -> None:
    alone = FeatureDetector(comparing.config, comparing.network, comparing.bank[:5], comparing.groups[:5])
    with pytest.raises(ConfigError, match="nothing is left"):
        alone.scores(normal_images(1), exclude=comparing.groups[:1])


def test_it_finds_a_square_where_it_is(detector: FeatureDetector) -> None:
    normal, anomalous = detector.predict_batch(normal_images(4, seed=9)), detector.predict_batch(anomalous_images())
    assert float(anomalous.scores.min()) > float(normal.scores.max())
    assert anomalous.anomaly_maps is not None
    for found in anomalous.anomaly_maps[:, 0]:
        row, column = divmod(int(found.argmax()), SIZE_PX)
        assert 6 <= row <= 23 and 12 <= column <= 29


def test_the_batch_does_not_matter(detector: FeatureDetector) -> None:
    images = torch.cat([normal_images(3, seed=7), anomalous_images(2)])
    whole = detector.predict_batch(images)
    for row in range(5):
        alone = detector.predict_batch(images[row : row + 1])
        assert torch.equal(alone.scores[0], whole.scores[row])
        assert whole.anomaly_maps is not None and alone.anomaly_maps is not None
        assert torch.equal(alone.anomaly_maps[0], whole.anomaly_maps[row])
    torch.testing.assert_close(detector.infer(images).scores, whole.scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_gradients_are_exact(leave_one_out: bool) -> None:
    detector = quick_detector(leave_one_out).double()
    images = torch.cat([normal_images(1, seed=3), anomalous_images(1)]).double()
    assert_gradient(lambda x: detector.infer(x).scores, images, step=1e-8)
    assert_gradient(lambda x: detector.infer(x).anomaly_maps, images, directions=2, step=1e-8)  # type: ignore[arg-type,return-value]
    for name, loss in detector.surrogates.items():
        assert loss.kind == "surrogate", name
        assert_gradient(lambda x, loss=loss: loss(x, generator()), images, directions=2, step=1e-8)


def test_gradients_are_finite_where_an_image_is_in_the_bank(detector: FeatureDetector) -> None:
    images = normal_images()[:1].requires_grad_()
    (gradient,) = torch.autograd.grad(detector.infer(images).scores.sum(), images)
    assert bool(gradient.isfinite().all())


def test_surrogates_are_means_of_the_largest_distances(detector: FeatureDetector) -> None:
    images = anomalous_images(2)
    distances = detector.distances(images).flatten(1).sort(1, descending=True).values
    found = {name: loss(images, generator()) for name, loss in detector.surrogates.items()}
    assert found.keys() == {"top 0.01", "top 0.1", "top 1"}
    torch.testing.assert_close(found["top 1"], distances.mean(1))
    torch.testing.assert_close(found["top 0.1"], distances[:, :6].mean(1))
    torch.testing.assert_close(found["top 0.01"], distances[:, 0])


@pytest.mark.parametrize("size", [(64, 64), (20, 48)])
def test_images_of_another_size_are_scaled_first(detector: FeatureDetector, size: tuple[int, int]) -> None:
    images = torch.nn.functional.interpolate(anomalous_images(1), size=size, mode="bilinear")
    expected = detector.scores(advrad.data.resize(images, SIZE_PX))
    torch.testing.assert_close(detector.scores(images), expected)


def test_padding_keeps_the_aspect_ratio(detector: FeatureDetector) -> None:
    padded = FeatureDetector(
        detector.config.model_copy(update={"pad": True}), detector.network, detector.bank, detector.groups
    )
    images = torch.rand(1, 3, 16, SIZE_PX, generator=generator(1))
    whole = torch.full((1, 3, SIZE_PX, SIZE_PX), 128 / 255)
    whole[:, :, 8:24] = images
    torch.testing.assert_close(padded.scores(images), detector.scores(whole))
    assert not torch.equal(padded.scores(images), detector.scores(images))


def test_an_attack_moves_the_score(detector: FeatureDetector) -> None:
    attacked: AnomalyDetector = detector
    assert attacked.differentiable and attacked.deterministic
    images = anomalous_images(2)
    clean = attacked.infer(images, generator()).scores
    moved = images.clone()
    for _ in range(10):
        moved.requires_grad_()
        (gradient,) = torch.autograd.grad(attacked.infer(moved, generator()).scores.sum(), moved)
        moved = (moved.detach() - gradient.sign() / 255).clamp(images - 4 / 255, images + 4 / 255).clamp(0, 1)
    assert bool((attacked.infer(moved, generator()).scores < 0.95 * clean).all())


def test_calibrated_saved_and_loaded_it_gives_the_same_verdicts(detector: FeatureDetector, tmp_path: Path) -> None:
    fresh = quick_detector()
    with pytest.raises(NotCalibratedError, match="calibrate it"):
        list(fresh.predict(normal_images(1)))
    fresh.calibrate(normal_images(20, seed=11), 0.05)
    fresh.save_pretrained(tmp_path / "model")
    loaded = advrad.load_detector(tmp_path / "model", "cpu")
    assert isinstance(loaded, FeatureDetector) and loaded.config == fresh.config
    images = torch.cat([normal_images(3, seed=12), anomalous_images(2)])
    assert torch.equal(loaded.predict_batch(images).scores, fresh.predict_batch(images).scores)
    assert [one.defective for one in loaded.predict(images)][3:] == [True, True]
    card = (tmp_path / "model" / "README.md").read_text()
    assert "EfficientNet-lite0" in card and "Nothing is proven" in card


def test_loading_needs_no_package(detector: FeatureDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector.save_pretrained(tmp_path / "model")
    monkeypatch.setattr("advrad.detectors.feature_network.packaged_weights", lambda name: pytest.fail("weights read"))
    loaded = FeatureDetector.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded.scores(normal_images(1)), detector.scores(normal_images(1)))


@pytest.mark.parametrize("damage", ["missing", "shape", "other layers", "no groups", "extra"])
def test_a_damaged_folder_is_refused(detector: FeatureDetector, tmp_path: Path, damage: str) -> None:
    detector.save_pretrained(tmp_path / "model")
    values, tensors = load_folder(tmp_path / "model")
    if damage == "missing":
        del tensors["network.stem.weight"]
    elif damage == "shape":
        tensors["bank"] = tensors["bank"][:, 1:]
    elif damage == "other layers":
        values["network"]["layers"] = [1, 2]
    elif damage == "no groups":
        tensors["groups"] = tensors["groups"][:-1]
    else:
        tensors["surplus"] = torch.zeros(1)
    save_folder(tmp_path / "model", values, tensors)
    with pytest.raises(CheckpointError, match="do not belong to this detector on features; copy the folder again"):
        advrad.load_detector(tmp_path / "model", "cpu")


def test_settings_out_of_range_are_refused(detector: FeatureDetector, tmp_path: Path) -> None:
    detector.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"smoothing": 2}))
    with pytest.raises(ConfigError, match="smoothing must be odd"):
        advrad.load_detector(tmp_path / "model", "cpu")


def test_a_bad_image_is_refused(detector: FeatureDetector) -> None:
    with pytest.raises(DataError):
        detector.predict_batch(torch.full((1, 3, 8, 8), 2.0))
    with pytest.raises(DataError):
        detector.infer(torch.zeros(3, 8, 8))


def test_settings_are_described() -> None:
    config = FeatureConfig(neighbours=3)
    assert "3 nearest" in config.describe()[1] and config.framing.height_px == 256
    assert FeatureConfig.parse(config.model_dump(mode="json")) == config
