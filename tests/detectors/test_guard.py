"""A closed form put beside any detector: what is promised, and what does not belong together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toy_guarded import EPS, SIZE_PX, Contrast, closed_form, dents, haze, normals
from toy_models import detector as learned_detector

import advrad
from advrad.data.copies import pixel_digest
from advrad.data.picture_statistics import PictureReference, picture_statistics
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.config import Calibration, TrainingRecord
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.guarded_config import BEND
from advrad.detectors.guarded_tests import divide_rate, half_test
from advrad.detectors.saved import seen_by
from advrad.detectors.wrappers import wrap
from advrad.errors import ConfigError, DataError, UserError

#: Normal images for the memory, and others for the half beside it.
IN_MEMORY, OF_MEMORY, FOR_HALF = normals(16, 0), normals(79, 1), normals(79, 2)


def contrast(images: Tensor) -> Tensor:
    scores: Tensor = Contrast()(images)[0]
    return scores


def calibrated_memory(rate: float = 0.05, count: int = 79) -> ClosedFormDetector:
    found = closed_form(IN_MEMORY)
    found.calibrate([OF_MEMORY[:count]], rate)
    return found


def digests(images: Tensor) -> tuple[str, ...]:
    values = (images.double() * 65535).round().numpy().astype(np.uint16)
    return tuple(sorted(pixel_digest(image).hex() for image in values))


def made_of(memory: ClosedFormDetector, *images: Tensor) -> ClosedFormDetector:
    """The same memory, which remembers these images."""
    memory.update_config(training=TrainingRecord(seen=digests(torch.cat(images))))
    return memory


@pytest.fixture(scope="module")
def memory() -> ClosedFormDetector:
    return calibrated_memory()


@pytest.fixture(scope="module")
def made(memory: ClosedFormDetector) -> GuardedDetector:
    return advrad.guard(contrast, memory, FOR_HALF)


# --- The rate ---


counts = st.integers(1, 800)


@given(st.floats(0.005, 0.5), st.floats(0.01, 1.0), counts, st.lists(counts, min_size=1, max_size=3))
def test_the_parts_of_the_rate_add_up_to_it_at_most(rate: float, share: float, n: int, others: list[int]) -> None:
    least = 1 / (n + 1) + sum(1 / (count + 1) for count in others)
    if least > rate + 1e-9:
        with pytest.raises(ConfigError, match=r"false_alarm_rate .*: is too low for"):
            divide_rate(rate, share, n, others)
        return
    if least > rate - 1e-9:
        return  # rounding decides
    own, slots = divide_rate(rate, share, n, others)
    used = own / (n + 1) + sum(slot / (count + 1) for slot, count in zip(slots, others, strict=True))
    assert own >= 1 and min(slots) >= 1 and used <= rate + 1e-9
    assert used > rate - 1 / (max(others) + 1)  # no half could have had one slot more
    assert own == 1 or own / (n + 1) <= share * rate + 1e-9


def test_one_list_of_images_has_no_more_alarms_than_its_half_has_slots(made: GuardedDetector) -> None:
    """The memory's threshold is fixed; each image is the new one in turn, and the others set that of the half."""
    draws, n, slots = np.random.default_rng(3), 40, 2
    for weight in (0.0, 0.9, -0.9):
        memory, other = draws.standard_normal((2, n + 1))
        other = weight * memory + (1 - abs(weight)) * other
        silent = memory <= np.quantile(memory, 0.9)
        alarms = 0
        for new in range(n + 1):
            test = half_test(np.delete(other, new), slots, counted=np.delete(silent, new))
            alarms += bool(silent[new] and other[new] > test.threshold)
        assert alarms == slots
    test = made.tests[1]
    found, _ = made.score_halves(FOR_HALF)
    counted = found[:, 0] <= made.tests[0].threshold
    assert test.n == 79 and len(test.scores) == int(counted.sum())
    assert test.threshold == float(found[counted, 1].sort().values[-round(test.false_alarm_rate * 80)])


