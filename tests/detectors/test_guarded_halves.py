"""One half of a guarded detector: what it gives where it fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from toy_models import detector as learned_detector
from toy_models import generator, random_images

from advrad.detectors.base import DetectorOutput, SurrogateLoss
from advrad.detectors.guarded_halves import Half
from advrad.detectors.wrappers import wrap
from advrad.errors import ConfigError, DetectorError
from advrad.utils.seeding import copy_generator

IMAGES = random_images(4, 16)


class Fixed:
    """A detector of a user, whose answer and failures are given; not wrapped, so nothing else catches them."""

    size_px = noise_seed = threshold = None
    deterministic = differentiable = True

    def __init__(self, answer: Callable[[Tensor], DetectorOutput]) -> None:
        self.answer = answer
        self.surrogates: dict[str, SurrogateLoss] = {}

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        return self.answer(images)


def bright(images: Tensor) -> DetectorOutput:
    return DetectorOutput(images.mean((1, 2, 3)), images.mean(1, keepdim=True))


def failing(value: object, marked: Tensor) -> Callable[[Tensor], DetectorOutput]:
    """An answer that fails on one image: with an exception, a score, or a value in the map."""

    def answer(images: Tensor) -> DetectorOutput:
        hit = torch.tensor([torch.equal(image, marked) for image in images])
        output = bright(images)
        if isinstance(value, BaseException):
            if hit.any():
                raise value
            return output
        if isinstance(value, float):
            return DetectorOutput(torch.where(hit, value, output.scores), output.anomaly_maps)
        maps = output.anomaly_maps
        assert maps is not None
        maps = maps.clone()
        maps[hit, 0, 3, 3] = torch.nan
        return DetectorOutput(output.scores, maps)

    return answer


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (ValueError("no such part\nat all"), "ValueError: no such part"),
        (RuntimeError(), "RuntimeError"),
        (DetectorError("the detector fails"), "the detector fails"),
        (SystemExit("stop"), "SystemExit: stop"),
        (float("nan"), "its score is nan"),
        (float("inf"), "its score is inf"),
        (float("-inf"), "its score is -inf"),
        ("map", "its anomaly map is not finite"),
    ],
)
@pytest.mark.parametrize("way", ["infer", "predict"])
def test_a_failure_on_one_image_does_not_touch_the_others(value: object, reason: str, way: str) -> None:
    half = Half("toy", Fixed(failing(value, IMAGES[2])))
    found = half.infer(IMAGES, generator()) if way == "infer" else half.predict(IMAGES)
    assert found.errors == (None, None, reason, None)
    assert found.failed.tolist() == [False, False, True, False]
    assert found.maps is not None and found.maps.shape == (4, 1, 16, 16) and bool((found.maps[2] == 0).all())
    assert torch.allclose(found.scores[[0, 1, 3]].float(), IMAGES[[0, 1, 3]].mean((1, 2, 3)))
    assert found.scores.dtype == torch.float64 and torch.isfinite(found.scores).all()


def test_exhausted_memory_is_no_failure_of_the_half() -> None:
    for error in (MemoryError(), RuntimeError("cannot allocate memory"), torch.cuda.OutOfMemoryError("full")):
        half = Half("toy", Fixed(failing(error, IMAGES[2])))
        for call in (lambda half=half: half.infer(IMAGES, generator()), lambda half=half: half.predict(IMAGES)):
            with pytest.raises(type(error)):
                call()


def test_a_user_who_interrupts_is_obeyed() -> None:
    with pytest.raises(KeyboardInterrupt):
        Half("toy", Fixed(failing(KeyboardInterrupt(), IMAGES[2]))).infer(IMAGES, generator())


def test_scores_and_maps_of_another_shape_are_failures() -> None:
    for output, reason in (
        (DetectorOutput(torch.zeros(3)), "scores of shape (3,) for 1 images"),
        (DetectorOutput(torch.zeros(1), torch.zeros(1, 3, 8, 8)), "maps of shape (1, 3, 8, 8) for 1 images"),
    ):
        found = Half("toy", Fixed(lambda images, output=output: output)).infer(IMAGES[:1], generator())
        assert found.errors[0] is not None and reason in found.errors[0] and found.maps is None


def test_a_half_that_always_fails_gives_a_reason_for_every_image() -> None:
    def broken(images: Tensor) -> Tensor:
        raise ValueError("mended soon")

    found = Half("toy", broken).infer(IMAGES, generator())
    assert all(error is not None and "mended soon" in error for error in found.errors) and found.maps is None
    assert found.failed.all()


def test_every_call_draws_from_a_copy_of_the_generator() -> None:
    def noisy(images: Tensor, generator: torch.Generator) -> Tensor:
        return images.mean((1, 2, 3)) + torch.rand((), generator=generator)

    half, draws = Half("toy", noisy), generator(3)
    first = half.infer(IMAGES, draws)
    assert torch.equal(half.infer(IMAGES, draws).scores, first.scores)
    expected = IMAGES.mean((1, 2, 3)) + torch.rand((), generator=copy_generator(draws))
    assert torch.equal(first.scores, expected.double())


def test_a_learned_half_predicts_with_its_stored_noise_and_infers_in_its_white_box_form() -> None:
    learned = learned_detector(calibrated=False)
    half = Half("learned", learned)
    images = random_images(2, 32, seed=5)
    found, expected = half.predict(images), learned.predict_batch(images)
    assert torch.equal(found.scores.float(), expected.scores) and found.errors == (None, None)
    assert found.maps is not None and torch.equal(found.maps, expected.anomaly_maps)
    assert half.module is learned and type(half.detector).__name__ == "WhiteBoxAdvRAD"
    assert Half("mean", bright).module is None


def test_gradients_reach_the_images() -> None:
    images = IMAGES.clone().requires_grad_()
    found = Half("toy", Fixed(bright)).infer(images, generator())
    (gradient,) = torch.autograd.grad(found.scores.sum(), images)
    assert torch.allclose(gradient, torch.full_like(gradient, 1 / (3 * 16 * 16)))
    with torch.no_grad():
        assert not Half("toy", Fixed(bright)).predict(images).scores.requires_grad


def test_an_empty_batch_stays_empty() -> None:
    found = Half("toy", Fixed(bright)).infer(IMAGES[:0], generator())
    assert found.scores.shape == (0,) and found.errors == ()


def test_a_half_that_takes_another_size_is_refused() -> None:
    half = Half("toy", wrap(bright, size_px=24))
    half.check_size(24)
    with pytest.raises(ConfigError, match="toy: takes images of 24 px, and the memory images of 32 px"):
        half.check_size(32)
    Half("toy", bright).check_size(32)


def test_a_map_of_another_size_is_a_failure_of_its_image() -> None:
    def answer(images: Tensor) -> tuple[Tensor, Tensor]:
        side = 8 if float(images.mean()) < float(IMAGES[0].mean()) else 16
        return images.mean((1, 2, 3)), images.new_ones(len(images), 1, side, side)

    images = torch.cat([IMAGES[:1], IMAGES[:1] * 0.5, IMAGES[:1]])
    found = Half("toy", wrap(answer)).predict(images)
    assert found.maps is not None and found.maps.shape == (3, 1, 16, 16)
    assert found.errors == (None, "its anomaly map has 8 x 8 values, that of another image 16 x 16", None)
    assert found.failed.tolist() == [False, True, False] and not found.maps[1].any()
