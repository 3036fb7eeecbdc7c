"""SPADE: the paper's equations by hand, its memory, and its accuracy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from toy_features import ToyFeatures, assert_contract, make_context, normal_and_anomalous
from toy_models import generator, random_images

from advrad.baselines.spade import Spade, SpadeOptions, fit_spade
from advrad.errors import ConfigError
from advrad.metrics import auroc


def fitted(seed: int = 0, **options: object) -> Spade:
    return fit_spade(make_context(seed=seed), SpadeOptions(**options), ToyFeatures())


@pytest.mark.parametrize("options", [{}, {"neighbours": 3, "position_neighbours": 2, "gallery_positions": 7}])
def test_contract(options: dict[str, object]) -> None:
    assert_contract(fitted(**options))


def test_scores_and_maps_are_the_papers_equations() -> None:
    system = fitted(neighbours=3, position_neighbours=2, gallery_positions=None, smooth_px=2.0)
    good, images = make_context().normal_images.batch(slice(None)), random_images(2, seed=8)

    def described(image: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            fine, middle, coarse = ToyFeatures()(image[None])
        middle = torch.nn.functional.interpolate(middle, size=(16, 16), mode="bilinear")
        return coarse[0].mean((1, 2)).double().numpy(), torch.cat([fine, middle], 1)[0].double().numpy()

    memory = [described(image) for image in good]
    answer = system.infer(images, generator())
    assert answer.anomaly_maps is not None
    for image, score, error_map in zip(images, answer.scores, answer.anomaly_maps, strict=True):
        whole, parts = described(image)
        distances = np.array([((whole - other) ** 2).sum() for other, _ in memory])
        chosen = np.argsort(distances)[:3]
        assert float(score) == pytest.approx(distances[chosen].mean(), rel=1e-4)
        gallery = np.concatenate([memory[i][1].reshape(14, -1) for i in chosen], 1)
        errors = np.empty((16, 16))
        for y in range(16):
            for x in range(16):
                errors[y, x] = np.sort(((gallery - parts[:, y, x, None]) ** 2).sum(0))[:2].mean()
        large = torch.nn.functional.interpolate(torch.from_numpy(errors)[None, None], size=(32, 32), mode="bilinear")
        np.testing.assert_allclose(
            error_map[0], gaussian_filter(large[0, 0].numpy(), 2.0, mode="nearest", truncate=3), rtol=1e-3
        )


def test_a_remembered_image_is_at_no_distance() -> None:
    system = fitted(neighbours=1, gallery_positions=None)
    answer = system.infer(make_context().normal_images.batch([3]), generator())
    assert answer.anomaly_maps is not None
    assert float(answer.scores) < 1e-10
    assert float(answer.anomaly_maps.max()) < 1e-10


def test_a_defect_is_found_and_localised() -> None:
    system = fitted()
    good, _ = normal_and_anomalous(10)
    bad = good.clone()
    bad[:, :, 4:10, 20:26] = 1.0
    scores = [*system.infer(good, generator()).scores.tolist(), *system.infer(bad, generator()).scores.tolist()]
    assert auroc([0] * 10 + [1] * 10, scores) > 0.9
    maps = system.infer(bad, generator()).anomaly_maps
    assert maps is not None
    for place in maps.flatten(1).argmax(1).tolist():
        row, column = divmod(place, 32)
        assert 3 <= row <= 10 and 19 <= column <= 26


def test_galleries_are_as_large_as_asked_and_drawn_from_the_seed() -> None:
    small = fitted(gallery_pictures=4, gallery_positions=9)
    assert small.image_features.shape == (4, 10)
    assert small.patch_features.shape == (4, 9, 14)
    assert torch.equal(small.patch_features, fitted(gallery_pictures=4, gallery_positions=9).patch_features)
    assert not torch.equal(small.patch_features, fitted(seed=1, gallery_pictures=4, gallery_positions=9).patch_features)
    assert fitted(gallery_pictures=None, gallery_positions=None).patch_features.shape == (12, 256, 14)


@pytest.mark.parametrize("values", [{"neighbours": 0}, {"layers": [4]}, {"smooth_px": -1}, {"k": 5}])
def test_bad_options_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"grid.toml: {next(iter(values))}"):
        SpadeOptions.parse(values, "grid.toml")
