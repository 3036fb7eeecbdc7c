"""An exported detector: the graph of an export, run by its own runtime.

It takes 8-bit images, as cameras and files give them. Image files and arrays of 8 bits reach the graph unchanged and at
their own size; all others are rounded to 8 bits. No gradient leads back through it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from advrad.data.array_checks import check_images
from advrad.data.framing import Framing
from advrad.data.pixel_arrays import images_in_8_bits
from advrad.data.records import MAX_PIXELS
from advrad.detectors.base import DetectorOutput, SurrogateLoss
from advrad.detectors.config import Calibration
from advrad.detectors.deciding import decide
from advrad.detectors.engines import Engine, EngineOutput, Pixels, open_engine
from advrad.detectors.exported_config import EngineName, ExportedConfig, GuardedRecord
from advrad.detectors.exported_folder import check_files, read_export_config
from advrad.detectors.guarded_output import GuardedOutput
from advrad.detectors.guarded_verdicts import image_verdict
from advrad.detectors.outputs import Prediction
from advrad.detectors.verdicts import ImageVerdict
from advrad.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from advrad.data.arrays import ImageInput


class ExportedDetector:
    """A detector of an export. :func:`advrad.load_detector` makes one of a folder that ``advrad export`` wrote.

    It is an :class:`advrad.detectors.base.AnomalyDetector` that attacks can query, and follow no gradient of.

    Args:
        config: What ``detector.json`` says.
        engine: Compiled graph.
        streams: Number of images that the engine computes side by side, >= 1.

    Example:
        Needs an export.

        >>> detector = advrad.load_detector("bottle-export")  # doctest: +SKIP
        >>> [verdict] = detector.predict("part-0001.png")  # doctest: +SKIP
        >>> verdict.defective  # doctest: +SKIP
        False
    """

    size_px = None
    deterministic = True
    differentiable = False
    takes_pixels = True
    noise_seed = None
    surrogates: Mapping[str, SurrogateLoss] = {}
    device = torch.device("cpu")

    def __init__(self, config: ExportedConfig, engine: Engine, streams: int = 1) -> None:
        self.config, self.engine, self.streams = config, engine, streams

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        engine: EngineName | None = None,
        threads: int | None = None,
        streams: int = 1,
    ) -> ExportedDetector:
        """Load an export, after a check of the hash of every file.

        Args:
            folder: Folder that ``advrad export`` wrote.
            engine: Runtime, ``openvino`` or ``onnxruntime``; None for the one that the export was made for.
            threads: Number of threads that compute, >= 1; None for as many as PyTorch would use.
            streams: Number of images that OpenVINO computes side by side, each with its share of the threads, >= 1.

        Raises:
            CheckpointError: A file is missing, was changed, is damaged, or has a newer format.
            ConfigError: The runtime is not installed or cannot read the files, or the processor lacks the precision.
        """
        place = Path(folder)
        config = read_export_config(place)
        check_files(place, config)
        kind = cls if config.guarded is None else ExportedGuardedDetector
        return kind(config, open_engine(place, config, engine, threads, streams), streams)

    @property
    def image_size_px(self) -> int:
        """Side of the square to which the graph scales images, in pixels. It takes images of any size."""
        return self.config.image_size_px

    @property
    def framing(self) -> Framing:
        """How the graph makes working images of images."""
        return self.config.framing

    @property
    def calibration(self) -> Calibration:
        """The threshold and where it comes from."""
        return self.config.calibration

    @property
    def threshold(self) -> float:
        """Threshold of the score; the verdict is defective where score > threshold."""
        return self.calibration.threshold

    def describe(self) -> list[str]:
        """Describe how images are scored, in plain lines for the screen, the model card and the report."""
        return self.config.describe()

    # --- Scoring ---

    def run(self, images: Sequence[Pixels]) -> list[EngineOutput]:
        """Score images of any sizes, side by side where the engine has several streams.

        Args:
            images: Images, (h, w, 3) uint8 each.

        Raises:
            CheckpointError: The runtime fails, or its verdict contradicts its score.
        """
        if self.streams > 1 and len(images) > 1:
            with ThreadPoolExecutor(self.streams) as pool:
                found = list(pool.map(self.engine.run, images))
        else:
            found = [self.engine.run(image) for image in images]
        for one in found:
            self._check(one)
        return found

    def _check(self, found: EngineOutput) -> None:
        """Refuse a score that is no number, and a verdict that does not follow from it and the stored threshold."""
        if not math.isfinite(found.score):
            raise CheckpointError(f"the graph gives a score of {found.score}; the export is damaged: export again")
        if found.defective != (found.score > self.calibration.threshold):
            raise CheckpointError(
                f"the graph says {'defective' if found.defective else 'good'} at a score of {found.score:.6g}, which"
                f" contradicts the threshold {self.calibration.threshold:.6g} of detector.json; export again"
            )

    def predict_batch(self, images: Tensor | Sequence[Pixels]) -> DetectorOutput:
        """Compute scores and anomaly maps, the same for any batch size.

        Args:
            images: Images, (b, 3, h, w) float in [0, 1], which are rounded to 8 bits; or (h, w, 3) uint8 each.

        Raises:
            DataError: The images have another shape or type, or values that are not finite or outside [0, 1].
            CheckpointError: The runtime fails.
        """
        given = to_pixels(images) if isinstance(images, Tensor) else images
        return self._joined(self.run(given))

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """Compute scores and anomaly maps as :meth:`predict_batch` does; without gradients, and without noise.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1], of any size; rounded to 8 bits.
            generator: Not used.
        """
        return self.predict_batch(images)

    def _joined(self, found: Sequence[EngineOutput]) -> DetectorOutput:
        """The outputs of single images as one. Without images it has no rows."""
        return DetectorOutput(torch.tensor([one.score for one in found]), _stacked(found, self.config))

    # --- Deciding ---

    def predict(
        self,
        inputs: ImageInput,
        batch_size: int = 8,
        max_pixels: int = MAX_PIXELS,
        value_range: float | None = None,
    ) -> Iterator[Prediction]:
        """Score images and decide, see :meth:`advrad.detectors.saved.SavedMixin.predict`.

        Files and arrays of 8 bits reach the graph as they are, others are rounded to 8 bits.

        Args:
            inputs: Images: a path, an image of Pillow, an array or a tensor, or an iterable of these.
            batch_size: Not used: images are scored one at a time.
            max_pixels: Largest number of pixels of an image file that is read.
            value_range: Value of white in files and arrays of whole numbers, > 0; None if they or the training tell it.
        """
        framing, threshold = self.framing.with_white(value_range), self.calibration.threshold
        for image in images_in_8_bits(inputs, framing, max_pixels):
            [found] = decide(self, threshold, [image.pixels.numpy()], [image.name], [image.path])
            yield found if image.sides_px is None else found.without_padding(framing, *image.sides_px)

    def calibrate(
        self, normals: ImageInput, false_alarm_rate: float = 0.05, source: dict[str, Any] | None = None
    ) -> NoReturn:
        """Refuse: the threshold is a part of the graph.

        Args:
            normals: Not used.
            false_alarm_rate: Not used.
            source: Not used.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(KEEPS_THRESHOLD)

    def save_pretrained(self, folder: str | Path, /) -> NoReturn:
        """Refuse: an export is a folder already.

        Args:
            folder: Not used.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{folder}: an export is not saved again; copy its folder")


#: Why an export cannot be calibrated.
KEEPS_THRESHOLD = (
    "the threshold of an export is a part of its graph; calibrate the model folder with 'advrad calibrate', and export"
    " it again"
)


class ExportedGuardedDetector(ExportedDetector):
    """A guarded detector of an export. Its verdicts say which half spoke; they are not proven.

    A proof needs bounds of the memory, which the graph does not compute. So a verdict is ``defective``, ``suspected``
    or ``good``, never ``defective, proven`` or ``good, memory proven``.
    """

    @property
    def halves(self) -> GuardedRecord:
        """The halves and their tests."""
        if self.config.guarded is None:
            raise CheckpointError("detector.json holds no halves of a guarded detector; export again")
        return self.config.guarded

    def _check(self, found: EngineOutput) -> None:
        """Refuse a verdict of the graph that does not follow from the scores of the halves."""
        if found.half_scores is None or len(found.half_scores) != len(self.halves.tests):
            raise CheckpointError("the graph does not give one score for each half of detector.json; export again")
        limits = np.array([test.threshold for test in self.halves.tests])
        failed = ~np.isfinite(found.half_scores)
        if found.defective != bool((failed | (found.half_scores > limits)).any()):
            raise CheckpointError("the graph's verdict contradicts the scores of its halves; export again")

    def _joined(self, found: Sequence[EngineOutput]) -> GuardedOutput:
        """The outputs of single images as one, with what each half says."""
        halves = self.halves
        raw = torch.tensor([list(map(float, one.half_scores)) for one in found if one.half_scores is not None])
        raw = raw.reshape(len(found), len(halves.tests)).double()
        failed = ~raw.isfinite()
        limits = torch.tensor([test.threshold for test in halves.tests], dtype=torch.float64)
        reasons = [
            [f"its score is {score:g}" if bad else None for score, bad in zip(*row, strict=True)]
            for row in zip(raw.T.tolist(), failed.T.tolist(), strict=True)
        ]
        return GuardedOutput(
            scores=torch.tensor([one.score for one in found], dtype=torch.float64),
            anomaly_maps=_stacked(found, self.config),
            defective=torch.tensor([one.defective for one in found]),
            half_scores=torch.where(failed, torch.full_like(raw, torch.nan), raw),
            speaks=(raw > limits) | failed,
            errors=tuple(map(tuple, reasons)),
        )

    def verdicts(self, images: Tensor | Sequence[Pixels]) -> list[ImageVerdict]:
        """Decide about images, in words that say which half spoke; nothing is proven.

        Args:
            images: Images, as for :meth:`predict_batch`.
        """
        given = to_pixels(images) if isinstance(images, Tensor) else images
        output = self._joined(self.run(given))
        return [image_verdict(output, row, self.halves.names, self.halves.tests, None) for row in range(len(given))]


def to_pixels(images: Tensor) -> list[Pixels]:
    """Round images to 8 bits.

    Args:
        images: Images, (b, 3, h, w), float in [0, 1].

    Returns:
        The images, (h, w, 3) uint8 each.

    Raises:
        DataError: The images have another shape or type, or values that are not finite or outside [0, 1].

    Example:
        >>> to_pixels(torch.full((1, 3, 1, 2), 0.5))[0].tolist()
        [[[128, 128, 128], [128, 128, 128]]]
    """
    rounded = (check_images(images).detach().cpu().float() * 255).round().clamp(0, 255).to(torch.uint8)
    return list(rounded.permute(0, 2, 3, 1).contiguous().numpy())


def _stacked(found: Sequence[EngineOutput], config: ExportedConfig) -> Tensor:
    """Anomaly maps, (b, 1, h, w)."""
    if not found:
        return torch.zeros(0, 1, config.framing.height_px, config.framing.width_px)
    return torch.from_numpy(np.stack([one.anomaly_map for one in found]))[:, None]
