"""What a run is asked to do, and what it is then bound to: the options, and the plan that is made of them.

The plan lies in the run's folder as ``training/plan.json``. A run that is resumed follows it, and options that
contradict it are refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from advrad.data.options import DataOptions
from advrad.data.records import MAX_PIXELS
from advrad.denoisers.ddpm import PRESETS as DDPM_PRESETS
from advrad.denoisers.ddpm import DdpmConfig
from advrad.denoisers.factory import DenoiserConfig
from advrad.denoisers.lean import LeanConfig
from advrad.detectors.model_folder import CONFIG_NAME
from advrad.errors import CheckpointError, ConfigError, OutputError
from advrad.training.batches import TrainConfig, View
from advrad.training.options import RunOptions, ScoreAim
from advrad.utils.config import Config
from advrad.utils.files import make_folder, write_json


class RunPlan(Config):
    """All that decides the result of a run, fixed before its first step.

    Attributes:
        data: folder of the images.
        layout: of the folder.
        category: product in it.
        train: of the loop; its ``size_px`` and ``seed`` are the run's.
        denoiser: kind and shape.
        source: folder or hub id of the checkpoint that training starts from, or None for fresh weights.
        false_alarm_rate: promised by the threshold.
        score: ``auto`` chooses for peace, ``robust`` for attacks; ``paper`` takes the paper's.
        optimise_for_radius: choose the score for what can be certified within this radius, and set a threshold that
            holds there; l2, in [0, 1] pixel units of an image of the detector's size.
        max_pixels: bound on each image file.
        skip_bad: leave out images that cannot be read.
        names: training images, to notice that the data changed.
        budget_minutes: what the steps were derived from, if they were.
    """

    data: str
    layout: str
    category: str
    train: TrainConfig
    denoiser: DenoiserConfig
    source: str | None = None
    false_alarm_rate: float = Field(0.05, gt=0, lt=1)
    score: ScoreAim = "auto"
    optimise_for_radius: float | None = Field(None, gt=0)
    max_pixels: int = MAX_PIXELS
    skip_bad: bool = False
    names: tuple[str, ...]
    budget_minutes: float | None = None

    @property
    def data_options(self) -> DataOptions:
        """How the images are found and read."""
        return DataOptions(
            layout=self.layout, category=self.category, skip_bad=self.skip_bad, max_pixels=self.max_pixels
        )


#: From so many steps on the lean denoiser learns from crops, too. They take more steps to learn, and looking at them
#: takes four times as long; on MVTec AD bottle, after 400 steps, they found nothing that the whole had not found.
CROPS_FROM = 1600


#: Up to this size the lean denoiser looks at images as they are.
_SMALL_PX = 128


def lean_views(size_px: int, steps: int) -> tuple[View, ...]:
    """What the lean denoiser looks at: the whole at half size and, if there is time, crops at full size now and then.

    A size that is small already is not halved: steps are cheap there, and defects few pixels wide.

    Args:
        size_px: side of the square at which images enter.
        steps: optimiser steps that will be taken.

    Raises:
        ConfigError: the size does not suit the network.
    """
    if size_px < 64 or size_px % 32:
        raise ConfigError(f"--size {size_px}: must be a multiple of 32 px, and at least 64")
    half = size_px // 2 if size_px % 64 == 0 and size_px > _SMALL_PX else size_px
    whole = View(picture_px=half, window_px=half)
    if half == size_px or steps < CROPS_FROM:
        return (whole,)
    return (whole, whole, whole, View(picture_px=size_px, window_px=half))


def fresh_config(options: RunOptions) -> DenoiserConfig:
    """Configuration of a denoiser with fresh weights.

    Raises:
        ConfigError: there is no such preset.
    """
    if options.preset == "lean":
        return LeanConfig()
    if options.preset in DDPM_PRESETS:
        config = DDPM_PRESETS[options.preset]
        return config.model_copy(update={"size_px": options.size_px or config.size_px})
    raise ConfigError(f"--preset {options.preset}: is unknown; choose lean, {', '.join(DDPM_PRESETS)}")


def train_config(options: RunOptions, denoiser: DenoiserConfig) -> TrainConfig:
    """Configuration of the training: what is asked for, and for the rest what suits the denoiser.

    Where ``options`` name no steps it has none yet, and no crops.

    Raises:
        ConfigError: an option is out of range, or the size does not suit the network.
    """
    given: dict[str, Any] = {
        name: value
        for name in ("batch_size", "learning_rate", "steps", "harden")
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
    return TrainConfig.parse(values)


def plan_path(folder: Path) -> Path:
    """Where the plan of a run lies; without it there is nothing to resume."""
    return folder / "training" / "plan.json"


def existing_plan(folder: Path, resume: bool) -> RunPlan | None:
    """The plan of the run in a folder, which is made ready where a run begins.

    Args:
        folder: of the run.
        resume: finish the run that is in it; without this there must be none.

    Returns:
        The plan, or None where none was made yet.

    Raises:
        CheckpointError: the plan is damaged.
        OutputError: the folder is a file, or holds an earlier run that is not to be resumed.
    """
    path = plan_path(folder)
    if resume:
        if not path.is_file():
            if folder.exists() and not folder.is_dir():
                raise OutputError(f"{folder}: is a file; name a folder")
            return None  # killed before the first step: nothing was decided yet, so the run begins
        try:
            return RunPlan.parse(json.loads(path.read_text(encoding="utf-8")), str(path))
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{path}: is damaged ({error}); train anew in another folder") from None
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file; name a folder")
    if path.exists() or (folder / CONFIG_NAME).exists():
        raise OutputError(f"{folder}: holds an earlier run; finish it with --resume, or name another folder with -o")
    make_folder(path.parent)
    return None


def save_plan(folder: Path, plan: RunPlan) -> None:
    """Write the plan of a run to its folder, which is made if missing.

    Raises:
        OutputError: it cannot be written.
    """
    path = plan_path(folder)
    make_folder(path.parent)
    write_json(path, plan.model_dump(mode="json"))


def options_of(plan: RunPlan) -> RunOptions:
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
        optimise_for_radius=plan.optimise_for_radius,
        harden=plan.train.harden or None,
        precision=plan.train.precision,
        data=plan.data_options,
    )


def _preset_name(config: DenoiserConfig) -> str:
    """The preset of a denoiser with fresh weights."""
    if isinstance(config, DdpmConfig):
        for name, preset in DDPM_PRESETS.items():
            if preset.model_copy(update={"size_px": config.size_px}) == config:
                return name
    return config.kind


def refuse_two_aims(score: ScoreAim, optimise_for_radius: float | None) -> None:
    """Refuse what cannot be had together.

    Raises:
        ConfigError: a radius is named beside a score, or is none.
    """
    if optimise_for_radius is None:
        return
    if score != "auto":
        raise ConfigError(f"--optimise-for-radius and --score {score}: give one of them")
    if not 0 < optimise_for_radius < float("inf"):
        raise ConfigError(f"--optimise-for-radius {optimise_for_radius:g}: must be above 0")


#: Where an option's name is not that of its field.
_NAMES = {"size_px": "--size", "source": "--denoiser"}


def refuse_contradiction(asked: RunOptions, begun: RunOptions, folder: Path) -> None:
    """Refuse options that contradict those of the run that is resumed, rather than ignore them.

    Args:
        asked: the options given now.
        begun: those of the run.
        folder: of the run, to name it.

    Raises:
        ConfigError: an option was given another value.
    """
    idle = set()
    if begun.source is not None:
        idle.add("preset")  # the checkpoint decides
    if asked.data.layout == "auto":
        idle.add("layout")  # the plan holds the one that was found
    given = (asked.model_fields_set - {"data"} | asked.data.model_fields_set) - idle
    asked_values, begun_values = asked.model_dump(), begun.model_dump()
    for field in asked_values:
        value, held = asked_values[field], begun_values[field]
        if field not in given or value in (None, held):
            continue
        option = _NAMES.get(field, f"--{field.replace('_', '-')}")
        shown = option if value is True else f"{option} {value}"
        instead = "without it" if held is None or held is False else f"with {held}"
        raise ConfigError(
            f"{shown}: the run in {folder} was begun {instead}; leave {option} out to finish that run, or begin"
            " another one in another folder"
        )
