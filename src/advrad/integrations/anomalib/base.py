"""What the models of anomalib in this package share: one epoch, checkpoints of plain values, and exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from anomalib import LearningType
from anomalib.data import Batch
from torchvision.transforms.v2 import Resize

from advrad.detectors.advrad import AdvRAD
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.errors import NotCalibratedError
from advrad.integrations.anomalib.deployed import SquarePreProcessor
from advrad.utils.config import Config

#: Key of the detector's configuration in a checkpoint, and prefix of its tensors among those of the module.
_CONFIG, _TENSORS = "advrad_detector", "model.detector."

#: Class of the detector inside.
DetectorT = TypeVar("DetectorT", AdvRAD, ClosedFormDetector)


class DetectorMixin(Generic[DetectorT]):
    """A model of anomalib around a detector, which ``self.model.detector`` holds once it is trained.

    It stands before ``AnomalibModule`` among the bases of a class: anomalib finds models by name only among the direct
    subclasses of that class.

    Attributes:
        detector_class: Class of the detector.
        config_class: Class of its configuration.
        model: Network with a method ``install``, which takes the detector.
        device: Device of the module.
    """

    detector_class: ClassVar[type[Any]]
    config_class: ClassVar[type[Config]]
    model: Any
    device: Any

    @staticmethod
    def options_of(config: Any) -> dict[str, Any]:
        """Options of the module that fit a detector.

        Args:
            config: Configuration of the detector.
        """
        raise NotImplementedError

    @classmethod
    def from_folder(cls, folder: str | Path, **components: Any) -> Self:
        """Load a model folder of ``advrad train`` for anomalib's metrics, exporter and inferencers.

        anomalib's own threshold is not in the folder; ``Engine.validate`` computes it.

        Args:
            folder: Model folder of a detector of this kind.
            components: ``pre_processor``, ``post_processor``, ``evaluator`` and ``visualizer``.

        Raises:
            CheckpointError: The folder holds no detector of this kind.
        """
        detector = cls.detector_class.from_pretrained(folder)
        module = cls(**cls.options_of(detector.config), **components)
        module.model.install(detector)
        module.eval()  # type: ignore[attr-defined]
        return module

    @property
    def detector(self) -> DetectorT:
        """The detector, which ``save_pretrained`` writes as a model folder.

        Raises:
            NotCalibratedError: It is not trained yet.
        """
        if self.model.detector is None:
            raise NotCalibratedError(f"{type(self).__name__} has no detector yet; train it first")
        detector: DetectorT = self.model.detector
        return detector

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
        config = self.config_class.parse(dict(checkpoint[_CONFIG]), "checkpoint")
        self.model.install(self.detector_class.assemble(config, tensors, "checkpoint").to(self.device).eval())
