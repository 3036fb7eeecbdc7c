"""Choosing the score at the end of training, from normals held out and synthetic defects pasted on them.

No test picture is seen. A candidate is a team of styles (evidence, normalisation, filter, pooling) and a set of
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
    Evidence,
    Look,
    Member,
    MemberStatistics,
    Normalisation,
    ScoreConfig,
    evidence_map,
    map_statistics,
    mean_filter,
    normalise,
    pool,
    pooled_count,
    spread_floor,
)
from advrad.synthetic import SELECTION, paste_defects

Floats = npt.NDArray[np.float64]

SIGMAS = (0.1, 0.2, 0.4)
FILTERS_PX = (3, 7)
POOLINGS = (0.0, 0.002, 0.01)
DEFECTS_PER_SELECTION = 80
#: A smaller set of looks must beat the full one by this much AUROC: the full one is the safer bet on unseen defects.
_MARGIN = 0.01


@dataclass(frozen=True)
class Selection:
    """What was chosen, and among what.

    Attributes:
        config: the winner.
        statistics: of the winner's members on all held-out normals.
        tried: name and AUROC of every candidate, best first.
        winner: name of the winner.
        reason: why the winner won, in words.
    """

    config: ScoreConfig
    statistics: tuple[MemberStatistics, ...]
    tried: tuple[tuple[str, float], ...]
    winner: str
    reason: str


@dataclass(frozen=True)
class _Style:
    """How a look is turned into a number; a member without its look."""

    evidence: Evidence
    normalisation: Normalisation
    filter_px: int
    pooling: float

    def __str__(self) -> str:
        pooling = f"top {self.pooling:.1%}" if self.pooling else "max"
        return f"{self.evidence} ({self.normalisation}, filter {self.filter_px} px, {pooling})"

    def member(self, look: Look) -> Member:
        return Member(
            look=look,
            evidence=self.evidence,
            normalisation=self.normalisation,
            filter_px=self.filter_px,
            pooling=self.pooling,
        )


def _kinds(denoiser: Denoiser) -> tuple[Evidence, ...]:
    return ("plain", "expected", "change") if denoiser.knows_error else ("plain",)


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
    # About the common mean, or the squares of log odds, far from 0, would drown their spread in rounding.
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
    defective, _ = paste_defects(normals[sources], normals[donors], seeds, tuple(SELECTION))
    origin = torch.cat([torch.arange(len(normals)), sources])
    labels = np.concatenate([np.zeros(len(normals), int), np.ones(len(sources), int)])
    noise_seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    looks = [Look(view_px=view, sigma=sigma) for view in views for sigma in sigmas]

    pooled: dict[_Style, list[Floats]] = {}
    for done, look in enumerate(looks):
        for kind, raw in _raw_maps(denoiser, torch.cat([normals, defective]), look, noise_seed, autocast).items():
            for style, values in _pooled(kind, raw, origin, len(normals)):
                pooled.setdefault(style, []).append(_standardised(values, len(normals)))
        if progress:
            progress(done + 1, len(looks))

    merit: dict[_Candidate, float] = {}
    everything = tuple(range(len(looks)))
    subsets = _subsets(looks, views, sigmas)

    def judge(styles: tuple[_Style, ...], subset: tuple[int, ...]) -> None:
        scores = np.mean([pooled[style][i] for style in styles for i in subset], axis=0)
        merit[styles, subset] = auroc(labels, scores)

    for style in pooled:
        judge((style,), everything)
    best_of_kind = [
        max((style for style in pooled if style.evidence == kind), key=lambda style: merit[(style,), everything])
        for kind in _kinds(denoiser)
    ]
    teams = [t for size in range(1, len(best_of_kind) + 1) for t in itertools.combinations(best_of_kind, size)]
    for team, subset in itertools.product(teams, subsets):
        judge(team, subset)
    winner, reason = _winner(merit, tuple(best_of_kind), everything)
    config = ScoreConfig(members=tuple(style.member(looks[i]) for i in winner[1] for style in winner[0]))
    statistics = fit_statistics(denoiser, normals, config, noise_seed, autocast)
    named = ((_name(styles, [looks[i] for i in subset]), value) for (styles, subset), value in merit.items())
    name = _name(winner[0], [looks[i] for i in winner[1]])
    return Selection(config, statistics, tuple(sorted(named, key=lambda row: -row[1])), name, reason)


_Candidate = tuple[tuple[_Style, ...], tuple[int, ...]]


def _winner(merit: dict[_Candidate, float], team: tuple[_Style, ...], looks: tuple[int, ...]) -> tuple[_Candidate, str]:
    """The candidate to use: all kinds of evidence from all looks, unless a smaller one is clearly better."""
    safe: _Candidate = (team, looks)
    best = max(merit, key=lambda candidate: merit[candidate])
    gain = merit[best] - merit[safe]
    if gain < _MARGIN:
        return safe, f"all evidence from all looks; no smaller candidate is better by {_MARGIN:g} AUROC or more"
    return best, f"better by {gain:.3f} AUROC than all evidence from all looks"


def _pooled(kind: Evidence, raw: Tensor, origin: Tensor, normals: int) -> Iterator[tuple[_Style, Floats]]:
    """Pooled scores of one look's maps in every style; the first ``normals`` rows are the normals themselves."""
    # The paper's |E - mu| is for errors; the other kinds are signed, and little of them is as suspect as much.
    ways: tuple[Normalisation, ...] = ("none", "mean", "spread") if kind == "plain" else ("none", "spread")
    for filter_px in FILTERS_PX:
        maps = mean_filter(raw, filter_px)
        for way in ways:
            related = left_out(maps, origin, maps[:normals], way).flatten(1)
            # One search for the largest values serves all poolings.
            largest = related.topk(pooled_count(related.shape[1], max(POOLINGS)), dim=1).values
            for pooling in POOLINGS:
                count = pooled_count(related.shape[1], pooling)
                yield _Style(kind, way, filter_px, pooling), largest[:, :count].mean(1).double().numpy()


