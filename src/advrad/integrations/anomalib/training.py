"""A training of our detector inside anomalib's: the same steps, and the same choice at the end, as ``advrad train``.

Lightning lends its optimisers, its device and the images of its datamodule; all else is ours.
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
from advrad.data.splits import rate_in_reach, split_normals
from advrad.data.transforms import resize
from advrad.denoisers.factory import DenoiserConfig, build_denoiser
from advrad.detectors.advrad import AdvRAD
from advrad.errors import DataError
from advrad.training.batches import TrainConfig, find_symmetry, whole_images
from advrad.training.calibration_data import CalibrationData
from advrad.training.finalize import choose_score, set_thresholds, source_of
from advrad.training.options import RunOptions
from advrad.training.plan import RunPlan
from advrad.training.trainer import Trainer
from advrad.utils.precision import Precision, takes_bfloat16
from advrad.utils.progress import SILENT

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Lightning:
    """What our trainer needs of accelerate's ``Accelerator``, as a Lightning module offers it.

    Attributes:
        module: a ``LightningModule`` with manual optimisation.
        precision: arithmetic of the training.
    """

    module: Any
    precision: Precision
    num_processes: int = 1
    process_index: int = 0

    @property
    def device(self) -> torch.device:
        """Where Lightning put the module."""
        device: torch.device = self.module.device
        return device

    def prepare(self, module: nn.Module) -> nn.Module:
        """Leave a module as it is: there is one process."""
        return module

    def autocast(self) -> AbstractContextManager[object]:
        """The arithmetic of a step."""
        bf16 = takes_bfloat16(self.precision, self.device)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def backward(self, loss: Tensor) -> None:
        """Have Lightning compute gradients, so that its hooks are called."""
        self.module.manual_backward(loss)


class AnomalibTraining:
    """One training, from fresh weights to a detector.

    Args:
        options: of the run.
        denoiser: kind and shape.
        config: of the loop.
        lightning: lent by anomalib.
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
        self._stacks: CalibrationData | None = None

    @property
    def finished(self) -> bool:
        """All steps were taken."""
        return self.trainer.step == self.trainer.config.steps

    def begin(self, images: ImageStack, optimisers: list[torch.optim.Optimizer]) -> None:
        """Hold some images out to choose the score and the threshold by, and look at the others once.

        Args:
            images: normal ones, at the working size.
            optimisers: those of the trainer, as Lightning wants them to be called.

        Raises:
            DataError: too few images.
        """
        split = split_normals(images.records, self.options.seed, false_alarm_rate=self.options.false_alarm_rate)
        row = {record: index for index, record in enumerate(images.records)}
        train, selection, calibration = (
            ImageStack(images.values[[row[record] for record in part]], part)
            for part in (split.train, split.selection, split.calibration)
        )
        self._stacks = CalibrationData(train, selection, calibration)
        trainer = self.trainer
        trainer.config = trainer.config.model_copy(update={"symmetry": find_symmetry(train)})
        trainer.denoiser.fit_statistics(whole_images(train, trainer.config))
        trainer.average.load_state_dict(trainer.denoiser.state_dict())
        trainer.optimisers = optimisers

    def advance(self, step: int) -> list[float]:
        """Go on to a step; the losses on the way."""
        assert self._stacks is not None
        return [self.trainer.advance(self._stacks.train) for _ in range(self.trainer.step, step)]

    def settle(self, data: str, category: str) -> AdvRAD:
        """Choose the score and set the threshold, on the normal images that were held out.

        Args:
            data: name of the data set, for the record.
            category: product in it.
        """
        assert self._stacks is not None
        stacks, trainer, asked = self._stacks, self.trainer, self.options.false_alarm_rate
        rate = max(asked, rate_in_reach(len(stacks.calibration)))
        if rate > asked:
            logger.warning(
                "advrad: %d images for its own threshold promise a false-alarm rate of %.3g, not %.3g",
                len(stacks.calibration),
                rate,
                asked,
            )
        plan = RunPlan(
            data=data,
            layout="datamodule",
            category=category,
            # Exported graphs compute in float32, so that is the arithmetic for which the score is chosen.
            train=trainer.config.model_copy(update={"precision": "float32"}),
            denoiser=self.denoiser_config,
            false_alarm_rate=rate,
            score=self.options.score,
            names=tuple(record.path.name for record in stacks.train.records),
        )
        trained_s = time.perf_counter() - self._began
        device = trainer.accelerator.device
        detector = choose_score(plan, trainer.average.eval(), stacks, device, trained_s, SILENT)
        set_thresholds(detector, stacks, false_alarm_rate=rate, radius=None, source=source_of(plan))
        return detector.eval()


def read_normals(dataset: Any, pre_process: Callable[[Tensor], Tensor] | None, size_px: int) -> ImageStack:
    """Take the normal images out of a data set of anomalib, as anomalib reads them.

    Args:
        dataset: whose items have ``image`` (3, h, w) in [0, 1], ``image_path`` and ``gt_label``.
        pre_process: from (1, 3, h, w) to that, in [0, 1].
        size_px: side of the square.

    Raises:
        DataError: there is none, or the values are not in [0, 1].
    """
    values, records = [], []
    for index in range(len(dataset)):
        item = dataset[index]
        if item.gt_label is not None and bool(item.gt_label):
            continue
        image = item.image[None] if pre_process is None else pre_process(item.image[None])
        if float(image.min()) < 0 or float(image.max()) > 1:
            raise DataError(f"{item.image_path}: its values are not in [0, 1]; use a pre-processor that leaves them so")
        values.append(np.rint(resize(image, size_px)[0].clamp(0, 1).numpy() * 65535).astype(np.uint16))
        records.append(Record(Path(item.image_path or f"{index:06}"), "train", 0, "good"))
    if not records:
        raise DataError("the datamodule has no normal image to train on")
    return ImageStack(np.stack(values), tuple(records))
