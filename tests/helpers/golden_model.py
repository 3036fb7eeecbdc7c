"""A tiny detector whose weights and images follow formulas, so that its scores can be compared between versions.

``tests/golden`` holds its configuration, as written by advrad 0.1.0, and the figures that advrad 0.1.0 gave for it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SIZE_PX = 32


def tensor_of(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Values that depend on the tensor's name and shape alone."""
    phase = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little") / 2**32
    count = int(np.prod(shape))
    waves = np.sin(np.arange(1, count + 1) * 1.7 + 6.3 * phase) * np.cos(np.arange(count) * 0.37 + phase)
    if name.startswith("mean_"):
        waves = 0.025 + 0.02 * waves
    elif name.startswith("spread_"):
        waves = 0.015 + 0.004 * waves
    elif name == "denoiser.mean":
        waves = 0.3 * waves
    elif name == "denoiser.variance":
        waves = 0.2 + 0.1 * waves
    else:
        fan = count // shape[0] if len(shape) > 1 else 16
        waves = waves * 1.4 / fan**0.5
    return torch.from_numpy(waves.astype(np.float32)).reshape(shape)


def write_model(folder: Path) -> Path:
    """Write the model folder: the stored configuration, and weights by formula."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))
    shapes = json.loads((GOLDEN / "shapes.json").read_text(encoding="utf-8"))
    save_file({name: tensor_of(name, tuple(shape)) for name, shape in shapes.items()}, folder / "model.safetensors")
    config["weights_sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write_images(folder: Path) -> Path:
    """Write a product of 4 normal and 4 anomalous test images, and 4 for training, in the layout of MVTec AD."""
    rows, columns = np.mgrid[:SIZE_PX, :SIZE_PX] / SIZE_PX
    for kind, count in (("train/good", 4), ("test/good", 4), ("test/spot", 4)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            shade = 0.45 + 0.25 * np.sin(7 * rows + index) * np.cos(5 * columns - 0.5 * index)
            if kind == "test/spot":
                shade = shade + 0.6 * np.exp(-((rows - 0.3 - 0.1 * index) ** 2 + (columns - 0.5) ** 2) / 0.01)
            values = np.stack([shade, 0.9 * shade, 0.8 * shade + 0.05], axis=-1)
            Image.fromarray(np.rint(values.clip(0, 1) * 255).astype(np.uint8)).save(folder / kind / f"{index}.png")
    return folder
