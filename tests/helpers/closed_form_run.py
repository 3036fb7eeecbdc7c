"""A small closed-form detector of the widgets, and its model folder: the one place where tests of its uses build it."""

from __future__ import annotations

from pathlib import Path

import torch
import trained_run

from advrad.data.images import read_resized
from advrad.denoisers.memory_config import MemoryConfig
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.training.closed_form import fit_closed_form


def fitted(data: Path) -> ClosedFormDetector:
    """A detector fitted to the normal training images of a data set in the layout of MVTec AD."""
    paths = sorted((data / "train" / "good").iterdir())
    images = torch.stack([read_resized(path, trained_run.SIZE_PX) for path in paths])
    config = MemoryConfig(size_px=trained_run.SIZE_PX, cell_px=4, patch_cells=3, window_cells=1)
    return fit_closed_form(images, config)


def write(data: Path, folder: Path) -> Path:
    """The model folder of :func:`fitted`."""
    fitted(data).save_pretrained(folder)
    return folder
