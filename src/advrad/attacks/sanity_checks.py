"""Sanity checks of attack results: signs that an attack was weaker than it looks.

A high AUROC under attack may mean a robust detector, or gradients that are useless to the attack. Each check looks for
one such cause and describes what it found. Passing all of them does not prove that a detector is robust.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advrad import metrics
from advrad.attacks.evaluation import ImageSet, RobustnessResult, evaluate_robustness
from advrad.attacks.plan import AttackPlan, AttackSpec
from advrad.attacks.registry import WITHOUT_GRADIENTS
from advrad.attacks.selection import AGREEMENT
from advrad.attacks.threat import Threat
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.direction import doubt_scores
from advrad.detectors.probing import (
    BATCH_WORDS,
    ProbedProperties,
    depends_on_batch,
    gradient_of,
    probe,
    validated_output,
)
from advrad.detectors.saved import takes_pixels
from advrad.utils.compat import TorchDispatchMode
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.seeding import generator_for, seed_of

#: A gradient is wrong where the slope that it predicts differs from the measured one by more than this share.
_MISMATCH = 0.2
#: Lengths of the changes of a whole image by which a slope is measured.
_STEPS = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
#: The shortest step counts where the predicted change of the score is this many times its rounding in float32.
_ABOVE_ROUNDING = 1000
#: A perturbation of this size should defeat any detector: the AUROC should be at most the second number.
_HUGE = 64 / 255
_HUGE_AUROC = 0.1
#: Differences in AUROC below this are ignored.
_SLACK = 0.01
#: Differences in score below this share of the scores' standard deviation are rounding.
_ROUNDING = 1e-3


@dataclass(frozen=True, slots=True)
class Flag:
    """One reason to distrust a result.

    Attributes:
        name: Short, fixed name of the reason.
        words: Description: what was found and what it means.
    """

    name: str
    words: str


class _RandomnessMonitor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records whether any random operation uses another generator than the one that began with a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seed = seed
        self.found: bool = False

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self, function, types, args=(), kwargs=None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in function.tags:
            source = kwargs.get("generator")  # a copy, which still knows its first seed
            self.found |= source is None or source.initial_seed() != self.seed
        return function(*args, **kwargs)


def draws_noise(detector: AnomalyDetector, images: Tensor) -> bool:
    """Whether a detector uses another source of randomness than its generator, even if the score does not change."""
    seed = seed_of("dice")
    monitor = _RandomnessMonitor(seed)
    with monitor, torch.no_grad():
        detector.infer(images, torch.Generator().manual_seed(seed))
    return monitor.found


def check_detector(detector: AnomalyDetector, images: Tensor, seed: int = 0, eot: int = 1) -> list[Flag]:
    """Make the checks that need no attack.

    Args:
        detector: Detector.
        images: A few images, (b, c, h, w), in [0, 1].
        seed: Seed of noise and directions.
        eot: Number of noise draws that the attack averages.
    """
    properties = probe(detector, images)
    flags = [
        *_check_randomness(detector, images[:1], properties),
        *_check_gradients(detector, images, properties, seed, eot),
    ]
    if depends_on_batch(detector, images, seed):
        flags.append(Flag("depends on the batch", f"{BATCH_WORDS}; gradients of several images mislead the attack"))
    return flags


def check_scores(result: RobustnessResult, *, from_folder: bool) -> tuple[list[Flag], str | None]:
    """Check that the scores of the images as given point the right way.

    Args:
        result: Result of the evaluation.
        from_folder: Whether the detector is one of a model folder.

    Returns:
        The flags, and what they mean for the figures; None if there are none.
    """
    labels = np.array([row.label for row in result.rows])
    doubt = doubt_scores(labels, np.array([row.clean for row in result.rows]), from_folder=from_folder)
    return ([], None) if doubt is None else ([Flag(doubt.name, doubt.words)], doubt.note)


def _check_randomness(detector: AnomalyDetector, images: Tensor, properties: ProbedProperties) -> Iterator[Flag]:
    if detector.deterministic and not properties.deterministic:
        yield Flag(
            "undeclared randomness",
            "the detector declares that it is deterministic, but the same image got two scores: an attack that does not"
            " average over noise is too weak",
        )
    first, again = (validated_output(detector, images, torch.Generator().manual_seed(1)).scores for _ in range(2))
    if not torch.equal(first, again):
        yield Flag(
            "randomness of its own",
            "the same image with the same noise got two scores: the detector uses a source of randomness that cannot be"
            " seeded, so no result can be reproduced",
        )
    if properties.deterministic and draws_noise(detector, images):
        yield Flag(
            "reseeded inside",
            "the detector draws noise, but the given generator changes nothing: it sets a seed inside the score, so its"
            " noise is fixed, an attacker may know it, and the result does not hold for other noise",
        )


def _check_gradients(
    detector: AnomalyDetector, images: Tensor, properties: ProbedProperties, seed: int, eot: int
) -> Iterator[Flag]:
    if takes_pixels(detector):
        return  # an export; that it has no gradients is the note of the result
    if not properties.differentiable:
        yield Flag(
            "no gradient",
            f"no gradient reaches the image ({properties.why_not}): only attacks that query scores were run, which find"
            " far less than attacks with gradients",
        )
        return
    for name, part in properties.parts.items():
        if not part.differentiable:
            yield Flag(
                "no gradient",
                f"no gradient of '{name}' reaches the image ({part.why_not}): this part of the score is attacked by"
                " queries only, which find far less than attacks with gradients",
            )
    # Random offsets: where many values are equal, as in a flat or overexposed area, a maximum is not differentiable.
    draws = generator_for(seed, "jitter")
    images = (images * 253 + 2 * torch.rand(images.shape, generator=draws).to(images)) / 255
    gradient = gradient_of(detector, images, seed_of(seed, "gradient"))
    if not bool(torch.isfinite(gradient).all()):
        yield Flag("gradient is no number", "the gradient holds NaN or infinity: an attack cannot use it")
        return
    zero = gradient.flatten(1).abs().amax(1) == 0
    if bool(zero.any()):
        yield Flag(
            "zero gradient",
            f"{int(zero.sum())} of {len(images)} images have a gradient of exactly 0: the score is saturated, rounded"
            " or detached from the image, and an attack finds no direction",
        )
    nonzero = ~zero
    if bool(nonzero.any()):
        yield from _check_slopes(detector, images[nonzero], gradient[nonzero], seed)
        yield from _check_rounding(detector, images[nonzero], gradient[nonzero], seed)
        if properties.agreement * eot < AGREEMENT:
            yield Flag(
                "noisy gradient",
                f"gradients of two noise draws agree to {properties.agreement:.2f} only (1 is the same direction), and"
                f" {eot} {'draw is' if eot == 1 else 'draws are'} averaged: attacks are too weak; average more draws"
                " (eot) until the AUROC stops falling",
            )


def _check_slopes(detector: AnomalyDetector, images: Tensor, gradient: Tensor, seed: int) -> Iterator[Flag]:
    """Compare the slope that the gradient predicts with the measured slope, along the gradient itself.

    The best fit over several step lengths counts: short steps are lost in rounding, long ones leave the tangent. So
    does the best of the slopes to both sides and between them: the largest of many features has a kink nearby.
    """
    noise = seed_of(seed, "gradient")

    def scores(at: Tensor) -> Tensor:
        # With gradients enabled: without, a detector may use another precision.
        return detector.infer(at.detach(), torch.Generator().manual_seed(noise)).scores.detach().double()

    draws = generator_for(seed, "directions")
    dense = torch.randn(images.shape, generator=draws).to(images)
    # Along the gradient, and along mixtures with a random direction: a wrong length, or a missing part, shows in one.
    unit = gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    random = dense / dense.flatten(1).norm(dim=1)[:, None, None, None]
    here = scores(images)
    worst = np.zeros(len(images))
    for direction in (unit, unit + random, unit - random):
        predicted = (gradient * direction).flatten(1).sum(1).double()
        best = np.full(len(images), np.inf)
        for length in _STEPS:
            above, below = scores(images + length * direction), scores(images - length * direction)
            slopes = torch.stack([(above - below) / 2, above - here, here - below]) / length
            error = ((slopes - predicted).abs() / predicted.abs().clamp_min(1e-30)).amin(0)
            if length == _STEPS[0]:
                visible = length * predicted.abs() > _ABOVE_ROUNDING * torch.finfo(torch.float32).eps * here.abs()
                error = torch.where(visible, error, torch.inf)
            best = np.minimum(best, error.cpu().numpy())
        worst = np.maximum(worst, best)
    wrong = worst > _MISMATCH
    if wrong.any():
        yield Flag(
            "gradient mismatch",
            f"on {int(wrong.sum())} of {len(images)} images the score does not change as its gradient says (off by"
            f" {np.median(worst[wrong]):.0%}): something is detached or rounded before the score, and an attack follows"
            " a wrong gradient",
        )


def _check_rounding(detector: AnomalyDetector, images: Tensor, gradient: Tensor, seed: int) -> Iterator[Flag]:
    """Change single values, those with the largest gradient, by far less than an 8-bit level: the score must change."""
    noise = seed_of(seed, "gradient")
    step, still, moved = 2e-4, 0, 0
    for image, slopes in zip(images, gradient, strict=True):
        places = slopes.flatten().abs().topk(8).indices
        moves = torch.zeros(len(places), image.numel(), dtype=image.dtype, device=image.device)
        moves[torch.arange(len(places)), places] = step
        moves = moves.view(len(places), *image.shape)
        up, down = (
            torch.cat(
                [
                    detector.infer((image + sign * move)[None], torch.Generator().manual_seed(noise)).scores.detach()
                    for move in moves
                ]
            ).double()
            for sign in (1, -1)
        )
        predicted = 2 * step * slopes.flatten()[places].abs().double()
        # Below this, float32 itself does not change.
        visible = predicted > 100 * torch.finfo(torch.float32).eps * up.abs()
        still += int(((up == down) & visible).sum())
        moved += int(((up != down) & visible).sum())
    if still > moved:
        yield Flag(
            "rounded inside",
            f"changing a value by a twentieth of an 8-bit level left the score exactly as it was in {still} of"
            f" {still + moved} cases: the detector rounds its input, so gradients do not describe small changes",
        )


def check_result(result: RobustnessResult) -> list[Flag]:
    """Check the results of the images themselves."""
    flags = []
    eps = result.plan.threat.eps
    outside = [row for row in result.rows if row.distance > eps * (1 + 1e-4) + 1e-7]
    if outside:
        furthest = max(row.distance for row in outside)
        words = f"{len(outside)} images were changed by more than eps, up to {furthest:.4g}"
        flags.append(Flag("outside the ball", words))
    if eps == 0:
        spread = float(np.std([row.clean for row in result.rows])) + 1e-12
        moved = [row for row in result.rows if abs(row.worst - row.clean) > _ROUNDING * spread]
        if moved:
            flags.append(Flag("eps 0 is not clean", f"at eps 0 the scores of {len(moved)} images changed"))
    flags += _check_black_box(result)
    return flags


def _check_black_box(result: RobustnessResult) -> list[Flag]:
    """Check whether queries of the score found more than gradients did."""
    queries = {attack.name for attack in result.attacks if attack.attack in WITHOUT_GRADIENTS}
    with_gradients = {attack.name for attack in result.attacks} - queries
    if not with_gradients or not queries:
        return []
    wins = total = 0
    for row in result.rows:
        sign = 1 if row.label == 0 else -1
        ours = [sign * value for name, value in row.scores.items() if name in with_gradients]
        theirs = [sign * value for name, value in row.scores.items() if name in queries]
        if ours and theirs:
            total += 1
            wins += max(theirs) > max(ours) + 0.05 * abs(max(ours) - sign * row.clean)
    if total and wins > 0.1 * total:
        return [
            Flag(
                "black box wins",
                f"on {wins} of {total} images Square, which uses scores only, found a worse case than the gradients"
                " did: the gradients are misleading, and the result does not count",
            )
        ]
    return []


@dataclass(frozen=True, slots=True)
class _Run:
    """One attack of the escalation: the name of its AUROC, its threat model and its attacks."""

    name: str
    threat: Threat
    attacks: tuple[AttackSpec, ...]


def _escalation(threat: Threat, steps: int, eot: int, parts: Sequence[str] = ()) -> tuple[_Run, ...]:
    """Attacks from the weakest to the strongest, on the score and on its parts, and one with queries of the score."""
    short, long = (
        tuple(AttackSpec(attack="pgd", surrogate=name, steps=count, eot=eot) for name in ("score", *parts))
        for count in (steps, 4 * steps)
    )
    square = AttackSpec(attack="square", steps=2 * steps)
    largest = 1.0 if threat.norm == "linf" else np.inf
    return (
        _Run("eps 0", Threat(norm=threat.norm, eps=0.0), short),
        _Run("eps", threat, short),
        _Run("eps, 4 x the steps", threat, long),
        _Run("4 x eps", Threat(norm=threat.norm, eps=min(4 * threat.eps, largest)), short),
        _Run("eps 64/255", Threat(norm="linf", eps=_HUGE), long),
        _Run("eps, Square too", threat, (*short, square)),
    )


def check_escalation(
    detector: AnomalyDetector,
    images: ImageSet,
    threat: Threat,
    folder: Path,
    *,
    seed: int = 0,
    steps: int = 20,
    eot: int = 1,
    identity: str = "",
    from_folder: bool = False,
    progress: ProgressReporter = SILENT,
) -> tuple[list[Flag], dict[str, float]]:
    """Attack with rising strength: a stronger attack must not find less, and a huge perturbation must succeed.

    Args:
        detector: Detector.
        images: Images of both classes; a dozen are enough.
        threat: Threat model.
        folder: Folder for the results of the attacks.
        seed: Seed for all random draws.
        steps: Steps of the weaker attacks; the stronger ones take four times as many.
        eot: Number of noise draws that are averaged.
        identity: Digest of the detector.
        from_folder: Whether the detector is one of a model folder.
        progress: Receives the number of attacks that are finished.

    Returns:
        The flags, and the AUROC under each attack by its name.
    """
    flags: list[Flag] = []
    areas: dict[str, float] = {}
    runs = _escalation(threat, steps, eot, [name for name, loss in detector.surrogates.items() if loss.kind == "part"])
    for index, run in enumerate(runs):
        plan = AttackPlan(threat=run.threat, attacks=run.attacks, seed=seed)
        result = evaluate_robustness(detector, images, plan, folder / f"ladder-{index}", identity=identity)
        flags += check_result(result)
        if not areas:
            flags += check_scores(result, from_folder=from_folder)[0]
            areas["clean"] = _area(result, [row.clean for row in result.rows])
        areas[run.name] = _area(result, [row.worst for row in result.rows])
        progress.update(index + 1, len(runs))
    anomalous = int(images.labels.sum())
    # Two pairs of images may change places by chance.
    slack = _SLACK + 2 / max(1, anomalous * (len(images.labels) - anomalous))
    for less, more, what in (
        ("eps", "eps, 4 x the steps", "four times the steps"),
        ("eps", "4 x eps", "four times the radius"),
    ):
        if areas[more] > areas[less] + slack:
            words = f"{what} left an AUROC of {areas[more]:.3f}, less left {areas[less]:.3f}: the attack is unreliable"
            flags.append(Flag("more helps the defender", words))
    if areas["eps 64/255"] > _HUGE_AUROC:
        words = (
            f"at linf 64/255 the AUROC is still {areas['eps 64/255']:.3f}, where it should be about 0: the attack"
            " misses perturbations that must exist"
        )
        flags.append(Flag("survives the impossible", words))
    return flags, areas


def _area(result: RobustnessResult, scores: Sequence[float]) -> float:
    return metrics.auroc(np.array([row.label for row in result.rows]), np.array(scores))
