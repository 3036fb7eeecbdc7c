"""Training of AdvRAD inside anomalib: the same steps, and the same choice of the score, as ``advrad train``.

Lightning provides the optimizers, the device and the images of its datamodule.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advrad.data.loading import ImageStack
from advrad.data.records import Record
from advrad.data.splits import rate_in_reach
from advrad.data.transforms import resize
from advrad.denoisers.factory import DenoiserConfig, build_denoiser
from advrad.detectors.advrad import AdvRAD
from advrad.errors import DataError
from advrad.training.batches import TrainConfig, find_symmetry, whole_images
from advrad.training.calibration_data import CalibrationData, split_stack
from advrad.training.finalize import choose_score, set_thresholds, source_of
from advrad.training.options import RunOptions
from advrad.training.plan import RunPlan
from advrad.training.trainer import Trainer
from advrad.utils.precision import Precision, takes_bfloat16
from advrad.utils.progress import SILENT

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Lightning:
    """The part of accelerate's ``Accelerator`` that the trainer uses, implemented by a Lightning module.

    Attributes:
        module: ``LightningModule`` with manual optimization.
        precision: Precision of the training.
        num_processes: Number of processes.
        process_index: Index of this process.
    """

    module: Any
    precision: Precision
    num_processes: int = 1
    process_index: int = 0

    @property
    def device(self) -> torch.device:
        """Device of the module."""
        device: torch.device = self.module.device
        return device

    def prepare(self, module: nn.Module) -> nn.Module:
        """Return the module unchanged, since there is one process."""
        return module

    def autocast(self) -> AbstractContextManager[object]:
        """Context with the precision of the training."""
        bf16 = takes_bfloat16(self.precision, self.device)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def backward(self, loss: Tensor) -> None:
        """Compute gradients through Lightning, so that its hooks are called."""
        self.module.manual_backward(loss)


class AnomalibTraining:
    """One training, from fresh weights to a detector.

    Args:
        options: Options of the training.
        denoiser: Configuration of the denoiser.
        config: Configuration of the training loop.
        lightning: Adapter to the Lightning module.
    """

    def __init__(
        self, options: RunOptions, denoiser: DenoiserConfig, config: TrainConfig, lightning: Lightning
    ) -> None:
        self.options, self.denoiser_config = options, denoiser
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            fresh = build_denoiser(denoiser)
        self.trainer = Trainer(fresh, config, lightning)
        self._began = time.perf_counter()
        self._split: CalibrationData | None = None

    @property
    def _images(self) -> CalibrationData:
        if self._split is None:
            raise RuntimeError("the training has not begun; call begin first")
        return self._split

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.trainer.step == self.trainer.config.steps

    def begin(self, images: ImageStack, optimisers: list[torch.optim.Optimizer]) -> None:
        """Split the images, and fit the statistics of the denoiser to the training part.

        Args:
            images: Normal images at the working size.
            optimisers: The trainer's optimizers, as Lightning wraps them.

        Raises:
            DataError: There are too few images.
        """
        self._split = split_stack(images, self.options.seed, self.options.false_alarm_rate)
        train = self._split.train
        trainer = self.trainer
        trainer.config = trainer.config.model_copy(update={"symmetry": find_symmetry(train)})
        trainer.denoiser.fit_statistics(whole_images(train, trainer.config))
        trainer.average.load_state_dict(trainer.denoiser.state_dict())
        trainer.optimisers = optimisers

    def advance(self, step: int) -> list[float]:
        """Train up to a step.

        Args:
            step: Number of the step.

        Returns:
            Losses of the steps taken.
        """
        return [self.trainer.advance(self._images.train) for _ in range(self.trainer.step, step)]

    def finish(self, data: str, category: str) -> AdvRAD:
        """Choose the score and set the threshold on the held-out normal images.

        Args:
            data: Name of the data set, for the record.
            category: Product category in it.
        """
        images, trainer = self._images, self.trainer
        rate = usable_rate(self.options.false_alarm_rate, len(images.calibration))
        plan = RunPlan(
            data=data,
            layout="datamodule",
            category=category,
            # Exported graphs compute in float32, so the score is chosen for that precision.
            train=trainer.config.model_copy(update={"precision": "float32"}),
            denoiser=self.denoiser_config,
            false_alarm_rate=rate,
            score=self.options.score,
            names=tuple(record.path.name for record in images.train.records),
        )
        trained_s = time.perf_counter() - self._began
        device = trainer.accelerator.device
        detector = choose_score(plan, trainer.average.eval(), images, device, trained_s, SILENT)
        set_thresholds(detector, images, false_alarm_rate=rate, radius=None, source=source_of(plan))
        return detector.eval()


def usable_rate(asked: float, normals: int) -> float:
    """Give the lowest false-alarm rate, from the requested one on, that a number of normal images allows.

    Args:
        asked: Requested rate; a warning is logged where it is not in reach.
        normals: Number of normal images that set the threshold.
    """
    rate = max(asked, rate_in_reach(normals))
    if rate > asked:
        logger.warning(
            "advrad: %d normal images are too few for a false-alarm rate of %.3g; the threshold has a rate of %.3g",
            normals,
            asked,
            rate,
        )
    return rate


def read_normals(dataset: Any, pre_process: Callable[[Tensor], Tensor] | None, size_px: int) -> ImageStack:
    """Read the normal images of an anomalib dataset.

    Args:
        dataset: Dataset whose items have ``image`` (3, h, w) in [0, 1], ``image_path`` and ``gt_label``.
        pre_process: Function from (1, 3, h, w) to the same form, in [0, 1]; None for none.
        size_px: Side of the square to which they are resized, in pixels.

    Raises:
        DataError: There are no normal images, or values are not in [0, 1].
    """
    values, records = [], []
    for index in range(len(dataset)):
        item = dataset[index]
        if item.gt_label is not None and bool(item.gt_label):
            continue
        image = item.image[None] if pre_process is None else pre_process(item.image[None])
        if float(image.min()) < 0 or float(image.max()) > 1:
            raise DataError(f"{item.image_path}: values are not in [0, 1]; use a pre-processor that keeps that range")
        values.append(np.rint(resize(image, size_px)[0].clamp(0, 1).numpy() * 65535).astype(np.uint16))
        records.append(Record(Path(item.image_path or f"{index:06}"), "train", 0, "good"))
    if not records:
        raise DataError("the datamodule has no normal image to train on")
    return ImageStack(np.stack(values), tuple(records))
