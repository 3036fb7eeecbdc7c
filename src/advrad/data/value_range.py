"""The range of an image file's values: which value is white, and whether the images use it.

A file of 8 or 16 bits says which value is white: the largest that fits. Cameras of 10 or 12 bits often write their
values into 16 bits unchanged, so that white is 4095 and every image is read nearly black. No single image tells this
from a dark scene; the brightest value of all images does. Files of signed or of more than 16 bits do not say at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict

from advrad.errors import DataError, ImageError
from advrad.utils.config import Config

#: Share of white below which the brightest value of all images is doubted, for files of up to 8 bits and for floats.
DARK = 1 / 8
#: The same for files of more than 8 bits: values of 14 bits in 16.
DEEP_DARK = 0.26
#: Share of white above which the darkest value of all images is doubted, for files of more than 8 bits.
DEEP_BRIGHT = 15 / 16

_USUAL_BITS = (1, 4, 8, 10, 12, 14, 16)


@dataclass(frozen=True, slots=True)
class ImageLevels:
    """The values of an image file.

    Attributes:
        white: Value that is read as 1.
        low: Smallest value.
        high: Largest value.
        doubt: Sign of damage that may also be what the image shows, in words; empty for none.
    """

    white: float
    low: float
    high: float
    doubt: str = ""

    @classmethod
    def from_json(cls, values: Sequence[Any]) -> ImageLevels:
        """Read what :meth:`to_json` wrote.

        Args:
            values: White, smallest and largest value, and the doubt.
        """
        white, low, high, doubt = values
        return cls(float(white), float(low), float(high), str(doubt))

    def to_json(self) -> list[float | str]:
        """The values as JSON values."""
        return [self.white, self.low, self.high, self.doubt]


class RangeRecord(Config):
    """The range of the images on which a detector was trained.

    Attributes:
        whites: Values of white in the files, different ones, smallest first.
        given: Value of white that was given for the training; None if the files told it.
        brightest: Largest value of all images, as a share of white.

    Example:
        >>> record = RangeRecord.of([ImageLevels(255, 3, 250)])
        >>> record.whites, record.refusal(ImageLevels(255, 0, 255))
        ((255.0,), None)
        >>> record.refusal(ImageLevels(65535, 0, 60000))[:47]
        'has 16 bits (white is 65535), but the model was'
    """

    model_config = ConfigDict(extra="allow")

    whites: tuple[float, ...]
    given: float | None = None
    brightest: float

    @classmethod
    def of(cls, levels: Sequence[ImageLevels], given: float | None = None) -> RangeRecord:
        """Summarise the values of training images.

        Args:
            levels: Values of each image, at least one.
            given: Value of white that was given; None if the files told it.
        """
        return cls(
            whites=tuple(sorted({level.white for level in levels})),
            given=given,
            brightest=max(level.high / level.white for level in levels),
        )

    def refusal(self, levels: ImageLevels) -> str | None:
        """Say why an image must not be judged; None if it has a range of the training images.

        Args:
            levels: Values of the image.
        """
        if levels.white in self.whites:
            return None
        trained = " and ".join(describe_white(white) for white in self.whites)
        return (
            f"has {describe_white(levels.white)}, but the model was trained on images of {trained}; convert it as the"
            f" training images were, or give value_range {levels.white:g} if that is its white"
        )


def describe_white(white: float) -> str:
    """The range of a file in words.

    Args:
        white: Value of white.

    Example:
        >>> describe_white(4095)
        '12 bits (white is 4095)'
    """
    if white == 1:
        return "float values (white is 1)"
    bits = int(np.log2(white + 1)) if white >= 1 else 0
    return f"{bits} bits (white is {white:g})" if 2**bits - 1 == white else f"values up to {white:.10g} (white)"


def likely_white(high: float) -> float | None:
    """The smallest usual value of white that no value exceeds; None above 16 bits.

    Args:
        high: Largest value.
    """
    return next((float(2**bits - 1) for bits in _USUAL_BITS if high <= 2**bits - 1), None)


def check_values(
    path: Path, values: npt.NDArray[Any], white: float | None, kind: str, value_range: float | None = None
) -> ImageLevels:
    """Find which value is white, and check that no value lies outside of the range.

    Args:
        path: Image file, for errors.
        values: Values as they are stored.
        white: Value of white by the file; None if the file does not say it.
        kind: Pixel type in words.
        value_range: Value of white that the user gave; None if the file shall tell.

    Raises:
        ImageError: A value is not a number or lies outside, or nothing says which value is white.
    """
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(path, f"has {kind} values from {low:g} to {high:g}; save it with finite values")
    found = f"has {kind} values from {low:.10g} to {high:.10g}"
    whole = values.dtype.kind != "f"
    if value_range is not None:
        shall = f"{value_range:g} shall be white, as it was given or as in the training"
        if whole and white is not None and value_range > white:
            raise ImageError(
                path,
                f"is {kind}, so no value exceeds {white:g}, but {shall}; convert it as the training images were, or"
                f" give value_range {white:g}",
            )
        if low < 0 or high > value_range:
            raise ImageError(path, f"{found}, but {shall}; give the right value_range")
        return ImageLevels(value_range, low, high)
    if white is None or low < 0 or high > white:
        guess = likely_white(high) if low >= 0 else None
        advice = "" if low < 0 else f", or give value_range, such as {high if guess is None else guess:.10g}"
        said = "and does not say which value is white" if white is None else f"outside of 0 to {white:g}"
        raise ImageError(path, f"{found}, {said}; save it with 8 or 16 bits{advice}")
    return ImageLevels(white, low, high)


class RangeSummary:
    """What the values of many images tell together; it stays small however many they are."""

    def __init__(self) -> None:
        self._groups: dict[float, ImageLevels] = {}
        self._counts: Counter[float] = Counter()
        self._signs: Counter[str] = Counter()
        self._flat = 0

    def add(self, levels: ImageLevels) -> None:
        """Count an image.

        Args:
            levels: Its values.
        """
        white = levels.white
        known = self._groups.get(white, levels)
        self._groups[white] = ImageLevels(white, min(known.low, levels.low), max(known.high, levels.high))
        self._counts[white] += 1
        self._flat += levels.low == levels.high
        if levels.doubt:
            self._signs[levels.doubt] += 1

    @property
    def flat(self) -> bool:
        """Whether each image shows a single value, as with the cap on the lens."""
        return 0 < self._flat == self._counts.total()

    def doubts(self) -> tuple[str, ...]:
        """Doubts about the range and about damage, in sentences without a full stop."""
        total = self._counts.total()
        found = []
        if self.flat:
            found.append(
                f"{'each of the images shows' if total > 1 else 'the image shows'} one single value; {_FLAT_FIX}"
            )
        elif len(self._groups) > 1:
            each = ", ".join(f"{self._counts[white]} of {describe_white(white)}" for white in sorted(self._groups))
            found.append(f"the images differ in their range of values: {each}; check that white means the same in all")
        if not self.flat:
            found += [text for white in sorted(self._groups) for text in self._doubts_of_group(white)]
        return (*found, *(f"{count} of {total} images: {sign}" for sign, count in sorted(self._signs.items())))

    def _doubts_of_group(self, white: float) -> list[str]:
        """Doubts about the images of one range."""
        levels, count, deep = self._groups[white], self._counts[white], white > 255
        who = f"all {count} images" if count > 1 else "the image"
        they = "they are" if count > 1 else "it is"
        if levels.high <= white * (DEEP_DARK if deep else DARK):
            guess = likely_white(levels.high)
            if guess is not None and guess < white:
                bits = round(np.log2(guess + 1))
                fix = f"with values of {bits} bit{'s' if bits > 1 else ''}, give value_range {guess:g}"
            else:
                fix = "if another value is white, give it as value_range"
            return [f"the brightest value of {who} is {levels.high:g} of {white:g}, so {they} read nearly black; {fix}"]
        if deep and levels.low >= white * DEEP_BRIGHT:
            return [
                f"the darkest value of {who} is {levels.low:g} of {white:g}, so {they} read nearly white; check the"
                " bits and the sign with which the files were saved"
            ]
        return []


_FLAT_FIX = "check lens cap, light and export"


def doubts(levels: Iterable[ImageLevels]) -> tuple[str, ...]:
    """Doubt the range of images, in sentences without a full stop.

    Args:
        levels: Values of each image that was read.
    """
    return _summary(levels).doubts()


def refuse_flat(levels: Iterable[ImageLevels], folder: Path) -> None:
    """Refuse to train on images that show nothing.

    Args:
        levels: Values of each image.
        folder: Folder of the images, for the error.

    Raises:
        DataError: Each image shows one single value.
    """
    if _summary(levels).flat:
        raise DataError(f"{folder}: each of the images shows one single value, so nothing can be learnt; {_FLAT_FIX}")


def _summary(levels: Iterable[ImageLevels]) -> RangeSummary:
    summary = RangeSummary()
    for level in levels:
        summary.add(level)
    return summary
