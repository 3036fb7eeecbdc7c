"""Choosing the score at the end of training, from normals held out and synthetic defects pasted on them.

No test picture is seen. A candidate is a style (error kind, normalisation, filter, pooling) and a set of looks
(view, noise level). Its figure of merit is the AUROC of held-out normals against the same normals with defects;
statistics that a style needs are computed leaving out the picture being scored, so that no candidate is flattered.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.denoiser import Denoiser
from advrad.metrics import auroc
from advrad.reconstruct import reconstruct
from advrad.pictures import resize
from advrad.score import (
    ErrorKind,
    Member,
    MemberStatistics,
    Normalisation,
    ScoreConfig,
    error_map,
    map_statistics,
    mean_filter,
    normalise,
    pool,
    spread_floor,
)
from advrad.synthetic import paste_defects

Floats = npt.NDArray[np.float64]

SIGMAS = (0.1, 0.2, 0.4)
FILTERS_PX = (3, 7)
POOLINGS = (0.0, 0.002, 0.01)
DEFECTS_PER_SELECTION = 96
#: A smaller set of looks must beat the full one by this much AUROC: the full one is the safer bet on unseen defects.
_MARGIN = 0.01


@dataclass(frozen=True)
class Selection:
    """What was chosen, and among what.

    Attributes:
        config: the winner.
        statistics: of the winner's members on all held-out normals.
        tried: name and AUROC of every candidate, best first.
        reason: why the winner won, in words.
    """

    config: ScoreConfig
    statistics: tuple[MemberStatistics, ...]
    tried: tuple[tuple[str, float], ...]
    reason: str


@dataclass(frozen=True)
class _Style:
    error: ErrorKind
    normalisation: Normalisation
    filter_px: int
    pooling: float

    def __str__(self) -> str:
        pooling = f"top {self.pooling:.1%}" if self.pooling else "max"
        return f"{self.error} error, {self.normalisation}, filter {self.filter_px} px, {pooling}"


def _styles(knows_error: bool) -> list[_Style]:
    errors: tuple[ErrorKind, ...] = ("plain", "expected") if knows_error else ("plain",)
    ways: tuple[Normalisation, ...] = ("none", "mean", "spread")
    return [_Style(*parts) for parts in itertools.product(errors, ways, FILTERS_PX, POOLINGS)]


def left_out(maps: Tensor, sources: Tensor, normals: Tensor, how: Normalisation) -> Tensor:
    """Normalise maps by the statistics of all normals but the one that each map shows.

    Args:
        maps: (m, 1, h, w).
        sources: (m,) index into ``normals`` of the picture behind each map.
        normals: (n, 1, h, w), n >= 3.
        how: the normalisation.
    """
    if how == "none":
        return maps
    count = len(normals)
    total, squares = normals.sum(0, keepdim=True), normals.square().sum(0, keepdim=True)
    own = normals[sources]
    mean = (total - own) / (count - 1)
    variance = ((squares - own.square()) / (count - 1) - mean.square()).clamp_min(0) * (count - 1) / (count - 2)
    deviation = variance.sqrt()
    return normalise(maps, mean, deviation + spread_floor(deviation), how)


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
        normals: (n, 3, s, s) normal pictures that the denoiser was not trained on, n >= 3.
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
    defective, _ = paste_defects(normals[sources], normals[donors], seeds)
    pictures = torch.cat([normals, defective])
    origin = torch.cat([torch.arange(len(normals)), sources])
    noise_seed = int(torch.randint(2**31 - 1, (1,), generator=generator))

    styles = _styles(denoiser.knows_error)
    looks = [Member(view_px=view, sigma=sigma) for view in views for sigma in sigmas]
    pooled: dict[_Style, list[Floats]] = {style: [] for style in styles}
    for done, look in enumerate(looks):
        for error, raw in _raw_maps(denoiser, pictures, look, noise_seed, autocast):
            for filter_px in FILTERS_PX:
                maps = mean_filter(raw, filter_px)
                for how in ("none", "mean", "spread"):
                    related = left_out(maps, origin, maps[: len(normals)], how)  # type: ignore[arg-type]
                    for pooling in POOLINGS:
                        style = _Style(error, how, filter_px, pooling)  # type: ignore[arg-type]
                        pooled[style].append(pool(related, pooling).double().numpy())
        if progress:
            progress(done + 1, len(looks))

    labels = np.concatenate([np.zeros(len(normals), int), np.ones(len(sources), int)])
    merit: dict[tuple[_Style, tuple[int, ...]], float] = {}
    for style, scores in pooled.items():
        standard = np.stack([_standardised(values, len(normals)) for values in scores])
        for subset in _subsets(looks, views, sigmas):
            merit[style, subset] = auroc(labels, standard[list(subset)].mean(0))
    everything = tuple(range(len(looks)))
    best_full = max(styles, key=lambda style: merit[style, everything])
    best = max(merit, key=lambda key: merit[key])
    safe = merit[best_full, everything]
    if merit[best] < safe + _MARGIN:
        style, subset = best_full, everything
        reason = f"best of the candidates that use every look; no smaller set of looks is better by {_MARGIN:g}"
    else:
        style, subset = best
        reason = f"better by {merit[best] - safe:.3f} than the best candidate that uses every look"
    config = ScoreConfig(
        members=tuple(looks[i] for i in subset),
        error=style.error,
        normalisation=style.normalisation,
        filter_px=style.filter_px,
        pooling=style.pooling,
    )
    statistics = fit_statistics(denoiser, normals, config, noise_seed, autocast)
    tried = sorted(((_name(key[0], [looks[i] for i in key[1]]), value) for key, value in merit.items()), key=lambda row: -row[1])
    return Selection(config, statistics, tuple(tried), reason)


def _raw_maps(
    denoiser: Denoiser,
    pictures: Tensor,
    look: Member,
    noise_seed: int,
    autocast: Callable[[], torch.autocast] | None,
    batch: int = 8,
) -> Iterator[tuple[ErrorKind, Tensor]]:
    """Unfiltered error maps of all pictures at one look, one kind of error after the other."""
    kinds: dict[ErrorKind, list[Tensor]] = {"plain": [], "expected": []} if denoiser.knows_error else {"plain": []}
    with torch.no_grad():
        for part in pictures.split(batch):
            view = resize(part, look.view_px)
            generator = torch.Generator().manual_seed(noise_seed)
            with autocast() if autocast else torch.autocast("cpu", enabled=False):
                denoised = reconstruct(denoiser, view, look.sigma, generator)
            for kind, maps in kinds.items():
                log_error = denoised.log_error if kind == "expected" else None
                maps.append(error_map(view, denoised.recon, 1, log_error))
    for kind, maps in kinds.items():
        yield kind, torch.cat(maps)


def fit_statistics(
    denoiser: Denoiser,
    normals: Tensor,
    config: ScoreConfig,
    noise_seed: int,
    autocast: Callable[[], torch.autocast] | None = None,
) -> tuple[MemberStatistics, ...]:
    """Statistics of every member on normal pictures; location and scale leave each picture out of its own map."""
    everyone = torch.arange(len(normals))
    statistics = []
    for member in config.members:
        raw = dict(_raw_maps(denoiser, normals, member, noise_seed, autocast))[config.error]
        maps = mean_filter(raw, config.filter_px)
        scores = pool(left_out(maps, everyone, maps, config.normalisation), config.pooling)
        mean, spread = map_statistics(maps)
        statistics.append(MemberStatistics(mean, spread, float(scores.mean()), float(scores.std()) + 1e-12))
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
    return Selection(config, statistics, (), "asked for by name")


def _standardised(values: Floats, normals: int) -> Floats:
    return (values - values[:normals].mean()) / (values[:normals].std() + 1e-12)


def _subsets(looks: Sequence[Member], views: Sequence[int], sigmas: Sequence[float]) -> list[tuple[int, ...]]:
    """Every non-empty set of views with every run of neighbouring noise levels."""
    runs = [sigmas[i:j] for i in range(len(sigmas)) for j in range(i + 1, len(sigmas) + 1)]
    sets = [s for size in range(1, len(views) + 1) for s in itertools.combinations(views, size)]
    return [
        tuple(i for i, look in enumerate(looks) if look.view_px in chosen and look.sigma in run)
        for chosen in sets
        for run in runs
    ]


def _name(style: _Style, looks: Sequence[Member]) -> str:
    views = sorted({look.view_px for look in looks})
    sigmas = sorted({look.sigma for look in looks})
    return f"{style}; {'+'.join(map(str, views))} px; noise {', '.join(f'{sigma:g}' for sigma in sigmas)}"
