"""Gradients through models that cut them, with unchanged values."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from toy_models import assert_gradient, generator, random_images

import advrad
from advrad.detectors.anomalib import WholeGraph, expose
from advrad.detectors.callable_detector import CallableDetector
from advrad.detectors.probing import probe, validated_output
from advrad.errors import ConfigError

if TYPE_CHECKING:
    from toy_anomalib import Toy

pytestmark = [
    pytest.mark.anomalib,
    pytest.mark.filterwarnings("ignore:Importing from timm.models.layers:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The anomalib.models.components.dinov2 package:FutureWarning"),
]


def toy(**options: Any) -> Toy:
    from toy_anomalib import Toy

    return Toy(**options)


def scores(detector: CallableDetector, images: Tensor) -> Tensor:
    return detector.infer(images, generator()).scores


def test_scores_and_maps_are_the_models_own() -> None:
    model, images = toy(), random_images(3, 16)
    output = validated_output(expose(model), images, generator())
    assert output.anomaly_maps is not None
    for row in range(3):
        plain = model.model(model.pre_processor.transform(images[row : row + 1]))
        torch.testing.assert_close(output.scores[row : row + 1], plain.pred_score[0], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(output.anomaly_maps[row : row + 1], plain.anomaly_map, rtol=1e-5, atol=1e-7)
        assert not plain.pred_score.requires_grad


def test_the_gradient_is_that_of_the_score() -> None:
    model = toy().double()
    assert not probe(advrad.wrap(lambda x: model.model(x)), random_images(2, 16).double()).differentiable
    assert probe(expose(model), random_images(2, 16).double()).differentiable
    assert_gradient(lambda x: scores(expose(model), x), random_images(2, 16).double())
    assert_gradient(lambda x: scores(expose(model), x), random_images(2, 24).double())  # resized on the way


def test_a_distance_of_zero_has_no_bad_gradient() -> None:
    model, images = toy(), random_images(1, 16)
    with torch.no_grad():
        stored = model.model.features(model.pre_processor.transform(images))[0]
        model.model.memory.copy_(stored[:5])  # five of its own patches
    point = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(scores(expose(model), point).sum(), point)
    assert torch.isfinite(gradient).all() and gradient.any()


def test_rows_stay_independent_in_a_model_that_mixes_them() -> None:
    model, images = toy(mixes=True), random_images(3, 16)
    detector = expose(model)
    together = validated_output(detector, images, generator())
    for index in range(3):
        alone = validated_output(detector, images[index : index + 1], generator())
        assert torch.equal(alone.scores, together.scores[index : index + 1])
        assert together.anomaly_maps is not None and together.anomaly_maps.shape[1] == 1
    assert not torch.equal(model.model(model.pre_processor.transform(images)).pred_score.flatten(), together.scores)


def test_the_caller_decides_whether_gradients_are_recorded() -> None:
    images = random_images(2, 16).requires_grad_()
    detector = expose(toy())
    with torch.no_grad():
        assert not scores(detector, images).requires_grad
        assert not torch.is_grad_enabled()
    assert scores(detector, images).requires_grad
    assert torch.is_grad_enabled()


def test_other_threads_are_not_affected() -> None:
    point = torch.ones(1, requires_grad=True)
    with WholeGraph(), ThreadPoolExecutor(1) as pool:
        assert point.detach().requires_grad
        assert not pool.submit(lambda: point.detach().requires_grad).result()
    assert not point.detach().requires_grad


def test_the_properties_of_the_detector() -> None:
    detector = expose(toy())
    assert (detector.size_px, detector.deterministic, detector.threshold) == (16, True, None)
    assert expose(toy(size=(16, 24))).size_px is None
    assert not detector.surrogates


@pytest.mark.parametrize("sensitivity", [0.5, 0.7])
def test_its_threshold_decides_as_anomalib_does(sensitivity: float) -> None:
    model, images = toy(), random_images(16, 16)
    raw = validated_output(expose(model), images, generator()).scores
    post = model.post_processor
    post.image_sensitivity = sensitivity
    post._image_threshold.copy_(raw.quantile(0.6))
    post.image_min.copy_(raw.min())
    post.image_max.copy_(raw.max())
    theirs = model(images).pred_label.flatten()
    threshold = expose(model).threshold
    assert threshold is not None
    assert torch.equal(raw > threshold, theirs)
    assert 0 < int(theirs.sum()) < 16


def test_wrap_knows_models_of_anomalib() -> None:
    model, images = toy(), random_images(2, 16)
    assert torch.equal(scores(advrad.wrap(model), images), scores(expose(model), images))
    assert advrad.wrap(model, threshold=3.0).threshold == 3.0
    assert advrad.wrap(model).size_px == 16


def test_a_model_without_a_network_is_refused() -> None:
    model = toy()
    del model.model
    with pytest.raises(ConfigError, match="model"):
        expose(model)
