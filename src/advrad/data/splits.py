"""Split normal images into training, selection and calibration, and choose test images at random."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from advrad.data.records import Record
from advrad.errors import ConfigError, DataError
from advrad.utils.seeding import numpy_generator_for


def sample_test_records(
    records: Sequence[Record], limit: int | None, seed: int, root: str | Path = "data"
) -> tuple[Record, ...]:
    """Test images of a data set: all, or half normal and half anomalous ones; see :func:`sample_tests`.

    Args:
        records: Images of a data set; those for training are ignored.
        limit: Number of images; None for all.
        seed: Seed for the choice.
        root: Folder of the data set, for the error.

    Raises:
        DataError: There are images of one class only.
    """
    test = [record for record in records if record.split == "test"]
    labels = {record.label for record in test}
    if labels != {0, 1}:
        missing = "normal" if 0 not in labels else "anomalous"
        raise DataError(f"{root}: there is no {missing} test image; both classes are needed, normal and anomalous")
    if limit is None:
        return tuple(test)
    chosen = sample_tests([record.label for record in test], [record.defect for record in test], limit, seed)
    return tuple(test[index] for index in chosen)


def sample_tests(labels: Sequence[int], defects: Sequence[str], limit: int, seed: int) -> tuple[int, ...]:
    """Choose test images at random: half normal, half anomalous, with the kinds of defect in turn.

    Where one class has too few images, the other one fills up.

    Args:
        labels: Labels, n: 0 for normal, 1 for anomalous.
        defects: Defect names, n.
        limit: Number of images to choose.
        seed: Seed for the choice.

    Returns:
        Positions of the chosen images, ascending; all where there are no more than ``limit``.
    """
    if limit >= len(labels):
        return tuple(range(len(labels)))
    normal = [index for index, label in enumerate(labels) if not label]
    anomalous = [index for index, label in enumerate(labels) if label]
    rng = numpy_generator_for(seed, "limit")
    normal = [normal[i] for i in rng.permutation(len(normal))]
    kinds: dict[str, list[int]] = {}
    for i in rng.permutation(len(anomalous)):
        kinds.setdefault(defects[anomalous[i]], []).append(anomalous[i])
    turns = [kind[turn] for turn in range(len(anomalous)) for _, kind in sorted(kinds.items()) if turn < len(kind)]
    share = max(limit - len(normal), min(limit - limit // 2, len(anomalous)))
    return tuple(sorted({*normal[: limit - share], *turns[:share]}))


def normals_needed(false_alarm_rate: float) -> int:
    """Compute how many calibration images a false-alarm rate needs at least.

    Args:
        false_alarm_rate: Highest probability of a false alarm, in (0, 1).

    Raises:
        ConfigError: The rate is out of range.

    Example:
        >>> from advrad.data.splits import normals_needed
        >>> normals_needed(0.05)
        19
    """
    if not 0 < false_alarm_rate < 1 or math.isinf(1 / false_alarm_rate):
        raise ConfigError("must lie strictly between 0 and 1", option="false_alarm_rate", value=false_alarm_rate)
    # The small number corrects the rounding of, for example, 1 / 0.05.
    return math.ceil(1 / false_alarm_rate - 1e-9) - 1


def rate_in_reach(normals: int, tests: int = 1) -> float:
    """Lowest false-alarm rate that this many calibration images allow, rounded up to four digits.

    Args:
        normals: Number of calibration images.
        tests: Number of tests between which the rate is divided, >= 1.

    Example:
        >>> rate_in_reach(39), rate_in_reach(39, tests=2)
        (0.025, 0.05)
    """
    return math.ceil(1e4 * tests / (normals + 1)) / 1e4


MIN_NORMALS = 8
"""Fewest normal images that can be split."""


@dataclass(frozen=True, slots=True)
class NormalSplit:
    """Normal images in three parts that share no image.

    Attributes:
        train: Images for training the denoiser.
        selection: Images for choosing the score.
        calibration: Images for setting the threshold, and for nothing else.
    """

    train: tuple[Record, ...]
    selection: tuple[Record, ...]
    calibration: tuple[Record, ...]


def split_normals(records: Iterable[Record], seed: int, *, false_alarm_rate: float = 0.05) -> NormalSplit:
    """Split the normal training images into training, selection and calibration.

    Calibration gets a fifth, but at least the ``ceil(1 / rate) - 1`` images that a conformal threshold needs (19 at 5
    %). Selection gets a tenth, but at least 8. Training keeps at least half: if there are too few images, selection
    shrinks first, down to 2, then calibration, even below what the rate needs.

    The split depends on the seed and on the files' paths below their common folder, not on the order of the records or
    the place of the folder. Removing one image moves few others.

    Args:
        records: Images of a data set; test images and anomalous images are ignored.
        seed: Seed of the split.
        false_alarm_rate: False-alarm rate of the threshold, in (0, 1).

    Raises:
        DataError: There are fewer than 8 normal images.
        ConfigError: The rate is out of range.
    """
    normals_needed(false_alarm_rate)  # refuses a rate that is out of range
    normals = shuffle_normals(records, seed)
    n = len(normals)
    if n < MIN_NORMALS:
        raise DataError(
            f"{n} normal image{'s' if n != 1 else ''} to train on; at least {MIN_NORMALS} are needed, "
            "and several dozen for a good detector: add normal images"
        )
    _, selection, calibration = split_sizes(n, false_alarm_rate)
    parts = (
        normals[:calibration],
        normals[calibration : calibration + selection],
        normals[calibration + selection :],
    )
    held, chosen, train = (tuple(sorted(part, key=lambda record: record.path.as_posix())) for part in parts)
    return NormalSplit(train, chosen, held)


def split_sizes(normals: int, false_alarm_rate: float) -> tuple[int, int, int]:
    """Numbers of images for training, selection and calibration; see :func:`split_normals`.

    Args:
        normals: Number of normal images, at least 8.
        false_alarm_rate: False-alarm rate of the threshold, in (0, 1).

    Example:
        >>> split_sizes(42, 0.05)
        (21, 2, 19)
    """
    spare = normals // 2
    calibration = max(math.ceil(normals / 5), normals_needed(false_alarm_rate))
    selection = max(2, min(max(round(normals / 10), 8), spare - calibration))
    calibration = min(calibration, spare - selection)
    return normals - selection - calibration, selection, calibration


def normals_to_train(false_alarm_rate: float) -> int:
    """Compute how many normal images a learned denoiser needs, so that enough of them are left for the threshold.

    Args:
        false_alarm_rate: False-alarm rate of the threshold, in (0, 1).

    Example:
        >>> normals_to_train(0.05)
        42
    """
    return max(MIN_NORMALS, 2 * (normals_needed(false_alarm_rate) + 2))


#: Largest number of normal images that the closed form uses, unless the false-alarm rate needs more: more would make
#: every fit slower.
MOST_IMAGES = 400
#: Largest number of images that all become the memory of the closed form; of more, only those of part A do.
ALL_IN_MEMORY = 64
#: Least number of images of part A; with fewer there is none.
LEAST_IN_PART_A = 10
#: Share of the images that set the threshold of the closed form, where there are enough.
_THRESHOLD_SHARE = 1 / 3


@dataclass(frozen=True, slots=True)
class MemorySplit:
    """Numbers of normal images that the closed form uses, by purpose; see :mod:`advrad.training.closed_form`.

    Attributes:
        memory: Images that are kept in memory.
        choice: Images that choose how images are compared, part A; 0 if there are too few.
        threshold: Images that set the threshold, part B. Where they are in memory, too, each is compared with the
            others.
    """

    memory: int
    choice: int
    threshold: int

    @property
    def leaves_one_out(self) -> bool:
        """Whether the images that set the threshold are in memory."""
        return self.memory >= self.threshold + self.choice


def split_for_memory(normals: int, false_alarm_rate: float = 0.05) -> MemorySplit | None:
    """Divide normal images between the purposes of the closed form.

    Part B gets a third, but at least the images that a conformal threshold needs. Part A gets the others.

    Args:
        normals: Number of different normal images.
        false_alarm_rate: False-alarm rate of the threshold, in (0, 1).

    Returns:
        The numbers; None if there are too few images for the rate.

    Raises:
        ConfigError: The rate is out of range.

    Example:
        >>> split_for_memory(20), split_for_memory(100)
        (MemorySplit(memory=20, choice=0, threshold=20), MemorySplit(memory=67, choice=67, threshold=33))
    """
    needed = max(2, normals_needed(false_alarm_rate))
    if normals < needed:
        return None
    threshold = max(normals_needed(false_alarm_rate), round(normals * _THRESHOLD_SHARE))
    if normals - threshold < LEAST_IN_PART_A:
        return MemorySplit(normals, 0, normals)
    choice = normals - threshold
    return MemorySplit(normals if normals <= ALL_IN_MEMORY else choice, choice, threshold)


#: Fewest images whose tiles are the normal images of a detector of tiles.
LEAST_FOR_TILES = 4


def normals_for_tiles(false_alarm_rate: float) -> int:
    """Compute how many normal images a detector of tiles needs: those of the threshold give no tile to its memory.

    Args:
        false_alarm_rate: False-alarm rate of the threshold, in (0, 1).

    Example:
        >>> normals_for_tiles(0.05)
        23
    """
    return normals_needed(false_alarm_rate) + LEAST_FOR_TILES


def most_for_memory(false_alarm_rate: float) -> int:
    """Largest number of normal images of which the closed form makes use.

    Args:
        false_alarm_rate: False-alarm rate of the threshold, in (0, 1).
    """
    return max(MOST_IMAGES, 2 * normals_needed(false_alarm_rate))


def shuffle_normals(records: Iterable[Record], seed: int) -> list[Record]:
    """Give the normal training images in random order.

    The order depends on the seed and on the files' paths below their common folder, not on the order of the records or
    the place of the folder.

    Args:
        records: Images of a data set; test images and anomalous images are ignored.
        seed: Seed of the order.
    """
    normals = [record for record in records if record.split == "train" and record.label == 0]
    if not normals:
        return []
    common = Path(os.path.commonpath([record.path.parent for record in normals]))

    def place(record: Record) -> bytes:
        name = record.path.relative_to(common).as_posix()
        return hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogateescape"), digest_size=16).digest()

    return sorted(normals, key=place)
