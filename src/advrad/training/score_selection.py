"""Choosing the score at the end of training, from normals held out and synthetic defects pasted on them.

No test image is seen. A candidate is a style (scales, level, normalisation, filter, pooling) and a set of looks
(view, noise level). Its figure of merit is the AUROC of held-out normals against the same normals with defects, of
families that training never showed. What a style knows of normal error maps it learns from training images, which are
many; what scores mean, from held-out ones, so that no candidate is flattered.

There are three aims. In peace the AUROC counts. Under attack the candidates are those that an adversary can do little
to (one look through strong noise, absolute errors, a spread that forgives harmless changes), each is attacked, and what
is left counts; a smaller view is preferred to a wider one that is no better for certain. For a radius they are of the
same sort, with wider filters and pooling, and what could be certified is what counts.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.data.synthetic import SELECTION, paste_defects
from advrad.data.transforms import resize
from advrad.denoisers.base import Denoiser
from advrad.denoisers.sampling import reconstruct
from advrad.detectors.scoring import (
    EPS,
    Level,
    MapStatistics,
    NoiseView,
    Normalisation,
    Scales,
    ScoreConfig,
    ceiling_of,
    combine_scales,
    describe,
    divide_by_image_mean,
    map_filter_px,
    map_statistics,
    mean_errors,
    mean_filter,
    normalise,
    pool,
    pooled_count,
)
from advrad.metrics import auroc, auroc_standard_error
from advrad.training.selection_attack import IMAGES, auroc_under_attack
from advrad.training.selection_certificate import certified_aurocs
from advrad.utils.progress import SILENT, ProgressReporter

Floats = npt.NDArray[np.float64]

Aim = Literal["peace", "attack", "radius"]
_Kind = tuple[Scales, Level, tuple[int, ...]]


@dataclass(frozen=True)
class _Field:
    """The candidates for an aim.

    Attributes:
        kinds: scales, level and widths of the filter; the filters are in cells of a map, and on the coarsest one 7
            would span half the image.
        ways: normalisations.
        sigmas: noise levels.
        poolings: never the maximum alone: one cell's luck with the noise would decide.
    """

    kinds: tuple[_Kind, ...]
    ways: tuple[Normalisation, ...]
    sigmas: tuple[float, ...]
    poolings: tuple[float, ...] = (0.002, 0.01)


FIELDS: dict[Aim, _Field] = {
    # Maps as in the paper, and as suits pieces that differ in texture or light. No held-out normal shows light that
    # will drift one day, so of scales apart the absolute level, which follows it, is not even tried.
    "peace": _Field(
        (("averaged", "absolute", (3, 7)), ("apart", "relative", (1, 3))),
        ("none", "mean", "spread"),
        (0.05, 0.1, 0.2, 0.4),
    ),
    # No level that the adversary could move.
    "attack": _Field((("averaged", "absolute", (3, 7)), ("apart", "absolute", (3,))), ("tolerant",), (0.2, 0.4, 0.6)),
    # The wider the filter and the pooling, the less a change of a given length can do.
    "radius": _Field(
        (("averaged", "absolute", (3, 7, 11)), ("apart", "absolute", (3, 7))),
        ("tolerant",),
        (0.2, 0.4, 0.6),
        (0.002, 0.01, 0.03),
    ),
}
#: Noise draws of the score that is chosen; the candidates are compared with one, which costs half.
DRAWS = 2
DEFECTS_PER_SELECTION = 64
#: At most so many training images tell what normal error maps look like.
REFERENCES = 64
#: Candidates this close in AUROC count as equally good, however many images say so.
_MARGIN = 0.01


@dataclass(frozen=True)
class Selection:
    """What was chosen, and among what.

    Attributes:
        config: the winner.
        statistics: of the winner's error maps on all held-out normals.
        tried: name and AUROC of every candidate, best first.
        winner: name of the winner.
        reason: why the winner won, in words.
        attacked: name and AUROC of every finalist under attack, or as it could be certified, best first.
    """

    config: ScoreConfig
    statistics: tuple[MapStatistics, ...]
    tried: tuple[tuple[str, float], ...]
    winner: str
    reason: str
    attacked: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class _Style:
    """How the error maps of a look are turned into a number."""

    scales: Scales
    level: Level
    normalisation: Normalisation
    filter_px: int
    pooling: float

    def config(self, looks: Sequence[NoiseView], size_px: int) -> ScoreConfig:
        return ScoreConfig(looks=tuple(looks), draws=DRAWS, map_filter_px=map_filter_px(size_px), **asdict(self))


_Candidate = tuple[_Style, tuple[int, ...]]


def choose(
    denoiser: Denoiser,
    references: Tensor,
    normals: Tensor,
    views: Sequence[int],
    generator: torch.Generator,
    *,
    autocast: Callable[[], torch.autocast] | None = None,
    aim: Aim = "peace",
    radius: float | None = None,
    sigmas: Sequence[float] | None = None,
    progress: ProgressReporter = SILENT,
) -> Selection:
    """Choose how a trained denoiser scores images.

    Args:
        denoiser: trained, in evaluation mode.
        references: (r, 3, s, s) normal images that the error maps are compared with, r >= 2; it may have been trained
            on these.
        normals: (n, 3, s, s) normal images that the denoiser was not trained on, n >= 2.
        views: sizes at which the denoiser may look, pixels.
        generator: source of defects and noise.
        autocast: arithmetic of the network, as it will be used later.
        aim: what the score is to be good at.
        radius: of the aim of that name, l2 in [0, 1] pixel units of these images.
        sigmas: noise levels to try; None for those of the aim.
        progress: Receives the progress.

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
        defective = defective[visible]
    labels = np.concatenate([np.zeros(len(normals), int), np.ones(len(defective), int)])
    noise_seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    field = FIELDS[aim]
    sigmas = sigmas or field.sigmas
    if aim == "radius":
        views = [min(views)]  # shrinking shortens what an adversary does
    looks = [NoiseView(view_px=view, sigma=sigma) for view in views for sigma in sigmas]
    everyone = torch.cat([references, normals, defective])
    errors: list[list[Tensor]] = []
    pooled: dict[_Style, list[Floats]] = {}
    for done, look in enumerate(looks):
        errors.append(_errors(denoiser, everyone, look, noise_seed, autocast))
        for style, values in _pooled(errors[-1], len(references), len(normals), field):
            pooled.setdefault(style, []).append(values)
        progress.update(done + 1, len(looks))

    merit: dict[_Candidate, float] = {
        (style, subset): auroc(labels, np.mean([scores[i] for i in subset], axis=0))
        for style, scores in pooled.items()
        for subset in _subsets(looks, views, sigmas)
    }
    configs = {(style, subset): style.config([looks[i] for i in subset], normals.shape[-1]) for style, subset in merit}
    robust: dict[_Candidate, float] = {}
    if aim == "peace":
        winner, reason = _winner(merit, len(normals), len(defective))
    else:

        def prepared(candidate: _Candidate) -> tuple[ScoreConfig, list[MapStatistics]]:
            quick = configs[candidate].model_copy(update={"draws": 1})
            return quick, _statistics(errors[candidate[1][0]], len(references), len(normals), quick)

        if aim == "attack":
            finalists = _finalists(merit)
            for done, finalist in enumerate(finalists):
                robust[finalist] = auroc_under_attack(denoiser, normals, defective, *prepared(finalist), noise_seed)
                progress.update(done + 1, len(finalists))
        else:
            for done, look in enumerate(looks):
                group = [candidate for candidate in merit if candidate[1] == (done,)]
                styles = [prepared(candidate) for candidate in group]
                areas = certified_aurocs(
                    denoiser, normals, defective, look, styles, radius or 0.0, noise_seed, autocast
                )
                for candidate, (area, quantile) in zip(group, areas, strict=True):
                    robust[candidate] = area
                    configs[candidate] = configs[candidate].model_copy(update={"quantile": quantile})
                progress.update(done + 1, len(looks))
        if aim == "attack":
            sizes = {candidate: looks[candidate[1][0]].view_px for candidate in robust}
            winner = _toughest(robust, merit, sizes, len(normals), len(defective))
            how, among = "under a quick attack", "the most of the smallest view that is as good as the best"
        else:
            winner = max(robust, key=lambda candidate: (robust[candidate], merit[candidate]))
            how, among = f"as it could be certified within {radius:g}", "the most"
        reason = f"AUROC {robust[winner]:.3f} {how}, {among} of {len(robust)}, and {merit[winner]:.3f} in peace"
    statistics = fit_statistics(denoiser, references, normals, configs[winner], noise_seed, autocast)
    tried, attacked = (
        tuple(sorted(((describe(configs[key]), value) for key, value in values.items()), key=lambda row: -row[1]))
        for values in (merit, robust)
    )
    return Selection(configs[winner], statistics, tried, describe(configs[winner]), reason, attacked)


