"""A closed form beside detectors of others that misbehave: what is refused, and what a failure means."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_guarded import EPS, RATE, SIZE_PX, Contrast, closed_form, dents, normals

import advrad
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.guarded_config import RESERVED
from advrad.detectors.verdicts import Verdict
from advrad.errors import CheckpointError, ConfigError, DetectorError, UserError

FILE = """
import torch
import torch.nn.functional as F
def contrast(images):
    around = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    return F.avg_pool2d((images - around).square().mean(1, keepdim=True), 9, stride=1, padding=4)
"""


@pytest.fixture(scope="module")
def memory() -> ClosedFormDetector:
    found = closed_form(normals(16, 0))
    found.calibrate([normals(19, 1)], RATE)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def contrast(images: Tensor) -> Tensor:
    return Contrast()(images)[0]


def guard(detector: object, memory: ClosedFormDetector, **options: object) -> GuardedDetector:
    return advrad.guard(detector, memory, normals(19, 2), **options)  # type: ignore[arg-type]


def test_a_python_file_is_guarded_saved_and_loaded(file: Path, memory: ClosedFormDetector, tmp_path: Path) -> None:
    made = guard(f"{file}:contrast", memory)
    made.save_pretrained(tmp_path / "model")
    again = advrad.load_detector(tmp_path / "model")
    images = torch.cat([normals(3, 3), dents(3, 4)])
    assert isinstance(again, GuardedDetector) and list(again.others) == ["contrast"]
    assert torch.equal(again.predict_batch(images).scores, made.predict_batch(images).scores)
    found = [verdict.word for verdict in again.verdicts(images)]
    assert set(found[3:]) == {Verdict.PROVEN_DEFECTIVE} and Verdict.PROVEN_DEFECTIVE not in found[:3]
    file.write_text(FILE + "\n")
    with pytest.raises(CheckpointError, match=r"mine\.py: is not the file with which the model was made"):
        advrad.load_detector(tmp_path / "model")


def test_an_object_in_memory_cannot_be_saved(memory: ClosedFormDetector, tmp_path: Path) -> None:
    made = guard(contrast, memory)
    with pytest.raises(ConfigError, match=r"contrast: cannot be saved, .* FILE\.py:NAME, or a checkpoint"):
        made.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def trains_in_place() -> Callable[[Tensor], Tensor]:
    mean = torch.zeros(3, SIZE_PX, SIZE_PX)

    def score(images: Tensor) -> Tensor:
        values = (images - mean).abs().mean((1, 2, 3))
        mean.lerp_(images.mean(0), 0.1)
        return values

    return score


@pytest.mark.parametrize(
    ("detector", "words"),
    [
        (lambda images: -contrast(images), "its score points the other way.*negate it"),
        (lambda images: torch.ones(len(images)), "gives every image the same score"),
        (trains_in_place(), "scores the same image .* changes as it scores"),
    ],
    ids=["other way", "constant", "trains in place"],
)
def test_a_score_that_means_nothing_is_refused(
    memory: ClosedFormDetector, detector: Callable[[Tensor], Tensor], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        guard(detector, memory, name="mine")


@pytest.mark.parametrize(
    ("detector", "words"),
    [
        (lambda images: images.sum("no axis"), "mine: .*TypeError"),
        (lambda images: contrast(images) / 0, "mine: .*inf"),
        (lambda images: (contrast(images) - 1e9).sqrt(), "mine: .*nan"),
        (lambda images: images.mean((2, 3)), "3 numbers for each image"),
    ],
    ids=["raises", "infinite", "nan", "classifier"],
)
def test_a_detector_that_fails_on_normal_images_is_refused(
    memory: ClosedFormDetector, detector: Callable[[Tensor], Tensor], words: str
) -> None:
    with pytest.raises(DetectorError, match=words):
        guard(detector, memory, name="mine")


@pytest.mark.parametrize(
    ("fail", "reason"),
    [(lambda scores: scores * float("nan"), "nan"), (lambda scores: scores.sum("no axis"), "TypeError")],
    ids=["nan", "raises"],
)
def test_an_image_on_which_it_fails_is_defective_with_the_reason(
    memory: ClosedFormDetector, fail: Callable[[Tensor], Tensor], reason: str
) -> None:
    made = guard(lambda images: fail(contrast(images)) if images[0, 0, 0, 0] == 0 else contrast(images), memory)
    images = normals(3, 5)
    images[1, 0, 0, 0] = 0
    found = made.verdicts(images)
    assert found[1].word == Verdict.DEFECTIVE and reason in str(found[1].reason)
    alone = made.verdicts(images[[0, 2]])
    assert [found[0].word, found[2].word] == [verdict.word for verdict in alone]
    assert torch.isfinite(made.predict_batch(images).scores).all()


def test_one_score_for_a_batch_is_asked_image_by_image(memory: ClosedFormDetector) -> None:
    images = torch.cat([normals(2, 6), dents(2, 7)])
    whole, rows = guard(lambda images: Contrast()(images)[0].max(), memory), guard(contrast, memory)
    torch.testing.assert_close(whole.predict_batch(images).half_scores, rows.predict_batch(images).half_scores)


def test_the_global_generators_keep_their_state(memory: ClosedFormDetector) -> None:
    def reseeds(images: Tensor) -> Tensor:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        return contrast(images)

    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    made = guard(reseeds, memory)
    made.predict_batch(dents(2, 8))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


def test_noise_of_the_detector_is_the_same_for_the_same_image(memory: ClosedFormDetector) -> None:
    made = guard(lambda images: contrast(images) + 1e-5 * np.random.rand(), memory)
    images = normals(4, 9)
    together, alone = made.predict_batch(images).half_scores, made.predict_batch(images[2:3]).half_scores
    assert torch.equal(together[2:3], alone)


def test_exhausted_memory_is_no_verdict(memory: ClosedFormDetector) -> None:
    def spends(images: Tensor) -> Tensor:
        raise MemoryError

    made = guard(contrast, memory)
    broken = GuardedDetector(made.config, made.memory, {"contrast": spends})
    with pytest.raises(MemoryError):
        broken.predict_batch(normals(1, 0))


def test_the_bounds_hold_whatever_the_detector_says(memory: ClosedFormDetector) -> None:
    made = guard(contrast, memory)
    images = torch.cat([normals(4, 10), dents(4, 11)])
    bounds = made.score_bounds(images, EPS, "linf")
    for seed in range(3):
        moved = images + EPS * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).sign()
        scores = made.predict_batch(moved.clamp(0, 1)).scores
        assert (scores >= bounds.lower - 1e-6).all() and (scores <= bounds.upper + 1e-6).all()


def test_a_half_never_has_the_name_of_a_loss_of_every_detector(file: Path, memory: ClosedFormDetector) -> None:
    from advrad.attacks.objectives import ALTERNATING, OUTPUT_LOSSES

    def score(images: Tensor) -> Tensor:
        return contrast(images)

    assert {*OUTPUT_LOSSES, ALTERNATING} <= RESERVED
    file.write_text(FILE.replace("contrast", "score"))
    assert [list(guard(found, memory).others) for found in (f"{file}:score", score)] == [["mine"], ["detector"]]
    with pytest.raises(ConfigError, match="name score: cannot be the name of a half"):
        guard(score, memory, name="score")


def test_another_size_than_that_of_the_memory_is_refused(file: Path, memory: ClosedFormDetector) -> None:
    file.write_text(FILE + "from advrad import wrap\nfixed = wrap(contrast, size_px=64)\n")
    with pytest.raises(ConfigError, match="fixed: takes images of 64 px, and the memory images of 32 px"):
        guard(f"{file}:fixed", memory)


def test_what_cannot_be_read_is_one_line(memory: ClosedFormDetector, tmp_path: Path) -> None:
    for name in ("missing.ckpt", "missing.py:score", "no-folder"):
        with pytest.raises(UserError) as raised:
            guard(str(tmp_path / name), memory)
        assert "\n" not in str(raised.value) and name.partition(":")[0] in str(raised.value)
