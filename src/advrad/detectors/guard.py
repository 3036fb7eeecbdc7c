"""Put a closed form beside any detector, so that verdicts can be proven: :func:`advrad.guard`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.data.arrays import ImageBatch, image_batches
from advrad.data.cache import digest
from advrad.data.copies import pixel_digest
from advrad.data.picture_statistics import PictureReference, picture_statistics
from advrad.data.synthetic import DEFECTS, paste_defects
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.config import Calibration
from advrad.detectors.direction import doubt_scores
from advrad.detectors.guard_parts import GivenHalf, check_pair, read_halves, read_memory, training_of
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.guarded_config import RADIUS, AttackableConfig, GuardedConfig, HalfTest
from advrad.detectors.guarded_folder import config_of
from advrad.detectors.guarded_tests import LEAST_SPREAD, divide_rate, half_test, kth_largest, surprise, usable_ceiling
from advrad.detectors.reference import check_repeated
from advrad.detectors.saved import seen_by
from advrad.errors import ConfigError, DetectorError
from advrad.utils.seeding import seed_of

if TYPE_CHECKING:
    from advrad.data.arrays import ImageInput

Floats = npt.NDArray[np.float64]

#: Number of normal images on which the ceiling and the direction of the score are looked at.
_MOST_LOOKED_AT = 24
#: Share of the normal images whose memory score stays below the ceiling under attack.
_CEILING_QUANTILE = 0.75
#: Ceiling where the memory's scores have no upper bounds, so that nothing certified can be lost.
_FREE_CEILING = 0.3


def guard(
    detector: Any,
    memory: ClosedFormDetector | str | Path,
    normals: ImageInput | None = None,
    *,
    false_alarm_rate: float | None = None,
    share: float = 1.0,
    ceiling: float | None = None,
    radius: float = RADIUS,
    name: str | None = None,
) -> GuardedDetector:
    """Put a closed form beside any detector, so that verdicts can be proven.

    An image is defective if either says so. Whatever an attack within the radius makes of the detector, the closed form
    finds every defect that it certainly finds alone; without an attack at most the false-alarm rate of the normal
    images is called defective; and under attack at most the share of it that belongs to the closed form is called
    ``defective, proven``.

    Args:
        detector: What :func:`advrad.wrap` takes, such as a model of anomalib or a function of images; a detector of a
            model folder, or its path; a checkpoint of anomalib or ``FILE.py:NAME``, which can be saved; or several of
            these by name. It must not have learned from ``normals``.
        memory: Closed-form detector with a threshold, or the path of its model folder.
        normals: Normal images that were used for nothing else: whatever :meth:`GuardedDetector.predict` takes. They set
            the threshold of the detector. None to take the calibration scores that it keeps itself.
        false_alarm_rate: Largest share of normal images that may be called defective, in (0, 1); None for that of
            ``memory``.
        share: Share of this rate that the closed form gets, in (0, 1]. Each detector beside it gets one normal image's
            at least. Fewer images for the closed form mean fewer proven defects.
        ceiling: Largest surprise of the detector that counts in the score; see
            :mod:`advrad.detectors.guarded_config`. None to choose one that costs the certified AUROC little.
        radius: Radius within which verdicts are proven, linf, in [0, 1] pixel units; 0 to prove nothing.
        name: Name of the detector in verdicts and reports; None for one that fits.

    Raises:
        ConfigError: An argument is out of range, there are too few images for the rate, or the two do not belong
            together: other images, another size, no threshold, or a score that points the other way.
        DataError: A normal image is no image.
        DetectorError: The detector fails on a normal image.

    Example:
        Needs a trained model folder.

        >>> model = advrad.guard(lambda images: images.std((1, 2, 3)), "bottle", normals)  # doctest: +SKIP
        >>> [found.verdict for found in model.predict("part.png")]  # doctest: +SKIP
        ['defective, proven']
    """
    if not 0 < share <= 1:
        raise ConfigError("must lie above 0, and be 1 at most", option="share", value=share)
    if ceiling is not None and not isinstance(ceiling, int | float):
        raise ConfigError("must be a number", option="ceiling", value=ceiling)
    if ceiling is not None and usable_ceiling(ceiling) != ceiling:
        raise ConfigError("must not lie between 0 and 0.1", option="ceiling", value=ceiling)
    closed_form = read_memory(memory)
    parts = read_halves(detector, closed_form, name)
    for part in parts:
        check_pair(part, closed_form)
    config = GuardedConfig.parse(
        {
            "memory": closed_form.config,
            "others": tuple(
                AttackableConfig.parse({"name": part.half.name, "detector": part.config}) for part in parts
            ),
            "radius": radius,
            "training": training_of(closed_form, parts),
        }
    )
    made = GuardedDetector(config, closed_form, {part.half.name: part.half.detector for part in parts}).eval()
    rate = closed_form.calibration.false_alarm_rate if false_alarm_rate is None else false_alarm_rate
    if normals is None:
        _test_by_own_scores(made, parts, rate, share)
        looked_at = None
    else:
        looked_at = _test_on(made, normals, parts, rate, share)
    made.update_config(ceiling=_choose_ceiling(made, looked_at) if ceiling is None else ceiling)
    return made


def _memory_test(memory: ClosedFormDetector, slots: int) -> HalfTest:
    calibration = memory.calibration
    return _with_glow(half_test(calibration.scores, slots), calibration)


def _with_glow(test: HalfTest, calibration: Calibration) -> HalfTest:
    """A test with the scale of the heat maps of a calibration."""
    low, high = calibration.heat_low, calibration.heat_high
    if high <= low:  # with a false-alarm rate above one half
        high = low + LEAST_SPREAD * max(abs(low), 1.0)
    return test.model_copy(update={"heat_low": low, "heat_high": high})


def _test_by_own_scores(made: GuardedDetector, parts: Sequence[GivenHalf], rate: float, share: float) -> None:
    """Set the tests from the calibration scores that the halves keep themselves."""
    own = []
    for part in parts:
        if part.calibration is None:
            raise ConfigError(
                f"{part.half.name}: has no threshold of its own; give normal images that were used for nothing else",
                option="normals",
            )
        if not part.calibration.scores:
            raise ConfigError(
                f"{part.half.name}: keeps no calibration scores; give normal images that were used for nothing else",
                option="normals",
            )
        own.append(part.calibration)
    memory = made.memory
    k, slots = divide_rate(rate, share, len(memory.calibration.scores), [len(one.scores) for one in own])
    tests = [_memory_test(memory, k)]
    for one, slot in zip(own, slots, strict=True):
        tests.append(_with_glow(half_test(one.scores, slot), one))
    source, pictures = memory.calibration.source, memory.calibration.picture_statistics
    made.set_tests(tuple(tests), rate, joint=False, source=source, pictures=pictures)


def _test_on(
    made: GuardedDetector, normals: ImageInput, parts: Sequence[GivenHalf], rate: float, share: float
) -> Tensor:
    """Set the tests from normal images, and return some of them to look at."""
    scores, heights, digests = [], [], []
    looked_at: list[Tensor] = []
    pictures = []
    for batch in image_batches(normals, made.framing):
        pictures += [picture_statistics(image) for image in made.framing.apply(batch.pixels)]
        found = made.score_halves(batch.pixels)
        scores.append(found[0].numpy())
        heights.append(found[1])
        digests += _digests(batch)
        if len(looked_at) < _MOST_LOOKED_AT:
            looked_at += list(made.framing.apply(batch.pixels))
    if not scores:
        raise ConfigError("there are none; give normal images that were used for nothing else", option="normals")
    for part in parts:
        _check_unseen(part, digests)
    joint = not any(one & set(seen_by(made.memory)) for one in digests)
    table = np.concatenate(scores)
    k, slots = divide_rate(rate, share, len(made.memory.calibration.scores), [len(table)] * len(parts))
    tests = [_memory_test(made.memory, k)]
    counted = table[:, 0] <= tests[0].threshold if joint else None
    for place, slot in enumerate(slots, 1):
        maxima = np.concatenate([found[place].numpy() for found in heights])
        tests.append(half_test(table[:, place], slot, counted=counted, maxima=maxima))
    some = torch.stack(looked_at[:_MOST_LOOKED_AT])
    for place, part in enumerate(parts, 1):
        _check_direction(part, some, table[: len(some), place])
    made.set_tests(tuple(tests), rate, joint=joint, pictures=PictureReference.of(pictures))
    return some


def _digests(batch: ImageBatch) -> list[set[str]]:
    """Digests of each image, of its pixels and of its file, as :mod:`advrad.data.trained_images` makes them."""
    values = (batch.pixels.numpy().astype(np.float64) * 65535).round().astype(np.uint16)
    found = [{pixel_digest(image).hex()} for image in values]
    for own, image in zip(found, batch.images, strict=True):
        if image.path is not None and (of_file := digest(image.path)) is not None:
            own.add(of_file[:8].hex())
    return found


def _check_unseen(part: GivenHalf, digests: Sequence[set[str]]) -> None:
    """Refuse normal images that a half was made from.

    Raises:
        ConfigError: There are such images.
    """
    seen = set(seen_by(part.found))
    known = sum(bool(one & seen) for one in digests)
    if known:
        raise ConfigError(
            f"{known} of {len(digests)} are images that {part.half.name} was made from, so its scores of them say"
            " nothing about new ones; give images that were used for nothing else",
            option="normals",
        )


def _check_direction(part: GivenHalf, images: Tensor, scores: Floats) -> None:
    """Refuse a score that is larger for normal images than for the same with synthetic defects, or always the same.

    Args:
        part: The detector.
        images: Normal images, as the detector gets them.
        scores: Their scores, which must be the same again.

    Raises:
        ConfigError: The score points the other way, or nowhere, or is another when asked again.
        DetectorError: The detector fails on an image.
    """
    if config_of(part.half) is not None:
        return  # a detector of advrad
    pasted, _ = paste_defects(
        images, images.roll(1, 0), [seed_of(0, "guard", row) for row in range(len(images))], tuple(DEFECTS)
    )
    framed = torch.cat([images, pasted])
    found = part.half.predict(framed)
    if (error := next(filter(None, found.errors), None)) is not None:
        raise DetectorError(f"{part.half.name}: fails on an image: {error}; mend it there")
    for before, again in zip(scores, found.scores.tolist(), strict=False):
        check_repeated(part.half.name, float(before), again)
    labels = np.repeat([0, 1], len(images)).astype(np.int64)
    doubt = doubt_scores(labels, found.scores.numpy(), from_folder=False)
    if doubt is None:
        return
    if doubt.name == "constant score":
        raise ConfigError(f"{part.half.name}: gives every image the same score, so it tells nothing; mend it")
    raise ConfigError(
        f"{part.half.name}: its score points the other way: it is lower for normal images with synthetic defects than"
        " without; negate it"
    )


def _choose_ceiling(made: GuardedDetector, images: Tensor | None) -> float:
    """A ceiling that most attacked normal images reach by the memory alone, so that little certified is lost."""
    test = made.tests[0]
    if images is None:
        return usable_ceiling(min(0.0, _quantile(surprise(torch.tensor(test.scores).double(), test).numpy(), 0.9)))
    bounds = [made.memory.score_bounds(image[None], made.config.radius or RADIUS, "linf").upper for image in images]
    upper = surprise(torch.cat(bounds), test).numpy()
    found = _quantile(upper, _CEILING_QUANTILE)
    return usable_ceiling(found) if np.isfinite(found) else _FREE_CEILING


def _quantile(values: Floats, share: float) -> float:
    """The smallest value that at least this share does not exceed."""
    return kth_largest(values, len(values) + 1 - max(1, int(np.ceil(share * len(values)))))
