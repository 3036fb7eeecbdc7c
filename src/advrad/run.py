"""One training run from a folder of pictures to a calibrated detector, resumable at any point.

The run's folder becomes the model folder. ``training/plan.json`` is written before the first step and holds all
that decides the result; ``training/state.safetensors`` is where the run stands.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from pydantic import Field

from advrad import pretrained
from advrad.batches import TrainConfig, View, find_symmetry, whole_pictures
from advrad.config import Config
from advrad.data import PictureStack, load_pictures, split_normals
from advrad.ddpm import PRESETS as DDPM_PRESETS
from advrad.ddpm import DdpmConfig
from advrad.decide import normals_needed, rate_in_reach
from advrad.denoiser import Denoiser
from advrad.detector import AdvRAD
from advrad.errors import CheckpointError, ConfigError, DataError, OutputError
from advrad.files import make_folder, write_json
from advrad.layouts import find_records
from advrad.lean import LeanConfig
from advrad.precision import Precision, takes_bfloat16
from advrad.score import paper_score
from advrad.select import DEFECTS_PER_SELECTION, DRAWS, REFERENCES, SIGMAS, choose, forced
from advrad.settings import DenoiserConfig, DetectorConfig, build_denoiser
from advrad.train import Progress, Trainer, fit, make_accelerator, steps_for
from advrad.types import MAX_PIXELS

if TYPE_CHECKING:
    from accelerate import Accelerator

STATE_NAME = "state.safetensors"


class Watcher(Protocol):
    """Hears of a run's progress; every method may do nothing."""

    def stage(self, words: str) -> None:
        """A new stage begins."""

    def count(self, done: int, total: int) -> None:
        """Progress inside a stage."""

    def step(self, progress: Progress) -> None:
        """A training step was taken."""

    def note(self, words: str) -> None:
        """Something worth telling."""


class Silent:
    """A watcher that says nothing."""

    def stage(self, words: str) -> None:
        """Ignore."""

    def count(self, done: int, total: int) -> None:
        """Ignore."""

    def step(self, progress: Progress) -> None:
        """Ignore."""

    def note(self, words: str) -> None:
        """Ignore."""


class RunPlan(Config):
    """All that decides the result of a run, fixed before its first step.

    Attributes:
        data: folder of the pictures.
        layout: of the folder.
        category: product in it.
        train: of the loop; its ``size_px`` and ``seed`` are the run's.
        denoiser: kind and shape.
        source: folder or hub id of the checkpoint that training starts from, or None for fresh weights.
        false_alarm_rate: promised by the threshold.
        score: ``auto`` chooses for peace, ``robust`` for attacks; ``paper`` takes the paper's.
        max_pixels: bound on each picture file.
        skip_bad: leave out pictures that cannot be read.
        names: training pictures, to notice that the data changed.
        budget_minutes: what the steps were derived from, if they were.
    """

    data: str
    layout: str
    category: str
    train: TrainConfig
    denoiser: DenoiserConfig
    source: str | None = None
    false_alarm_rate: float = Field(0.05, gt=0, lt=1)
    score: Literal["auto", "robust", "paper"] = "auto"
    max_pixels: int = MAX_PIXELS
    skip_bad: bool = False
    names: tuple[str, ...]
    budget_minutes: float | None = None


class RunOptions(Config):
    """What a caller of :func:`train` may ask for; None leaves the preset's value.

    What is not passed is not asked for: a run that is resumed may have another value there.

    Attributes:
        minutes: budget for the whole command; exclusive with ``steps``.
        steps: optimiser steps.
        preset: ``lean``, ``paper`` or ``tiny``; the last two are diffusers U-Nets.
        source: checkpoint folder or hub id of a diffusers U-Net to start from.
        size_px: side of the square at which pictures enter.
        seed: of everything.
        batch_size: over all processes.
        learning_rate: peak.
        false_alarm_rate: of the threshold.
        score: ``auto``, ``robust`` or ``paper``.
        precision: arithmetic of the network.
        layout: of the data.
        category: product in the data.
        skip_bad: leave out pictures that cannot be read.
        max_pixels: bound on each picture file.
    """

    minutes: float | None = None
    steps: int | None = None
    preset: str = "lean"
    source: str | None = None
    size_px: int | None = None
    seed: int = 0
    batch_size: int | None = None
    learning_rate: float | None = None
    false_alarm_rate: float = 0.05
    score: Literal["auto", "robust", "paper"] = "auto"
    precision: Precision = "auto"
    layout: str = "auto"
    category: str | None = None
    skip_bad: bool = False
    max_pixels: int = MAX_PIXELS


