"""A training run, from a folder of images to a calibrated detector.

The run's folder becomes the model folder, and ``training/plan.json`` in it holds everything that determines the result.

- The closed form, or the memory of a denoiser, is fitted in seconds. Its plan is written with the finished model: an
  interrupted fit leaves nothing and is run again by the same command.
- A learned denoiser is trained for minutes. Its plan is written before the first step, and
  ``training/state.safetensors`` holds the state of the training: it can be interrupted and resumed at any point.
- For both, the closed form is fitted first and kept in ``training/memory``; its time counts in the budget.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import torch

from advrad.data.layouts import Dataset, ImageSource, find_records
from advrad.data.shapes import record_shapes
from advrad.data.splits import shuffle_normals
from advrad.data.trained_images import digests_of, warn_of_same_files
from advrad.denoisers import diffusers_checkpoint
from advrad.denoisers.base import Denoiser
from advrad.denoisers.ddpm import DdpmDenoiser, unet_class
from advrad.denoisers.factory import build_denoiser
from advrad.denoisers.memory import MemoryDenoiserConfig
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.combined import CombinedDetector
from advrad.detectors.conformal import calibration_of
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.loading import load_detector
from advrad.detectors.model_folder import CONFIG_NAME
from advrad.detectors.tiled import TiledDetector
from advrad.errors import ConfigError, DataError
from advrad.training.calibration_data import CalibrationData, read_divided
from advrad.training.choice import Choice, checkpoint_of, choice_of, needs_diffusers, trains_denoiser
from advrad.training.closed_form_run import ClosedFormRun, record_fit
from advrad.training.combination import combine, fit_beside, seconds_to_combine
from advrad.training.finalize import choose_score, set_thresholds, source_of
from advrad.training.fit_plan import ClosedFormPlan, GuardedPlan
from advrad.training.framing_choice import choose_framing
from advrad.training.guarded_run import GuardedRun
from advrad.training.learned_fit import complete_plan, fit_denoiser
from advrad.training.memory_filling import fill_memory
from advrad.training.normal_images import NormalImages
from advrad.training.option_checks import check_ranges
from advrad.training.options import RunOptions, TrainKeywords
from advrad.training.plan import (
    RunPlan,
    draft_plan,
    existing_plan,
    fresh_config,
    options_of,
    plan_path,
    refuse_contradiction,
    save_plan,
)
from advrad.training.trainer import check_batch_size, make_accelerator
from advrad.utils.progress import SILENT, CallbackReporter, ProgressReporter
from advrad.utils.threads import threads_in_words

if TYPE_CHECKING:
    from accelerate import Accelerator

#: What a run makes.
Detector = AdvRAD | ClosedFormDetector | TiledDetector | CombinedDetector | GuardedDetector


def train(
    data: ImageSource,
    output: str | Path | None = None,
    options: RunOptions | None = None,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    callback: Callable[[int, int], None] | None = None,
    resume: bool = False,
    progress: ProgressReporter = SILENT,
    **keywords: Unpack[TrainKeywords],
) -> Detector:
    """Make a detector from normal images: fit the closed form, and set the threshold.

    It takes seconds, or minutes where parts lie at any place. Twenty normal images are enough for a false-alarm rate of
    5 %. With ``minutes`` or ``steps``, a learned denoiser is trained as well, and held-out normal images with synthetic
    defects show how the two are combined best. With ``features="patchcore"``, a detector on features joins the closed
    form: an image is called defective if either says so, and what the closed form says is proven. It does the same as
    the command ``advrad train``.

    Args:
        data: Folder of images, or a datamodule; images of defects are not used.
        output: Folder for the model and the state of the training, new or empty; None for a temporary folder, which is
            deleted at the end.
        options: All options at once, in place of ``minutes``, ``steps`` and ``keywords``.
        minutes: Time for the whole run in minutes, in which a learned denoiser is trained as well.
        steps: Number of training steps of the learned denoiser, in place of ``minutes``.
        callback: Function that receives the number of finished items of a stage, such as steps, and of all its items.
        resume: Whether to finish the interrupted training in ``output``. It keeps its options; others that are given
            must not contradict them.
        progress: Receives the progress in detail, in place of ``callback``.
        keywords: Other options; fields of :class:`advrad.training.options.RunOptions` and of
            :class:`advrad.data.options.DataOptions`.

    Returns:
        The calibrated detector, in evaluation mode: :class:`advrad.detectors.ClosedFormDetector` for the closed form
        alone, :class:`advrad.detectors.TiledDetector` for the closed form of tiles, :class:`advrad.AdvRAD` for a
        learned denoiser alone and for the paper's score of the memory,
        :class:`advrad.detectors.CombinedDetector` for both, or :class:`advrad.detectors.GuardedDetector` for the closed
        form beside ``features``.

    Raises:
        ConfigError: An option is unknown, out of range, or does not fit the others or the data.
        DataError: The images cannot be used.
        OutputError: The folder is a file, holds another run, or cannot be written.
        CheckpointError: The state or the checkpoint to start from is damaged.
        TrainingDivergedError: The training loss became NaN or infinite.

    Example:
        >>> import advrad
        >>> detector = advrad.train("images")  # doctest: +SKIP
        >>> detector.calibration.threshold  # doctest: +SKIP
        2.31
    """
    options = _options_from(options, {"minutes": minutes, "steps": steps}, dict(keywords))
    reporter = CallbackReporter(callback) if callback else progress
    if output is not None:
        return _Run(data, Path(output), options, resume, reporter).execute()
    if resume:
        raise ConfigError("is needed to resume a run; give the folder of the run", option="output")
    with tempfile.TemporaryDirectory(prefix="advrad-") as folder:
        return _Run(data, Path(folder) / "run", options, resume, reporter).execute()


def _options_from(options: RunOptions | None, budget: dict[str, Any], keywords: dict[str, Any]) -> RunOptions:
    """Options of a run, from one object or from single options; options that are None were not given."""
    given = {name: value for name, value in budget.items() if value is not None} | keywords
    if options is None:
        options = RunOptions.parse(given)
    elif given:
        raise ConfigError("cannot be combined with options; set the field of options", option=min(given))
    check_ranges(options)
    return options


def _finished(plan: RunPlan | ClosedFormPlan | GuardedPlan | None, folder: Path) -> str | None:
    """What a run has finished; None for a run that is not finished, or a training whose end must be repeated."""
    if isinstance(plan, ClosedFormPlan) or (isinstance(plan, RunPlan) and plan.denoiser.kind == "memory"):
        return "the closed form"
    return "the model" if isinstance(plan, GuardedPlan) and (folder / CONFIG_NAME).is_file() else None


def _choice(plan: RunPlan | ClosedFormPlan | GuardedPlan | None, options: RunOptions) -> Choice:
    """What a run makes, by the plan of the run that is resumed, or by the options."""
    if isinstance(plan, RunPlan):
        return "both" if plan.memory else "learned"
    return choice_of(options)


def _check_learned(options: RunOptions, processes: int) -> None:
    """Refuse what a learned denoiser cannot be trained with, before any image is read."""
    if needs_diffusers(options):
        unet_class()
    if options.batch_size is not None:
        check_batch_size(options.batch_size, processes)


@dataclass
class _Run:
    """A training run.

    Args:
        data: Folder of images, or a datamodule.
        folder: Folder of the run.
        options: Options; those of a resumed run come from its plan.
        resume: Whether to finish the run in the folder.
        progress: Receives the progress.
    """

    data: ImageSource
    folder: Path
    options: RunOptions
    resume: bool
    progress: ProgressReporter

    def execute(self) -> Detector:
        """Do what is left of the run, and give the calibrated detector."""
        began = time.perf_counter()
        stored = existing_plan(self.folder, self.resume)
        if stored is not None:
            begun = options_of(stored) if isinstance(stored, RunPlan) else stored.options
            refuse_contradiction(self.options, begun, self.folder)
            self.options = begun
        if (finished := _finished(stored, self.folder)) is not None:
            self.progress.note(f"{self.folder}: {finished} is finished; there is nothing to resume")
            return cast(Detector, load_detector(self.folder))
        choice = _choice(stored, self.options)
        accelerator = make_accelerator(self.options.precision)
        if choice in ("learned", "both") or (choice == "guarded" and trains_denoiser(self.options)):
            _check_learned(self.options, accelerator.num_processes)
        dataset = find_records(self.data, self.options.data)
        for note in (*dataset.notes, *dataset.warnings, *warn_of_same_files(dataset), threads_in_words()):
            self.progress.note(note)
        if choice == "memory":
            return self._fit_closed_form(dataset, accelerator, began)
        if choice == "guarded" or not (stored is None or isinstance(stored, RunPlan)):
            return self._guard(dataset, accelerator, began, stored if isinstance(stored, GuardedPlan) else None)
        source = checkpoint_of(self.options)
        pretrained = None if source is None else diffusers_checkpoint.load(source, self.options.size_px)
        plan = stored or self._draft(dataset, pretrained, choice == "both")
        if stored is None:
            shapes = record_shapes(shuffle_normals(dataset.records, 0), plan.max_pixels)
            framing = choose_framing(shapes, self.options, plan.train.size_px, learned=True, progress=self.progress)
            plan = plan.model_copy(update={"pad": framing.pad})
        images = self._read(dataset, plan, accelerator)
        names = tuple(record.path.relative_to(dataset.root).as_posix() for record in images.train.records)
        if stored is not None and names != stored.names:
            raise DataError(
                f"{self.data}: the normal images are not those that the run was started with; restore them, or train"
                " in another folder"
            )
        if isinstance(plan.denoiser, MemoryDenoiserConfig):
            return self._fill(plan, plan.denoiser, names, images, accelerator, began)
        memory = self._memory(plan, images, accelerator, kept=stored is not None) if plan.memory else None
        torch.manual_seed(self.options.seed)
        denoiser = build_denoiser(plan.denoiser) if pretrained is None else pretrained
        if stored is None:
            plan = self._complete(plan, names, denoiser, images, accelerator, began, memory)
            if accelerator.is_main_process:
                save_plan(self.folder, plan)
                if memory is not None:
                    memory.save_pretrained(self._kept_memory)
        average = self._fit(plan, denoiser, images, accelerator)
        return self._finish(plan, average, memory, images, accelerator, time.perf_counter() - began)

    @property
    def _data_name(self) -> str:
        """The data's folder as the plan records it."""
        return str(Path(self.data).resolve()) if isinstance(self.data, (str, Path)) else ""

    @property
    def _kept_memory(self) -> Path:
        """Where the closed form is kept while the learned denoiser is trained."""
        return plan_path(self.folder).parent / "memory"

    def _fit_closed_form(self, dataset: Dataset, accelerator: Accelerator, began: float) -> Detector:
        """Fit the closed form alone, and save it."""
        plan, detector = ClosedFormRun(dataset, self.options, self._data_name or str(dataset.root)).execute(
            self.progress
        )
        record_fit(detector, plan, time.perf_counter() - began)
        if accelerator.is_main_process:
            detector.save_pretrained(self.folder)
            save_plan(self.folder, plan)
        accelerator.wait_for_everyone()
        return detector

    def _guard(self, dataset: Dataset, accelerator: Accelerator, began: float, stored: GuardedPlan | None) -> Detector:
        """Fit the closed form and a detector on features beside it, and save both."""
        data = self._data_name or str(dataset.root)
        run = GuardedRun(dataset, self.options, data, self.folder, accelerator, began, self.progress, stored)
        plan, detector = run.execute()
        if accelerator.is_main_process:
            detector.save_pretrained(self.folder)
            save_plan(self.folder, plan)
        accelerator.wait_for_everyone()
        return detector

    def _fill(
        self,
        plan: RunPlan,
        config: MemoryDenoiserConfig,
        names: tuple[str, ...],
        images: CalibrationData,
        accelerator: Accelerator,
        began: float,
    ) -> Detector:
        """Make a detector of a denoiser that is not trained: its memory is filled. The plan is saved at the end."""
        denoiser = fill_memory(images.train, config, plan.train.seed).to(accelerator.device)
        plan = plan.model_copy(update={"denoiser": denoiser.config, "names": names})
        detector = self._finish(plan, denoiser, None, images, accelerator, time.perf_counter() - began)
        if accelerator.is_main_process:
            save_plan(self.folder, plan)
        accelerator.wait_for_everyone()
        return detector

    def _memory(
        self, plan: RunPlan, images: CalibrationData, accelerator: Accelerator, *, kept: bool
    ) -> ClosedFormDetector:
        """The closed form of the training and selection images; a resumed run has kept it."""
        if kept and (self._kept_memory / CONFIG_NAME).is_file():
            return ClosedFormDetector.from_pretrained(self._kept_memory)
        return fit_beside(images, plan, self.progress)

    def _draft(self, dataset: Dataset, pretrained: DdpmDenoiser | None, memory: bool) -> RunPlan:
        """The plan as far as it is known before the images are read."""
        denoiser = fresh_config(self.options) if pretrained is None else pretrained.config
        data = self._data_name or str(dataset.root)
        return draft_plan(self.options, denoiser, data, dataset.layout, dataset.category, memory=memory)

    def _read(self, dataset: Dataset, plan: RunPlan, accelerator: Accelerator) -> CalibrationData:
        """Divide and read the normal images."""
        source = NormalImages(
            dataset, self.options.data, plan.false_alarm_rate, learned=True, leave_out_copies=plan.leaves_out_copies
        )
        with accelerator.main_process_first():
            return read_divided(source, plan.framing, plan.train.seed, self.progress)

    def _complete(
        self,
        plan: RunPlan,
        names: tuple[str, ...],
        denoiser: Denoiser,
        images: CalibrationData,
        accelerator: Accelerator,
        began: float,
        memory: ClosedFormDetector | None,
    ) -> RunPlan:
        """The plan with what follows from the images and from the speed of the machine."""
        later_s = 0.0 if memory is None or self.options.steps is not None else seconds_to_combine(memory, images)
        plan = complete_plan(plan, self.options, denoiser, images, accelerator, began, later_s, self.progress)
        return plan.model_copy(update={"names": names})

    def _fit(self, plan: RunPlan, denoiser: Denoiser, images: CalibrationData, accelerator: Accelerator) -> Denoiser:
        """Train the denoiser, from the saved state if there is one."""
        work = plan_path(self.folder).parent
        return fit_denoiser(plan, denoiser, images, accelerator, work, resume=self.resume, progress=self.progress)

    def _finish(
        self,
        plan: RunPlan,
        denoiser: Denoiser,
        memory: ClosedFormDetector | None,
        images: CalibrationData,
        accelerator: Accelerator,
        trained_s: float,
    ) -> Detector:
        """Choose the score, set the thresholds and save the detector. All processes compute, the main one saves."""
        self.progress.stage("Choosing the score")
        learned = choose_score(plan, denoiser, images, accelerator.device, trained_s, self.progress)
        detector: Detector = learned
        if memory is not None:
            self.progress.stage("Combining the closed form and the learned denoiser")
            detector = combine(memory, learned, images, plan, self.progress)
        self.progress.stage("Calibrating")
        if isinstance(detector, AdvRAD):
            set_thresholds(
                detector,
                images,
                false_alarm_rate=plan.false_alarm_rate,
                radius=plan.optimise_for_radius,
                source=source_of(plan),
                strict=False,
                progress=self.progress,
            )
        else:
            normals = images.calibration_batches()
            calibration = calibration_of(detector, normals, plan.false_alarm_rate, source_of(plan))
            detector.update_config(calibration=calibration)
        records = (*images.train.records, *images.selection.records, *images.calibration.records)
        shapes = record_shapes(records, plan.max_pixels)
        stacks = (images.train, images.selection, images.calibration)
        seen = tuple(sorted({digest for stack in stacks for digest in digests_of(stack)}))
        found = {"shapes": shapes, "seen": seen, "value_range": images.range_record(plan.value_range)}
        record = detector.config.training.model_copy(update=found)
        detector.update_config(training=record)
        if accelerator.is_main_process:
            detector.save_pretrained(self.folder)
        accelerator.wait_for_everyone()
        return detector.eval()
