"""Attack a batch of images with one attack after the other, and keep the worst case of each image."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.attacks.base import AttackInput
from advrad.attacks.exported import changed_in_8_bits
from advrad.attacks.objectives import make_objective
from advrad.attacks.plan import AttackPlan, AttackSpec
from advrad.attacks.registry import ATTACKS
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.probing import judge_images, score_images
from advrad.detectors.saved import takes_pixels
from advrad.utils.seeding import generator_for

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

#: An attack stops only this far beyond the point at which nothing more can be gained, as a share of the span of the
#: clean scores: a result exactly at that point would be lost when the image is rounded to 8 bits.
MARGIN = 0.1


@dataclass(frozen=True, slots=True)
class ImageAttackResult:
    """Result of the attacks on one image.

    Attributes:
        name: Name of the image.
        label: 0 for normal, 1 for anomalous.
        clean: Score of the image as given.
        worst: Score of the worst image found: the highest for a normal image, the lowest for an anomalous one.
        by: Name of the attack that found it; empty if no attack changed the score for the worse.
        rounded: Score of that image after rounding to 8 bits.
        distance: Distance of that image from the given one, in the norm of the threat model.
        scores: Worst score that each attack found, by name.
        defective: Worst verdict of a detector whose verdict is more than ``score > threshold``: for a normal image
            whether any attack made it defective, for an anomalous one whether it stayed so under all of them. None for
            other detectors.
        gradients: Number of gradient evaluations.
        queries: Number of evaluations, with or without gradient.
        seconds: Duration.

    Example:
        >>> import advrad, torch
        >>> detector = advrad.wrap(lambda images: images.mean((1, 2, 3)), deterministic=True)
        >>> images = torch.stack([torch.full((3, 8, 8), value) for value in (0.2, 0.8)])
        >>> rows = advrad.attack(detector, (images, [0, 1]), attack="pgd", eps=0.1, steps=20).rows
        >>> [(row.label, round(row.clean, 2), round(row.worst, 2)) for row in rows]
        [(0, 0.2, 0.3), (1, 0.8, 0.7)]
    """

    name: str
    label: int
    clean: float
    worst: float
    by: str
    rounded: float
    distance: float
    scores: dict[str, float]
    gradients: int
    queries: int
    seconds: float
    defective: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        values = asdict(self)
        if self.defective is None:
            del values["defective"]
        return values


@dataclass(frozen=True, slots=True)
class GainLimits:
    """Scores beyond which nothing more can be gained from an image.

    Attacks raise scores of normal images and lower those of anomalous ones. A normal image above every anomalous one,
    or an anomalous one below every normal one, is ranked wrongly against all others already, so the AUROC cannot fall
    further; and its verdict is wrong too.

    Attributes:
        normal: Limit for normal images, passed from below.
        anomalous: Limit for anomalous images, passed from above.
    """

    normal: float
    anomalous: float

    @classmethod
    def of(cls, clean: Floats, labels: Labels, threshold: float | None) -> GainLimits:
        """Compute the limits.

        Args:
            clean: Scores of the images as given, (n,).
            labels: 0 for normal, 1 for anomalous, (n,).
            threshold: Threshold of the detector; None if it gives no verdicts.
        """
        normal, anomalous = clean[labels == 0], clean[labels == 1]
        if not (normal.size and anomalous.size):
            return cls(np.inf, -np.inf)
        above, below = float(anomalous.max()), float(normal.min())
        return cls(above, below) if threshold is None else cls(max(above, threshold), min(below, threshold))

    def passed(self, labels: Labels, scores: Floats) -> npt.NDArray[np.bool_]:
        """Whether each score is beyond the limit, (n,)."""
        return np.where(labels == 0, scores > self.normal, scores < self.anomalous)

    def stop_above(self, signs: Floats) -> Floats:
        """Values of the signed score, (n,), at which an attack may stop; see :data:`MARGIN`."""
        return signs * np.where(signs > 0, self.normal, self.anomalous) + MARGIN * abs(self.normal - self.anomalous)


@dataclass(frozen=True, eq=False)
class AttackSetup:
    """What all batches of an evaluation share.

    Attributes:
        detector: Detector that scores the results.
        gradient_detector: The same detector in the precision of the gradients; attacks use it.
        source: Detector that transfer attacks use; None if there are none.
        plan: Plan of the evaluation.
        attacks: Attacks of the plan that suit the detector.
        score_seed: Seed of the noise on which all results are scored.
        limits: Scores beyond which nothing more can be gained.
        early_stopping: Whether an attack on the score may stop beyond these: only where the score that it maximises is
            exactly the one that counts.
    """

    detector: AnomalyDetector
    gradient_detector: AnomalyDetector
    source: AnomalyDetector | None
    plan: AttackPlan
    attacks: Sequence[AttackSpec]
    score_seed: int
    limits: GainLimits
    early_stopping: bool


class BatchAttack:
    """Attacks on a batch of images, and the worst case found so far.

    Args:
        setup: What all batches share.
        images: Images, (b, c, h, w), in [0, 1].
        labels: 0 for normal, 1 for anomalous, (b,).
        names: Names of the images, b.
        clean: Scores of the images as given, (b,).
        verdicts: Verdicts on the images as given, (b,), of a detector whose verdict is more than ``score > threshold``;
            None for others.

    Attributes:
        worst: Worst images found, (b, c, h, w).
        worst_maps: Anomaly maps of these after :meth:`run`, (b, h, w); None for a detector without maps.
    """

    def __init__(
        self,
        setup: AttackSetup,
        images: Tensor,
        labels: Labels,
        names: Sequence[str],
        clean: Floats,
        verdicts: Booleans | None = None,
    ) -> None:
        self.setup, self.images, self.labels, self.names, self.clean = setup, images, labels, names, clean
        self.signs: Floats = np.where(labels == 0, 1.0, -1.0)
        self.worst = images.clone()
        self.worst_maps: npt.NDArray[np.float32] | None = None
        self._worst_scores = clean.copy()
        self._defective = None if verdicts is None else verdicts.copy()
        self._found_by = [""] * len(names)
        self._scores: list[dict[str, float]] = [{} for _ in names]
        self._gradients, self._queries = (np.zeros(len(names), dtype=int) for _ in range(2))

    def run(self) -> list[ImageAttackResult]:
        """Run all attacks and return the result of each image."""
        began = time.perf_counter()
        for attack in self.setup.attacks:
            for restart in range(attack.restarts):
                rows = np.flatnonzero(~self._finished())
                if not rows.size:
                    break
                for candidates in self._candidates(attack, restart, rows):
                    self._keep_worse(attack, rows, candidates)
        seed, detector = self.setup.score_seed, self.setup.detector
        attacked = [f"{name} after an attack" for name in self.names]
        rounded, _ = score_images(detector, (self.worst * 255).round() / 255, seed, attacked)
        _, self.worst_maps = score_images(detector, self.worst, seed, attacked)
        distances = self.setup.plan.threat.distance(self.images, self.worst).tolist()
        seconds = (time.perf_counter() - began) / len(self.names)
        return [
            ImageAttackResult(
                name=name,
                label=int(self.labels[row]),
                clean=float(self.clean[row]),
                worst=float(self._worst_scores[row]),
                by=self._found_by[row],
                rounded=float(rounded[row]),
                distance=distances[row],
                scores=self._scores[row],
                gradients=int(self._gradients[row]),
                queries=int(self._queries[row]),
                seconds=round(seconds, 3),
                defective=None if self._defective is None else bool(self._defective[row]),
            )
            for row, name in enumerate(self.names)
        ]

    def _finished(self) -> Booleans:
        """Whether nothing more can be gained from each image: neither from its score nor from its verdict, (b,)."""
        passed = self.setup.limits.passed(self.labels, self._worst_scores)
        return passed if self._defective is None else passed & (self._defective == (self.labels == 0))

    def _candidates(self, attack: AttackSpec, restart: int, rows: npt.NDArray[np.intp]) -> list[Tensor]:
        """Attack some rows once. Returns their best images and, where they differ, those at which the search ended."""
        setup = self.setup
        seed_parts = (setup.plan.seed, attack.seed_name, restart)
        objective = make_objective(
            setup.source if attack.transfer and setup.source is not None else setup.gradient_detector,
            torch.from_numpy(self.signs[rows]),
            attack.surrogate,
            generator_for(*seed_parts, "noise"),
            eot=attack.eot,
            known_noise=setup.score_seed if setup.plan.noise == "known" else None,
        )
        stop_early = setup.early_stopping and attack.surrogate == "score" and not attack.transfer
        found = ATTACKS[attack.attack](
            AttackInput(
                objective,
                self.images[rows],
                setup.plan.threat,
                [generator_for(*seed_parts, self.names[row]) for row in rows],
                attack.steps,
                torch.from_numpy(setup.limits.stop_above(self.signs[rows])) if stop_early else None,
            )
        )
        self._gradients[rows] += found.gradients.numpy() * attack.eot
        self._queries[rows] += found.queries.numpy() * attack.eot
        return [found.images] if torch.equal(found.last, found.images) else [found.images, found.last]

    def _keep_worse(self, attack: AttackSpec, rows: npt.NDArray[np.intp], candidates: Tensor) -> None:
        """Score candidates for some rows, (rows, c, h, w), on fresh noise, and keep those that are worse.

        They are projected into the threat model first, and for an export rounded to 8 bits. The values that the attack
        itself computed are not used.
        """
        candidates = self.setup.plan.threat.project(candidates.detach(), self.images[rows])
        if takes_pixels(self.setup.detector):
            candidates = changed_in_8_bits(candidates, self.images[rows])
        names = [f"{self.names[row]} after an attack ({attack.name})" for row in rows]
        values, _, verdicts = judge_images(self.setup.detector, candidates, self.setup.score_seed, names)
        self._queries[rows] += 1
        if self._defective is not None and verdicts is not None:
            before = self._defective[rows]
            self._defective[rows] = np.where(self.labels[rows] == 0, before | verdicts, before & verdicts)
        for value, candidate, row in zip(values, candidates, rows, strict=True):
            sign, own = self.signs[row], self._scores[row]
            if attack.name not in own or sign * value > sign * own[attack.name]:
                own[attack.name] = float(value)
            if sign * value > sign * self._worst_scores[row]:
                self._worst_scores[row], self._found_by[row] = value, attack.name
                self.worst[row] = candidate
