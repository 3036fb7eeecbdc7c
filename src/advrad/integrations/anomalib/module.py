"""AdvRAD as a model of anomalib: trained by its engine, evaluated by its metrics, exported by its exporter.

anomalib reads the images, runs the loop and evaluates. What is learned is the same as with ``advrad train``: the same
batches, optimizers and moving average, and the same choice of the score on held-out normal training images. Validation
and test images are used only for anomalib's own threshold and metrics.
"""

from __future__ import annotations

from typing import Any

import torch
from anomalib.data import Batch
from anomalib.metrics.evaluator import Evaluator
from anomalib.models.components.base import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from torch import Tensor

from advrad.detectors.advrad import AdvRAD
from advrad.detectors.config import DetectorConfig
from advrad.errors import ConfigError
from advrad.integrations.anomalib.base import DetectorMixin
from advrad.integrations.anomalib.deployed import DeployedDetector
from advrad.integrations.anomalib.training import AnomalibTraining, Lightning, read_normals
from advrad.training.options import RunOptions
from advrad.training.plan import fresh_config, train_config


class AdvRad(DetectorMixin[AdvRAD], AnomalibModule):  # type: ignore[misc]
    """AdvRAD as a model of anomalib.

    One epoch of anomalib is the whole training: the optimizer steps are spread evenly over the epoch's batches, and
    their images are read when the training begins. anomalib uses its own threshold, computed from its validation
    images. The detector inside has a threshold from normal images alone, for use outside anomalib.

    Args:
        steps: Number of optimizer steps.
        size_px: Side of the square to which images are resized, in pixels; None for that of the preset.
        preset: ``lean``, or one of the diffusers U-Nets of ``advrad train``.
        score: How the score is chosen: ``auto`` for clean accuracy, ``robust`` for accuracy under attack, ``paper`` for
            the score of the paper.
        seed: Seed for all random draws.
        batch_size: Number of images per optimizer step; the batch size of anomalib's loader does not matter.
        false_alarm_rate: False-alarm rate of the detector's own threshold. If there are too few normal images for it,
            the lowest rate that they allow is used.
        precision: Precision of the training. The score is chosen, computed and exported in float32.
        pre_processor: As in every anomalib model.
        post_processor: As in every anomalib model.
        evaluator: As in every anomalib model.
        visualizer: As in every anomalib model.

    Raises:
        ConfigError: An option is out of range.

    Source: Cao, Lin, Chen, "Adversarially Robust Industrial Anomaly Detection Through Diffusion Model".

    Example:
        >>> from advrad.integrations.anomalib import AdvRad  # doctest: +SKIP
        >>> model = AdvRad(steps=2000)  # doctest: +SKIP
        >>> Engine().train(model=model, datamodule=MVTecAD(category="bottle"))  # doctest: +SKIP
    """

    detector_class = AdvRAD
    config_class = DetectorConfig

    def __init__(
        self,
        steps: int = 2000,
        size_px: int | None = None,
        preset: str = "lean",
        score: str = "auto",
        seed: int = 0,
        batch_size: int = 8,
        false_alarm_rate: float = 0.05,
        precision: str = "auto",
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        if steps < 1:
            raise ConfigError("must be at least 1", option="steps", value=steps)
        if not 0 < false_alarm_rate < 1:
            raise ConfigError("must lie between 0 and 1", option="false_alarm_rate", value=false_alarm_rate)
        values: dict[str, Any] = {"steps": steps, "size_px": size_px, "preset": preset, "score": score, "seed": seed}
        values |= {"batch_size": batch_size, "false_alarm_rate": false_alarm_rate, "precision": precision}
        self.options = RunOptions.parse(values, "AdvRad")
        self.denoiser_config = fresh_config(self.options)
        self.train_config = train_config(self.options, self.denoiser_config)
        side = self.train_config.size_px
        super().__init__(
            pre_processor=self.configure_pre_processor((side, side)) if pre_processor is True else pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.model = DeployedDetector()
        self.automatic_optimization = False
        self._training: AnomalibTraining | None = None

    @staticmethod
    def options_of(config: DetectorConfig) -> dict[str, Any]:
        """Options of the module that fit a detector; see :meth:`DetectorMixin.options_of`."""
        preset = "lean" if config.denoiser.kind == "lean" else "paper"
        return {"size_px": config.size_px, "preset": preset, "seed": config.noise_seed}

    # --- training ---

    @property
    def _running(self) -> AnomalibTraining:
        if self._training is None:
            raise RuntimeError("no training is running; Engine.fit begins one")
        return self._training

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Make a fresh denoiser and its optimizers, as ``advrad train`` does."""
        lightning = Lightning(self, self.options.precision)
        self._training = AnomalibTraining(self.options, self.denoiser_config, self.train_config, lightning)
        return self._training.trainer.optimisers

    def on_train_start(self) -> None:
        """Read the training images.

        Raises:
            DataError: There are too few, or the pre-processor does not keep them in [0, 1].
        """
        images = read_normals(self.trainer.train_dataloader.dataset, self.pre_processor, self.train_config.size_px)
        optimisers = self.optimizers()  # as Lightning wraps them, since it counts their steps
        self._running.begin(images, optimisers if isinstance(optimisers, list) else [optimisers])

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Take this batch's share of the optimizer steps. Its images were read when the training began."""
        losses = self._running.advance(self.train_config.steps * (batch_idx + 1) // self.trainer.num_training_batches)
        loss = torch.tensor(losses).mean()
        if losses:
            self.log("train_loss", loss, prog_bar=True, batch_size=len(losses))
        return {"loss": loss}

    def on_train_batch_end(self, *args: Any) -> None:
        """After the last step, choose the score, before anomalib validates and saves."""
        training = self._training
        if training is None or not (training.finished or self.trainer.should_stop):
            return
        datamodule = getattr(self.trainer, "datamodule", None)
        data, category = (str(getattr(datamodule, key, None) or "") for key in ("name", "category"))
        self.model.install(training.finish(data, category or data))
        self._training = None
