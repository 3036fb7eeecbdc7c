"""One training run from a folder of images to a calibrated detector, resumable at any point.

The run's folder becomes the model folder. ``training/plan.json`` is written before the first step and holds all
that decides the result; ``training/state.safetensors`` is where the run stands.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from advrad.data.layouts import find_records
from advrad.data.loading import ImageStack, load_images
from advrad.data.splits import normals_needed, rate_in_reach, split_normals
from advrad.denoisers import diffusers_checkpoint as pretrained
from advrad.denoisers.ddpm import DdpmConfig
from advrad.denoisers.factory import build_denoiser
from advrad.detectors.advrad import AdvRAD
from advrad.errors import ConfigError, DataError
from advrad.training.batches import TrainConfig, find_symmetry, whole_images
from advrad.training.budget import passes_after, steps_for
from advrad.training.finalize import CalibrationData, aim_of, choose_score, set_thresholds, source_of
from advrad.training.options import DEFAULT_MINUTES, RunOptions
from advrad.training.plan import (
    RunPlan,
    existing_plan,
    fresh_config,
    lean_views,
    options_of,
    plan_path,
    refuse_contradiction,
    refuse_two_aims,
    save_plan,
    train_config,
)
from advrad.training.score_selection import REFERENCES
from advrad.training.trainer import Trainer, fit, make_accelerator
from advrad.utils.progress import SILENT, ProgressReporter

STATE_NAME = "state.safetensors"


def _stacks(
    plan_parts: Sequence[Sequence[Any]], size_px: int, options: RunOptions, progress: ProgressReporter
) -> list[ImageStack]:
    stacks = []
    for part in plan_parts:
        stack = load_images(part, size_px, options.data, progress=progress)
        for note in stack.notes:
            progress.note(note)
        for error in stack.skipped:
            progress.note(f"skipped: {error}")
        stacks.append(stack)
    return stacks


def train(
    data: Path, folder: Path, options: RunOptions, *, resume: bool = False, progress: ProgressReporter = SILENT
) -> AdvRAD:
    """Train, choose the score, calibrate, and save into ``folder``.

    Args:
        data: folder of images.
        folder: of the run; becomes the model folder.
        options: what is asked for; with ``resume`` the plan of the interrupted run counts, and what is asked for
            must not contradict it.
        resume: finish the run that is in ``folder``.
        progress: Receives the progress.

    Returns:
        The calibrated detector.

    Raises:
        UserError: the data, the options or the folder cannot be used.
        TrainingDivergedError: the loss left the numbers.
    """
    began = time.perf_counter()
    if options.minutes is not None and options.steps is not None:
        raise ConfigError("--minutes and --steps: give one of them")
    if options.minutes is not None and not 0 < options.minutes < 1e6:
        raise ConfigError(f"--minutes {options.minutes:g}: must be above 0")
    normals_needed(options.false_alarm_rate)
    refuse_two_aims(options.score, options.optimise_for_radius)
    work = plan_path(folder).parent
    plan = existing_plan(folder, resume)
    if plan is not None:
        begun = options_of(plan)
        refuse_contradiction(options, begun, folder)
        options = begun
    accelerator = make_accelerator(options.precision)
    dataset = find_records(data, options.data)
    for note in dataset.notes:
        progress.note(note)
    split = split_normals(dataset.records, options.seed, false_alarm_rate=options.false_alarm_rate)
    _enough(len(split.train), len(split.selection), len(split.calibration), options.false_alarm_rate)

    loaded = None if options.source is None else pretrained.load(options.source, options.size_px)
    if plan is None:
        denoiser_config = fresh_config(options) if loaded is None else loaded.config
        config = train_config(options, denoiser_config)
    else:
        denoiser_config, config = plan.denoiser, plan.train
    progress.stage("Reading images")
    with accelerator.main_process_first():
        images, held, calibration = _stacks(
            (split.train, split.selection, split.calibration), config.size_px, options, progress
        )
    if options.data.skip_bad:  # what was left out may be missed
        _enough(len(images), len(held), len(calibration), options.false_alarm_rate)
    names = tuple(record.path.relative_to(dataset.root).as_posix() for record in images.records)
    if plan is not None and names != plan.names:
        raise DataError(f"{data}: the normal images are not those the run began with; restore them, or train anew")

    torch.manual_seed(options.seed)
    denoiser = build_denoiser(denoiser_config) if loaded is None else loaded
    if plan is None:
        config = config.model_copy(update={"symmetry": find_symmetry(images)})
        minutes = options.minutes if options.minutes is not None else DEFAULT_MINUTES
        if options.steps is None:
            progress.stage("Measuring speed")

            def affordable(config: TrainConfig) -> TrainConfig:
                passes = passes_after(
                    config.views,
                    min(REFERENCES, len(images)),
                    len(held),
                    len(calibration),
                    aim=aim_of(options.score, options.optimise_for_radius),
                    guaranteed=options.optimise_for_radius is not None,
                )
                spent_s = time.perf_counter() - began
                steps = steps_for(minutes, denoiser, images, config, accelerator, spent_s, passes)
                return config.model_copy(update={"steps": steps})

            config = affordable(config)
            if not isinstance(denoiser_config, DdpmConfig):
                views = lean_views(config.size_px, config.steps)
                if views != config.views:
                    config = affordable(config.model_copy(update={"views": views}))
        plan = RunPlan(
            data=str(data.resolve()),
            layout=dataset.layout,
            category=dataset.category,
            train=config,
            denoiser=denoiser_config,
            source=options.source,
            false_alarm_rate=options.false_alarm_rate,
            score=options.score,
            optimise_for_radius=options.optimise_for_radius,
            max_pixels=options.data.max_pixels,
            skip_bad=options.data.skip_bad,
            names=names,
            budget_minutes=minutes if options.steps is None else None,
        )
        if accelerator.is_main_process:
            save_plan(folder, plan)

    denoiser.fit_statistics(whole_images(images, config))
    trainer = Trainer(denoiser, config, accelerator)
    if resume and (work / STATE_NAME).exists():
        trainer.load(work / STATE_NAME)
    accelerator.wait_for_everyone()
    progress.stage("Training")
    average = fit(trainer, images, work, progress if accelerator.is_main_process else SILENT)
    trained_s = time.perf_counter() - began
    # Every process computes the same; the main one writes.
    progress.stage("Choosing the score")
    stacks = CalibrationData(images, held, calibration)
    detector = choose_score(plan, average, stacks, accelerator.device, trained_s, progress)
    progress.stage("Calibrating")
    set_thresholds(
        detector,
        calibration,
        false_alarm_rate=plan.false_alarm_rate,
        radius=plan.optimise_for_radius,
        source=source_of(plan),
        strict=False,
        progress=progress,
    )
    if accelerator.is_main_process:
        detector.save_pretrained(folder)
    accelerator.wait_for_everyone()
    return detector


def _enough(train: int, selection: int, calibration: int, false_alarm_rate: float) -> None:
    """Refuse before hours are spent on a detector that could not be calibrated."""
    needed = normals_needed(false_alarm_rate)
    total = train + selection + calibration
    if calibration < needed:
        raise ConfigError(
            f"--false-alarm-rate {false_alarm_rate:g}: needs {needed} normal images for calibration alone, but only"
            f" {calibration} of the {total} can be spared; give at least {2 * (needed + 2)} in all, or"
            f" accept a rate of {rate_in_reach(calibration):g} or more"
        )
    if selection < 2:
        raise DataError(f"{selection} of the {total} normal images are left to choose the score by; add normal images")
