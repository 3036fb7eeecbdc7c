"""What every baseline is given to learn from, and what it becomes: a detector like any other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advrad.data.loading import ImageStack
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.base import DetectorOutput, SurrogateLoss
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.seeding import seed_of


@dataclass(frozen=True, eq=False)
class FitContext:
    """Normal images of one product, and the means to learn from them.

    Attributes:
        good: all good training images, at the size at which the detector will take images.
        seed: of everything that is drawn.
        diffusion: our own detector, trained on the same images; for systems that purify with its denoiser. The first
            call may train for minutes.
        progress: Receives the progress.
    """

    good: ImageStack
    seed: int = 0
    diffusion: Callable[[], AdvRAD] | None = None
    progress: ProgressReporter = SILENT

    @property
    def size_px(self) -> int:
        """Side of the images."""
        return int(self.good.values.shape[-1])

    def generator(self, *purpose: object) -> torch.Generator:
        """A source of randomness that belongs to the seed and the purpose."""
        return torch.Generator().manual_seed(seed_of(self.seed, *purpose))

    def images(self, batch_size: int = 8) -> Iterator[Tensor]:
        """Every normal image once, in order, as (b, 3, h, w) float32 in [0, 1]."""
        for start in range(0, len(self.good), batch_size):
            yield self.good.batch(slice(start, start + batch_size))

    def batches(self, steps: int, batch_size: int, purpose: str = "train") -> Iterator[tuple[Tensor, torch.Generator]]:
        """Random batches for a training loop, and a source of noise for each.

        Args:
            steps: how many.
            batch_size: images in each, drawn with replacement where the normal images are fewer.
            purpose: another purpose draws other batches.

        Yields:
            (b, 3, h, w) float32 in [0, 1], and the step's own generator; both depend on seed, purpose and step alone.
        """
        for step in range(steps):
            generator = self.generator(purpose, step)
            if batch_size <= len(self.good):
                rows = torch.randperm(len(self.good), generator=generator)[:batch_size]
            else:
                rows = torch.randint(len(self.good), (batch_size,), generator=generator)
            yield self.good.batch(rows), generator
            self.progress.update(step + 1, steps)


class BaselineDetector(nn.Module):
    """A fitted baseline: a :class:`advrad.detectors.base.AnomalyDetector` that only has to say how it maps images.

    Subclasses implement :meth:`maps` and, where the score is not the map's maximum, :meth:`scores`. Gradients reach the
    images: nothing between image and score is detached, rounded or clamped to saturation.

    Args:
        size_px: side of the square at which images are given. What the network works at is its own business, inside.
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
        """Where the images are anomalous.

        Args:
            images: (b, 3, h, w) float in [0, 1].
            generator: source of all noise, shared by the rows.

        Returns:
            (b, 1, h, w), larger is more anomalous; row i depends on row i only.
        """
        raise NotImplementedError

    def scores(self, images: Tensor, maps: Tensor) -> Tensor:
        """One number for each image, (b,): by default the largest of its map."""
        return maps.flatten(1).amax(1)

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """See :class:`advrad.detectors.base.AnomalyDetector`."""
        maps = self.maps(images, generator)
        return DetectorOutput(self.scores(images, maps), maps)


def train_network(
    loss: Callable[[Tensor, torch.Generator], Tensor],
    parameters: Iterable[nn.Parameter],
    lesson: FitContext,
    *,
    steps: int,
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
) -> None:
    """The training loop of every baseline that has one loss: Adam, and a rate that falls as a cosine.

    Args:
        loss: of images (b, 3, h, w) in [0, 1] and the step's noise -> a number.
        parameters: to be trained.
        lesson: gives the batches.
        steps: how many.
        batch_size: images in each.
        learning_rate: at the beginning.
        weight_decay: decoupled.
    """
    trained = list(parameters)
    optimiser = torch.optim.AdamW(trained, learning_rate, weight_decay=weight_decay)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps))
    for images, generator in lesson.batches(steps, batch_size):
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss(images, generator))
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        falling.step()