DEFAULT_MINUTES = 5.0


#: From so many steps on the lean denoiser learns from crops, too. They take more steps to learn, and looking at them
#: takes four times as long; on MVTec AD bottle, after 400 steps, they found nothing that the whole had not found.
CROPS_FROM = 1600


def lean_views(size_px: int, steps: int) -> tuple[View, ...]:
    """What the lean denoiser looks at: the whole at half size and, if there is time, crops at full size now and then.

    Args:
        size_px: side of the square at which pictures enter.
        steps: optimiser steps that will be taken.

    Raises:
        ConfigError: the size does not suit the network.
    """
    if size_px < 64 or size_px % 32:
        raise ConfigError(f"--size {size_px}: must be a multiple of 32 px, and at least 64")
    half = size_px // 2 if size_px % 64 == 0 else size_px
    whole = View(picture_px=half, window_px=half)
    if half == size_px or steps < CROPS_FROM:
        return (whole,)
    return (whole, whole, whole, View(picture_px=size_px, window_px=half))


def _preset(options: RunOptions) -> DenoiserConfig:
    """Configuration of a denoiser with fresh weights."""
    if options.preset == "lean":
        return LeanConfig()
    if options.preset in DDPM_PRESETS:
        config = DDPM_PRESETS[options.preset]
        return config.model_copy(update={"size_px": options.size_px or config.size_px})
    raise ConfigError(f"--preset {options.preset}: is unknown; choose lean, {', '.join(DDPM_PRESETS)}")


def _train_config(options: RunOptions, denoiser: DenoiserConfig) -> TrainConfig:
    given: dict[str, Any] = {
        name: value
        for name in ("batch_size", "learning_rate", "steps")
        if (value := getattr(options, name)) is not None
    }
    common = {"seed": options.seed, "precision": options.precision, "steps": 0} | given
    if isinstance(denoiser, DdpmConfig):
        size_px = denoiser.size_px
        whole = View(picture_px=size_px, window_px=size_px)
        # The rate of the original DDPM; it denoises only, so it is shown no synthetic defects and no other light.
        values = {
            "learning_rate": 1e-4,
            "restore": 0.0,
            "exposure": 0.0,
            "size_px": size_px,
            "views": (whole,),
        } | common
    else:
        size_px = options.size_px or 256
        values = {"size_px": size_px, "views": lean_views(size_px, common["steps"])} | common
    return TrainConfig.parse(values, "options")


def _stacks(
    plan_parts: Sequence[Sequence[Any]], size_px: int, options: RunOptions, watcher: Watcher
) -> list[PictureStack]:
    stacks = []
    for part in plan_parts:
        stack = load_pictures(
            part, size_px, skip_bad=options.skip_bad, max_pixels=options.max_pixels, progress=watcher.count
        )
        for note in stack.notes:
            watcher.note(note)
        for error in stack.skipped:
            watcher.note(f"skipped: {error}")
        stacks.append(stack)
    return stacks


