"""The toy of a guarded detector as a model folder, and images of its product as files."""

from __future__ import annotations

from pathlib import Path

import toy_guarded
from torch import Tensor

from advrad.data.png import write_image
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.guarded_config import AttackableConfig
from advrad.detectors.reference import refer
from advrad.detectors.wrappers import wrap

#: Name of the attackable half.
NAME = "features"
#: Images of the test split by folder.
TESTED = {"good": 6, "dent": 3, "haze": 3}

_SOURCE = """
import torch.nn.functional as F

import advrad


def contrast(images):
    around = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    maps = 1e3 * F.avg_pool2d((images - around).square().mean(1, keepdim=True), 9, stride=1, padding=4)
    if (images.amax((1, 2, 3)) <= 0).any():
        raise RuntimeError("the image is black")
    return maps.flatten(1).amax(1), maps


detector = advrad.wrap(contrast, deterministic=True)
"""


def write_product(root: Path) -> Path:
    """Images of the product in the layout of MVTec AD."""
    made = {"dent": toy_guarded.dents, "haze": toy_guarded.haze, "good": toy_guarded.normals}
    for name, count in TESTED.items():
        _write(root / "test" / name, made[name](count, 7))
    _write(root / "train" / "good", toy_guarded.normals(8, 8))
    return root


def _write(folder: Path, images: Tensor) -> None:
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        write_image(folder / f"{index:03}.png", image.permute(1, 2, 0).numpy())


def write(folder: Path, source: Path) -> Path:
    """The model folder; the attackable half stays in a Python file.

    Args:
        folder: Model folder to write.
        source: Python file to write.
    """
    detector = named()
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(_SOURCE)
    config, half = refer(f"{source}:detector", size_px=toy_guarded.SIZE_PX)
    others = (AttackableConfig(name=NAME, detector=config),)
    GuardedDetector(
        detector.config.model_copy(update={"others": others}), detector.memory, {NAME: half}
    ).save_pretrained(folder)
    return folder


def named(**options: float) -> GuardedDetector:
    """The toy with a half that is called ``features``."""
    made = toy_guarded.guarded(wrap(toy_guarded.Contrast(), deterministic=True), **options)  # type: ignore[arg-type]
    others = (AttackableConfig(name=NAME),)
    half = next(iter(made.others.values()))
    return GuardedDetector(made.config.model_copy(update={"others": others}), made.memory, {NAME: half}).eval()
