"""The plan of a training run: everything that determines its result, fixed before the first step.

The plan is stored as ``training/plan.json`` in the run's folder. A resumed run follows it and refuses options that
contradict it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from advrad.data.framing import Framing
from advrad.denoisers.ddpm import PRESETS as DDPM_PRESETS
from advrad.denoisers.ddpm import DdpmConfig
from advrad.denoisers.factory import DenoiserConfig
from advrad.denoisers.lean import LeanConfig
from advrad.denoisers.memory import MemoryDenoiserConfig
from advrad.detectors.model_folder import CONFIG_NAME
from advrad.errors import CheckpointError, ConfigError, OutputError
from advrad.training.batches import TrainConfig, View
from advrad.training.choice import checkpoint_of, network_name
from advrad.training.fit_plan import ClosedFormPlan, GuardedPlan
from advrad.training.options import RunOptions, ScoreAim
from advrad.training.plan_base import PlanBase
from advrad.training.score_candidates import ScoreObjective
from advrad.utils.files import check_folder, make_folder, write_json
from advrad.utils.output_folders import check_output

#: Plans of fits of the closed form, by kind; others are of trainings.
_FITS: dict[str, type[ClosedFormPlan] | type[GuardedPlan]] = {"closed_form": ClosedFormPlan, "guarded": GuardedPlan}


class RunPlan(PlanBase):
    """Everything that determines the result of a training run.

    Attributes:
        memory: Whether the closed form is fitted as well, and the two are combined.
        train: Options of the training loop, with the size and the seed of the run.
        denoiser: Kind and shape of the denoiser.
        source: Folder or hub id of the checkpoint that training starts from; None for random weights.
        pad: Whether images keep their aspect ratio and are padded to a square, in place of stretched.
        budget_minutes: Time budget from which the number of steps was derived; None if the steps were given.
    """

    memory: bool = False
    train: TrainConfig
    denoiser: DenoiserConfig
    source: str | None = None
    pad: bool = False
    budget_minutes: float | None = None

    @property
    def framing(self) -> Framing:
        """How images become working images."""
        return Framing.square(self.train.size_px, pad=self.pad)

    @property
    def objective(self) -> ScoreObjective:
        """What the score is chosen for."""
        if self.optimise_for_radius is not None:
            return ScoreObjective("certified", self.optimise_for_radius)
        return ScoreObjective("robust" if self.score == "robust" else "clean")


#: Number of steps from which the lean denoiser also trains on crops. Crops need more steps, and scoring takes four
#: times as long with them; on MVTec AD bottle, after 400 steps, they showed no defect that whole images did not.
CROPS_FROM = 1600
#: Image size up to which the lean denoiser trains on images of full size.
_SMALL_PX = 128


def lean_views(size_px: int, steps: int) -> tuple[View, ...]:
    """Choose the sizes at which the lean denoiser trains: whole images at half size, and crops at full size.

    Small images are not halved: steps on them are cheap, and their defects have few pixels. Crops are used only if the
    training is long.

    Args:
        size_px: Side of the square to which the detector resizes images, pixels.
        steps: Number of optimiser steps.

    Raises:
        ConfigError: The size does not suit the network.
    """
    if size_px < 64 or size_px % 32:
        raise ConfigError("must be a multiple of 32 px, and at least 64", option="size_px", value=size_px)
    half = size_px // 2 if size_px % 64 == 0 and size_px > _SMALL_PX else size_px
    whole = View(image_px=half, window_px=half)
    if half == size_px or steps < CROPS_FROM:
        return (whole,)
    return (whole, whole, whole, View(image_px=size_px, window_px=half))


def fresh_config(options: RunOptions) -> DenoiserConfig:
    """Give the configuration of a denoiser with random weights, or with an empty memory.

    Args:
        options: Options of the run.

    Raises:
        ConfigError: The preset is unknown.
    """
    if options.denoiser == "memory":
        return MemoryDenoiserConfig()
    name = network_name(options)
    if name == "lean":
        return LeanConfig()
    config = DDPM_PRESETS[name]
    return config.model_copy(update={"size_px": options.size_px or config.size_px})


def train_config(options: RunOptions, denoiser: DenoiserConfig) -> TrainConfig:
    """Give the options of the training loop: the given ones, and for the rest those that suit the denoiser.

    Args:
        options: Options of the run. If they name no steps, the result has 0 steps and no crops.
        denoiser: Configuration of the denoiser.

    Raises:
        ConfigError: An option is out of range, or the size does not suit the network.
    """
    given: dict[str, Any] = {
        name: value
        for name in ("batch_size", "learning_rate", "steps", "adversarial_eps")
        if (value := getattr(options, name)) is not None
    }
    common = {"seed": options.seed, "precision": options.precision, "steps": 0} | given
    if isinstance(denoiser, DdpmConfig):
        whole = View(image_px=denoiser.size_px, window_px=denoiser.size_px)
        # The rate of the original DDPM. It cannot learn to remove defects, so it sees images as they are.
        values = {
            "learning_rate": 1e-4,
            "defect_probability": 0.0,
            "brightness_jitter": 0.0,
            "size_px": denoiser.size_px,
            "views": (whole,),
        } | common
    elif isinstance(denoiser, MemoryDenoiserConfig):
        size_px, side = options.size_px or 256, denoiser.side_cells
        if size_px < side or size_px % side:
            raise ConfigError(f"must be a multiple of {side} px for denoiser memory", option="size_px", value=size_px)
        # Nothing is trained. The size of the view is that at which other scores than the paper's are chosen.
        values = common | {"size_px": size_px, "views": (View(image_px=side, window_px=side),), "precision": "float32"}
    else:
        size_px = options.size_px or 256
        values = {"size_px": size_px, "views": lean_views(size_px, common["steps"])} | common
    return TrainConfig.parse(values)


def draft_plan(
    options: RunOptions, denoiser: DenoiserConfig, data: str, layout: str, category: str, *, memory: bool = False
) -> RunPlan:
    """Make the plan of a new run as far as it is known before the images are read.

    The names of the images, the symmetry and, for a time budget, the number of steps are still missing.

    Args:
        options: Options of the run.
        denoiser: Configuration of the denoiser.
        data: Folder of the images.
        layout: Layout that was found.
        category: Name of the product.
        memory: Whether the closed form is fitted as well.

    Raises:
        ConfigError: An option is out of range, or the size does not suit the network.
    """
    return RunPlan(
        memory=memory,
        data=data,
        layout=layout,
        category=category,
        train=train_config(options, denoiser),
        denoiser=denoiser,
        source=checkpoint_of(options),
        false_alarm_rate=options.false_alarm_rate,
        score=options.score,
        optimise_for_radius=options.optimise_for_radius,
        max_pixels=options.data.max_pixels,
        value_range=options.data.value_range,
        skip_bad=options.data.skip_bad,
        leaves_out_copies=True,
        names=(),
    )


def plan_path(folder: Path) -> Path:
    """Give the path of a run's plan. A folder without this file has no run to resume.

    Args:
        folder: Folder of the run.
    """
    return folder / "training" / "plan.json"


def existing_plan(folder: Path, resume: bool) -> RunPlan | ClosedFormPlan | GuardedPlan | None:
    """Read the plan of the run in a folder. Nothing is written.

    Args:
        folder: Folder of the run.
        resume: Whether to finish the run in the folder. Otherwise there must be none.

    Returns:
        The plan; None if there is no plan yet.

    Raises:
        CheckpointError: The plan is damaged.
        OutputError: The folder is a file, cannot be written, or holds files that advrad did not write; or it holds an
            earlier run and ``resume`` is false.
    """
    path = plan_path(folder)
    check_output(folder, "model", also=("demonstration",))
    check_folder(path.parent)
    if not resume and (path.exists() or (folder / CONFIG_NAME).exists()):
        raise OutputError(f"{folder}: holds an earlier run; resume it, or give another folder")
    if not path.is_file():
        return None  # the run was stopped before its first step, so it starts from the beginning
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        plan = _FITS.get(values.get("kind", ""), RunPlan) if isinstance(values, dict) else RunPlan
        return plan.parse(values, str(path))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: is damaged ({error}); train again in another folder") from None


def save_plan(folder: Path, plan: RunPlan | ClosedFormPlan | GuardedPlan) -> None:
    """Write the plan of a run to its folder, which is made if it is missing.

    Args:
        folder: Folder of the run.
        plan: The plan.

    Raises:
        OutputError: The file cannot be written.
    """
    path = plan_path(folder)
    make_folder(path.parent)
    write_json(path, plan.model_dump(mode="json"))


def options_of(plan: RunPlan) -> RunOptions:
    """Give the options with which a run was started, as far as its plan records them.

    Args:
        plan: Plan of the run.
    """
    alone = plan.source or plan.denoiser.kind
    return RunOptions(
        denoiser=None if plan.memory else alone,
        minutes=plan.budget_minutes,
        steps=plan.train.steps or None,
        preset=_preset_name(plan.denoiser),
        size_px=plan.train.size_px,
        seed=plan.train.seed,
        batch_size=plan.train.batch_size,
        learning_rate=plan.train.learning_rate,
        false_alarm_rate=plan.false_alarm_rate,
        score=plan.score,
        optimise_for_radius=plan.optimise_for_radius,
        shape="pad" if plan.pad else "stretch",
        adversarial_eps=plan.train.adversarial_eps or None,
        precision=plan.train.precision,
        data=plan.data_options,
    )


def _preset_name(config: DenoiserConfig) -> str:
    """The preset of a denoiser with random weights."""
    if isinstance(config, DdpmConfig):
        for name, preset in DDPM_PRESETS.items():
            if preset.model_copy(update={"size_px": config.size_px}) == config:
                return name
    return config.kind


def check_score_options(score: ScoreAim, optimise_for_radius: float | None) -> None:
    """Refuse a radius that is given beside a score, or that is not positive and finite.

    Args:
        score: How the score is chosen.
        optimise_for_radius: Radius for which it is chosen; None for none.

    Raises:
        ConfigError: Both are given, or the radius is out of range.
    """
    if optimise_for_radius is None:
        return
    if score != "auto":
        raise ConfigError(
            f"cannot be combined with score {score}; give one of them",
            option="optimise_for_radius",
            value=optimise_for_radius,
        )
    if not 0 < optimise_for_radius < math.inf:
        raise ConfigError("must be above 0", option="optimise_for_radius", value=optimise_for_radius)


def refuse_contradiction(asked: RunOptions, begun: RunOptions, folder: Path) -> None:
    """Refuse options that differ from those of the run that is resumed.

    Args:
        asked: Options that are given now.
        begun: Options of the run.
        folder: Folder of the run, for the message.

    Raises:
        ConfigError: An option was given with another value.
    """
    ignored = set()
    if checkpoint_of(begun) is not None:
        ignored.add("preset")  # the checkpoint determines the network
    if asked.data.layout == "auto":
        ignored.add("layout")  # the plan holds the layout that was found
    if asked.shape == "auto":
        ignored.add("shape")  # the plan holds the one that was chosen
    given = (asked.model_fields_set - {"data"} | asked.data.model_fields_set) - ignored
    asked_values, begun_values = asked.model_dump(by_alias=False), begun.model_dump(by_alias=False)
    for name, value in asked_values.items():
        held = begun_values.get(name)
        if name not in given or value in (None, held):
            continue
        before = "without it" if held is None or held is False else f"with {held}"
        raise ConfigError(
            f"the run in {folder} was started {before}; leave the option out to finish that run, or train in another"
            " folder",
            option=name,
            value=None if value is True else value,
        )
