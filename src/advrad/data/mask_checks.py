"""Doubt ground-truth masks that are probably not what they should be.

A wrong mask gives a wrong pixel AUROC in silence. Doubted is a mask that

- marks the border of its image, or nearly all of it: such masks are mostly the wrong way round, or a palette was lost;
- is a photo: it has many grey levels, where a mask has two or a few;
- marks the product instead of the defect: a large part, the same in all images;
- does not mark what differs: the image differs from all normal images, but elsewhere. This can be told only where the
  product lies at the same place in all images and the defect stands out.

Nothing is mended: the figures are measured with the masks as they are, and the doubts are told with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from advrad.data.copies import SIDE, mean_matrix
from advrad.data.images import read_image
from advrad.data.mask_files import mask_paths
from advrad.data.records import MAX_PIXELS, Record
from advrad.errors import AdvradError

#: Share of the image, or of its border, from which a mask is probably the wrong way round.
_NEARLY_ALL = 0.9
#: The same for a mask of more than half of the image, for its border.
_MUCH_OF_BORDER = 0.6
#: Number of grey levels that only a photo has, and the share of the image that is neither black nor white then.
_PHOTO_LEVELS, _PHOTO_SHARE = 32, 0.1
#: Share of the image below which a mask is no photo; its file is not read again.
_PERHAPS_PHOTO = 0.02
#: Share of the image from which masks that are all the same are probably those of the product.
_PRODUCT = 0.2
#: Fewest masks, or normal images, that are compared.
_ENOUGH_MASKS, _ENOUGH_NORMALS = 3, 10
#: How much further than any normal image an image must leave the values of normal images, beside its mask; the least of
#: that in grey levels; and how much of it is allowed in the mask.
_DIFFERS, _LEAST_LEVELS, _STILL = 1.5, 2.0, 0.05
_NAMED = 3
_ADVICE = "pixel AUROC and AUPRO are measured with these masks as they are: look at them"

_WORDS = {
    "inverted": "masks that mark the border of the image or nearly all of it, perhaps the wrong way round",
    "photo": "masks with the many grey levels of a photo or a heat map; save each as black, and white for the defect",
    "product": "masks that mark the same large part in all images, perhaps the product instead of the defect",
    "elsewhere": "masks that do not mark what differs from the normal images",
}

Mask = npt.NDArray[np.bool_]
Small = npt.NDArray[np.float32]


def doubt_mask(marked: Mask, file: Path | None = None, max_pixels: int = MAX_PIXELS) -> str | None:
    """Doubt a mask by itself.

    Args:
        marked: The mask as it was read, (h, w).
        file: Its file, or the folder of its files, to look for grey levels; None for the mask alone.
        max_pixels: Largest accepted width times height of the file.

    Returns:
        ``inverted`` or ``photo``; None without a doubt.

    Example:
        >>> mask = np.zeros((20, 30), dtype=bool)
        >>> mask[5:9, 5:9] = True
        >>> doubt_mask(mask), doubt_mask(~mask)
        (None, 'inverted')
    """
    share = float(marked.mean())
    if file is not None and share > _PERHAPS_PHOTO and _is_photo(file, max_pixels):
        return "photo"
    border = float(np.concatenate([marked[0], marked[-1], marked[:, 0], marked[:, -1]]).mean())
    if max(share, border) >= _NEARLY_ALL or (share > 0.5 and border > _MUCH_OF_BORDER):
        return "inverted"
    return None


def small_mask(marked: Mask) -> Small:
    """Share of a mask in each pixel of a small image, see :class:`advrad.data.copies.Fingerprints`.

    Args:
        marked: The mask, (h, w).
    """
    height, width = (mean_matrix(length, min(SIDE, *marked.shape)) for length in marked.shape)
    return np.asarray(height @ marked.astype(np.float32) @ width.T)


@dataclass
class MaskChecks:
    """Collects masks, and doubts them one by one and together.

    Attributes:
        names: Names of the images of the masks.
        doubts: Doubt of each mask by itself, see :func:`doubt_mask`.
        masks: Small masks.
        images: Small images of the masks, in grey levels.
    """

    names: list[str] = field(default_factory=list)
    doubts: list[str | None] = field(default_factory=list)
    masks: list[Small] = field(default_factory=list)
    images: list[Small] = field(default_factory=list)

    def add(self, name: str, doubt: str | None, mask: Small, image: Small) -> None:
        """Take a mask of an anomalous image.

        Args:
            name: Name of the image.
            doubt: Doubt of the mask by itself.
            mask: Small mask, see :func:`small_mask`.
            image: Small image.
        """
        self.names.append(name)
        self.doubts.append(doubt)
        self.masks.append(mask)
        self.images.append(image)

    def empty(self) -> list[str]:
        """A note that names the masks that mark nothing; empty without such masks."""
        found = [name for name, mask in zip(self.names, self.masks, strict=True) if not mask.any()]
        if not found:
            return []
        text = f"images of a defect whose masks mark nothing: {_listed(found, len(self.names))}"
        return [f"{text}; the pixel figures take them as free of defects"]

    def warnings(self, normals: Small) -> list[str]:
        """Warn of the masks that are doubted, one warning for each reason.

        Args:
            normals: Small normal images of the same product, (n, side, side); may be none.
        """
        doubts = list(self.doubts)
        sound = [place for place, mask in enumerate(self.masks) if doubts[place] is None and mask.any()]
        if _all_the_same([self.masks[place] for place in sound]):
            doubts = ["product" if place in sound else doubt for place, doubt in enumerate(doubts)]
        look = _Look.of(normals)
        if look is not None:
            for place, (mask, image) in enumerate(zip(self.masks, self.images, strict=True)):
                if doubts[place] is None and mask.shape == image.shape and look.differs_elsewhere(image, mask):
                    doubts[place] = "elsewhere"
        texts = []
        for reason, words in _WORDS.items():
            if found := [name for name, doubt in zip(self.names, doubts, strict=True) if doubt == reason]:
                texts.append(f"{words}: {_listed(found, len(self.names))}; {_ADVICE}")
        return texts


def check_masks(
    records: Sequence[Record],
    names: Sequence[str],
    masks: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
    small: Small,
    windows: Sequence[tuple[slice, slice]] = (),
    max_pixels: int = MAX_PIXELS,
) -> MaskChecks:
    """Take the masks of test images that are loaded.

    Args:
        records: The images, n.
        names: Their names.
        masks: Masks at the working size, (n, h, w).
        known: Whether the mask of each image is known, (n,).
        small: Small images, (n, side, side).
        windows: Rows and columns of each working image that show the image; empty if nothing is padded.
        max_pixels: Largest accepted width times height of a file.
    """
    checks = MaskChecks()
    for row, record in enumerate(records):
        if record.label == 1 and known[row]:
            seen = masks[row][windows[row]] if windows else masks[row]
            checks.add(names[row], doubt_mask(seen, record.mask, max_pixels), small_mask(masks[row]), small[row])
    return checks


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """The grey levels of normal images at each pixel, and how far one normal image leaves those of the others.

    Attributes:
        low: Smallest value, (side, side).
        high: Largest value.
        outside: How far each normal image leaves the values of the others, largest pixels first, (n, pixels).
    """

    low: Small
    high: Small
    outside: Small

    @classmethod
    def of(cls, normals: Small) -> _Look | None:
        """The look of normal images; None if they are too few."""
        if len(normals) < _ENOUGH_NORMALS:
            return None
        ordered = np.sort(normals, axis=0)
        # What is left of an image is outside of the others only where it is the first or the last of all.
        above = np.where(normals == ordered[-1], ordered[-1] - ordered[-2], 0)
        below = np.where(normals == ordered[0], ordered[1] - ordered[0], 0)
        outside = np.maximum(above, below).reshape(len(normals), -1)
        return cls(ordered[0], ordered[-1], -np.sort(-outside, axis=1))

    def differs_elsewhere(self, image: Small, mask: Small) -> bool:
        """Whether an image leaves the values of normal images further than any of them, but not where it is marked."""
        marked = (mask > 0) & (mask >= mask.max() / 2)
        outside = np.maximum(np.maximum(image - self.high, self.low - image), 0)
        count = min(int(marked.sum()), int((~marked).sum()))
        if not count:
            return False
        most = max(float(self.outside[:, :count].mean(axis=1).max()), _LEAST_LEVELS)
        elsewhere = float(np.sort(outside[~marked])[::-1][:count].mean())
        return elsewhere > _DIFFERS * most and float(outside[marked].mean()) < _STILL * elsewhere


def _is_photo(file: Path, max_pixels: int) -> bool:
    """Whether any file of a mask has the grey levels of a photo."""
    try:
        for path in mask_paths(file):
            grey = np.rint(read_image(path, max_pixels).mean(axis=2) * 255)
            share = float(((grey > 25) & (grey < 230)).mean())
            if share > _PHOTO_SHARE and len(np.unique(grey)) > _PHOTO_LEVELS:
                return True
    except AdvradError:  # a mask may hold what an image may not
        return False
    return False


def _all_the_same(masks: Sequence[Small]) -> bool:
    """Whether large masks of several images are all the same, up to their edges."""
    if len(masks) < _ENOUGH_MASKS or len({mask.shape for mask in masks}) > 1:
        return False
    mean = np.mean([mask > 0.5 for mask in masks], axis=0)
    unsure = float(((mean > 0.1) & (mean < 0.9)).mean())
    return bool(mean.mean() >= _PRODUCT and unsure <= 0.1 * mean.mean())


def _listed(names: Sequence[str], total: int) -> str:
    """Such as ``2 of 6 (a.png, b.png)``."""
    more = ", ..." if len(names) > _NAMED else ""
    return f"{len(names)} of {total} ({', '.join(names[:_NAMED])}{more})"
