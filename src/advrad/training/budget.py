"""The number of training steps that a time budget allows."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from advrad.certificates.options import N_SAMPLES
from advrad.data.loading import ImageStack
from advrad.denoisers.base import Denoiser
from advrad.detectors.config import ImageCounts
from advrad.training.batches import TrainConfig, View
from advrad.training.score_candidates import DRAWS, SEARCH_SPACES, ScoreObjective
from advrad.training.score_selection import DEFECTS_PER_SELECTION, REFERENCES
from advrad.training.selection_certificate import DRAWS as CERTIFICATE_DRAWS
from advrad.training.selection_certificate import IMAGES as CERTIFICATE_IMAGES
from advrad.training.trainer import Trainer

if TYPE_CHECKING:
    from accelerate import Accelerator


def passes_after_training(views: Sequence[View], counts: ImageCounts, objective: ScoreObjective) -> float:
    """Estimate the work of choosing the score and setting the thresholds.

    Args:
        views: Sizes at which the training shows images.
        counts: Number of normal images for each purpose.
        objective: What the score is chosen for.

    Returns:
        Number of passes of the network over one training window.
    """
    space = SEARCH_SPACES[objective.aim]
    sizes = space.view_sizes([view.image_px for view in views])
    per_image = len(space.sigmas) * sum(
        (view.image_px / view.window_px) ** 2 for view in set(views) if view.image_px in sizes
    )
    references = min(REFERENCES, counts.train)
    compared = references + counts.selection + DEFECTS_PER_SELECTION
    passes = per_image * (compared + DRAWS * (references + counts.selection + counts.calibration))
    if objective.aim == "certified":
        passes += per_image * CERTIFICATE_DRAWS * sum(CERTIFICATE_IMAGES)
        # The threshold under attack; bounding a draw takes about as long as making it.
        passes += 2 * N_SAMPLES * counts.calibration
    return passes


def steps_for(
    minutes: float,
    denoiser: Denoiser,
    images: ImageStack,
    config: TrainConfig,
    accelerator: Accelerator,
    spent_s: float,
    passes_after: float,
) -> int:
    """Compute the number of steps that a time budget allows, by timing a few on a copy of the denoiser.

    Args:
        minutes: Budget of the whole run.
        denoiser: Denoiser as it will be trained; it is not changed.
        images: Training images.
        config: Options of the training loop; the number of steps is ignored.
        accelerator: Processes, device and precision.
        spent_s: Seconds that were spent so far.
        passes_after: Passes of the network over one training window that follow the training.

    Returns:
        Number of steps, >= 1. At least half of the budget is for training.
    """
    entered = time.perf_counter()
    trial = Trainer(copy.deepcopy(denoiser), config, accelerator)
    rounds = len(config.views)

    def seconds(action: Callable[[ImageStack], object]) -> float:
        start = time.perf_counter()
        for _ in range(rounds):
            action(images)
        return (time.perf_counter() - start) / rounds

    for action in (trial.advance, trial.rehearse):  # warm-up: the first call selects kernels and allocates memory
        seconds(action)
    steps_s: list[float] = []
    passes_s: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < min(8.0, 3.0 * minutes) or len(steps_s) < 2:
        steps_s.append(seconds(trial.advance))
        passes_s.append(seconds(trial.rehearse))
    step_s = statistics.median(steps_s)
    after_s = passes_after * statistics.median(passes_s) / (trial.rows.stop - trial.rows.start)
    left_s = minutes * 60 - spent_s - (time.perf_counter() - entered) - after_s
    # A denoiser with little training is useless, however well its score is chosen.
    left_s = max(left_s, minutes * 30)
    steps = torch.tensor([max(1, int(left_s / step_s))], device=accelerator.device)
    if accelerator.num_processes > 1:  # all processes must use the same number
        torch.distributed.broadcast(steps, 0)
    return int(steps)
