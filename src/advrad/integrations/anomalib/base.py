"""What the models of anomalib in this package share: one epoch, checkpoints of plain values, and exports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomalib import LearningType
from anomalib.data import Batch
from torch import Tensor
from torchvision.transforms.v2 import Resize

from advrad.errors import NotCalibratedError
from advrad.integrations.anomalib.deployed import SquarePreProcessor

#: Key of the detector's configuration in a checkpoint, and prefix of its tensors among those of the module.
_CONFIG, _TENSORS = "advrad_detector", "model.detector."


class DetectorMixin:
    """A model of anomalib around a detector, which ``self.model.detector`` holds once it is trained.

    It stands before ``AnomalibModule`` among the bases of a class: anomalib finds models by name only among the direct
    subclasses of that class.
    """

    model: Any
    device: Any

    def install(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Make the detector from what a checkpoint holds.

        Args:
            config: Configuration as JSON values.
            tensors: Tensors of the detector by name.

        Raises:
            CheckpointError: They do not belong together.
        """
        raise NotImplementedError

    @property
    def trained_detector(self) -> Any:
        """The detector.

        Raises:
            NotCalibratedError: It is not trained yet.
        """
        if self.model.detector is None:
            raise NotCalibratedError(f"{type(self).__name__} has no detector yet; train it first")
        return self.model.detector

    @property
    def learning_type(self) -> LearningType:
        """It learns from normal images."""
        return LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """One epoch, one device, and one validation, after the training."""
        return {
            "devices": 1,
            "max_epochs": 1,
            "max_steps": -1,
            "limit_train_batches": 1.0,
            "num_sanity_val_steps": 0,
            "val_check_interval": 1.0,
            "check_val_every_n_epoch": 1,
            "gradient_clip_val": 0,  # the AdvRAD trainer clips gradients
        }

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> SquarePreProcessor:
        """Resize images only; they stay in [0, 1]."""
        return SquarePreProcessor(Resize(image_size or (256, 256), antialias=True))

    def to_onnx(self, *args: Any, **options: Any) -> Path:
        """Export as every anomalib model, with an ONNX opset that has all operations of the graph."""
        path: Path = super().to_onnx(*args, **{"opset_version": 18} | options)  # type: ignore[misc]
        return path

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> Batch:
        """Scores for anomalib's threshold."""
        return batch.update(**self.model(batch.image)._asdict())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the detector's configuration, as plain values, beside its tensors."""
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        if self.model.detector is not None:
            checkpoint[_CONFIG] = self.model.detector.config.model_dump(mode="json")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the detector that the checkpoint's tensors belong to.

        Raises:
            CheckpointError: The configuration and the tensors do not belong together.
        """
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]
        if _CONFIG not in checkpoint:
            return
        state = checkpoint["state_dict"]
        tensors = {name.removeprefix(_TENSORS): value for name, value in state.items() if name.startswith(_TENSORS)}
        self.install(checkpoint[_CONFIG], tensors)
