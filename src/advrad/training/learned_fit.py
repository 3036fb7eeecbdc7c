"""Train a denoiser within a budget, and from the state of an interrupted training."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from advrad.denoisers.base import Denoiser
from advrad.denoisers.ddpm import DdpmConfig
from advrad.training.batches import TrainConfig, find_symmetry, whole_images
from advrad.training.budget import passes_after_training, steps_for
from advrad.training.calibration_data import CalibrationData
from advrad.training.options import DEFAULT_MINUTES, RunOptions
from advrad.training.plan import RunPlan, lean_views
from advrad.training.trainer import STATE_NAME, Trainer, fit
from advrad.utils.progress import SILENT, ProgressReporter

if TYPE_CHECKING:
    from accelerate import Accelerator


def complete_plan(
    plan: RunPlan,
    options: RunOptions,
    denoiser: Denoiser,
    images: CalibrationData,
    accelerator: Accelerator,
    began: float,
    later_s: float,
    progress: ProgressReporter = SILENT,
) -> RunPlan:
    """Complete a plan by what follows from the images and from the speed of the machine.

    Args:
        plan: Plan without symmetry and, for a time budget, without steps.
        options: Options of the run.
        denoiser: Denoiser as it will be trained; it is not changed.
        images: Normal images.
        accelerator: Processes, device and precision.
        began: When the run began, as ``time.perf_counter()`` gave it.
        later_s: Seconds that other work will take after the training.
        progress: Receives the stage.
    """
    config = plan.train.model_copy(update={"symmetry": find_symmetry(images.train)})
    minutes = None
    if options.steps is None:
        minutes = options.minutes or DEFAULT_MINUTES
        progress.stage("Measuring speed")

        def within_budget(config: TrainConfig) -> TrainConfig:
            passes = passes_after_training(config.views, images.counts, plan.objective)
            spent_s = time.perf_counter() - began + later_s
            steps = steps_for(minutes, denoiser, images.train, config, accelerator, spent_s, passes)
            return config.model_copy(update={"steps": steps})

        config = within_budget(config)
        if not isinstance(plan.denoiser, DdpmConfig):
            views = lean_views(config.size_px, config.steps)
            if views != config.views:  # long enough for crops, whose steps take another time
                config = within_budget(config.model_copy(update={"views": views}))
    return plan.model_copy(update={"train": config, "budget_minutes": minutes})


def fit_denoiser(
    plan: RunPlan,
    denoiser: Denoiser,
    images: CalibrationData,
    accelerator: Accelerator,
    work: Path,
    *,
    resume: bool,
    progress: ProgressReporter = SILENT,
) -> Denoiser:
    """Train a denoiser, from the saved state if there is one.

    Args:
        plan: Plan of the run.
        denoiser: Denoiser.
        images: Normal images; only the training images are used.
        accelerator: Processes, device and precision.
        work: Folder of the state.
        resume: Whether to go on from the state in the folder.
        progress: Receives the progress.

    Returns:
        The average of the denoiser over the training, in evaluation mode.
    """
    denoiser.fit_statistics(whole_images(images.train, plan.train))
    trainer = Trainer(denoiser, plan.train, accelerator)
    if resume and (work / STATE_NAME).exists():
        trainer.load(work / STATE_NAME)
    accelerator.wait_for_everyone()
    progress.stage("Training")
    return fit(trainer, images.train, work, progress if accelerator.is_main_process else SILENT)
