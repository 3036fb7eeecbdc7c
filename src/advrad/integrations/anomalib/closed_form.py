"""The closed-form detector as a model of anomalib: fitted in its engine within seconds, exported by its exporter."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from anomalib.data import Batch, InferenceBatch
from anomalib.metrics.evaluator import Evaluator
from anomalib.models.components.base import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from torch import Tensor, nn

from advrad.data.records import MAX_PIXELS
from advrad.data.splits import MOST_IMAGES
from advrad.detectors.closed_form import ClosedFormConfig, ClosedFormDetector
from advrad.errors import ConfigError, NotCalibratedError
from advrad.integrations.anomalib.base import DetectorMixin
from advrad.integrations.anomalib.training import read_normals, usable_rate
from advrad.training.closed_form import fit_closed_form
from advrad.training.closed_form_run import SIZE_PX, aspect_of
from advrad.utils.seeding import generator_for


class DeployedClosedForm(nn.Module):
    """The exported part: from images to scores. It has no randomness."""

    def __init__(self) -> None:
        super().__init__()
        self.detector: ClosedFormDetector | None = None

    def install(self, detector: ClosedFormDetector) -> None:
        """Set the detector.

        Args:
            detector: The detector.
        """
        self.detector = detector

    def forward(self, images: Tensor) -> InferenceBatch:
        """Score images.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1].

        Returns:
            ``pred_score`` (b,) and ``anomaly_map`` (b, 1, h, w), neither normalised nor clamped. Differentiable.

        Raises:
            NotCalibratedError: The detector is not fitted yet.
        """
        if self.detector is None:
            raise NotCalibratedError(
                "AdvRadClosedForm has no detector yet; train it, or load a checkpoint or a model folder"
            )
        output = self.detector.infer(images)
        maps = output.anomaly_maps
        if maps is not None and maps.shape[2:] != images.shape[2:]:
            maps = F.interpolate(maps, size=images.shape[2:], mode="bilinear", align_corners=False)
        return InferenceBatch(pred_score=output.scores, anomaly_map=maps)


class AdvRadClosedForm(DetectorMixin[ClosedFormDetector], AnomalibModule):  # type: ignore[misc]
    """The closed-form detector as a model of anomalib. Nothing is trained: its memory is filled when a training begins.

    anomalib uses its own threshold, computed from its validation images. The detector inside has a threshold from
    normal images alone, and bounds of its scores that hold under every attack, for use outside anomalib.

    Args:
        size_px: Side of the square to which images are resized, in pixels.
        seed: Seed of all random draws.
        false_alarm_rate: False-alarm rate of the detector's own threshold. If there are too few normal images for it,
            the lowest rate that they allow is used.
        pre_processor: As in every anomalib model.
        post_processor: As in every anomalib model.
        evaluator: As in every anomalib model.
        visualizer: As in every anomalib model.

    Raises:
        ConfigError: An option is out of range.

    Example:
        >>> from advrad.integrations.anomalib import AdvRadClosedForm  # doctest: +SKIP
        >>> model = AdvRadClosedForm()  # doctest: +SKIP
        >>> Engine().train(model=model, datamodule=MVTecAD(category="bottle"))  # doctest: +SKIP
        >>> model.detector.score_bounds(images, 2 / 255, "linf").lower  # doctest: +SKIP
    """

    detector_class = ClosedFormDetector
    config_class = ClosedFormConfig

    def __init__(
        self,
        size_px: int = SIZE_PX,
        seed: int = 0,
        false_alarm_rate: float = 0.05,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        if size_px < 1:
            raise ConfigError("must be at least 1", option="size_px", value=size_px)
        if not 0 < false_alarm_rate < 1:
            raise ConfigError("must lie between 0 and 1", option="false_alarm_rate", value=false_alarm_rate)
        super().__init__(
            pre_processor=self.configure_pre_processor((size_px, size_px)) if pre_processor is True else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.size_px, self.seed, self.false_alarm_rate = size_px, seed, false_alarm_rate
        self.model = DeployedClosedForm()

    @staticmethod
    def options_of(config: ClosedFormConfig) -> dict[str, Any]:
        """Options of the module that fit a detector; see :meth:`DetectorMixin.options_of`."""
        return {"size_px": config.image_size_px}

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """One batch, whose images are not used: all images are read when the training begins."""
        return super().trainer_arguments | {"limit_train_batches": 1}

    def configure_optimizers(self) -> None:
        """Nothing is optimised."""

    def on_train_start(self) -> None:
        """Read the training images and fit the detector.

        Raises:
            DataError: There are no images, or the pre-processor does not keep them in [0, 1].
        """
        images = read_normals(self.trainer.train_dataloader.dataset, self.pre_processor, self.size_px)
        order = torch.randperm(len(images), generator=generator_for(self.seed, "anomalib"))
        rows = order[:MOST_IMAGES].sort().values.tolist()
        records = [images.records[row] for row in rows]
        files = all(record.path.is_file() for record in records)
        detector = fit_closed_form(
            images.batch(rows),
            false_alarm_rate=usable_rate(self.false_alarm_rate, len(rows)),
            seed=self.seed,
            aspect=aspect_of(records, MAX_PIXELS) if files else 1.0,
        )
        self.model.install(detector.to(self.device).eval())

    def training_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Tensor:
        """Do nothing: the detector was fitted when the training began."""
        return torch.zeros((), device=self.device, requires_grad=True)
