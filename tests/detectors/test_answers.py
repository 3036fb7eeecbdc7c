"""What a detector of others may return: every kind gives the same scores and maps, or one clear line."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_models import generator, random_images

from advrad.detectors.probing import gradient_of, probe, validated_output
from advrad.detectors.wrappers import wrap
from advrad.errors import DetectorError


def scores_of(x: Tensor) -> Tensor:
    return x.square().mean((1, 2, 3))


def maps_of(x: Tensor) -> Tensor:
    return x.square().mean(1, keepdim=True)


def array(x: Tensor) -> Any:
    return scores_of(x).detach().numpy()


class Named(NamedTuple):
    """Scores first, as some libraries return them."""

    pred_score: Tensor
    pred_label: Tensor
    anomaly_map: Tensor


def named(x: Tensor) -> Named:
    return Named(scores_of(x)[:, None], scores_of(x) > 0.3, maps_of(x))


KINDS: dict[str, tuple[Callable[[Tensor], Any], bool]] = {
    "float64": (lambda x: scores_of(x.double()), True),
    "a column": (lambda x: scores_of(x)[:, None], True),
    "four axes": (lambda x: scores_of(x)[:, None, None, None], True),
    "a row": (lambda x: scores_of(x)[None], True),
    "squeezed": (lambda x: scores_of(x)[:, None].squeeze(), True),
    "a list of tensors": (lambda x: list(scores_of(x)), True),
    "a mapping for each image": (lambda x: [{"score": score} for score in scores_of(x)], True),
    "a mapping": (lambda x: {"pred_scores": scores_of(x), "pred_labels": scores_of(x) > 0.3}, True),
    "an object": (lambda x: SimpleNamespace(pred_score=scores_of(x), anomaly_map=None), True),
    "a named tuple": (named, True),
    "maps and scores": (lambda x: (maps_of(x), scores_of(x)), True),
    "maps with channels last": (lambda x: {"score": scores_of(x), "map": maps_of(x).permute(0, 2, 3, 1)}, True),
    "numbers": (lambda x: scores_of(x).detach().tolist(), False),
    "an array": (array, False),
    "an array of another byte order": (lambda x: array(x).astype(">f8"), False),
    "a reversed array": (lambda x: array(x)[::-1].copy()[::-1], False),
    "numbers of numpy": (lambda x: list(array(x)), False),
    "an array of a tensor with gradients": (lambda x: scores_of(x).numpy(), False),
    "a tensor without gradients": (lambda x: scores_of(x).detach(), False),
    "one number for one image": (lambda x: float(array(x)[0]) if len(x) == 1 else array(x), False),
    "only for one image": (lambda x: x.detach().square().mean(), False),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3])
def test_every_kind_of_output_gives_the_same_scores(kind: str, count: int) -> None:
    call, differentiable = KINDS[kind]
    images = random_images(count, 8)
    found = validated_output(wrap(call), images, generator())
    torch.testing.assert_close(found.scores.float(), scores_of(images))
    if found.anomaly_maps is not None:
        torch.testing.assert_close(found.anomaly_maps, maps_of(images))
    measured = probe(wrap(call, deterministic=True), images)
    assert measured.deterministic and measured.differentiable is differentiable
    if differentiable:
        torch.testing.assert_close(gradient_of(wrap(call), images, 0), 2 * images / images[0].numel())
    else:
        assert measured.why_not


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.int64, torch.float64),
        (torch.uint8, torch.float64),
        (torch.bool, torch.float64),
        (torch.float64, torch.float64),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_scores_of_any_type_become_floats(dtype: torch.dtype, expected: torch.dtype) -> None:
    images = random_images(3, 8)
    found = validated_output(wrap(lambda x: (100 * scores_of(x)).to(dtype)), images, generator()).scores
    assert found.dtype == expected
    assert torch.equal(found, (100 * scores_of(images)).to(dtype).to(expected))


def test_large_whole_numbers_stay_apart() -> None:
    found = validated_output(wrap(lambda x: 2**40 + torch.arange(len(x))), random_images(3, 8), generator())
    assert (found.scores - 2**40).tolist() == [0, 1, 2]


def test_maps_without_an_axis_of_images_belong_to_one_image() -> None:
    images = random_images(1, 8)
    found = validated_output(wrap(lambda x: maps_of(x).squeeze()), images, generator())
    assert found.anomaly_maps is not None and found.anomaly_maps.shape == (1, 1, 8, 8)
    assert torch.equal(found.scores, maps_of(images).amax((1, 2, 3)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: torch.zeros(len(x), 2), "2 numbers for each image, as a classifier does"),
        (lambda x: [x, x[:, :, ::2]], r"maps of shape \(3, 3, 8, 8\)"),
        (lambda x: (scores_of(x), scores_of(x) > 0.3), "2 tensors that could be scores"),
        (lambda x: (maps_of(x), maps_of(x)), "2 tensors that could be maps"),
        (lambda x: {"logits": scores_of(x)}, "a mapping with 'logits'.*name the scores 'pred_score'"),
        (lambda x: {}, "a mapping with no keys, neither"),
        (lambda x: scores_of(x).to(torch.complex64), "complex numbers"),
        (lambda x: scores_of(x).to("meta"), "device meta"),
        (lambda x: ["bad"] * len(x), "str, not numbers"),
        (lambda x: np.array(["bad"] * len(x)), "ndarray, not numbers"),
        (lambda x: [Decimal(1)] * len(x), "Decimal, not numbers"),
        (lambda x: None, "neither scores nor maps"),
        (lambda x: torch.where(scores_of(x) > 0.5, 0.0, math.nan), r"score .* not a finite number \(nan\) for image 1"),
        (lambda x: [0.0, math.inf, 0.0][: len(x)], r"\(inf\) for image 2 of 3"),
        (lambda x: (scores_of(x), maps_of(x) * math.inf), "a map that is not a finite number"),
    ],
)
def test_what_is_no_score_is_said(call: Callable[[Tensor], Any], words: str) -> None:
    with pytest.raises(DetectorError, match=words):
        validated_output(wrap(call), 0.5 * random_images(3, 8), generator())