def test_normal_images_raise_few_alarms_and_defects_are_found(made: GuardedDetector) -> None:
    output = made.predict_batch(torch.cat([normals(200, 9), dents(5, 10), haze(5, 11)]))
    assert output.defective is not None and output.speaks is not None
    # 200 images, at most 5 % on average: more than 21 would be an accident of less than one in a thousand
    assert int(output.defective[:200].sum()) <= 21
    assert bool(output.defective[200:].all()) and bool(output.speaks[200:205, 0].all())
    assert not output.speaks[205:, 0].any()
    assert {str(found.word) for found in made.verdicts(dents(2, 12))} == {"defective, proven"}
    assert {str(found.word) for found in made.verdicts(haze(2, 13))} == {"suspected"}


def test_the_tests_and_what_they_promise(made: GuardedDetector, memory: ClosedFormDetector) -> None:
    assert [test.slots for test in made.tests] == [3, 1] and made.config.joint
    assert made.calibration.false_alarm_rate == 0.05 and made.threshold == 0.0
    assert made.tests[0].threshold == memory.calibration.scores[-3] and made.tests[0].n == 79
    assert made.tests[0].heat_high == memory.calibration.heat_high
    assert list(made.others) == ["contrast"] and made.config.radius == EPS
    expected = PictureReference.of(picture_statistics(image) for image in FOR_HALF)
    assert made.calibration.picture_statistics == expected, "of the images that set the test of the half"
    equal = advrad.guard(contrast, memory, FOR_HALF, share=0.5, false_alarm_rate=0.1, name="mine", radius=0.0)
    assert [test.slots for test in equal.tests] == [4, 4]
    assert list(equal.others) == ["mine"] and equal.config.radius == 0.0
    single = advrad.guard(contrast, memory, FOR_HALF[:39])
    assert [test.n for test in single.tests] == [79, 39] and single.tests[1].false_alarm_rate == 1 / 40


def test_several_detectors_share_what_the_memory_leaves(memory: ClosedFormDetector) -> None:
    both = {"contrast": contrast, "spread": wrap(lambda images: images.std((1, 2, 3)), deterministic=True)}
    made = advrad.guard(both, memory, FOR_HALF, false_alarm_rate=0.1)
    assert list(made.others) == ["contrast", "spread"]
    assert [test.slots for test in made.tests] == [6, 1, 1]
    shared = advrad.guard(both, memory, FOR_HALF, false_alarm_rate=0.1, share=0.5)
    assert [test.slots for test in shared.tests] == [4, 2, 2]


def test_the_ceiling_lies_where_attacked_normal_images_are(made: GuardedDetector, memory: ClosedFormDetector) -> None:
    test, ceiling = made.tests[0], made.config.ceiling
    upper = [
        (float(part) - test.threshold) * test.slope for part in memory.score_bounds(FOR_HALF[:24], EPS, "linf").upper
    ]
    assert 0.6 <= sum(one <= ceiling + 1e-9 for one in upper) / 24 <= 0.9
    chosen = advrad.guard(contrast, memory, FOR_HALF, ceiling=-1.5)
    assert chosen.config.ceiling == -1.5
    assert chosen.predict_batch(haze(2, 3)).defective.tolist() == made.predict_batch(haze(2, 3)).defective.tolist()


def test_the_order_of_images_and_their_form_do_not_matter(made: GuardedDetector, memory: ClosedFormDetector) -> None:
    as_arrays = [image for image in FOR_HALF.flip(0)]
    again = advrad.guard(contrast, memory, as_arrays)
    assert [test.threshold for test in again.tests] == [test.threshold for test in made.tests]


# --- Detectors with calibration scores of their own ---


@pytest.fixture(scope="module")
def learned() -> Any:
    found = learned_detector(calibrated=False)
    found.calibrate([normals(39, 4)], 0.05)
    return found


