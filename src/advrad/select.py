"""Choosing the score at the end of training, from normals held out and synthetic defects pasted on them.

No test picture is seen. A candidate is a style (normalisation, filter, pooling) and a set of
looks (view, noise level). Its figure of merit is the AUROC of held-out normals against the same normals with
defects, of families that training never showed. Statistics that a style needs are computed leaving out the picture
being scored, so that no candidate is flattered.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.denoiser import Denoiser
from advrad.metrics import auroc
from advrad.pictures import resize
from advrad.reconstruct import reconstruct
from advrad.score import (
    Look,
    LookStatistics,
    Normalisation,
    ScoreConfig,
    describe,
    error_map,
    map_statistics,
    mean_filter,
    normalise,
    pool,
    pooled_count,
    spread_floor,
)
from advrad.synthetic import SELECTION, paste_defects

Floats = npt.NDArray[np.float64]

SIGMAS = (0.05, 0.1, 0.2, 0.4)
FILTERS_PX = (3, 7)
POOLINGS = (0.0, 0.002, 0.01)
DEFECTS_PER_SELECTION = 80
#: Candidates this close in AUROC count as equally good; of those the one with the most looks is taken, as the safest
#: bet on defects that nobody has seen.
_MARGIN = 0.01


@dataclass(frozen=True)
class Selection:
    """What was chosen, and among what.

    Attributes:
        config: the winner.
        statistics: of the winner's looks on all held-out normals.
        tried: name and AUROC of every candidate, best first.
        winner: name of the winner.
        reason: why the winner won, in words.
    """

    config: ScoreConfig
    statistics: tuple[LookStatistics, ...]
    tried: tuple[tuple[str, float], ...]
    winner: str
    reason: str


@dataclass(frozen=True)
class _Style:
    """How the error maps of a look are turned into a number."""

    normalisation: Normalisation
    filter_px: int
    pooling: float

    def config(self, looks: Sequence[Look]) -> ScoreConfig:
        return ScoreConfig(
            looks=tuple(looks), normalisation=self.normalisation, filter_px=self.filter_px, pooling=self.pooling
        )


_Candidate = tuple[_Style, tuple[int, ...]]


def left_out(maps: Tensor, sources: Tensor, normals: Tensor, how: Normalisation) -> Tensor:
    """Normalise maps by the statistics of all normals but the one that each map shows.

    Args:
        maps: (m, 1, h, w).
        sources: (m,) index into ``normals`` of the picture behind each map.
        normals: (n, 1, h, w), n >= 2; of two nothing can be left out, so both count.
        how: the normalisation.
    """
    if how == "none":
        return maps
    count = len(normals)
    if count < 3:
        return normalise(maps, *map_statistics(normals), how)
    # About the common mean, or the squares of errors that differ little would drown their spread in rounding.
    centre = normals.mean(0, keepdim=True)
    about = normals - centre
    total, squares = about.sum(0, keepdim=True), about.square().sum(0, keepdim=True)
    own = about[sources]
    mean = (total - own) / (count - 1)
    variance = ((squares - own.square()) / (count - 1) - mean.square()).clamp_min(0) * (count - 1) / (count - 2)
    deviation = variance.sqrt()
    return normalise(maps, centre + mean, deviation + spread_floor(deviation), how)


def choose(
    denoiser: Denoiser,
    normals: Tensor,
    views: Sequence[int],
    generator: torch.Generator,
    *,
    autocast: Callable[[], torch.autocast] | None = None,
    sigmas: Sequence[float] = SIGMAS,
    progress: Callable[[int, int], None] | None = None,
) -> Selection:
    """Choose how a trained denoiser scores pictures.

    Args:
        denoiser: trained, in evaluation mode.
        normals: (n, 3, s, s) normal pictures that the denoiser was not trained on, n >= 2.
        views: sizes at which the denoiser may look, pixels.
        generator: source of defects and noise.
        autocast: arithmetic of the network, as it will be used later.
        sigmas: noise levels to try.
        progress: told (looks done, looks in all).

    Returns:
        The winner with its statistics.
    """
    repeats = -(-DEFECTS_PER_SELECTION // len(normals))
    sources = torch.arange(len(normals)).repeat(repeats)[: max(DEFECTS_PER_SELECTION, len(normals))]
    seeds = torch.randint(2**31 - 1, (len(sources),), generator=generator).tolist()
    donors = torch.randint(len(normals), (len(sources),), generator=generator)
    defective, masks = paste_defects(normals[sources], normals[donors], seeds, tuple(SELECTION))
    # A defect that changed nothing visible would only teach noise.
    visible = masks.flatten(1).any(1)
    if bool(visible.any()):
        defective, sources = defective[visible], sources[visible]
    origin = torch.cat([torch.arange(len(normals)), sources])
    labels = np.concatenate([np.zeros(len(normals), int), np.ones(len(sources), int)])
    noise_seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    looks = [Look(view_px=view, sigma=sigma) for view in views for sigma in sigmas]

    pooled: dict[_Style, list[Floats]] = {}
    for done, look in enumerate(looks):
        raw = _raw_maps(denoiser, torch.cat([normals, defective]), look, noise_seed, autocast)
        for style, values in _pooled(raw, origin, len(normals)):
            pooled.setdefault(style, []).append(_standardised(values, len(normals)))
        if progress:
            progress(done + 1, len(looks))

    merit: dict[_Candidate, float] = {
        (style, subset): auroc(labels, np.mean([scores[i] for i in subset], axis=0))
        for style, scores in pooled.items()
        for subset in _subsets(looks, views, sigmas)
    }
    winner, reason = _winner(merit)
    configs = {(style, subset): style.config([looks[i] for i in subset]) for style, subset in merit}
    statistics = fit_statistics(denoiser, normals, configs[winner], noise_seed, autocast)
    tried = sorted(((describe(configs[key]), value) for key, value in merit.items()), key=lambda row: -row[1])
    return Selection(configs[winner], statistics, tuple(tried), describe(configs[winner]), reason)


def _winner(merit: dict[_Candidate, float]) -> tuple[_Candidate, str]:
    """The candidate with the most looks among those as good as the best, within the margin."""
    best = max(merit.values())
    good = [candidate for candidate, value in merit.items() if value >= best - _MARGIN]
    winner = max(good, key=lambda candidate: (len(candidate[1]), merit[candidate]))
    reason = f"AUROC {merit[winner]:.3f}, the most looks among candidates within {_MARGIN:g} of the best ({best:.3f})"
    return winner, reason


def _pooled(raw: Tensor, origin: Tensor, normals: int) -> Iterator[tuple[_Style, Floats]]:
    """Pooled scores of one look's maps in every style; the first ``normals`` rows are the normals themselves."""
    ways: tuple[Normalisation, ...] = ("none", "mean", "spread")
    for filter_px in FILTERS_PX:
        maps = mean_filter(raw, filter_px)
        for way in ways:
            related = left_out(maps, origin, maps[:normals], way).flatten(1)
            # One search for the largest values serves all poolings.
            largest = related.topk(pooled_count(related.shape[1], max(POOLINGS)), dim=1).values
            for pooling in POOLINGS:
                count = pooled_count(related.shape[1], pooling)
                yield _Style(way, filter_px, pooling), largest[:, :count].mean(1).double().numpy()


