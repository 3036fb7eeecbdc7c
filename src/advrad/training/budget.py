"""How many training steps fit into the time that the user allows."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from advrad.certificates.options import N_SAMPLES as GUARANTEE_DRAWS
from advrad.data.loading import ImageStack
from advrad.denoisers.base import Denoiser
from advrad.training.batches import TrainConfig, View
from advrad.training.score_selection import DEFECTS_PER_SELECTION, DRAWS, FIELDS, Aim
from advrad.training.selection_certificate import DRAWS as CERTIFICATE_DRAWS
from advrad.training.selection_certificate import IMAGES as CERTIFICATE_IMAGES
from advrad.training.trainer import Trainer

if TYPE_CHECKING:
    from accelerate import Accelerator


def passes_after(
    views: Sequence[View], references: int, held: int, calibration: int, *, aim: Aim, guaranteed: bool
) -> float:
    """Passes of the network over one training window that choosing the score and calibrating will take.

    Args:
        views: of the training.
        references: images that the error maps are compared with.
        held: images for the choice of the score.
        calibration: images for the thresholds.
        aim: of the choice.
        guaranteed: a threshold that holds under attack is set, too.
    """
    looked_at = set(views) if aim != "radius" else {min(views, key=lambda view: view.picture_px)}
    per_image = len(FIELDS[aim].sigmas) * sum((view.picture_px / view.window_px) ** 2 for view in looked_at)
    chosen_on = references + held + DEFECTS_PER_SELECTION
    passes = per_image * (chosen_on + DRAWS * (references + held + calibration))
    if aim == "radius":
        passes += per_image * CERTIFICATE_DRAWS * sum(CERTIFICATE_IMAGES)
    # Bounding a draw costs about as much as making it.
    return passes + 2 * GUARANTEE_DRAWS * calibration * guaranteed


def steps_for(
    minutes: float,
    denoiser: Denoiser,
    images: ImageStack,
    config: TrainConfig,
    accelerator: Accelerator,
    spent_s: float,
    passes_after: float,
) -> int:
    """Turn a budget in minutes into a number of steps, by timing a few on a copy that is thrown away.

    Args:
        minutes: for the whole command.
        denoiser: as it will be trained; untouched.
        images: the training images.
        config: of the run; its number of steps is ignored.
        accelerator: as for the run.
        spent_s: seconds already gone.
        passes_after: passes of the network over one window that follow the training, to choose and calibrate.

    Returns:
        Steps that fit into what the budget leaves for training; at least 1.
    """
    entered = time.perf_counter()
    trial = Trainer(copy.deepcopy(denoiser), config, accelerator)
    per_round = len(config.views)

    def seconds(move: Callable[[ImageStack], object]) -> float:
        start = time.perf_counter()
        for _ in range(per_round):
            move(images)
        return (time.perf_counter() - start) / per_round

    for move in (trial.advance, trial.rehearse):  # warm-up: kernels are chosen and memory is taken on first use
        seconds(move)
    steps_s: list[float] = []
    passes_s: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < min(8.0, 3.0 * minutes) or len(steps_s) < 2:
        steps_s.append(seconds(trial.advance))
        passes_s.append(seconds(trial.rehearse))
    step_s = statistics.median(steps_s)
    later_s = passes_after * statistics.median(passes_s) / (trial.rows.stop - trial.rows.start)
    left_s = minutes * 60 - spent_s - (time.perf_counter() - entered) - later_s
    # Never less than half for training: a hasty detector is no use, however well its score is chosen.
    left_s = max(left_s, minutes * 30)
    steps = torch.tensor([max(1, int(left_s / step_s))], device=accelerator.device)
    if accelerator.num_processes > 1:  # all must agree
        torch.distributed.broadcast(steps, 0)
    return int(steps)