def _winner(merit: dict[_Candidate, float], normals: int, defects: int) -> tuple[_Candidate, str]:
    """The safest candidate among those as good as the best, as far as so few images can tell.

    Relative errors are safer than absolute ones where light or texture may drift, which images of one afternoon do
    not show; most looks are the safest bet on defects that nobody has seen. And where a dozen normals decide, the best
    of hundreds of candidates owes its lead to luck. It is Breiman's one-standard-error rule, turned from the simplest
    to the safest.
    """
    best = max(merit.values())
    margin = max(_MARGIN, auroc_standard_error(best, normals, defects))
    good = [candidate for candidate, value in merit.items() if value >= best - margin]
    winner = max(good, key=lambda candidate: (candidate[0].level == "relative", len(candidate[1]), merit[candidate]))
    reason = f"AUROC {merit[winner]:.3f}, the safest of the candidates within {margin:.3f} of the best ({best:.3f})"
    return winner, reason


def _toughest(
    robust: dict[_Candidate, float],
    merit: dict[_Candidate, float],
    sizes: dict[_Candidate, int],
    normals: int,
    defects: int,
) -> _Candidate:
    """What withstands most at the smallest view that is as good as the best, as far as so few images can tell.

    A view twice as wide takes four times as long to look at, and as long to attack: an audit that nobody waits for is
    none.
    """
    best = max(robust.values())
    margin = max(_MARGIN, auroc_standard_error(best, min(normals, IMAGES[0]), min(defects, IMAGES[1])))
    view = min(sizes[candidate] for candidate, value in robust.items() if value >= best - margin)
    alike = [candidate for candidate in robust if sizes[candidate] == view]
    return max(alike, key=lambda candidate: (robust[candidate], merit[candidate]))


