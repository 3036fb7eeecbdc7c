"""A learned detector as a graph: its noise is stored, and views of one size go through the denoiser together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advrad.data.transforms import resize
from advrad.denoisers.memory import MemoryDenoiser
from advrad.denoisers.sampling import noise_levels, renewal
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.score_config import NoiseView
from advrad.detectors.scoring import combine_scales, mean_filter, scale_errors, smooth, standardise
from advrad.errors import ConfigError
from advrad.exporting.score_graph import Scored, ScoreGraph


@dataclass(frozen=True, slots=True)
class _Views:
    """Views of one size.

    Attributes:
        side_px: The size.
        views: The views, each with its place among all views of the score.
    """

    side_px: int
    views: tuple[tuple[int, NoiseView], ...]


class LearnedGraph(ScoreGraph):
    """The score of an AdvRAD as ``predict_batch`` computes it, in float32.

    Args:
        detector: Detector.

    Raises:
        ConfigError: Its denoiser cannot be exported.
    """

    def __init__(self, detector: AdvRAD) -> None:
        super().__init__()
        if isinstance(detector.denoiser, MemoryDenoiser):
            raise ConfigError("a denoiser that is a memory cannot be exported; train one of kind lean or ddpm")
        self.detector = detector
        config = detector.detector_config.score
        sizes = sorted({view.view_px for view in config.views}, reverse=True)
        numbered = list(enumerate(config.views))
        self._groups = tuple(
            _Views(side, tuple(part for part in numbered if part[1].view_px == side)) for side in sizes
        )
        for group, noise in zip(self._groups, self._drawn(), strict=True):
            self.register_buffer(f"noise_{group.side_px}", noise)

    def _drawn(self) -> list[Tensor]:
        """The noise of each group, (steps, views * draws, 3, side, side), in the order in which the score draws it."""
        config = self.detector.detector_config
        score, draws = config.score, torch.Generator().manual_seed(config.noise_seed)
        drawn = []
        for view in score.views:
            shape = (score.draws, score.steps, 3, view.view_px, view.view_px)
            drawn.append(torch.stack([torch.randn(1, *shape[2:], generator=draws) for _ in range(shape[0] * shape[1])]))
            drawn[-1] = drawn[-1].view(shape).transpose(0, 1)
        return [torch.cat([drawn[place] for place, _ in group.views], 1).contiguous() for group in self._groups]

    def forward(self, working: Tensor) -> Scored:
        """Score a working image; see :class:`ScoreGraph`."""
        detector = self.detector
        config, size_px = detector.detector_config.score, detector.size_px
        count = len(config.map_sizes)
        parts: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for group in self._groups:
            errors = self._errors(group, resize(working, group.side_px))
            for row, (place, view) in enumerate(group.views):
                # As in advrad.detectors.scoring.view_error_maps, for one view of several.
                combined = combine_scales([part[row : row + 1] for part in errors], config.scales)
                filtered = [mean_filter(part, config.filter_px) for part in combined]
                parts[place] = [
                    standardise(part, detector.statistics(view, index), config) for index, part in enumerate(filtered)
                ]
        found = [part for place in sorted(parts) for part in parts[place]]
        scores, maps = zip(*found, strict=True)
        score = torch.stack(scores).sum(0) / count
        whole = torch.cat([resize(part, size_px) for part in maps]).sum(0, keepdim=True) / count
        return Scored(score, smooth(whole, config.map_filter_px))

    def _errors(self, group: _Views, image: Tensor) -> list[Tensor]:
        """Squared errors at every scale, (views, 1, h, w) each, averaged over the draws."""
        draws = self.detector.detector_config.score.draws
        noise = self.get_buffer(f"noise_{group.side_px}")
        recons = self._reconstruct(group, noise, image)
        errors = scale_errors(image, recons)
        return [part.reshape(-1, draws, 1, *part.shape[2:]).mean(1) for part in errors]

    def _reconstruct(self, group: _Views, noise: Tensor, image: Tensor) -> Tensor:
        """Reconstructions, (views * draws, 3, side, side); see :func:`advrad.denoisers.sampling.reconstruct`."""
        config, denoiser = self.detector.detector_config.score, self.detector.denoiser
        rows = [noise_levels(view.sigma, config.steps) for _, view in group.views for _ in range(config.draws)]
        steps = list(zip(*rows, strict=True))[:-1]  # noise levels of all rows, step by step
        z = image + _column(steps[0]) * noise[0]
        recon = denoiser.denoise(z, torch.tensor(steps[0]))
        for step, (now, after) in enumerate(itertools.pairwise(steps), start=1):
            kept, renewed = zip(*map(renewal, now, after), strict=True)
            z = recon + _column(kept) * (z - recon) + _column(renewed) * noise[step]
            recon = denoiser.denoise(z, torch.tensor(after))
        return recon


def _column(values: Sequence[float]) -> Tensor:
    """Numbers of the rows of a batch, (n, 1, 1, 1)."""
    return torch.tensor(values)[:, None, None, None]
