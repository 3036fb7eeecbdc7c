"""Images of a part that lies nearly at the same place, with noise, and with a spot where it is anomalous."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def part(seed: int, side: int = 96, shift: int = 1) -> Pixels:
    """A normal image, (side, side, 3): a bright bar on a dark ground."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side, 3), (60.0, 70.0, 80.0))
    down, across = rng.integers(-shift, shift + 1, 2)
    image[side // 4 + down : side // 2 + down, side // 8 + across : -side // 8 + across] = (190.0, 180.0, 150.0)
    image += rng.normal(0, 4, (side, side, 1)) + rng.normal(0, 2)
    return np.clip(image, 0, 255).astype(np.uint8)


def spotted(seed: int, side: int = 96) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """An image with a black spot, and the mask of the spot."""
    image, mask = part(seed, side), np.zeros((side, side), dtype=np.bool_)
    row, column = np.random.default_rng(seed).integers(side // 2, side - 12, 2)
    mask[row : row + 10, column : column + 10] = True
    image[mask] = 0
    return image, mask


def write_parts(root: Path, normals: int, *, spots: int = 0) -> Path:
    """Write train/good, and with spots also test/good and test/spot with masks; no image twice."""
    kept = 3 if spots else 0
    for folder in ("train/good", *(["test/good", "test/spot", "ground_truth/spot"] if spots else [])):
        (root / folder).mkdir(parents=True)
    for number in range(normals):
        Image.fromarray(part(number)).save(root / "train" / "good" / f"{number:03}.png")
    for number in range(kept):
        Image.fromarray(part(1000 + number)).save(root / "test" / "good" / f"{number:03}.png")
    for number in range(spots):
        image, mask = spotted(2000 + number)
        Image.fromarray(image).save(root / "test" / "spot" / f"{number:03}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(root / "ground_truth" / "spot" / f"{number:03}_mask.png")
    return root
