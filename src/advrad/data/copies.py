"""Find images that are copies of others: pixel by pixel, or to the eye, such as one that was saved again as JPEG.

A copy is no new image. Among the normal images it would count twice in the promise on false alarms, and a test image
that was trained on says nothing about new ones.

Images with the same pixels are copies, whatever their files. To the eye is harder, because two images of a product that
lies at the same place look alike without being copies. Each image is brought to 64 x 64 grey values, and its neighbours
are sorted by distance. The first of them are copies where the distance jumps behind them:

- They lie eight times nearer than the fourth image behind them, and so do the flat parts, where two images have
  different noise, by a factor of almost two.
- Or they differ by less than one grey level, and where the normal images scatter, their fine structure has the same
  sign twice as often as with the fourth image behind them. Noise of two images agrees in half of the pixels.

In six public data sets no two different images pass, and JPEG copies of quality 75 and more do. A copy that was changed
as much as two images differ cannot be told from a new image; nor can one among fewer than eight images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

#: Largest side of the small images, pixels.
SIDE = 64
#: Fewest different images among which copies to the eye can be told.
_ENOUGH = 8
#: How many places further the image lies to which a distance is compared.
_BEHIND = 4
#: A copy is nearer by this factor than the image some places behind.
_NEARER = 0.12
#: The same for the median difference, which flat parts decide.
_FLATTER = 0.55
#: Largest difference of a copy that is told by its fine structure, grey levels of 255.
_ONE_LEVEL = 1.0
#: Share of different signs of the fine structure, compared with that of the image some places behind.
_OTHER_SIGNS = 0.55
#: Grey levels below which a pixel does not vary.
_STILL = 0.02

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprints:
    """What tells images from others, n images of one size.

    Attributes:
        digests: Digests of the pixels, n of 8 bytes.
        small: Small grey images, (n, side, side), in grey levels from 0 to 255.
    """

    digests: tuple[bytes, ...]
    small: Array

    def __len__(self) -> int:
        return len(self.digests)

    def take(self, rows: Sequence[int]) -> Fingerprints:
        """The fingerprints of some images.

        Args:
            rows: Positions of the images.
        """
        return Fingerprints(tuple(self.digests[row] for row in rows), self.small[list(rows)])


def fingerprints(images: npt.NDArray[np.uint16]) -> Fingerprints:
    """Compute the fingerprints of images.

    Args:
        images: Images, (n, 3, h, w) uint16, where 65535 is white, such as ``ImageStack.values``.

    Example:
        >>> images = np.zeros((2, 3, 64, 64), dtype=np.uint16)
        >>> found = fingerprints(images)
        >>> len(found), found.digests[0] == found.digests[1], found.small.shape
        (2, True, (2, 64, 64))
    """
    digests, small = [], []
    for image in images:
        digests.append(pixel_digest(image))
        small.append(_small(image))
    side = min(SIDE, *images.shape[2:])
    return Fingerprints(tuple(digests), np.stack(small) if small else np.zeros((0, side, side), dtype=np.float32))


def pixel_digest(image: npt.NDArray[np.uint16]) -> bytes:
    """Digest of the pixels of an image, 8 bytes.

    Args:
        image: Image, (3, h, w).
    """
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=8).digest()


@dataclass(frozen=True, slots=True)
class Copy:
    """An image that is a copy of another one.

    Attributes:
        row: Position of the copy.
        original: Position of the image that it is a copy of.
        exact: Whether all pixels are equal; otherwise it is a copy to the eye.
    """

    row: int
    original: int
    exact: bool


def find_copies(images: Fingerprints) -> tuple[Copy, ...]:
    """Find the images that are copies of earlier ones.

    Args:
        images: Fingerprints of images in a fixed order.

    Returns:
        One entry for each copy, by position. The original of a copy is no copy itself.

    Example:
        >>> images = np.random.default_rng(0).integers(0, 65535, (3, 3, 64, 64), dtype=np.uint16)
        >>> images[2] = images[0]
        >>> find_copies(fingerprints(images))
        (Copy(row=2, original=0, exact=True),)
    """
    first: dict[bytes, int] = {}
    originals = [first.setdefault(digest, row) for row, digest in enumerate(images.digests)]
    exact = [row != original for row, original in enumerate(originals)]
    different = [row for row, copied in enumerate(exact) if not copied]
    for one, other in _alike(images.small[different], None):
        low, high = sorted((originals[different[one]], originals[different[other]]))
        originals = [low if original == high else original for original in originals]
    return tuple(Copy(row, original, exact[row]) for row, original in enumerate(originals) if original != row)


def find_shared(images: Fingerprints, others: Fingerprints) -> tuple[Copy, ...]:
    """Find the images that are copies of images in another list.

    Args:
        images: Fingerprints of images, such as test images.
        others: Fingerprints of the other list, such as training images, of the same size.

    Returns:
        One entry for each copy, by position in ``images``; ``original`` is a position in ``others``.
    """
    first: dict[bytes, int] = {}
    for row, digest in enumerate(others.digests):
        first.setdefault(digest, row)
    found = {row: Copy(row, first[digest], True) for row, digest in enumerate(images.digests) if digest in first}
    left = [row for row in range(len(images)) if row not in found]
    different = sorted(first.values())
    for one, other in _alike(others.small[different], images.small[left]):
        found.setdefault(left[one], Copy(left[one], different[other], False))
    return tuple(found[row] for row in sorted(found))


def likeness(images: Fingerprints) -> float:
    """How far images differ from the usual one: the largest difference that nine of ten images stay below.

    Args:
        images: Fingerprints of at least one image.

    Returns:
        Difference of small images in grey levels from 0 to 255. Below one level, the images probably show one piece
        again and again, such as those of a camera that stands still.

    Example:
        >>> images = np.full((20, 3, 64, 64), 30_000, dtype=np.uint16)
        >>> likeness(fingerprints(images))
        0.0
    """
    differences = np.abs(images.small - np.median(images.small, axis=0)).max((1, 2))
    return float(np.quantile(differences, 0.9))


def describe_copies(copies: Sequence[Copy], names: Sequence[str], originals: Sequence[str] = (), most: int = 3) -> str:
    """Name the first pairs of copies, such as ``b.png is a.png; c.jpg looks like a.png; and 2 more``.

    Args:
        copies: Copies.
        names: Names of the images.
        originals: Names of the list in which the originals are; empty where it is the same list.
        most: Number of pairs to name.
    """
    others = originals or names
    pairs = [
        f"{names[copy.row]} {'has the pixels of' if copy.exact else 'looks like'} {others[copy.original]}"
        for copy in copies[:most]
    ]
    return "; ".join([*pairs, f"and {len(copies) - most} more"] if len(copies) > most else pairs)


def _small(image: npt.NDArray[np.uint16]) -> Array:
    """A small grey image, (side, side) in grey levels, each value the mean over a part of the image, (3, h, w)."""
    channels, height, width = image.shape
    side = min(SIDE, height, width)
    grey = np.array((0.299, 0.587, 0.114), dtype=np.float32) @ image.reshape(channels, -1).astype(np.float32)
    small = mean_matrix(height, side) @ grey.reshape(height, width) @ mean_matrix(width, side).T
    return np.asarray(small / 257, dtype=np.float32)


@cache
def mean_matrix(length: int, parts: int) -> Array:
    """Matrix of the means over consecutive parts of a row.

    Args:
        length: Number of pixels of the row.
        parts: Number of parts, at most ``length``.

    Returns:
        The matrix, (parts, length).

    Example:
        >>> mean_matrix(4, 2) @ np.array([1, 3, 5, 7], dtype=np.float32)
        array([2., 6.], dtype=float32)
    """
    part = np.arange(length) * parts // length
    matrix = np.equal(part, np.arange(parts)[:, None]).astype(np.float32)
    return np.asarray(matrix / matrix.sum(1, keepdims=True))


def _halved(small: Array) -> Array:
    """Small images at half their size, as rows, (n, pixels)."""
    n, side = small.shape[:2]
    half = side // 2
    parts = small[:, : 2 * half, : 2 * half].reshape(n, half, 2, half, 2)
    return np.asarray(parts.mean((2, 4)).reshape(n, -1))


def _fine_signs(small: Array, middle: Array) -> Array:
    """Signs of what is left of small images without the usual image and without the mean around each pixel."""
    left = small - middle
    padded = np.pad(left, ((0, 0), (2, 2), (2, 2)), mode="edge").cumsum(1).cumsum(2)
    padded = np.pad(padded, ((0, 0), (1, 0), (1, 0)))
    around = (padded[:, 5:, 5:] - padded[:, :-5, 5:] - padded[:, 5:, :-5] + padded[:, :-5, :-5]) / 25
    fine = left - around
    return np.asarray(np.where(np.abs(fine) < _STILL, 0, np.sign(fine)).reshape(len(small), -1), dtype=np.float32)


def _alike(base: Array, asked: Array | None) -> list[tuple[int, int]]:
    """Pairs of images that are copies to the eye.

    Args:
        base: Different small images, (n, side, side).
        asked: Other small images, (m, side, side), each of which is compared with ``base``; None to compare the images
            of ``base`` with each other.

    Returns:
        Positions in ``asked``, or in ``base``, and in ``base``.
    """
    n, m = len(base), len(base) if asked is None else len(asked)
    if n < _ENOUGH or not m:
        return []
    middle = np.median(base, axis=0)
    coarse = _halved(base - middle)
    varies = coarse.std(axis=0) > _STILL
    rows = coarse if asked is None else _halved(asked - middle)
    distances = _distances(rows, coarse)
    signs = _fine_signs(base, middle)
    agreement = (signs if asked is None else _fine_signs(asked, middle)) @ signs.T
    others = (1 - agreement / signs.shape[1]) / 2
    if asked is None:
        np.fill_diagonal(distances, np.inf)
        np.fill_diagonal(others, np.inf)
    order = np.argsort(distances, axis=1)
    sorted_distances = np.take_along_axis(distances, order, axis=1)
    sorted_others = np.sort(others, axis=1)
    pairs: set[tuple[int, int]] = set()
    for row in range(m):
        near = sorted_distances[row]
        for place in _jumps(near, _NEARER):
            chosen = order[row, : place + 1]
            if _is_flat(rows[row], coarse, chosen, order[row, place + 1 : place + 9], varies):
                pairs.update((row, int(other)) for other in chosen)
                break
        for place in _jumps(sorted_others[row], _OTHER_SIGNS):
            close = (others[row] <= sorted_others[row, place]) & (distances[row] <= _ONE_LEVEL)
            pairs.update((row, int(other)) for other in np.flatnonzero(close))
            break
    return sorted(pairs)


def _distances(rows: Array, base: Array) -> npt.NDArray[np.float64]:
    """Root mean square differences between rows, (m, n)."""
    one, other = rows.astype(np.float64), base.astype(np.float64)
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1)[None] - 2 * one @ other.T
    return np.asarray(np.sqrt(np.maximum(squares, 0) / rows.shape[1]))


def _jumps(ascending: npt.NDArray[np.floating], factor: float) -> list[int]:
    """Places of ascending values that are smaller by a factor than the value some places behind, the last first.

    At most half of the values can lie before a jump, because copies are the exception.
    """
    count = min(len(ascending) // 2, len(ascending) - _BEHIND)
    front, behind = ascending[:count], ascending[_BEHIND : _BEHIND + count]
    found = np.isfinite(behind) & (front <= factor * behind) & (behind > 0)
    return [int(place) for place in np.flatnonzero(found)[::-1]]


def _is_flat(
    row: Array, base: Array, chosen: npt.NDArray[np.int64], behind: npt.NDArray[np.int64], varies: npt.NDArray[np.bool_]
) -> bool:
    """Whether the flat parts of chosen images, too, are nearer to an image than those of images behind them."""
    if varies.sum() < _ENOUGH**2:
        return False

    def flat(others: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
        difference = (base[others] - row)[:, varies]
        middle = np.median(difference, axis=1, keepdims=True)
        return np.asarray(np.median(np.abs(difference - middle), axis=1))

    usual = float(np.median(flat(behind)))
    return usual > _STILL and float(flat(chosen).max()) <= _FLATTER * usual