def _raw_maps(
    denoiser: Denoiser,
    pictures: Tensor,
    look: Look,
    noise_seed: int,
    autocast: Callable[[], torch.autocast] | None,
    batch: int = 8,
    draws: int = 1,
    steps: int = 1,
) -> Tensor:
    """Unfiltered error maps of all pictures at one look, (n, 1, view_px, view_px), on the CPU."""
    maps = []
    device = next(denoiser.parameters()).device
    # Noise of its own for every picture: the statistics must hold for whatever noise the detector draws later.
    generator = torch.Generator().manual_seed(noise_seed)
    with torch.no_grad():
        for part in torch.split(pictures, batch):
            view = resize(part.to(device), look.view_px)
            with autocast() if autocast else contextlib.nullcontext():
                recons = [
                    reconstruct(denoiser, view, look.sigma, generator, steps, independent=True) for _ in range(draws)
                ]
            maps.append(torch.stack([error_map(view, recon, filter_px=1).float() for recon in recons]).mean(0).cpu())
    return torch.cat(maps)


def fit_statistics(
    denoiser: Denoiser,
    normals: Tensor,
    config: ScoreConfig,
    noise_seed: int,
    autocast: Callable[[], torch.autocast] | None = None,
) -> tuple[LookStatistics, ...]:
    """Statistics of every look on normal pictures; location and scale leave each picture out of its own map."""
    everyone = torch.arange(len(normals))
    statistics = []
    for look in config.looks:
        raw = _raw_maps(denoiser, normals, look, noise_seed, autocast, draws=config.draws, steps=config.steps)
        maps = mean_filter(raw, config.filter_px)
        scores = pool(left_out(maps, everyone, maps, config.normalisation), config.pooling)
        mean, spread = map_statistics(maps)
        statistics.append(LookStatistics(mean, spread, float(scores.mean()), float(scores.std()) + 1e-12))
    return tuple(statistics)


def forced(
    denoiser: Denoiser,
    normals: Tensor,
    config: ScoreConfig,
    generator: torch.Generator,
    autocast: Callable[[], torch.autocast] | None = None,
) -> Selection:
    """A score that was asked for by name, with its statistics; nothing is compared. Arguments as :func:`choose`."""
    noise_seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    statistics = fit_statistics(denoiser, normals, config, noise_seed, autocast)
    return Selection(config, statistics, (), "paper", "asked for by name")


def _standardised(values: Floats, normals: int) -> Floats:
    standard: Floats = (values - values[:normals].mean()) / (values[:normals].std() + 1e-12)
    return standard


def _subsets(looks: Sequence[Look], views: Sequence[int], sigmas: Sequence[float]) -> list[tuple[int, ...]]:
    """Every non-empty set of views with every run of neighbouring noise levels."""
    runs = [sigmas[i:j] for i in range(len(sigmas)) for j in range(i + 1, len(sigmas) + 1)]
    sets = [s for size in range(1, len(views) + 1) for s in itertools.combinations(views, size)]
    return [
        tuple(i for i, look in enumerate(looks) if look.view_px in chosen and look.sigma in run)
        for chosen in sets
        for run in runs
    ]
