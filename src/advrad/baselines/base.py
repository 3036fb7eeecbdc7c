"""What every baseline is fitted on, and the detector that it becomes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from advrad.data.loading import ImageStack
from advrad.data.transforms import resize
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.base import DetectorOutput, SurrogateLoss
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.seeding import generator_for

_Network = TypeVar("_Network", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class FitContext:
    """Training images of one product, and everything else that a detector is fitted with.

    Attributes:
        normal_images: All normal training images, at the size at which the detector will take images.
        seed: Seed for all random draws.
        diffusion: Returns the AdvRAD trained on the same images, for systems that use its denoiser. The first call may
            train for minutes. None where there is no such detector.
        progress: Receives the progress.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from advrad.baselines import FitContext
        >>> from advrad.data.loading import ImageStack
        >>> from advrad.data.records import Record
        >>> records = tuple(Record(Path(f"{i}.png"), "train", 0, "good") for i in range(4))
        >>> context = FitContext(ImageStack(np.zeros((4, 3, 32, 32), np.uint16), records), seed=1)
        >>> context.size_px, [tuple(batch.shape) for batch in context.images(batch_size=3)]
        (32, [(3, 3, 32, 32), (1, 3, 32, 32)])
    """

    normal_images: ImageStack
    seed: int = 0
    diffusion: Callable[[], AdvRAD] | None = None
    progress: ProgressReporter = SILENT

    @property
    def good(self) -> ImageStack:
        """The old name of ``normal_images``, so that detectors written for earlier releases keep working."""
        warnings.warn("FitContext.good is now FitContext.normal_images", DeprecationWarning, stacklevel=2)
        return self.normal_images

    @property
    def size_px(self) -> int:
        """Side of the images in pixels."""
        return int(self.normal_images.values.shape[-1])

    def generator(self, *purpose: object) -> torch.Generator:
        """Make a random generator for one purpose.

        Args:
            purpose: Values that name the purpose; other values give another sequence of numbers.
        """
        return generator_for(self.seed, *purpose)

    def images(self, batch_size: int = 8) -> Iterator[Tensor]:
        """Iterate once over all normal images, in order.

        Args:
            batch_size: Number of images per batch.

        Yields:
            Images, (b, 3, h, w), float32 in [0, 1].
        """
        for start in range(0, len(self.normal_images), batch_size):
            yield self.normal_images.batch(slice(start, start + batch_size))

    def batches(self, steps: int, batch_size: int, purpose: str = "train") -> Iterator[tuple[Tensor, torch.Generator]]:
        """Draw random batches for a training loop.

        Args:
            steps: Number of batches.
            batch_size: Number of images per batch, drawn with replacement if there are fewer normal images.
            purpose: Name of the loop; another name draws other batches.

        Yields:
            Images, (b, 3, h, w), float32 in [0, 1], and a random generator for the step. Both depend only on the seed,
            the purpose and the step.
        """
        for step in range(steps):
            generator = self.generator(purpose, step)
            if batch_size <= len(self.normal_images):
                rows = torch.randperm(len(self.normal_images), generator=generator)[:batch_size]
            else:
                rows = torch.randint(len(self.normal_images), (batch_size,), generator=generator)
            yield self.normal_images.batch(rows), generator
            self.progress.update(step + 1, steps)


class BaselineDetector(nn.Module):
    """A fitted baseline, which satisfies :class:`advrad.detectors.base.AnomalyDetector`.

    Subclasses implement :meth:`maps` and, where the score is not the maximum of the map, :meth:`scores`. Gradients must
    reach the images: between image and score nothing may be detached, rounded or clamped.

    Args:
        size_px: Side of the square input images in pixels. Networks that work at another size resize inside.
    """

    deterministic = True
    differentiable = True
    threshold: float | None = None
    noise_seed: int | None = None

    def __init__(self, size_px: int) -> None:
        super().__init__()
        self.size_px: int | None = size_px

    @property
    def surrogates(self) -> Mapping[str, SurrogateLoss]:
        """See :class:`advrad.detectors.base.AnomalyDetector`."""
        return {}

    def maps(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Compute anomaly maps.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1].
            generator: Source of all noise, which the images of the batch share.

        Returns:
            Anomaly maps, (b, 1, h, w); larger is more anomalous. The map of an image depends on that image only.
        """
        raise NotImplementedError

    def scores(self, images: Tensor, maps: Tensor) -> Tensor:
        """Compute image scores from anomaly maps; by default the maximum of each map.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1].
            maps: Anomaly maps of the images, (b, 1, h, w).

        Returns:
            Scores, (b,); larger is more anomalous.
        """
        return maps.flatten(1).amax(1)

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """See :class:`advrad.detectors.base.AnomalyDetector`."""
        maps = self.maps(images, generator)
        return DetectorOutput(self.scores(images, maps), maps)


def train_network(
    loss: Callable[[Tensor, torch.Generator], Tensor],
    parameters: Iterable[nn.Parameter],
    context: FitContext,
    *,
    steps: int,
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
) -> None:
    """Minimise a loss with AdamW, a cosine learning-rate schedule and gradients clipped to norm 1.

    Args:
        loss: Loss of a batch: images (b, 3, h, w) in [0, 1] and the random generator of the step -> a scalar.
        parameters: Parameters to train.
        context: Gives the batches.
        steps: Number of optimiser steps.
        batch_size: Number of images per step.
        learning_rate: Initial learning rate; it falls to 0.
        weight_decay: Decoupled weight decay.
    """
    trained = list(parameters)
    optimizer = torch.optim.AdamW(trained, learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for images, generator in context.batches(steps, batch_size):
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss(images, generator))
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()


def build_seeded(context: FitContext, name: str, build: Callable[[], _Network]) -> _Network:
    """Build a network with seeded initial weights; PyTorch's global generator keeps its state.

    Args:
        context: Gives the seed.
        name: Name of the system; another name gives other weights.
        build: Builds the network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.generator(f"{name} weights").initial_seed())
        return build()


def freeze(network: _Network) -> _Network:
    """Put a network into evaluation mode and stop the gradients of its parameters; returns the same network."""
    return network.eval().requires_grad_(False)


def resize_clamped(images: Tensor, size_px: int) -> Tensor:
    """Resize training images and clamp them to [0, 1], since antialiasing can leave that range; no gradient passes."""
    return resize(images, size_px).clamp(0, 1).detach()