def test_a_saved_detector_brings_its_own_scores(memory: ClosedFormDetector, learned: Any, tmp_path: Path) -> None:
    made = advrad.guard(learned, memory)
    assert list(made.others) == ["learned"] and not made.config.joint
    assert [round(test.false_alarm_rate * (test.n + 1)) for test in made.tests] == [2, 1]
    assert made.tests[1].threshold == learned.calibration.scores[-1] and made.tests[1].n == 39
    assert made.config.ceiling <= 0 and sum(test.false_alarm_rate for test in made.tests) <= 0.05
    for folder, part in (("memory", memory), ("learned", learned), ("both", made)):
        part.save_pretrained(tmp_path / folder)
    again = advrad.guard(tmp_path / "learned", str(tmp_path / "memory"))
    images = torch.cat([normals(2, 5), dents(2, 6)])
    assert torch.equal(again.predict_batch(images).scores, made.predict_batch(images).scores)
    loaded = advrad.load_detector(tmp_path / "both")
    assert isinstance(loaded, GuardedDetector)
    assert torch.equal(loaded.predict_batch(images).scores, made.predict_batch(images).scores)
    with pytest.raises(ConfigError, match="detector: is guarded already"):
        advrad.guard(tmp_path / "both", memory)


def test_it_remembers_the_images_of_both(learned: Any) -> None:
    learned = learned_detector(calibrated=False)
    learned.calibrate([normals(39, 4)], 0.05)
    learned.update_config(training=TrainingRecord(seen=digests(IN_MEMORY[:8])))
    made = advrad.guard(learned, made_of(calibrated_memory(), IN_MEMORY, OF_MEMORY))
    assert set(seen_by(made)) == set(digests(torch.cat([IN_MEMORY, OF_MEMORY])))


# --- Bad input: one clear line each ---


def test_halves_made_from_different_images_are_refused(learned: Any) -> None:
    other = learned_detector(calibrated=False)
    other.calibrate([normals(39, 4)], 0.05)
    other.update_config(training=TrainingRecord(seen=digests(normals(8, 40))))
    memory = made_of(calibrated_memory(), IN_MEMORY)
    with pytest.raises(ConfigError, match="learned: was made from other images than the memory, none of them the same"):
        advrad.guard(other, memory)
    other.update_config(training=TrainingRecord(seen=digests(FOR_HALF[:12]) + digests(IN_MEMORY[:1])))
    with pytest.raises(ConfigError, match="normals: 12 of 79 are images that learned was made from"):
        advrad.guard(other, memory, FOR_HALF)


def test_the_better_split_is_not_used_on_images_of_the_memory() -> None:
    made = advrad.guard(contrast, made_of(calibrated_memory(), FOR_HALF[:10]), FOR_HALF)
    assert not made.config.joint and len(made.tests[1].scores) == 79


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"calibration": None}, "memory: has no threshold; fit it on more normal images, or calibrate it"),
        ({"scores": ()}, "memory: keeps no calibration scores, because an earlier version made it; calibrate it again"),
    ],
)
def test_a_memory_without_a_test_is_refused(change: dict[str, Any], words: str) -> None:
    memory = calibrated_memory()
    if "scores" in change:
        change = {"calibration": Calibration.model_validate(dict(memory.calibration) | change)}
    memory.update_config(**change)
    with pytest.raises(ConfigError, match=words):
        advrad.guard(contrast, memory, FOR_HALF)


def test_a_detector_without_a_threshold_needs_normal_images(memory: ClosedFormDetector, learned: Any) -> None:
    for detector, name in ((contrast, "contrast"), (learned_detector(calibrated=False), "learned")):
        with pytest.raises(ConfigError, match=f"normals: {name}: has no threshold of its own; give normal images"):
            advrad.guard(detector, memory)
    old = learned_detector(calibrated=False)
    old.update_config(calibration=learned.calibration.model_copy(update={"scores": ()}))
    with pytest.raises(ConfigError, match="normals: learned: keeps no calibration scores; give normal images"):
        advrad.guard(old, memory)


def test_other_sizes_and_shapes_are_refused(memory: ClosedFormDetector) -> None:
    with pytest.raises(ConfigError, match="contrast: takes images of 64 px, and the memory images of 32 px"):
        advrad.guard(wrap(contrast, size_px=64), memory, FOR_HALF)
    with pytest.raises(ConfigError, match="learned: takes images of 64 px"):
        advrad.guard(learned_detector(size_px=64, calibrated=False), memory, FOR_HALF)
    padded = learned_detector(calibrated=False)
    padded.update_config(pad=True)
    with pytest.raises(ConfigError, match="learned: pads images to its square, and the memory stretches them"):
        advrad.guard(padded, memory, FOR_HALF)