def train(
    data: Path, folder: Path, options: RunOptions, *, resume: bool = False, watcher: Watcher | None = None
) -> AdvRAD:
    """Train, choose the score, calibrate, and save into ``folder``.

    Args:
        data: folder of pictures.
        folder: of the run; becomes the model folder.
        options: what is asked for; with ``resume`` the plan of the interrupted run counts, and what is asked for
            must not contradict it.
        resume: finish the run that is in ``folder``.
        watcher: hears of the progress.

    Returns:
        The calibrated detector.

    Raises:
        UserError: the data, the options or the folder cannot be used.
        TrainingDivergedError: the loss left the numbers.
    """
    began = time.perf_counter()
    watcher = watcher or Silent()
    if options.minutes is not None and options.steps is not None:
        raise ConfigError("--minutes and --steps: give one of them")
    if options.minutes is not None and not 0 < options.minutes < 1e6:
        raise ConfigError(f"--minutes {options.minutes:g}: must be above 0")
    normals_needed(options.false_alarm_rate)
    work = plan_path(folder).parent
    plan = _existing_plan(folder, resume)
    if plan is not None:
        begun = _options_of(plan)
        _agree(options, begun, folder)
        options = begun
    accelerator = make_accelerator(options.precision)
    dataset = find_records(data, plan.layout if plan else options.layout, plan.category if plan else options.category)
    for note in dataset.notes:
        watcher.note(note)
    split = split_normals(dataset.records, options.seed, false_alarm_rate=options.false_alarm_rate)
    _enough(len(split.train), len(split.selection), len(split.calibration), options.false_alarm_rate)

    loaded = None if options.source is None else pretrained.load(options.source, options.size_px)
    if plan is None:
        denoiser_config = _preset(options) if loaded is None else loaded.config
        config = _train_config(options, denoiser_config)
    else:
        denoiser_config, config = plan.denoiser, plan.train
    watcher.stage("Reading pictures")
    with accelerator.main_process_first():
        pictures, held, calibration = _stacks(
            (split.train, split.selection, split.calibration), config.size_px, options, watcher
        )
    if options.skip_bad:  # what was left out may be missed
        _enough(len(pictures), len(held), len(calibration), options.false_alarm_rate)
    names = tuple(record.path.relative_to(dataset.root).as_posix() for record in pictures.records)
    if plan is not None and names != plan.names:
        raise DataError(f"{data}: the good pictures are not those the run began with; restore them, or train anew")

    torch.manual_seed(options.seed)
    denoiser = build_denoiser(denoiser_config) if loaded is None else loaded
    if plan is None:
        config = config.model_copy(update={"symmetry": find_symmetry(pictures)})
        minutes = options.minutes if options.minutes is not None else DEFAULT_MINUTES
        if options.steps is None:
            watcher.stage("Measuring speed")

            def affordable(config: TrainConfig) -> TrainConfig:
                passes = passes_after(config.views, min(REFERENCES, len(pictures)), len(held), len(calibration))
                spent_s = time.perf_counter() - began
                steps = steps_for(minutes, denoiser, pictures, config, accelerator, spent_s, passes)
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
            max_pixels=options.max_pixels,
            skip_bad=options.skip_bad,
            names=names,
            budget_minutes=minutes if options.steps is None else None,
        )
        if accelerator.is_main_process:
            make_folder(work)
            write_json(plan_path(folder), plan.model_dump(mode="json"))

    denoiser.adapt(whole_pictures(pictures, config))
    trainer = Trainer(denoiser, config, accelerator)
    if resume and (work / STATE_NAME).exists():
        trainer.load(work / STATE_NAME)
    accelerator.wait_for_everyone()
    watcher.stage("Training")
    average = fit(trainer, pictures, work, watcher.step if accelerator.is_main_process else None)
    trained_s = time.perf_counter() - began
    return _finish(folder, plan, average, (pictures, held, calibration), accelerator, watcher, trained_s)


def _finish(
    folder: Path,
    plan: RunPlan,
    denoiser: Denoiser,
    stacks: tuple[PictureStack, PictureStack, PictureStack],
    accelerator: Accelerator,
    watcher: Watcher,
    trained_s: float,
) -> AdvRAD:
    """Choose the score, calibrate and save. Every process computes the same; the main one writes."""
    config, device = plan.train, accelerator.device
    pictures, held, calibration = stacks
    bf16 = takes_bfloat16(config.precision, device)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    watcher.stage("Choosing the score")
    normals = held.batch(range(len(held)))
    generator = torch.Generator().manual_seed(config.seed)
    references = pictures.batch(torch.randperm(len(pictures), generator=generator)[:REFERENCES])
    views = sorted({view.picture_px for view in config.views})
    if plan.score == "paper":
        selection = forced(denoiser, references, normals, paper_score(config.size_px), generator, autocast)
    else:
        selection = choose(
            denoiser,
            references,
            normals,
            views,
            generator,
            autocast=autocast,
            aim="attack" if plan.score == "robust" else "peace",
            progress=watcher.count,
        )
    detector = AdvRAD(
        denoiser,
        DetectorConfig(
            denoiser=plan.denoiser,
            size_px=config.size_px,
            score=selection.config,
            noise_seed=config.seed,
            precision=config.precision,
            training={
                "plan": plan.model_dump(mode="json", exclude={"names", "data"}),
                "seconds": round(trained_s, 1),
                "pictures": {"train": len(plan.names), "selection": len(held), "calibration": len(calibration)},
                "tried": [list(row) for row in selection.tried[:50]],
                "candidates": len(selection.tried),
                "winner": selection.winner,
                "reason": selection.reason,
                "attacked": [list(row) for row in selection.attacked],
                "versions": versions(),
            },
        ),
        selection.statistics,
    ).to(device)
    watcher.stage("Calibrating")
    batches = (calibration.batch(range(i, min(i + 8, len(calibration)))) for i in range(0, len(calibration), 8))
    # The folder's name, not its path: model folders are published, paths are nobody's business.
    source = {"data": Path(plan.data).name, "category": plan.category, "split_seed": config.seed}
    detector.calibrate(batches, plan.false_alarm_rate, source)
    if accelerator.is_main_process:
        detector.save_pretrained(folder)
    accelerator.wait_for_everyone()
    return detector