def _raw_maps(
    denoiser: Denoiser,
    pictures: Tensor,
    look: Look,
    noise_seed: int,
    autocast: Callable[[], torch.autocast] | None,
    batch: int = 8,
) -> dict[Evidence, Tensor]:
    """Unfiltered maps of all pictures at one look, (n, 1, view_px, view_px) per kind of evidence, on the CPU."""
    maps: dict[Evidence, list[Tensor]] = {kind: [] for kind in _kinds(denoiser)}
    device = next(denoiser.parameters()).device
    # Noise of its own for every picture: the statistics must hold for whatever noise the detector draws later.
    generator = torch.Generator().manual_seed(noise_seed)
    with torch.no_grad():
        for part in torch.split(pictures, batch):
            view = resize(part.to(device), look.view_px)
            with autocast() if autocast else contextlib.nullcontext():
                denoised = reconstruct(denoiser, view, look.sigma, generator, independent=True)
            for kind, parts in maps.items():
                parts.append(evidence_map(view, denoised, kind).float().cpu())
    return {kind: torch.cat(parts) for kind, parts in maps.items()}


def fit_statistics(
    denoiser: Denoiser,
    normals: Tensor,
    config: ScoreConfig,
    noise_seed: int,
    autocast: Callable[[], torch.autocast] | None = None,
) -> tuple[MemberStatistics, ...]:
    """Statistics of every member on normal pictures; location and scale leave each picture out of its own map."""
    everyone = torch.arange(len(normals))
    raw = {look: _raw_maps(denoiser, normals, look, noise_seed, autocast) for look in config.looks}
    statistics = []
    for member in config.members:
        maps = mean_filter(raw[member.look][member.evidence], member.filter_px)
        scores = pool(left_out(maps, everyone, maps, member.normalisation), member.pooling)
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


def _name(styles: Sequence[_Style], looks: Sequence[Look]) -> str:
    views = "+".join(str(view) for view in sorted({look.view_px for look in looks}))
    sigmas = ", ".join(f"{sigma:g}" for sigma in sorted({look.sigma for look in looks}))
    return f"{' and '.join(map(str, styles))}; {views} px; noise {sigmas}"
