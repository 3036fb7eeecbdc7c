"""A small closed-form detector of the widgets, and its model folder: the one place where tests of its uses build it."""

from __future__ import annotations

from pathlib import Path

import torch
import trained_run

from advrad.data.images import read_resized
from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_memory import PatchMemory
from advrad.detectors.closed_form import ClosedFormConfig, ClosedFormDetector, MemberConfig
from advrad.detectors.closed_form_member import ClosedFormMember
from advrad.detectors.config import Calibration, ImageCounts, TrainingRecord
from advrad.detectors.conformal import conformal_threshold
from advrad.detectors.views import WholeConfig, WholeView

RATE = 0.05
CELL_PX = 4


def fitted(data: Path) -> ClosedFormDetector:
    """A detector whose memory are the normal training images of a data set in the layout of MVTec AD."""
    paths = sorted((data / "train" / "good").iterdir())
    images = torch.stack([read_resized(path, trained_run.SIZE_PX) for path in paths])
    numbers, side = torch.arange(len(images)), trained_run.SIZE_PX // CELL_PX
    view = WholeView(WholeConfig(size_px=trained_run.SIZE_PX, cell_px=CELL_PX))
    shape = MemoryConfig(height_cells=side, width_cells=side, patch_cells=3, window_cells=(1, 1))
    sheets = (view.sheets(images)[:, 0] * 255).round().to(torch.uint8)
    member = MemberConfig(view=view.config, memory=shape)
    zero = torch.zeros(1, 1, side - 2, side - 2)
    config = ClosedFormConfig(members=(member,), image_size_px=trained_run.SIZE_PX)
    memory = PatchMemory(shape, sheets, numbers)
    detector = ClosedFormDetector(config, [ClosedFormMember(member, view, memory, zero, zero.clone())]).eval()
    with torch.no_grad():
        scores = detector.scores(images, exclude=numbers).tolist()
    threshold = conformal_threshold(scores, RATE)
    detector.config = config.model_copy(
        update={
            # The score is the maximum of the map, so the scale of the heat map is that of the scores.
            "calibration": Calibration(
                threshold=threshold,
                false_alarm_rate=RATE,
                n=len(scores),
                heat_low=sorted(scores)[len(scores) // 2],
                heat_high=threshold + 1e-6,
            ),
            "training": TrainingRecord(images=ImageCounts(train=0, selection=0, calibration=len(scores))),
        }
    )
    return detector


def write(data: Path, folder: Path) -> Path:
    """The model folder of :func:`fitted`."""
    fitted(data).save_pretrained(folder)
    return folder