def _finalists(merit: dict[_Candidate, float]) -> list[_Candidate]:
    """For every way of arranging the scales and every single look, the candidate that is best in peace."""
    leaders: dict[tuple[Scales, tuple[int, ...]], _Candidate] = {}
    for candidate in sorted(merit, key=lambda candidate: -merit[candidate]):
        style, subset = candidate
        if len(subset) == 1:
            leaders.setdefault((style.scales, subset), candidate)
    return list(leaders.values())


def _pooled(errors: list[Tensor], references: int, normals: int, field: _Field) -> Iterator[tuple[_Style, Floats]]:
    """Scores of one look in every style, of the normals and the defective.

    Args:
        errors: at every scale, of references, normals and defective, in this order.
        references: how many.
        normals: how many.
        field: of the candidates.
    """
    single = [(scales, level, filter_px) for scales, level, filters_px in field.kinds for filter_px in filters_px]
    for (scales, level, filter_px), way in itertools.product(single, field.ways):
        totals: dict[float, list[Floats]] = {pooling: [] for pooling in field.poolings}
        for raw in combine_scales(errors, scales):
            maps, mean, spread, _ = _related(raw, references, filter_px, level, way)
            normalised = normalise(maps[references:], mean, spread, way).flatten(1)
            # One search for the largest values serves all poolings.
            largest = normalised.topk(pooled_count(normalised.shape[1], max(field.poolings)), dim=1).values
            for pooling in field.poolings:
                count = pooled_count(normalised.shape[1], pooling)
                values = largest[:, :count].mean(1).double().numpy()
                totals[pooling].append(_standardised(values, normals))
        for pooling, rows in totals.items():
            yield _Style(scales, level, way, filter_px, pooling), np.mean(rows, axis=0)


