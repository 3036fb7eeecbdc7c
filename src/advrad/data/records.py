"""Records: the images of a data set and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "test"]

MAX_PIXELS = 200_000_000
"""Default limit of width times height, against decompression bombs. As float32 such an image takes 2.4 GB."""


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a data set.

    Attributes:
        path: Image file.
        split: Part of the data set: ``train`` (normal images only) or ``test``.
        label: Label: 0 for normal, 1 for anomalous.
        defect: Name of the defect; ``good`` for a normal image.
        mask: File of the ground-truth mask, or folder of several whose union it is; None if there is none.

    Example:
        >>> from pathlib import Path
        >>> from advrad.data import Record
        >>> Record(Path("test/dent/000.png"), "test", label=1, defect="dent").mask is None
        True
    """

    path: Path
    split: Split
    label: Literal[0, 1]
    defect: str
    mask: Path | None = None