def test_a_memory_that_is_no_closed_form_is_refused(memory: ClosedFormDetector) -> None:
    for other in (contrast, wrap(contrast), learned_detector()):
        with pytest.raises(ConfigError, match=r"memory: must be a closed-form detector, .* got"):
            advrad.guard(contrast, other, FOR_HALF)  # type: ignore[arg-type]
    tiled = type("Tiled", (), {"config": type("C", (), {"kind": "tiled"})})()
    with pytest.raises(ConfigError, match="memory: cuts images into tiles, which cannot guard yet"):
        advrad.guard(contrast, tiled, FOR_HALF)
    with pytest.raises(ConfigError, match="detector: cuts images into tiles, which the closed form does not"):
        advrad.guard(tiled, memory, FOR_HALF)
    with pytest.raises(UserError, match="no such model folder"):
        advrad.guard(contrast, "nowhere", FOR_HALF)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda memory: advrad.guard(contrast, memory, FOR_HALF[:20]),
            r"rate 0\.05: is too low for 79 .* 20",
        ),
        (lambda memory: advrad.guard(contrast, memory, []), "normals: there are none"),
        (
            lambda memory: advrad.guard(contrast, memory, FOR_HALF, share=1.1),
            "share 1.1: must lie above 0, and be 1 at most",
        ),
        (lambda memory: advrad.guard(contrast, memory, FOR_HALF, ceiling=0.05), r"ceiling 0\.05: must not lie"),
        (lambda memory: advrad.guard(contrast, memory, FOR_HALF, ceiling="x"), "ceiling x: must be a number"),  # type: ignore[arg-type]
        (lambda memory: advrad.guard(contrast, memory, FOR_HALF, radius=-0.1), r"radius -0\.1: must be at least 0"),
        (lambda memory: advrad.guard(contrast, memory, FOR_HALF, false_alarm_rate=1.5), r"false_alarm_rate 1\.5: must"),
        (lambda memory: advrad.guard(contrast, memory, FOR_HALF, name="memory"), "name memory: cannot be the name"),
        (lambda memory: advrad.guard({"a:b": contrast}, memory, FOR_HALF), "name a:b: cannot be the name"),
        (lambda memory: advrad.guard({}, memory, FOR_HALF), "detector: must be one at least"),
        (lambda memory: advrad.guard({"a": contrast}, memory, FOR_HALF, name="b"), "name b: cannot be given with"),
        (lambda memory: advrad.guard(3, memory, FOR_HALF), "int cannot be called"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    call: Callable[[ClosedFormDetector], object], words: str, memory: ClosedFormDetector
) -> None:
    with pytest.raises(ConfigError, match=words):
        call(memory)


def test_a_memory_with_a_rate_above_one_half_can_guard() -> None:
    memory = calibrated_memory(rate=0.9)
    assert memory.calibration.heat_high < memory.calibration.heat_low
    made = advrad.guard(contrast, memory, FOR_HALF)
    assert made.tests[0].heat_low < made.tests[0].heat_high


def test_few_images_of_the_memory_are_named_with_the_rate_in_reach() -> None:
    memory = calibrated_memory(count=19)
    with pytest.raises(
        ConfigError, match=r"is too low for 19 calibration images of the memory and 79 of the other half"
    ):
        advrad.guard(contrast, memory, FOR_HALF)
    made = advrad.guard(contrast, memory, FOR_HALF, false_alarm_rate=0.0626)
    assert sum(test.false_alarm_rate for test in made.tests) <= 0.0626
    with pytest.raises(ConfigError, match=r"rate of 0\.0625 or more"):
        advrad.guard(contrast, memory, FOR_HALF, false_alarm_rate=0.06)


def test_normal_images_that_are_none_are_refused(memory: ClosedFormDetector) -> None:
    with pytest.raises(DataError):
        advrad.guard(contrast, memory, torch.full((79, 3, SIZE_PX, SIZE_PX), 7.0))
    assert BEND == 0.1  # the number in the message about the ceiling
