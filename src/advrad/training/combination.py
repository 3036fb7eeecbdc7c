"""How the closed form and the learned denoiser are combined: chosen on held-out normal images and synthetic defects.

The learned denoiser was not trained on these images, and the closed form compares each with the others only. The images
of the threshold take no part in the choice. The candidates are the closed form alone, the learned denoiser alone, and
the closed form plus a share of the learned score within limits.

- ``auto``: the best AUROC on clean images. A tie, within the precision of so few images, goes to the closed form alone.
- ``robust``: the same among those whose certified AUROC, at linf 2/255, is not below that of the closed form alone. So
  an attack that controls the learned part completely cannot undo what was proven.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.certificates.lipschitz import certified_auroc
from advrad.data.splits import MOST_IMAGES
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.combined import CombinedConfig, CombinedDetector
from advrad.metrics import auroc
from advrad.training.calibration_data import CalibrationData
from advrad.training.closed_form import fit_closed_form
from advrad.training.closed_form_run import aspect_of
from advrad.training.plan import RunPlan
from advrad.training.score_selection import DEFECTS_PER_SELECTION, with_defects
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.seeding import generator_for, numpy_generator_for

Floats = npt.NDArray[np.float64]

#: Radius, linf, at which ``robust`` keeps what is certified.
RADIUS = 2 / 255
#: Weights of the learned score, in units of the spread of the closed form's score over normal images.
WEIGHTS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)
#: Limits of the learned score, in units of its own spread over normal images.
LIMITS = ((-2.0, 20.0), (0.0, 10.0), (0.0, 4.0))
#: Largest number of normal selection images that are compared.
MOST_SELECTION = 100
#: Difference in AUROC up to which two candidates count as equally good, for any number of images.
_MARGIN = 0.005
_RESAMPLES = 200
#: Fewest normal images from which a spread is estimated.
_LEAST_NORMALS = 5


@dataclass(frozen=True)
class Candidate:
    """A way to combine the two scores.

    Attributes:
        memory: Whether the closed form counts.
        weight: Weight of the learned score; 0 for the closed form alone.
        low: Least value of the learned score that counts.
        high: Largest value of the learned score that counts.
    """

    memory: bool = True
    weight: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def scores(self, memory: Floats, learned: Floats) -> Floats:
        """Combine scores of the closed form and of the learned denoiser, (n,) each."""
        return memory + self.weight * np.clip(learned, self.low, self.high) if self.memory else learned

    def __str__(self) -> str:
        if not self.memory:
            return "learned alone"
        if not self.weight:
            return "memory alone"
        return f"memory + {self.weight:.3g} x learned in {self.low:g} .. {self.high:g}"


MEMORY, LEARNED = Candidate(), Candidate(memory=False)


@dataclass(frozen=True)
class HeldOut:
    """Scores of held-out normal images and of images with synthetic defects.

    Attributes:
        labels: Labels, (n,): 0 for normal, 1 for anomalous.
        memory: Scores of the closed form, (n,).
        learned: Scores of the learned denoiser, (n,).
        lower: Lower bounds of the closed form's scores at :data:`RADIUS`, (n,).
        upper: Upper bounds, (n,).
    """

    labels: npt.NDArray[np.int64]
    memory: Floats
    learned: Floats
    lower: Floats
    upper: Floats

    def clean(self, candidate: Candidate) -> float:
        """AUROC of a candidate on clean images."""
        return auroc(self.labels, candidate.scores(self.memory, self.learned))

    def certified(self, candidate: Candidate) -> float:
        """AUROC that no attack on all images at once can undercut; 0 for the learned denoiser alone."""
        if not candidate.memory:
            return 0.0
        low, high = candidate.weight * candidate.low, candidate.weight * candidate.high
        return certified_auroc(self.labels, self.lower + low, self.upper + high) or 0.0

    def error_of_difference(self, one: Candidate, other: Candidate, seed: int) -> float:
        """Standard error of the difference in AUROC of two candidates on the same images, by the bootstrap."""
        draws = numpy_generator_for(seed, "combination")
        parts = [np.flatnonzero(self.labels == label) for label in (0, 1)]
        scores = [candidate.scores(self.memory, self.learned) for candidate in (one, other)]
        differences = []
        for _ in range(_RESAMPLES):
            rows = np.concatenate([draws.choice(part, len(part)) for part in parts])
            first, second = (auroc(self.labels[rows], values[rows]) for values in scores)
            differences.append(first - second)
        return float(np.std(differences))


@dataclass(frozen=True)
class Combination:
    """The chosen combination, and what it was chosen from.

    Attributes:
        candidate: The chosen candidate.
        reason: Why it was chosen, in words.
        tried: Name and clean AUROC of every candidate, best first.
    """

    candidate: Candidate
    reason: str
    tried: tuple[tuple[str, float], ...]


def choose_combination(held_out: HeldOut, spread: float, *, robust: bool, seed: int = 0) -> Combination:
    """Choose how the two scores are combined.

    Args:
        held_out: Scores of held-out images.
        spread: Spread of the closed form's score over normal images, > 0.
        robust: Whether the certified AUROC of the closed form must be kept.
        seed: Seed of the bootstrap.
    """
    floor = held_out.certified(MEMORY)
    candidates = [MEMORY, *_sums(held_out, spread, robust=robust)] + ([] if robust else [LEARNED])
    allowed = [one for one in candidates if not robust or held_out.certified(one) >= floor]
    clean = {one: held_out.clean(one) for one in {*candidates, LEARNED}}
    best = max(allowed, key=lambda one: clean[one])  # the first of equals, so the closed form alone before all others
    margin = 0.0
    if best != MEMORY:
        margin = max(_MARGIN, held_out.error_of_difference(best, MEMORY, seed))
    winner = best if clean[best] > clean[MEMORY] + margin else MEMORY
    tried = sorted(((str(one), value) for one, value in clean.items()), key=lambda row: -row[1])
    return Combination(winner, _reason(winner, clean[winner], held_out, margin, robust=robust), tuple(tried))


def _sums(held_out: HeldOut, spread: float, *, robust: bool) -> Iterator[Candidate]:
    """Sums of the two scores to compare."""
    for low, high in LIMITS:
        if not robust:
            for weight in WEIGHTS:
                yield Candidate(True, weight * spread, low, high)
            continue
        # The widest range that reverses no certified pair: it may not exceed the smallest gap between their bounds.
        anomalous, normal = held_out.lower[held_out.labels == 1], held_out.upper[held_out.labels == 0]
        gaps = (anomalous[:, None] - normal[None]).ravel()
        if (proven := gaps[gaps > 0]).size:
            yield Candidate(True, float(proven.min()) * (1 - 1e-6) / (high - low), low, high)


def _reason(winner: Candidate, clean: float, held_out: HeldOut, margin: float, *, robust: bool) -> str:
    """Why a candidate was chosen, in one line."""
    memory, learned = held_out.clean(MEMORY), held_out.clean(LEARNED)
    certified = f"certified {held_out.certified(winner):.3f} at linf 2/255"
    figures = f"closed form {memory:.3f}, learned denoiser {learned:.3f}"
    where = "on held-out normal images and synthetic defects"
    if winner == MEMORY:
        why = "nothing better keeps what is certified" if robust else "the learned denoiser adds nothing certain"
        worse = (
            "; the closed form is worse than the learned denoiser here" if learned > memory + margin + _MARGIN else ""
        )
        return f"closed form alone, {why}: AUROC {figures}, {certified} {where}{worse}"
    worse = "; the closed form is worse than the learned denoiser here" if learned > memory + margin else ""
    if winner == LEARNED:
        return f"learned denoiser alone: AUROC {figures} {where}{worse}"
    return f"both together: AUROC {clean:.3f}, {figures}, {certified} {where}{worse}"


def fit_beside(images: CalibrationData, plan: RunPlan, progress: ProgressReporter = SILENT) -> ClosedFormDetector:
    """Fit the closed form that is combined with a learned denoiser: to the selection and the training images.

    Args:
        images: Normal images of the run.
        plan: Plan of the run.
        progress: Receives the progress.

    Returns:
        The detector. The first numbers of its images are those of the selection images.
    """
    compared = min(len(images.selection), MOST_SELECTION)
    generator = generator_for(plan.train.seed, "closed form beside")
    rows = torch.randperm(len(images.train), generator=generator)[: max(0, MOST_IMAGES - compared)].sort().values
    records = (*images.selection.records[:compared], *(images.train.records[row] for row in rows.tolist()))
    memory = fit_closed_form(
        torch.cat([images.selection.batch(range(compared)), images.train.batch(rows.tolist())]),
        false_alarm_rate=plan.false_alarm_rate,
        seed=plan.train.seed,
        aspect=aspect_of(records, plan.max_pixels) if plan.framing.stretches else 1.0,
        names=[record.path.as_posix() for record in records],
        progress=progress,
    )
    memory.update_config(pad=plan.pad)
    return memory


def combine(
    memory: ClosedFormDetector,
    learned: AdvRAD,
    images: CalibrationData,
    plan: RunPlan,
    progress: ProgressReporter = SILENT,
) -> ClosedFormDetector | AdvRAD | CombinedDetector:
    """Combine a closed-form detector and a learned one, as the selection images show it to be best.

    Args:
        memory: Closed-form detector, made by :func:`fit_beside`.
        learned: Learned detector, trained on the training images; its threshold is not used.
        images: Normal images of the run; only the selection images are used.
        plan: Plan of the run.
        progress: Receives the number of images that were scored.

    Returns:
        The one of the two that is better alone, or both combined; without a threshold that may be used. Its
        training record says why.
    """
    seed = plan.train.seed
    normals = images.selection.batch(slice(MOST_SELECTION))
    anomalous, sources = with_defects(normals, generator_for(seed, "combination"))
    groups = torch.cat([torch.arange(len(normals)), sources])
    held_out = score_held_out(memory, learned, normals, anomalous, groups, progress)
    chosen = choose_combination(held_out, _spread(held_out), robust=plan.score == "robust", seed=seed)
    training = learned.detector_config.training
    why = f"{chosen.reason}. Learned score: {training.reason}" if training.reason else chosen.reason
    if chosen.candidate == LEARNED:
        learned.update_config(training=training.model_copy(update={"reason": why}))
        return learned
    record = training.model_copy(
        update={
            "tried": chosen.tried,
            "candidates": len(chosen.tried),
            "winner": str(chosen.candidate),
            "reason": chosen.reason if chosen.candidate == MEMORY else why,
        }
    )
    if chosen.candidate == MEMORY:
        memory.update_config(training=record, held_out=())  # other images set the threshold
        return memory
    config = CombinedConfig(
        memory=memory.config,
        learned=learned.detector_config,
        weight=chosen.candidate.weight,
        low=chosen.candidate.low,
        high=chosen.candidate.high,
        training=record,
    )
    return CombinedDetector(config, memory, learned).eval()


def score_held_out(
    memory: ClosedFormDetector,
    learned: AdvRAD,
    normals: Tensor,
    anomalous: Tensor,
    groups: Tensor,
    progress: ProgressReporter = SILENT,
) -> HeldOut:
    """Score images with both detectors; each is left out of the memory, also as the source of a defect.

    Args:
        memory: Closed-form detector.
        learned: Learned detector, which was not trained on these images.
        normals: Normal images, (n, 3, s, s).
        anomalous: The same images with synthetic defects, (m, 3, s, s).
        groups: Numbers of the images in the memory that each must not be compared with, (n + m,) int64.
        progress: Receives the number of images done.
    """
    count = len(normals) + len(anomalous)
    rows = np.empty((4, count))
    images: Sequence[Tensor] = [*normals, *anomalous]
    for index, image in enumerate(images):
        bounds = memory.score_bounds(image[None], RADIUS, "linf", exclude=groups[index : index + 1])
        scores = learned.predict_batch(image[None]).scores
        rows[:, index] = [float(part) for part in (bounds.scores, scores, bounds.lower, bounds.upper)]
        progress.update(index + 1, count)
    return HeldOut(np.repeat([0, 1], [len(normals), len(anomalous)]), *rows)


def _spread(held_out: HeldOut) -> float:
    """Spread of the closed form's score over normal images; over all images if these are too few or all the same."""
    normal = held_out.memory[held_out.labels == 0]
    widths = (float(normal.std()) if len(normal) >= _LEAST_NORMALS else 0.0, float(held_out.memory.std()))
    return next((width for width in widths if width > 0), 1.0)


def seconds_to_combine(memory: ClosedFormDetector, images: CalibrationData) -> float:
    """Estimate the time that the closed form takes in :func:`combine` and in setting the threshold.

    Args:
        memory: Closed-form detector.
        images: Normal images of the run.
    """
    image = images.train.batch(slice(0, 1))
    began = time.perf_counter()
    with torch.no_grad():
        memory.score_bounds(image, RADIUS, "linf")
    bounded_s = time.perf_counter() - began
    began = time.perf_counter()
    memory.predict_batch(image.flip(3))  # another image, for the memory keeps what it found for the last one
    scored_s = time.perf_counter() - began
    counts = images.counts
    normals = min(counts.selection, MOST_SELECTION)
    compared = normals + max(DEFECTS_PER_SELECTION, normals)
    return bounded_s * compared + scored_s * counts.calibration