def _related(
    raw: Tensor, references: int, filter_px: int, level: Level, way: Normalisation
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Filtered and related maps, and mean, spread and ceiling of the first ``references`` of them."""
    maps = mean_filter(raw, filter_px)
    ceiling = ceiling_of(maps[:references])
    maps = divide_by_image_mean(maps, level, ceiling)
    return maps, *map_statistics(maps[:references], way), ceiling


def _statistics(errors: list[Tensor], references: int, normals: int, config: ScoreConfig) -> list[MapStatistics]:
    """Of every map of one look, from the errors of references and normals, in this order."""
    statistics = []
    for raw in combine_scales([level[: references + normals] for level in errors], config.scales):
        maps, mean, spread, ceiling = _related(raw, references, config.filter_px, config.level, config.normalisation)
        scores = pool(normalise(maps[references:], mean, spread, config.normalisation), config.pooling)
        statistics.append(MapStatistics(mean, spread, float(scores.mean()), float(scores.std()) + EPS, ceiling))
    return statistics


def _errors(
    denoiser: Denoiser,
    images: Tensor,
    look: NoiseView,
    noise_seed: int,
    autocast: Callable[[], torch.autocast] | None,
    batch: int = 8,
    draws: int = 1,
    steps: int = 1,
) -> list[Tensor]:
    """Squared errors of all images at one look, at every scale: (n, 1, h, w) each, on the CPU."""
    parts = []
    device = next(denoiser.parameters()).device
    # Noise of its own for every image: the statistics must hold for whatever noise the detector draws later.
    generator = torch.Generator().manual_seed(noise_seed)
    with torch.no_grad():
        for part in torch.split(images, batch):
            view = resize(part.to(device), look.view_px)
            with autocast() if autocast else contextlib.nullcontext():
                recons = [
                    reconstruct(denoiser, view, look.sigma, generator, steps, independent=True) for _ in range(draws)
                ]
            parts.append([level.float().cpu() for level in mean_errors(view, recons)])
    return [torch.cat(level) for level in zip(*parts, strict=True)]


def fit_statistics(
    denoiser: Denoiser,
    references: Tensor,
    normals: Tensor,
    config: ScoreConfig,
    noise_seed: int,
    autocast: Callable[[], torch.autocast] | None = None,
) -> tuple[MapStatistics, ...]:
    """Statistics of every error map: mean and spread of the references, location and scale of the normals.

    Arguments as :func:`choose`; ``noise_seed`` is that of the noise, of which every image gets its own.
    """
    everyone, statistics = torch.cat([references, normals]), []
    for look in config.looks:
        errors = _errors(denoiser, everyone, look, noise_seed, autocast, draws=config.draws, steps=config.steps)
        statistics += _statistics(errors, len(references), len(normals), config)
    return tuple(statistics)


def forced(
    denoiser: Denoiser,
    references: Tensor,
    normals: Tensor,
    config: ScoreConfig,
    generator: torch.Generator,
    autocast: Callable[[], torch.autocast] | None = None,
) -> Selection:
    """A score that was asked for by name, with its statistics; nothing is compared. Arguments as :func:`choose`."""
    noise_seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    statistics = fit_statistics(denoiser, references, normals, config, noise_seed, autocast)
    return Selection(config, statistics, (), "paper", "asked for by name", ())


def _standardised(values: Floats, normals: int) -> Floats:
    standard: Floats = (values - values[:normals].mean()) / (values[:normals].std() + 1e-12)
    return standard


def _subsets(looks: Sequence[NoiseView], views: Sequence[int], sigmas: Sequence[float]) -> list[tuple[int, ...]]:
    """Every non-empty set of views with every run of neighbouring noise levels."""
    runs = [sigmas[i:j] for i in range(len(sigmas)) for j in range(i + 1, len(sigmas) + 1)]
    sets = [s for size in range(1, len(views) + 1) for s in itertools.combinations(views, size)]
    return [
        tuple(i for i, look in enumerate(looks) if look.view_px in chosen and look.sigma in run)
        for chosen in sets
        for run in runs
    ]
