"""Decide whether there are enough normal images for a training; ``train`` and ``data inspect`` ask the same."""

from __future__ import annotations

from dataclasses import dataclass

from advrad.data.layouts import Dataset
from advrad.data.splits import (
    LEAST_FOR_TILES,
    MIN_NORMALS,
    normals_for_tiles,
    normals_needed,
    normals_to_train,
    rate_in_reach,
    split_sizes,
)
from advrad.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class NormalCount:
    """How many normal images a training can use, and why it cannot use the others.

    Attributes:
        usable: Different normal images for training that can be read.
        kept_for_testing: Normal images of the same folder that are kept for testing.
        copies: Images that are copies of others.
        unreadable: Images that cannot be read.

    Example:
        >>> NormalCount(16, kept_for_testing=4).describe()
        '16 (of 20; 4 are kept for testing)'
    """

    usable: int
    kept_for_testing: int = 0
    copies: int = 0
    unreadable: int = 0

    def describe(self) -> str:
        """The number in words, with what is left out."""
        left_out = {
            ("is kept for testing", "are kept for testing"): self.kept_for_testing,
            ("is a copy of another", "are copies of others"): self.copies,
            ("cannot be read", "cannot be read"): self.unreadable,
        }
        reasons = [f"{count} {words[count > 1]}" for words, count in left_out.items() if count]
        total = self.usable + sum(left_out.values())
        return f"{self.usable} (of {total}; {', '.join(reasons)})" if reasons else str(self.usable)


def kept_for_testing(dataset: Dataset) -> int:
    """Number of normal images that are kept for testing because the folder does not say which ones are.

    Args:
        dataset: The images.
    """
    if dataset.layout != "folder":
        return 0
    return sum(record.split == "test" and record.label == 0 for record in dataset.records)


def check_enough(
    count: NormalCount, false_alarm_rate: float, *, learned: bool = False, tiles: bool = False, tests: int = 1
) -> None:
    """Refuse a training with too few normal images, before anything else is done.

    Args:
        count: Number of normal images.
        false_alarm_rate: Largest share of normal images that may be called anomalous, in (0, 1).
        learned: Whether a denoiser is trained, which needs more images than the closed form.
        tiles: Whether images are cut into tiles, which needs some more images, too.
        tests: Number of tests between which the false-alarm rate is divided, >= 1; each needs its share.

    Raises:
        ConfigError: There are too few images for the false-alarm rate.
        DataError: There are too few images to train a denoiser.

    Example:
        >>> check_enough(NormalCount(19), 0.05)
        >>> check_enough(NormalCount(39), 0.05, tests=2)
    """
    normals_needed(false_alarm_rate)  # refuses a rate that is out of range
    needed, total = normals_needed(false_alarm_rate / tests), count.usable
    if not learned:
        least = normals_for_tiles(false_alarm_rate) if tiles else max(2, needed)
        if total < least:
            reach = total - LEAST_FOR_TILES if tiles else total
            accept = f"; or accept a rate of {rate_in_reach(reach, tests):g} or more" if reach > tests else ""
            why = " where they are cut into tiles (those that set the threshold give no tile to the memory)"
            why = why if tiles else f" for the thresholds of {tests} detectors" if tests > 1 else ""
            raise ConfigError(
                f"needs {least} different normal images{why}, but there are {count.describe()}; add"
                f" normal images{accept}",
                option="false_alarm_rate",
                value=false_alarm_rate,
            )
        return
    if total < MIN_NORMALS:
        raise DataError(
            f"{count.describe()} normal image{'s' if total != 1 else ''} to train on; at least {MIN_NORMALS} are"
            " needed, and several dozen for a good detector: add normal images"
        )
    _, selection, calibration = split_sizes(total, false_alarm_rate)
    if calibration < needed:
        raise ConfigError(
            f"needs {needed} normal images for calibration alone, but only {calibration} of the {count.describe()}"
            f" are available for it; give at least {normals_to_train(false_alarm_rate)} in all, or accept a rate of"
            f" {rate_in_reach(calibration):g} or more; the closed form alone needs only {needed}",
            option="false_alarm_rate",
            value=false_alarm_rate,
        )
    if selection < 2:
        raise DataError(
            f"only {selection} of the {count.describe()} normal images are left to choose the score; add normal images"
        )


def refusal(
    count: NormalCount, false_alarm_rate: float, *, learned: bool = False, tiles: bool = False, tests: int = 1
) -> str | None:
    """The words in which a training would be refused; None if there are enough normal images.

    Args:
        count: Number of normal images.
        false_alarm_rate: Largest share of normal images that may be called anomalous, in (0, 1).
        learned: Whether a denoiser would be trained.
        tiles: Whether images would be cut into tiles.
        tests: Number of tests between which the rate would be divided, >= 1.

    Example:
        >>> refusal(NormalCount(12), 0.1)
        >>> refusal(NormalCount(12), 0.05)[:83]
        'a false-alarm rate of 0.05 needs 19 different normal images, but there are 12; add '
    """
    try:
        check_enough(count, false_alarm_rate, learned=learned, tiles=tiles, tests=tests)
    except ConfigError as error:
        return f"a false-alarm rate of {false_alarm_rate:g} {error.message}"
    except DataError as error:
        return str(error)
    return None
