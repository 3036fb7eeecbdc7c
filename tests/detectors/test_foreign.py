"""Detectors of others that misbehave: they fail, change settings or images, depend on the batch, or are incomplete."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_models import generator, random_images

import advrad
from advrad.detectors.probing import depends_on_batch, probe, score_images, validated_output
from advrad.detectors.wrappers import as_detector, wrap
from advrad.errors import ConfigError, DetectorError
from advrad.utils.torch_state import TorchState


def mean(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3))


def brightness(images: Tensor, offset: float = 0.0) -> Tensor:
    """A function that can be pickled."""
    return images.mean((1, 2, 3)) + offset


def fails(images: Tensor) -> Tensor:
    raise RuntimeError("no such layer\nand much more")


def leaves(images: Tensor) -> Tensor:
    raise SystemExit(3)


def spends_memory(images: Tensor) -> Tensor:
    raise MemoryError


def data_of_ours(images: Tensor) -> Tensor:
    raise advrad.DataError("no normal images")


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            fails,
            DetectorError,
            r"fails on 2 images of 12 x 8 px, 3 channels: RuntimeError: no such layer \(test_foreign.py, line \d+\)",
        ),
        (leaves, DetectorError, "SystemExit: 3"),
        (spends_memory, MemoryError, "^$"),
        (data_of_ours, advrad.DataError, "^no normal images$"),
    ],
)
def test_an_error_of_a_detector_is_one_line(
    call: Callable[[Tensor], Tensor], error: type[BaseException], words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        validated_output(wrap(call), torch.zeros(2, 3, 8, 12), generator())
    assert "\n" not in str(raised.value)


def test_an_error_of_an_unwrapped_detector_is_one_line_too() -> None:
    detector = SimpleNamespace(
        size_px=None,
        deterministic=True,
        differentiable=True,
        threshold=None,
        noise_seed=None,
        surrogates={},
        infer=lambda images, generator: fails(images),
    )
    with pytest.raises(DetectorError, match="RuntimeError: no such layer"):
        validated_output(as_detector(detector), torch.zeros(1, 3, 8, 8), generator())


def test_settings_of_pytorch_and_the_images_stay_as_they_were() -> None:
    def call(images: Tensor) -> Tensor:
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(torch.get_num_threads() + 1)
        images.mul_(0.5)
        return mean(images)

    images = random_images(2, 8)
    copy, before = images.clone(), TorchState.now()
    for declared in (True, False):
        scores, _ = score_images(wrap(call, deterministic=declared), images, 0)
        assert TorchState.now() == before and torch.equal(images, copy)
        np.testing.assert_allclose(scores, mean(images).numpy() / 2, rtol=1e-6)
    before.restore()


def test_a_callable_gets_the_default_type_of_the_moment_at_which_it_was_wrapped() -> None:
    def call(images: Tensor) -> Tensor:
        return mean(images) * torch.ones(1)  # float64 times float32 would also be float64

    torch.set_default_dtype(torch.float64)
    try:
        detector = wrap(call)
    finally:
        torch.set_default_dtype(torch.float32)
    assert detector.infer(random_images(2, 8), generator()).scores.dtype == torch.float64
    assert torch.get_default_dtype() == torch.float32


def test_gradients_pass_a_change_in_place() -> None:
    def call(images: Tensor) -> Tensor:
        return mean(images.sub_(0.5).square_())

    assert probe(wrap(call, deterministic=True), random_images(2, 8)).differentiable


def test_a_callable_for_one_image_gets_one_at_a_time() -> None:
    calls: list[int] = []

    def call(images: Tensor) -> Tensor:
        calls.append(len(images))
        if len(images) > 1:
            raise ValueError("one image at a time")
        return mean(images) + torch.randn(1)

    images, detector = torch.zeros(3, 3, 8, 8), wrap(call)
    first, again, other = (detector.infer(images, generator(seed)).scores for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len(first.unique()) == 1  # the same noise for every image
    assert calls.count(3) == 1  # it is tried once only


def test_a_callable_that_needs_several_images_is_refused() -> None:
    layer = nn.BatchNorm1d(3).train()
    with pytest.raises(DetectorError, match=r"fails on 1 image of 8 x 8 px.*Expected more than 1 value per channel"):
        score_images(wrap(lambda x: layer(x.mean((2, 3))).sum(1)), random_images(2, 8), 0)


def test_scores_that_depend_on_the_batch_are_found() -> None:
    images = random_images(4, 8)
    layer = nn.BatchNorm2d(3).train()
    depending = {
        "batch normalisation": lambda x: layer(x).square().amax((1, 2, 3)),
        "scaled": lambda x: mean(x) / mean(x).max(),
        "sorted": lambda x: mean(x).sort().values,
    }
    for name, call in depending.items():
        assert depends_on_batch(wrap(call), images), name
    independent = {
        "plain": mean,
        "coarse": lambda x: mean(x).bfloat16(),
        "constant": lambda x: torch.ones(len(x)),
        "noisy": lambda x: mean(x) + torch.randn(len(x)),
        "large": lambda x: 1e6 + mean(x),
    }
    for name, call in independent.items():
        assert not depends_on_batch(wrap(call), images), name
    assert not depends_on_batch(wrap(depending["scaled"]), images[:1])


def test_methods_of_modules_put_them_in_evaluation_mode() -> None:
    for method in (lambda module: module.forward, lambda module: functools.partial(module.forward)):
        module = nn.Dropout(0.5).train()
        wrap(method(module))
        assert not module.training


def test_what_is_no_detector_is_said() -> None:
    with pytest.raises(ConfigError, match=r"Dropout is a class; make an object of it first, as in Dropout\(\)"):
        as_detector(nn.Dropout)
    half = SimpleNamespace(infer=mean, size_px=None)
    with pytest.raises(ConfigError, match="has infer, but no deterministic, differentiable, threshold"):
        as_detector(half)


def test_a_module_with_an_infer_of_its_own_is_called() -> None:
    class Model(nn.Module):
        def infer(self, path: str) -> str:
            return path

        def forward(self, images: Tensor) -> Tensor:
            return mean(images)

    images = random_images(2, 8)
    assert torch.equal(as_detector(Model()).infer(images, generator()).scores, mean(images))


def test_wrapped_detectors_are_pickled_and_work_side_by_side() -> None:
    detector, images = wrap(brightness, deterministic=True), random_images(4, 8)
    expected = detector.infer(images, generator()).scores
    copy = pickle.loads(pickle.dumps(detector))
    assert torch.equal(copy.infer(images, generator()).scores, expected)
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda _: detector.infer(images, generator()).scores, range(16))
        assert all(torch.equal(scores, expected) for scores in found)
