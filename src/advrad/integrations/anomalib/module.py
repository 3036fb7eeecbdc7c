"""Our detector as a model of anomalib: trained by its engine, judged by its metrics, exported by its exporter.

Anomalib reads the images, keeps time and judges. What is learnt, and how, is that of ``advrad train``: the same
batches, optimisers and moving average; and at the end the same choice of the score on normal images held out of the
training set. Validation and test images are for anomalib's own threshold and metrics alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from anomalib import LearningType
from anomalib.data import Batch
from anomalib.metrics.evaluator import Evaluator
from anomalib.models.components.base import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from torch import Tensor
from torchvision.transforms.v2 import Resize

from advrad.detectors.advrad import AdvRAD
from advrad.detectors.config import DetectorConfig
from advrad.errors import ConfigError, NotCalibratedError
from advrad.integrations.anomalib.deployed import DeployedDetector, SquarePreProcessor
from advrad.integrations.anomalib.training import AnomalibTraining, Lightning, read_normals
from advrad.training.options import RunOptions
from advrad.training.plan import fresh_config, train_config

#: Where the detector's configuration lies in a checkpoint, and its tensors among those of the module.
_CONFIG, _TENSORS = "advrad_detector", "model.detector."


class AdvRad(AnomalibModule):  # type: ignore[misc]
    """AdvRAD as a model of anomalib.

    One epoch of anomalib is the whole training: its optimiser steps are spread evenly over the epoch's batches, whose
    images were all read when the training began. Anomalib's threshold, from its validation images, decides in
    anomalib; the detector inside has its own, from normal images alone, for use outside.

    Args:
        steps: optimiser steps.
        size_px: side of the square at which images enter; None for the preset's.
        preset: ``lean``, or one of the diffusers U-Nets of ``advrad train``.
        score: ``auto`` chooses it for peace, ``robust`` for attacks, ``paper`` takes the paper's.
        seed: of everything.
        batch_size: images in a step; those of anomalib's batches do not matter.
        false_alarm_rate: of the detector's own threshold; where the normal images are too few for it, the least
            that they can promise.
        precision: arithmetic of the training. The score is chosen, computed and exported in float32.
        pre_processor: as in every model of anomalib.
        post_processor: as in every model of anomalib.
        evaluator: as in every model of anomalib.
        visualizer: as in every model of anomalib.

    Raises:
        ConfigError: an option is out of range.

    Source: Cao, Lin, Chen, "Adversarially Robust Industrial Anomaly Detection Through Diffusion Model".
    """

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
            raise ConfigError(f"steps {steps}: must be at least 1")
        if not 0 < false_alarm_rate < 1:
            raise ConfigError(f"false_alarm_rate {false_alarm_rate:g}: must lie between 0 and 1")
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
        self._course: AnomalibTraining | None = None

    @classmethod
    def from_folder(cls, folder: str | Path, **components: Any) -> AdvRad:
        """A model folder of ``advrad train``, ready for anomalib's metrics, exporter and inferencers.

        Anomalib's own threshold is not in it: ``Engine.validate`` sets that.

        Args:
            folder: model folder, or hub id.
            components: ``pre_processor``, ``post_processor``, ``evaluator``, ``visualizer``.

        Raises:
            CheckpointError: the folder is no model.
        """
        detector = AdvRAD.from_pretrained(folder)
        config = detector.detector_config
        preset = "lean" if config.denoiser.kind == "lean" else "paper"
        module = cls(size_px=config.size_px, preset=preset, seed=config.noise_seed, **components)
        module.model.install(detector)
        module.eval()
        return module

    @property
    def detector(self) -> AdvRAD:
        """The detector inside, to be saved as a model folder with its ``save_pretrained``.

        Raises:
            NotCalibratedError: it was not trained yet.
        """
        detector: AdvRAD | None = self.model.detector
        if detector is None:
            raise NotCalibratedError("AdvRad: has no detector yet; train it first")
        return detector

    # --- anomalib's questions ---

    @property
    def learning_type(self) -> LearningType:
        """It learns from normal images."""
        return LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """One epoch, one device, and validation once, after the score was chosen."""
        return {
            "devices": 1,
            "max_epochs": 1,
            "max_steps": -1,
            "limit_train_batches": 1.0,
            "num_sanity_val_steps": 0,
            "val_check_interval": 1.0,
            "check_val_every_n_epoch": 1,
            "gradient_clip_val": 0,  # our trainer clips
        }

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> SquarePreProcessor:
        """Resizing only: images stay in [0, 1]."""
        return SquarePreProcessor(Resize(image_size or (256, 256), antialias=True))

    def to_onnx(self, *args: Any, **options: Any) -> Path:
        """As in every model of anomalib, in a version of ONNX that knows all that the graph needs."""
        path: Path = super().to_onnx(*args, **{"opset_version": 18} | options)
        return path

    # --- training ---

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """A fresh denoiser, and the optimisers of ``advrad train`` for it."""
        lightning = Lightning(self, self.options.precision)
        self._course = AnomalibTraining(self.options, self.denoiser_config, self.train_config, lightning)
        return self._course.trainer.optimisers

    def on_train_start(self) -> None:
        """Read the training images.

        Raises:
            DataError: there are too few, or a pre-processor leads out of [0, 1].
        """
        assert self._course is not None
        images = read_normals(self.trainer.train_dataloader.dataset, self.pre_processor, self.train_config.size_px)
        optimisers = self.optimizers()  # through Lightning, which counts their steps
        self._course.begin(images, optimisers if isinstance(optimisers, list) else [optimisers])

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """This batch's share of the steps."""
        del batch  # its images were read when the training began
        assert self._course is not None
        losses = self._course.advance(self.train_config.steps * (batch_idx + 1) // self.trainer.num_training_batches)
        loss = torch.tensor(losses).mean()
        if losses:
            self.log("train_loss", loss, prog_bar=True, batch_size=len(losses))
        return {"loss": loss}

    def on_train_batch_end(self, *args: Any) -> None:
        """After the last step, choose the score: before anomalib validates, and before it saves."""
        del args
        course = self._course
        if course is None or not (course.finished or self.trainer.should_stop):
            return
        datamodule = getattr(self.trainer, "datamodule", None)
        data, category = (str(getattr(datamodule, key, None) or "") for key in ("name", "category"))
        self.model.install(course.settle(data, category or data))
        self._course = None

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Batch:
        """Scores for anomalib's own threshold."""
        del args, kwargs
        return batch.update(**self.model(batch.image)._asdict())

    # --- checkpoints ---

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what the detector is, as plain values, beside its tensors."""
        super().on_save_checkpoint(checkpoint)
        if self.model.detector is not None:
            checkpoint[_CONFIG] = self.model.detector.detector_config.model_dump(mode="json")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the detector that the checkpoint's tensors belong to.

        Raises:
            CheckpointError: they do not belong together.
        """
        super().on_load_checkpoint(checkpoint)
        if _CONFIG not in checkpoint:
            return
        state = checkpoint["state_dict"]
        tensors = {name.removeprefix(_TENSORS): value for name, value in state.items() if name.startswith(_TENSORS)}
        config = DetectorConfig.parse(checkpoint[_CONFIG], "checkpoint")
        self.model.install(AdvRAD.assemble(config, tensors, "checkpoint").to(self.device).eval())
