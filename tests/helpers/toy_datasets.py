"""Tiny data sets, one in each layout, and single images of every kind.

Normal images are smooth gradients with a little noise; a defect is a bright square, so even a toy detector separates
them.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

Defects = dict[str, int]


def pixels(size: int = 32, seed: int = 0, defect: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """One 8-bit colour image (size, size, 3) and its mask (size, size) of 0 and 255."""
    generator = np.random.default_rng(seed)
    ramp = np.linspace(60, 160, size)[:, None, None] + np.linspace(0, 30, size)[None, :, None]
    image = ramp + generator.normal(0, 4, (size, size, 3))
    mask = np.zeros((size, size), np.uint8)
    if defect:
        side = max(2, size // 4)
        top, left = generator.integers(0, size - side, 2)
        image[top : top + side, left : left + side] = 250
        mask[top : top + side, left : left + side] = 255
    return np.clip(image, 0, 255).astype(np.uint8), mask


def write_good(path: Path, size: int = 32, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(size, seed)[0]).save(path)
    return path


def write_defect(path: Path, mask_path: Path | None, size: int = 32, seed: int = 0) -> Path:
    image, mask = pixels(size, seed, defect=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    if mask_path is not None:
        mask_path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(mask_path)
    return path


def make_mvtec(
    root: Path,
    category: str = "widget",
    train: int = 12,
    good: int = 4,
    defects: Defects | None = None,
    size: int = 32,
) -> Path:
    """Write the layout of MVTec AD under root/category; returns the category folder."""
    base = root / category
    for i in range(train):
        write_good(base / "train" / "good" / f"{i:03}.png", size, i)
    for i in range(good):
        write_good(base / "test" / "good" / f"{i:03}.png", size, 1000 + i)
    for k, (name, count) in enumerate(({"scratch": 3} if defects is None else defects).items()):
        for i in range(count):
            write_defect(
                base / "test" / name / f"{i:03}.png",
                base / "ground_truth" / name / f"{i:03}_mask.png",
                size,
                2000 + 100 * k + i,
            )
    return base


def make_btad(root: Path, category: str = "01", train: int = 12, good: int = 4, bad: int = 3, size: int = 32) -> Path:
    """Write the layout of BTAD under root/category, masks as .png; returns the category folder."""
    base = root / category
    for i in range(train):
        write_good(base / "train" / "ok" / f"{i:04}.bmp", size, i)
    for i in range(good):
        write_good(base / "test" / "ok" / f"{i:04}.bmp", size, 1000 + i)
    for i in range(bad):
        write_defect(base / "test" / "ko" / f"{i:04}.bmp", base / "ground_truth" / "ko" / f"{i:04}.png", size, 2000 + i)
    return base


def make_visa(
    root: Path,
    categories: tuple[str, ...] = ("candle",),
    train: int = 12,
    good: int = 4,
    bad: int = 3,
    size: int = 32,
) -> Path:
    """Write VisA's own layout with split_csv/1cls.csv; masks hold 0 and 1. Returns root."""
    rows = [["object", "split", "label", "image", "mask"]]
    for category in categories:
        for i in range(train + good):
            name = f"{category}/Data/Images/Normal/{i:04}.JPG"
            write_good(root / name, size, i)
            rows.append([category, "train" if i < train else "test", "normal", name, ""])
        for i in range(bad):
            name, mask = (
                f"{category}/Data/Images/Anomaly/{i:03}.JPG",
                f"{category}/Data/Masks/Anomaly/{i:03}.png",
            )
            write_defect(root / name, root / mask, size, 2000 + i)
            Image.fromarray((np.asarray(Image.open(root / mask)) > 0).astype(np.uint8)).save(root / mask)
            rows.append([category, "test", "anomaly", name, mask])
    table = root / "split_csv" / "1cls.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def make_folder(
    root: Path, good: int = 20, defects: Defects | None = None, masks: bool = False, size: int = 32
) -> Path:
    """Write a plain folder: images only (defects None) or good/ beside defect folders; returns root."""
    base = root if defects is None else root / "good"
    for i in range(good):
        write_good(base / f"part{i:03}.png", size, i)
    for k, (name, count) in enumerate((defects or {}).items()):
        for i in range(count):
            mask = root / "masks" / name / f"bad{i:03}.png" if masks else None
            write_defect(root / name / f"bad{i:03}.png", mask, size, 2000 + 100 * k + i)
    return root
