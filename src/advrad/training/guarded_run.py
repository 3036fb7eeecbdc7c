"""Fit a guarded detector to the normal images of a folder: the closed form beside a detector on features.

The closed form divides the images as ever: **part A** decides everything that is chosen or learned, and **part B** sets
the thresholds of all halves. The other halves learn from part A alone. With few images, where the closed form keeps all
of them, the detector on features does so, too, and each image of part B is left out of both in turn.

A learned denoiser may join. Its training can be interrupted and resumed: the plan is written before its first step. The
closed form and the features are fitted again then, which takes as long as before.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from advrad.data.framing import Framing
from advrad.data.layouts import Dataset
from advrad.data.picture_statistics import PictureReference, picture_statistics
from advrad.data.trained_images import trained_on
from advrad.denoisers.factory import build_denoiser
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.config import ImageCounts, PlanRecord, TrainingRecord
from advrad.detectors.feature_memory import FeatureDetector
from advrad.detectors.feature_network import pretrained_network
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.guarded_config import AttackableConfig, GuardedConfig
from advrad.detectors.guarded_tests import divide_slots, make_tests
from advrad.detectors.reference import ReferenceConfig, refer
from advrad.detectors.saved import seen_by
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.errors import ConfigError, DataError
from advrad.training.choice import PATCHCORE, trains_denoiser
from advrad.training.closed_form import fit_with_plans
from advrad.training.closed_form_run import SIZE_PX, ClosedFormRun, record_fit
from advrad.training.combination import seconds_to_combine
from advrad.training.feature_fit import fit_features
from advrad.training.finalize import choose_score
from advrad.training.fit_plan import ClosedFormPlan, GuardedPlan
from advrad.training.framing_choice import with_images
from advrad.training.guard_choice import Ceiling, Judged, choose_ceiling
from advrad.training.guard_parts import GuardParts, left_out
from advrad.training.guard_trial import judge, memory_for_trial, refuse_direction, scorer_of
from advrad.training.learned_fit import complete_plan, fit_denoiser
from advrad.training.options import RunOptions
from advrad.training.plan import draft_plan, fresh_config, plan_path, save_plan
from advrad.utils.environment import versions
from advrad.utils.progress import ProgressReporter
from advrad.utils.threads import thread_count

if TYPE_CHECKING:
    from accelerate import Accelerator

#: Names of the halves beside the memory.
FEATURES, LEARNED = "features", "learned"
#: Fewest images of part A from which a denoiser learns.
_LEAST_TO_LEARN = 10
_BATCH = 8


@dataclass
class GuardedRun:
    """A fit of a guarded detector to the normal images of a data set.

    Attributes:
        dataset: Images; only the normal training images are used.
        options: Options of the run; ``features`` is given.
        data: Name of the data, stored in the plan.
        folder: Folder of the run, for the plan and the state of the learned denoiser.
        accelerator: Processes, device and precision of the learned denoiser.
        began: When the run began, as ``time.perf_counter()`` gave it.
        progress: Receives the progress.
        stored: Plan of the run that is resumed; None for a new run.
    """

    dataset: Dataset
    options: RunOptions
    data: str
    folder: Path
    accelerator: Accelerator
    began: float
    progress: ProgressReporter
    stored: GuardedPlan | None = None
    _foreign: tuple[ReferenceConfig, AnomalyDetector] | None = field(default=None, init=False)
    _plan: GuardedPlan = field(init=False)

    def execute(self) -> tuple[GuardedPlan, GuardedDetector]:
        """Read the images and fit the detector.

        Returns:
            The plan, and the calibrated detector.

        Raises:
            ConfigError: There are too few images for the false-alarm rate; or the features do not suit the images.
            DataError: The normal images are not those that the run was started with.
            ImageError: An image cannot be read.
        """
        self._refer()
        run = ClosedFormRun(self.dataset, self.options, self.data, tests=self._tests)
        framing = self._framing(run)
        images = run.read(framing, self.progress)
        memory_plan = run.plan_of(images, framing)
        self._check_names(memory_plan)
        fit = fit_with_plans(
            images.batch(range(len(images))),
            false_alarm_rate=memory_plan.false_alarm_rate,
            seed=memory_plan.seed,
            aspect=memory_plan.aspect,
            names=memory_plan.names,
            progress=self.progress,
        )
        training = with_images(fit.detector.config.training, framing, images, memory_plan.value_range)
        fit.detector.update_config(pad=framing.pad, training=training)
        record_fit(fit.detector, memory_plan, time.perf_counter() - self.began)
        parts = GuardParts(fit, images, framing, self.options.seed, apart=not fit.leaves_one_out or self._learns)
        self._plan = self._drafted(memory_plan, parts)
        detector = self._guarded(parts)
        return self._plan, detector

    # --- Before the fit ---

    @property
    def _learns(self) -> bool:
        return trains_denoiser(self.options)

    @property
    def _tests(self) -> int:
        """Number of halves, each with a test."""
        return 3 if self._learns else 2

    def _refer(self) -> None:
        """Load a foreign detector, before any image is read; it may say the size of the images."""
        target, size_px = self.options.features, self.options.size_px
        if target is None or target == PATCHCORE:
            _check_network(self.options.backbone)
            return
        self._foreign = refer(target, size_px=size_px or SIZE_PX)
        needed = self._foreign[0].image_size_px
        if needed is None or needed == (size_px or SIZE_PX):
            return
        if size_px is not None:
            raise ConfigError(
                f"must be {needed}: {target} takes images of {needed} px; give this size, or leave it out",
                option="size_px",
                value=size_px,
            )
        self.progress.note(f"images are scaled to {needed} px, which {target} takes")
        self.options = self.options.model_copy(update={"size_px": needed})

    def _framing(self, run: ClosedFormRun) -> Framing:
        framing = run.choose_framing(self.progress)
        if framing.tile_px is not None:
            raise ConfigError(
                "the images would be cut into tiles, which only the closed form alone takes; leave features out, or"
                " choose the shape pad or stretch",
                option="shape",
                value=self.options.shape,
            )
        return framing

    def _check_names(self, plan: ClosedFormPlan) -> None:
        """Refuse to resume a run whose images have changed."""
        if self.stored is not None and plan.names != self.stored.names:
            raise DataError(
                f"{self.data}: the normal images are not those that the run was started with; restore them, or train"
                " in another folder"
            )

    def _drafted(self, memory: ClosedFormPlan, parts: GuardParts) -> GuardedPlan:
        """The plan as far as it is known before a denoiser is trained."""
        options = self.options
        values = memory.model_dump(exclude={"kind", "tile_px", "false_alarm_rate"}) | {
            "false_alarm_rate": options.false_alarm_rate,
            "features": options.features,
            "backbone": options.backbone,
            "threshold_names": tuple(memory.names[row] for row in parts.threshold),
        }
        if self._learns:
            names = ("batch_size", "learning_rate", "adversarial_eps", "precision", "steps")
            values |= {name: getattr(options, name) for name in names} | {"budget_minutes": options.minutes}
        return GuardedPlan(**values)

    # --- The halves ---

    def _guarded(self, parts: GuardParts) -> GuardedDetector:
        """Fit the other halves, choose how the halves are joined, and set their tests."""
        others: dict[str, Any] = {FEATURES: self._features(parts)}
        configs = [AttackableConfig(name=FEATURES, detector=None if self._foreign is None else self._foreign[0])]
        if self._learns:
            others[LEARNED] = self._learned(parts)
            configs.append(AttackableConfig(name=LEARNED))
        judged = self._judge(parts, others)
        n, rate = len(parts.threshold), self.options.false_alarm_rate
        slots = divide_slots(n, rate, [0] * self._tests)
        ceiling, ceilings = choose_ceiling(judged, [k / (n + 1) for k in slots])
        config = GuardedConfig(
            memory=parts.fit.detector.config,
            others=tuple(configs),
            ceiling=ceiling.value,
            training=self._record(parts, slots, ceiling, ceilings, _why_ceiling(ceiling, judged)),
        )
        detector = GuardedDetector(config, parts.fit.detector, others).eval()
        self.progress.stage("Setting the thresholds")
        scores, heights = self._scores(parts, detector)
        tests = make_tests(scores, heights, slots, leaves_one_out=parts.fit.leaves_one_out)
        source = {"data": Path(self.data).name, "category": self.dataset.category, "split_seed": self.options.seed}
        pictures = PictureReference.of(picture_statistics(parts.batch([row])[0]) for row in parts.threshold)
        detector.set_tests(tests, rate, joint=not parts.fit.leaves_one_out, source=source, pictures=pictures)
        return detector

    def _features(self, parts: GuardParts) -> Any:
        """The detector on features: fitted, or the foreign one."""
        if self._foreign is not None:
            self._refuse_seen(parts, self._foreign[1])
            return self._foreign[1]
        rows = parts.different if parts.fit.leaves_one_out else parts.learn
        return self._fit_features(parts, rows, leave_one_out=parts.fit.leaves_one_out)

    def _fit_features(self, parts: GuardParts, rows: Sequence[int], *, leave_one_out: bool) -> FeatureDetector:
        training = with_images(TrainingRecord(), parts.framing, parts.images.at(list(rows)), self._value_range)
        return fit_features(
            parts.batch(rows),
            network=self.options.backbone or "lite2",
            leave_one_out=leave_one_out,
            seed=self.options.seed,
            pad=parts.framing.pad,
            training=training,
            progress=self.progress,
        )

    @property
    def _value_range(self) -> float | None:
        return self.options.data.value_range

    def _refuse_seen(self, parts: GuardParts, detector: AnomalyDetector) -> None:
        """Refuse a foreign detector that was made from images of the thresholds, and say what is not known."""
        target, count = self.options.features, len(parts.threshold)
        deployed = detector.detector if isinstance(detector, WhiteBoxAdvRAD) else detector
        held = parts.images.at(list(parts.threshold))
        if found := trained_on(held.records, seen_by(deployed), held.values):
            raise ConfigError(
                f"was made from {len(found)} of the {count} normal images that set the thresholds, so its test would"
                " promise nothing; give a detector that was trained on other images",
                option="features",
                value=target,
            )
        self.progress.note(
            f"the false-alarm rate is promised only if {target} was not trained on the {count} normal images that set"
            f" the thresholds; {plan_path(Path())} in the model folder lists them as threshold_names"
        )

    def _learned(self, parts: GuardParts) -> AdvRAD:
        """Train the denoiser on part A. The plan is completed and saved before the first step."""
        if len(parts.learn) < _LEAST_TO_LEARN:
            option = "minutes" if self.options.minutes is not None else "steps"
            raise ConfigError(
                f"a denoiser beside the features needs {_LEAST_TO_LEARN} normal images to learn from beside the"
                f" {len(parts.threshold)} that set the thresholds, but there are {len(parts.learn)}; add normal images,"
                " or leave it out",
                option=option,
            )
        images = parts.divided
        steps = self.options.steps if self.stored is None else self.stored.steps
        options = self.options.model_copy(
            update={"denoiser": "lean", "features": None, "backbone": None, "steps": steps}
        )
        layout, category = self.dataset.layout, self.dataset.category
        torch.manual_seed(options.seed)
        trained = draft_plan(options, fresh_config(options), self.data, layout, category)
        trained = trained.model_copy(update={"pad": parts.framing.pad})
        denoiser = build_denoiser(trained.denoiser)
        later_s = 0.0 if steps is not None else seconds_to_combine(parts.fit.detector, images)
        trained = complete_plan(
            trained, options, denoiser, images, self.accelerator, self.began, later_s, self.progress
        )
        self._plan = self._plan.model_copy(update={"steps": trained.train.steps})
        if self.stored is None and self.accelerator.is_main_process:
            save_plan(self.folder, self._plan)
        work = plan_path(self.folder).parent
        resume, began = self.stored is not None, time.perf_counter()
        average = fit_denoiser(trained, denoiser, images, self.accelerator, work, resume=resume, progress=self.progress)
        self.progress.stage("Choosing the score")
        seconds = time.perf_counter() - began
        return choose_score(trained, average, images, self.accelerator.device, seconds, self.progress)

    # --- The choice ---

    def _judge(self, parts: GuardParts, others: dict[str, Any]) -> Judged:
        """Score held-out images with halves that have not seen them."""
        split, memory = parts.split, parts.fit.detector
        scorers = {name: scorer_of(half) for name, half in others.items()}
        if parts.learn:
            memory = memory_for_trial(parts.fit, split)
            if self._foreign is None:
                leave_one_out = split.leaves_one_out
                trial = self._fit_features(parts, split.bank, leave_one_out=leave_one_out)
                scorers[FEATURES] = left_out(trial, split.bank) if leave_one_out else scorer_of(trial)
        elif self._foreign is None:  # the ceiling alone is chosen, which moves no threshold
            scorers[FEATURES] = left_out(others[FEATURES], parts.different)
        self.progress.stage("Choosing how the halves are joined")
        judged = judge(memory, scorers, parts.batch(split.judged), split.judged, self.options.seed, self.progress)
        if self._foreign is not None:
            refuse_direction(judged.labels, judged.others[0], str(self.options.features))
        return judged

    def _scores(self, parts: GuardParts, detector: GuardedDetector) -> tuple[list[Any], list[Any]]:
        """Scores and largest values of the maps of part B, by half."""
        found = [detector.score_halves(batch) for batch in torch.split(parts.batch(parts.threshold), _BATCH)]
        scores = list(torch.cat([part[0] for part in found]).numpy().T)
        heights = [torch.cat(columns).numpy() for columns in zip(*(part[1] for part in found), strict=True)]
        if not parts.fit.leaves_one_out:
            return scores, heights
        scores[0], heights[0] = np.array(parts.fit.scores), np.array(parts.fit.heights)
        features = detector.others[FEATURES]
        if self._foreign is None and isinstance(features, FeatureDetector):
            scorer = left_out(features, parts.different)
            with torch.no_grad():
                alone = [
                    float(scorer(parts.batch([row]), torch.tensor([row]))) for row in parts.threshold
                ]  # the score is the largest value of the map, up to interpolation
            scores[1] = heights[1] = np.array(alone)
        return scores, heights

    def _record(
        self,
        parts: GuardParts,
        slots: Sequence[int],
        ceiling: Ceiling,
        compared: Sequence[Ceiling],
        reason: str,
    ) -> TrainingRecord:
        """What is remembered of the fit."""
        plan = self._plan
        values = plan.model_dump(mode="json", exclude={"names", "threshold_names", "data"})
        values |= {"train": {"seed": plan.seed} | ({} if plan.steps is None else {"steps": plan.steps})}
        record = TrainingRecord(
            plan=PlanRecord.model_validate(values),
            seconds=round(time.perf_counter() - self.began, 3),
            images=ImageCounts(train=len(parts.learn), selection=0, calibration=len(parts.threshold)),
            tried=tuple((str(one), one.clean) for one in sorted(compared, key=lambda one: -one.clean)),
            attacked=tuple((str(one), one.certified) for one in sorted(compared, key=lambda one: -one.certified)),
            candidates=len(compared),
            winner=f"slots {':'.join(map(str, slots))}, {ceiling}",
            reason=reason,
            versions=versions(),
            threads=thread_count(),
        )
        return with_images(record, parts.framing, parts.images, self._value_range)


def _why_ceiling(ceiling: Ceiling, judged: Judged) -> str:
    """Why a ceiling was chosen, in words."""
    return (
        f"ceiling {ceiling.value:.3g}: AUROC {ceiling.clean:.3f}, certified {ceiling.certified:.3f} (memory alone"
        f" {judged.certified:.3f}) on synthetic defects"
    )


def _check_network(backbone: str | None) -> None:
    """Refuse a network that cannot be had."""
    try:
        pretrained_network(backbone or "lite2")
    except ConfigError as error:
        option, value = ("features", PATCHCORE) if backbone is None else ("backbone", backbone)
        raise ConfigError(error.message, option=option, value=value) from None
