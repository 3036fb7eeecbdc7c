"""Small types, and a bound, shared by all rooms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "test"]

MAX_PIXELS = 200_000_000
"""Bound on an image against decompression bombs: 12,000 x 12,000 px pass. As float32 this is 2.4 GB."""


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a data set and what is known of it.

    Attributes:
        path: the image.
        split: ``train`` (normal images only) or ``test``.
        label: 0 for good, 1 for defective.
        defect: ``good`` or the name of the defect.
        mask: the ground-truth mask, or None where there is none.
    """

    path: Path
    split: Split
    label: Literal[0, 1]
    defect: str
    mask: Path | None = None
