"""The halves of a guarded detector: their scores and maps, whatever goes wrong.

A half may be a detector of others. Where it fails on an image, by an exception or by a number that is not finite, the
image gets the reason in place of a score; other images are not affected. Exhausted memory is no failure of the half and
passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advrad.data.array_checks import check_images, check_layout
from advrad.data.framing import Framing
from advrad.detectors.base import AnomalyDetector, DetectorOutput
from advrad.detectors.saved import SupportsPrediction, image_size_of
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.detectors.wrappers import as_detector
from advrad.errors import ConfigError, DetectorError
from advrad.utils.memory import is_out_of_memory
from advrad.utils.seeding import copy_generator


@dataclass(frozen=True, slots=True)
class HalfOutput:
    """What a half gives for b images.

    Attributes:
        scores: Scores, (b,), float64; 0 where it failed.
        maps: Anomaly maps, (b, 1, h, w), 0 where it failed; None for a detector without maps.
        errors: Why it failed, for each image; None where it did not.
    """

    scores: Tensor
    maps: Tensor | None
    errors: tuple[str | None, ...]

    @property
    def failed(self) -> Tensor:
        """Whether it failed, (b,) bool."""
        return torch.tensor([error is not None for error in self.errors], dtype=torch.bool, device=self.scores.device)


class Half:
    """A detector that is part of a guarded one.

    Args:
        name: Name of the half.
        detector: Any detector, or what :func:`advrad.wrap` takes.

    Raises:
        ConfigError: It is neither.

    Example:
        >>> half = Half("mean", lambda images: images.mean((1, 2, 3)).log())
        >>> half.infer(torch.ones(1, 3, 8, 8), torch.Generator()).scores
        tensor([0.], dtype=torch.float64)
        >>> half.infer(torch.zeros(1, 3, 8, 8), torch.Generator()).errors
        ('its score is -inf',)
    """

    def __init__(self, name: str, detector: Any) -> None:
        self.name = name
        self.detector: AnomalyDetector = as_detector(detector)

    @property
    def deployed(self) -> SupportsPrediction | None:
        """The saved detector, which predicts as it does once deployed; None for a detector of others."""
        found = self.detector.detector if isinstance(self.detector, WhiteBoxAdvRAD) else self.detector
        return found if isinstance(found, SupportsPrediction) else None

    @property
    def noise_seed(self) -> int | None:
        """Seed of its noise once deployed: its own, or 0 if it has none; None for a half without noise."""
        return None if self.detector.deterministic else self.detector.noise_seed or 0

    @property
    def module(self) -> nn.Module | None:
        """The detector as a module of PyTorch; None if it is none."""
        found: object = self.deployed
        return found if isinstance(found, nn.Module) else None

    def check_size(self, size_px: int) -> None:
        """Check that the detector takes the images of the memory.

        Args:
            size_px: Side of the memory's images, in pixels.

        Raises:
            ConfigError: It takes images of another size.
        """
        side = image_size_of(self.deployed or self.detector)
        if side is not None and side != size_px:
            raise ConfigError(
                f"{self.name}: takes images of {side} px, and the memory images of {size_px} px; fit both at one size"
            )

    def infer(self, images: Tensor, generator: torch.Generator) -> HalfOutput:
        """Compute scores and maps, differentiable where the detector is; row i depends on row i only.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1].
            generator: Source of its noise; stays as it is.
        """
        return _carefully(lambda some: self.detector.infer(some, copy_generator(generator)), images)

    def predict(self, images: Tensor) -> HalfOutput:
        """Compute scores and maps as the detector does once deployed: without gradients, with its stored noise.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1].
        """
        with torch.no_grad():
            return _joined([_carefully(self._predict_one, image) for image in torch.split(images, 1)])

    def _predict_one(self, image: Tensor) -> DetectorOutput:
        if (deployed := self.deployed) is not None:
            found = deployed.predict_batch(image)
            return DetectorOutput(found.scores, found.anomaly_maps)
        return self.detector.infer(image, torch.Generator().manual_seed(self.noise_seed or 0))


class Halves:
    """All halves of a guarded detector, the memory first.

    Args:
        memory: The memory, which gets images as they are given.
        others: The other halves, which get working images.
        framing: How images become working images.
    """

    def __init__(self, memory: Half, others: Sequence[Half], framing: Framing) -> None:
        self.all = (memory, *others)
        self.others = tuple(others)
        self.framing = framing

    def as_seen_by(self, place: int, images: Tensor) -> Tensor:
        """Images as a half gets them.

        Args:
            place: Number of the half; 0 is the memory.
            images: Images, (b, 3, h, w), float in [0, 1].
        """
        if not place:
            return images
        return self.framing.apply(images.float() if images.element_size() < 4 else images)

    def infer(self, place: int, images: Tensor, generator: torch.Generator) -> HalfOutput:
        """Run one half, see :meth:`Half.infer`.

        Args:
            place: Number of the half; 0 is the memory.
            images: Images, (b, 3, h, w), float in [0, 1], of any size.
            generator: Source of its noise; stays as it is.
        """
        check_layout(images)
        return self.all[place].infer(self.as_seen_by(place, images), generator)

    def predict(self, images: Tensor) -> list[HalfOutput]:
        """Outputs of all halves on the CPU, as they predict; the same for any batch size.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1], of any size.

        Raises:
            DataError: The images have another shape or type, or values that are not finite or outside [0, 1].
        """
        images = check_images(images).detach().cpu().float()
        # Image by image, so that neither the halves nor the framing round differently in a batch.
        working = torch.cat([self.as_seen_by(1, image) for image in torch.split(images, 1)])
        return [half.predict(working if place else images) for place, half in enumerate(self.all)]


def _carefully(call: Callable[[Tensor], DetectorOutput], images: Tensor) -> HalfOutput:
    """Call a detector; after a failure with several images one by one."""
    if not len(images):
        return HalfOutput(images.new_zeros(0, dtype=torch.float64), None, ())
    try:
        return _checked(call(images), images)
    except (Exception, SystemExit) as error:
        if isinstance(error, Exception) and is_out_of_memory(error):
            raise
        if len(images) > 1:
            return _joined([_carefully(call, image) for image in torch.split(images, 1)])
        lines = str(error).strip().splitlines()
        named = isinstance(error, DetectorError)
        words = "" if named else type(error).__name__ + (": " if lines else "")
        return HalfOutput(images.new_zeros(1, dtype=torch.float64), None, (words + (lines[0] if lines else ""),))


def _checked(output: DetectorOutput, images: Tensor) -> HalfOutput:
    """The output with a reason for each image whose score or map is not finite.

    Raises:
        DetectorError: Scores or maps have another shape.
    """
    count = len(images)
    scores = output.scores.to(images.device, torch.float64)
    if scores.shape != (count,):
        raise DetectorError(f"it returned scores of shape {tuple(scores.shape)} for {count} images")
    maps = output.anomaly_maps
    if maps is not None:
        maps = maps.to(images.device)
        if maps.ndim != 4 or maps.shape[:2] != (count, 1):
            raise DetectorError(f"it returned maps of shape {tuple(maps.shape)} for {count} images")
    errors: list[str | None] = [None] * count
    if maps is not None:
        for row in (~torch.isfinite(maps).flatten(1).all(1)).nonzero().flatten().tolist():
            errors[row] = "its anomaly map is not finite"
    for row in (~torch.isfinite(scores)).nonzero().flatten().tolist():
        errors[row] = f"its score is {float(scores[row]):g}"
    if not any(errors):
        return HalfOutput(scores, maps, tuple(errors))
    kept = torch.tensor([error is None for error in errors], device=images.device)
    maps = None if maps is None else torch.where(kept[:, None, None, None], maps, torch.zeros_like(maps))
    return HalfOutput(torch.where(kept, scores, torch.zeros_like(scores)), maps, tuple(errors))


def _joined(parts: list[HalfOutput]) -> HalfOutput:
    """The outputs of single images as one; an image on which the half failed has a map of zeros.

    A map of another size than the first is a failure.
    """
    sample = next((part.maps for part in parts if part.maps is not None), None)
    maps = None
    if sample is not None:
        height, width = sample.shape[2:]
        parts = [_with_map_of(part, height, width) for part in parts]
        blank = torch.zeros_like(sample[:1])
        maps = torch.cat([blank if part.maps is None else part.maps for part in parts])
    errors = tuple(error for part in parts for error in part.errors)
    return HalfOutput(torch.cat([part.scores for part in parts]), maps, errors)


def _with_map_of(part: HalfOutput, height: int, width: int) -> HalfOutput:
    """The output of a single image, failed if its map has another size."""
    if part.maps is None or part.maps.shape[2:] == (height, width):
        return part
    found = f"{part.maps.shape[2]} x {part.maps.shape[3]}"
    error = part.errors[0] or f"its anomaly map has {found} values, that of another image {height} x {width}"
    return HalfOutput(torch.zeros_like(part.scores), None, (error,))
