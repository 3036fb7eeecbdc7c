"""The choice of the anomaly score at the end of training, on held-out normal images with synthetic defects.

No test image is used. A candidate is a style (scales, normalisation, filter, pooling) with a set of views (size, noise
level). Candidates are compared by an AUROC: held-out normal images against the same images with synthetic defects, of
families that training does not use. The mean and spread of normal error maps come from training images, of which there
are many; the location and scale of the scores come from the held-out images, so that no candidate is favoured.

There are three aims:

- ``clean``: the AUROC on clean images counts.
- ``robust``: candidates that an attack can change little (one view with strong noise, a spread that tolerates harmless
  changes) are attacked, and the AUROC under attack counts.
- ``certified``: candidates of the same sort, with wider filters and pooling; the certified AUROC counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from advrad.data.synthetic import SELECTION, paste_defects
from advrad.denoisers.base import Denoiser
from advrad.detectors.score_config import NoiseView, Scales, ScoreConfig, describe
from advrad.detectors.scoring import MapStatistics
from advrad.metrics import auroc, auroc_standard_error
from advrad.training.error_statistics import (
    Arithmetic,
    Floats,
    fit_statistics,
    measure_errors,
    scores_by_style,
    statistics_of_errors,
)
from advrad.training.score_candidates import CLEAN, SEARCH_SPACES, Aim, Candidate, ScoreObjective, Style, view_subsets
from advrad.training.selection_attack import IMAGES, auroc_under_attack
from advrad.training.selection_certificate import certified_aurocs
from advrad.utils.progress import SILENT, ProgressReporter

#: Least number of images with a synthetic defect.
DEFECTS_PER_SELECTION = 64
#: Largest number of training images from which the statistics of normal error maps are computed.
REFERENCES = 64
#: Difference in AUROC up to which two candidates count as equally good, for any number of images.
_MARGIN = 0.01

#: AUROC by candidate.
Aurocs = Mapping[Candidate, float]


@dataclass(frozen=True)
class Selection:
    """The chosen score, and what it was chosen from.

    Attributes:
        config: The chosen score.
        statistics: Statistics of its error maps.
        tried: Name and clean AUROC of every candidate, best first.
        winner: Name of the chosen score.
        reason: Why it was chosen, in words.
        attacked: Name and AUROC under attack, or certified AUROC, of every finalist, best first.
    """

    config: ScoreConfig
    statistics: tuple[MapStatistics, ...]
    tried: tuple[tuple[str, float], ...]
    winner: str
    reason: str
    attacked: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class _Comparison:
    """What the strategies compare the candidates with.

    Attributes:
        denoiser: Trained denoiser.
        normals: Held-out normal images, (n, 3, s, s).
        anomalous: Images with synthetic defects, (m, 3, s, s).
        references: Number of reference images.
        errors: Errors of the references, the normal and the anomalous images, by view.
        clean: AUROC on clean images, by candidate.
        radius: Radius of the certificates.
        noise_seed: Seed of the noise.
        arithmetic: Arithmetic of the network.
        progress: Receives the progress.
    """

    denoiser: Denoiser
    normals: Tensor
    anomalous: Tensor
    references: int
    errors: dict[NoiseView, list[Tensor]]
    clean: Aurocs
    radius: float
    noise_seed: int
    arithmetic: Arithmetic
    progress: ProgressReporter

    def config(self, candidate: Candidate) -> ScoreConfig:
        """The configuration of a candidate."""
        return candidate.config(self.normals.shape[-1])

    def single_draw(self, candidate: Candidate) -> tuple[ScoreConfig, list[MapStatistics]]:
        """A candidate of one view with a single noise draw, which is faster, and its statistics."""
        config = self.config(candidate).model_copy(update={"draws": 1})
        count = self.references + len(self.normals)
        errors = [scale[:count] for scale in self.errors[candidate.views[0]]]
        return config, statistics_of_errors(errors, self.references, config)


@dataclass(frozen=True)
class _Choice:
    """The result of a strategy.

    Attributes:
        candidate: The chosen candidate.
        reason: Why it was chosen, in words.
        finalists: AUROC under attack or certified AUROC by candidate; empty for clean images.
        quantile: Quantile of the score over its noise.
    """

    candidate: Candidate
    reason: str
    finalists: Aurocs = field(default_factory=dict)
    quantile: float = 0.5


def select_score(
    denoiser: Denoiser,
    references: Tensor,
    normals: Tensor,
    sizes_px: Sequence[int],
    generator: torch.Generator,
    *,
    objective: ScoreObjective = CLEAN,
    sigmas: Sequence[float] | None = None,
    arithmetic: Arithmetic = nullcontext,
    progress: ProgressReporter = SILENT,
) -> Selection:
    """Choose how a trained denoiser scores images.

    Args:
        denoiser: Trained denoiser, in evaluation mode.
        references: Normal images for the statistics of error maps, (r, 3, s, s), r >= 2. The denoiser may have been
            trained on them.
        normals: Normal images on which the denoiser was not trained, (n, 3, s, s), n >= 2.
        sizes_px: View sizes at which the denoiser was trained, pixels.
        generator: Source of the synthetic defects and of the noise.
        objective: What the score is chosen for.
        sigmas: Noise levels to try; None for those of the aim.
        arithmetic: Arithmetic of the network, as the detector will use it.
        progress: Receives the progress.

    Returns:
        The chosen score with its statistics.
    """
    space = SEARCH_SPACES[objective.aim]
    anomalous, _ = with_defects(normals, generator)
    noise_seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    sizes_px, sigmas = space.view_sizes(sizes_px), sigmas or space.sigmas
    views = [NoiseView(view_px=size, sigma=sigma) for size in sizes_px for sigma in sigmas]
    images = torch.cat([references, normals, anomalous])
    errors: dict[NoiseView, list[Tensor]] = {}
    scores: dict[Style, dict[NoiseView, Floats]] = {}
    for done, view in enumerate(views):
        errors[view] = measure_errors(denoiser, images, view, noise_seed, arithmetic)
        for style, values in scores_by_style(errors[view], len(references), len(normals), space):
            scores.setdefault(style, {})[view] = values
        progress.update(done + 1, len(views))

    labels = np.repeat([0, 1], [len(normals), len(anomalous)])
    clean = {
        Candidate(style, subset): auroc(labels, np.mean([by_view[view] for view in subset], axis=0))
        for style, by_view in scores.items()
        for subset in view_subsets(sizes_px, sigmas)
    }
    compared = _Comparison(
        denoiser,
        normals,
        anomalous,
        len(references),
        errors,
        clean,
        objective.radius,
        noise_seed,
        arithmetic,
        progress,
    )
    choice = _STRATEGIES[objective.aim](compared)
    config = compared.config(choice.candidate).model_copy(update={"quantile": choice.quantile})
    statistics = fit_statistics(denoiser, references, normals, config, noise_seed, arithmetic)
    tried, attacked = (_best_first(aurocs, compared) for aurocs in (clean, choice.finalists))
    return Selection(config, statistics, tried, describe(config), choice.reason, attacked)


def fixed_score(
    denoiser: Denoiser,
    references: Tensor,
    normals: Tensor,
    config: ScoreConfig,
    generator: torch.Generator,
    arithmetic: Arithmetic = nullcontext,
) -> Selection:
    """Take a given score and compute its statistics, without comparing candidates.

    Args:
        denoiser: Trained denoiser, in evaluation mode.
        references: Normal images for the statistics of error maps, (r, 3, s, s), r >= 2.
        normals: Normal images on which the denoiser was not trained, (n, 3, s, s), n >= 2.
        config: The score.
        generator: Source of the noise.
        arithmetic: Arithmetic of the network.

    Returns:
        The score with its statistics.
    """
    noise_seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    statistics = fit_statistics(denoiser, references, normals, config, noise_seed, arithmetic)
    return Selection(config, statistics, (), "paper", "chosen by name", ())


def with_defects(normals: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paste synthetic defects on copies of normal images.

    Args:
        normals: Normal images, (n, 3, s, s).
        generator: Source of the defects.

    Returns:
        Images with a visible defect, (m, 3, s, s); and the rows of the normal images that they were, (m,).
    """
    repeats = -(-DEFECTS_PER_SELECTION // len(normals))
    sources = torch.arange(len(normals)).repeat(repeats)[: max(DEFECTS_PER_SELECTION, len(normals))]
    seeds = torch.randint(2**31 - 1, (len(sources),), generator=generator).tolist()
    donors = torch.randint(len(normals), (len(sources),), generator=generator)
    anomalous, masks = paste_defects(normals[sources], normals[donors], seeds, tuple(SELECTION))
    # A defect that changed nothing visible would only add noise to the comparison.
    visible = masks.flatten(1).any(1)
    return (anomalous[visible], sources[visible]) if bool(visible.any()) else (anomalous, sources)


def _best_first(aurocs: Aurocs, compared: _Comparison) -> tuple[tuple[str, float], ...]:
    """Name and AUROC of candidates, best first."""
    rows = [(describe(compared.config(candidate)), value) for candidate, value in aurocs.items()]
    return tuple(sorted(rows, key=lambda row: -row[1]))


def _select_clean(compared: _Comparison) -> _Choice:
    """Choose for accuracy on clean images."""
    candidate, reason = safest(compared.clean, len(compared.normals), len(compared.anomalous))
    return _Choice(candidate, reason)


def safest(clean: Aurocs, normals: int, anomalous: int) -> tuple[Candidate, str]:
    """Choose the safest candidate among those as good as the best, within the precision of so few images.

    Errors relative to the image's mean are safer than absolute ones, because lighting and texture may change in a way
    that the few images do not show. Many views are safer than few for defects of unknown kind. And with a dozen normal
    images the best of hundreds of candidates owes its lead to chance. This is Breiman's one-standard-error rule, with
    "simplest" replaced by "safest".

    Args:
        clean: AUROC on clean images, by candidate.
        normals: Number of normal images.
        anomalous: Number of anomalous images.

    Returns:
        The candidate, and the reason in words.
    """
    best = max(clean.values())
    margin = max(_MARGIN, auroc_standard_error(best, normals, anomalous))
    good = [candidate for candidate, value in clean.items() if value >= best - margin]
    winner = max(good, key=lambda one: (one.style.normalise_by_image_mean, len(one.views), clean[one]))
    reason = f"AUROC {clean[winner]:.3f}, the safest of the candidates within {margin:.3f} of the best ({best:.3f})"
    return winner, reason


def _select_robust(compared: _Comparison) -> _Choice:
    """Choose for accuracy under attack."""
    finalists = best_single_views(compared.clean)
    robust: dict[Candidate, float] = {}
    for done, candidate in enumerate(finalists):
        config, statistics = compared.single_draw(candidate)
        robust[candidate] = auroc_under_attack(
            compared.denoiser, compared.normals, compared.anomalous, config, statistics, compared.noise_seed
        )
        compared.progress.update(done + 1, len(finalists))
    winner = most_robust(robust, compared.clean, len(compared.normals), len(compared.anomalous))
    reason = (
        f"AUROC {robust[winner]:.3f} under a quick attack, the highest of {len(robust)} candidates at the smallest view"
        f" that is as good as the best; AUROC {compared.clean[winner]:.3f} on clean images"
    )
    return _Choice(winner, reason, robust)


def best_single_views(clean: Aurocs) -> list[Candidate]:
    """Give the best candidate on clean images for every single view and every combination of scales.

    Args:
        clean: AUROC on clean images, by candidate.
    """
    leaders: dict[tuple[Scales, NoiseView], Candidate] = {}
    for candidate in sorted(clean, key=lambda candidate: -clean[candidate]):
        if len(candidate.views) == 1:
            leaders.setdefault((candidate.style.scales, candidate.views[0]), candidate)
    return list(leaders.values())


def most_robust(robust: Aurocs, clean: Aurocs, normals: int, anomalous: int) -> Candidate:
    """Choose the best candidate under attack at the smallest view that is as good as the best.

    Doubling the view quadruples the cost of scoring and of attacking, so a smaller view is preferred unless its AUROC
    is lower by more than the standard error.

    Args:
        robust: AUROC under attack, by candidate of one view.
        clean: AUROC on clean images, by candidate.
        normals: Number of normal images.
        anomalous: Number of anomalous images.
    """
    best = max(robust.values())
    margin = max(_MARGIN, auroc_standard_error(best, min(normals, IMAGES[0]), min(anomalous, IMAGES[1])))
    smallest_px = min(one.views[0].view_px for one, value in robust.items() if value >= best - margin)
    same_size = [one for one in robust if one.views[0].view_px == smallest_px]
    return max(same_size, key=lambda one: (robust[one], clean[one]))


def _select_certified(compared: _Comparison) -> _Choice:
    """Choose for certified accuracy."""
    certified: dict[Candidate, float] = {}
    quantiles: dict[Candidate, float] = {}
    for done, view in enumerate(compared.errors):
        candidates = [candidate for candidate in compared.clean if candidate.views == (view,)]
        results = certified_aurocs(
            compared.denoiser,
            compared.normals,
            compared.anomalous,
            view,
            [compared.single_draw(candidate) for candidate in candidates],
            compared.radius,
            compared.noise_seed,
            compared.arithmetic,
        )
        for candidate, (value, quantile) in zip(candidates, results, strict=True):
            certified[candidate], quantiles[candidate] = value, quantile
        compared.progress.update(done + 1, len(compared.errors))
    winner = max(certified, key=lambda one: (certified[one], compared.clean[one]))
    reason = (
        f"estimated certified AUROC {certified[winner]:.3f} within {compared.radius:g}, the highest of {len(certified)}"
        f" candidates; AUROC {compared.clean[winner]:.3f} on clean images"
    )
    return _Choice(winner, reason, certified, quantiles[winner])


_STRATEGIES: dict[Aim, Callable[[_Comparison], _Choice]] = {
    "clean": _select_clean,
    "robust": _select_robust,
    "certified": _select_certified,
}