def passes_after(views: Sequence[View], references: int, held: int, calibration: int) -> float:
    """Passes of the network over one training window that choosing the score and calibrating will take."""
    per_picture = len(SIGMAS) * sum((view.picture_px / view.window_px) ** 2 for view in set(views))
    chosen_on = references + held + DEFECTS_PER_SELECTION
    return per_picture * (chosen_on + DRAWS * (references + held + calibration))


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    import platform

    from advrad import __version__

    return {"advrad": __version__, "torch": torch.__version__, "python": platform.python_version()}


def _enough(train: int, selection: int, calibration: int, false_alarm_rate: float) -> None:
    """Refuse before hours are spent on a detector that could not be calibrated."""
    needed = normals_needed(false_alarm_rate)
    total = train + selection + calibration
    if calibration < needed:
        raise ConfigError(
            f"--false-alarm-rate {false_alarm_rate:g}: needs {needed} good pictures for calibration alone, but only"
            f" {calibration} of the {total} can be spared; give at least {2 * (needed + 2)} in all, or"
            f" accept a rate of {rate_in_reach(calibration):g} or more"
        )
    if selection < 2:
        raise DataError(f"{selection} of the {total} good pictures are left to choose the score by; add good pictures")


def plan_path(folder: Path) -> Path:
    """Where the plan of a run lies; without it there is nothing to resume."""
    return folder / "training" / "plan.json"


def _existing_plan(folder: Path, resume: bool) -> RunPlan | None:
    path = plan_path(folder)
    if resume:
        if not path.is_file():
            if folder.exists() and not folder.is_dir():
                raise OutputError(f"{folder}: is a file; name a folder")
            return None  # killed before the first step: nothing was decided yet, so the run begins
        import json

        try:
            return RunPlan.parse(json.loads(path.read_text(encoding="utf-8")), str(path))
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{path}: is damaged ({error}); train anew in another folder") from None
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; name a folder")
    if path.exists() or (folder / "config.json").exists():
        raise OutputError(f"{folder}: holds an earlier run; finish it with --resume, or name another folder with -o")
    make_folder(path.parent)
    return None


def _options_of(plan: RunPlan) -> RunOptions:
    """The options that a run was begun with, as far as its plan tells."""
    return RunOptions(
        minutes=plan.budget_minutes,
        steps=plan.train.steps,
        preset=_preset_name(plan.denoiser),
        source=plan.source,
        size_px=plan.train.size_px,
        seed=plan.train.seed,
        batch_size=plan.train.batch_size,
        learning_rate=plan.train.learning_rate,
        false_alarm_rate=plan.false_alarm_rate,
        score=plan.score,
        precision=plan.train.precision,
        layout=plan.layout,
        category=plan.category,
        skip_bad=plan.skip_bad,
        max_pixels=plan.max_pixels,
    )


def _preset_name(config: DenoiserConfig) -> str:
    """The preset of a denoiser with fresh weights."""
    if isinstance(config, DdpmConfig):
        for name, preset in DDPM_PRESETS.items():
            if preset.model_copy(update={"size_px": config.size_px}) == config:
                return name
    return config.kind


#: Where an option's name is not that of its field.
_NAMES = {"size_px": "--size", "source": "--denoiser"}


def _agree(asked: RunOptions, begun: RunOptions, folder: Path) -> None:
    """Refuse options that contradict those of the run that is resumed, rather than ignore them."""
    idle = set()
    if begun.source is not None:
        idle.add("preset")  # the checkpoint decides
    if asked.layout == "auto":
        idle.add("layout")  # the plan holds the one that was found
    for field in RunOptions.model_fields:
        value, held = getattr(asked, field), getattr(begun, field)
        if field not in asked.model_fields_set - idle or value in (None, held):
            continue
        option = _NAMES.get(field, f"--{field.replace('_', '-')}")
        shown = option if value is True else f"{option} {value}"
        instead = "without it" if held is None or held is False else f"with {held}"
        raise ConfigError(
            f"{shown}: the run in {folder} was begun {instead}; leave {option} out to finish that run, or begin"
            " another one in another folder"
        )
