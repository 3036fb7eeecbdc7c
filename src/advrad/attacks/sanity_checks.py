"""Distrust of an audit's result: signs that an attack was weaker than it looks, in words.

A high figure may mean a robust detector, or gradients that lead nowhere. Each check here looks for one way of fooling
oneself, and says what it saw. A detector that passes them all is not proven robust.
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
from advrad.attacks.evaluation import AGREEMENT, AttackPlan, AttackSpec, ImageSet, RobustnessResult, evaluate_robustness
from advrad.attacks.registry import WITHOUT_GRADIENTS
from advrad.attacks.threat import Threat
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.probing import ProbedProperties, gradient_of, probe, validated_output
from advrad.utils.compat import TorchDispatchMode
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.seeding import seed_of

#: Of a wrong gradient: the slopes that it promises and those that are there differ by more than this share.
_MISMATCH = 0.2
#: An attack of this size should leave nothing of any detector.
_HUGE = 64 / 255
_HUGE_AUROC = 0.1
#: Differences in AUROC below this are not talked about.
_SLACK = 0.01
#: Differences in score below this share of the scores' spread are rounding.
_ROUNDING = 1e-3


@dataclass(frozen=True, slots=True)
class Flag:
    """One reason for distrust.

    Attributes:
        name: short, fixed.
        words: what was seen, and what it means.
    """

    name: str
    words: str


class _Dice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whether anything random is computed from another source than the one that began with a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seed = seed
        self.thrown: bool = False

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self, function, types, args=(), kwargs=None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in function.tags:
            source = kwargs.get("generator")  # another object by now, but it still knows its seed
            self.thrown |= source is None or source.initial_seed() != self.seed
        return function(*args, **kwargs)


def draws_noise(detector: AnomalyDetector, images: Tensor) -> bool:
    """Whether a detector draws from another source than its generator for these images, whatever becomes of it."""
    seed = seed_of("dice")
    dice = _Dice(seed)
    with dice, torch.no_grad():
        detector.infer(images, torch.Generator().manual_seed(seed))
    return dice.thrown


def check_detector(detector: AnomalyDetector, images: Tensor, seed: int = 0, eot: int = 1) -> list[Flag]:
    """What can be seen without an attack.

    Args:
        detector: under audit.
        images: (b, c, h, w) in [0, 1], a few are enough.
        seed: of noise and directions.
        eot: calls of the detector that the attack averages.
    """
    traits = probe(detector, images)
    return [*_check_randomness(detector, images[:1], traits), *_check_gradients(detector, images, traits, seed, eot)]


def _check_randomness(detector: AnomalyDetector, images: Tensor, traits: ProbedProperties) -> Iterator[Flag]:
    if detector.deterministic and not traits.deterministic:
        yield Flag(
            "undeclared randomness",
            "the detector says it is deterministic, but the same image got two scores: an attack that averages over"
            " no noise is too weak",
        )
    first, again = (validated_output(detector, images, torch.Generator().manual_seed(1)).scores for _ in range(2))
    if not torch.equal(first, again):
        yield Flag(
            "randomness of its own",
            "the same image on the same noise got two scores: the detector draws from a source that nobody seeds, so"
            " no result can be repeated",
        )
    if traits.deterministic and draws_noise(detector, images):
        yield Flag(
            "reseeded inside",
            "the detector draws noise, yet the generator it was given changes nothing: it reseeds inside the score, so"
            " its noise is fixed, an attacker may know it, and its figure says nothing of other noise",
        )


def _check_gradients(
    detector: AnomalyDetector, images: Tensor, traits: ProbedProperties, seed: int, eot: int
) -> Iterator[Flag]:
    if not traits.differentiable:
        yield Flag(
            "no gradient",
            f"no gradient reaches the image ({traits.why_not}): only attacks by score were made, which find far less"
            " than gradients do",
        )
        return
    # In general position: where many values are equal, as in a flat or overexposed place, a maximum has kinks.
    draws = torch.Generator().manual_seed(seed_of(seed, "jitter"))
    images = (images * 253 + 2 * torch.rand(images.shape, generator=draws).to(images)) / 255
    gradient = gradient_of(detector, images, seed_of(seed, "gradient"))
    if not bool(torch.isfinite(gradient).all()):
        yield Flag("gradient is no number", "the gradient holds NaN or infinity: the attack goes nowhere from there")
        return
    dead = gradient.flatten(1).abs().amax(1) == 0
    if bool(dead.any()):
        yield Flag(
            "zero gradient",
            f"of {len(images)} images {int(dead.sum())} have a gradient of exactly 0: the score is saturated, rounded"
            " or cut off from the image, and the attack cannot see where to go",
        )
    alive = ~dead
    if bool(alive.any()):
        yield from _check_slopes(detector, images[alive], gradient[alive], seed)
        yield from _check_rounding(detector, images[alive], gradient[alive], seed)
        if traits.agreement * eot < AGREEMENT:
            yield Flag(
                "noisy gradient",
                f"gradients of two noise draws agree to {traits.agreement:.2f} only (1 is the same direction), and"
                f" {eot} {'draw is' if eot == 1 else 'draws are'} averaged: the randomness is not covered; raise"
                " --eot until the figure stops falling",
            )


def _check_slopes(detector: AnomalyDetector, images: Tensor, gradient: Tensor, seed: int) -> Iterator[Flag]:
    """Compare the slope that the gradient promises with the one that is there, along the gradient itself.

    Of several lengths the one that fits best counts: short steps drown in rounding, long ones leave the tangent.
    """
    noise = seed_of(seed, "gradient")

    def scores(at: Tensor) -> Tensor:
        # With gradients on: the arithmetic may be another one without.
        return detector.infer(at.detach(), torch.Generator().manual_seed(noise)).scores.detach().double()

    draws = torch.Generator().manual_seed(seed_of(seed, "directions"))
    dense = torch.randn(images.shape, generator=draws).to(images)
    # Uphill, and uphill mixed with what is not: a gradient of the wrong length or of half the way shows in one of them.
    unit = gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    random = dense / dense.flatten(1).norm(dim=1)[:, None, None, None]
    worst = np.zeros(len(images))
    for direction in (unit, unit + random, unit - random):
        promised = (gradient * direction).flatten(1).sum(1).double()
        best = np.full(len(images), np.inf)
        for length in (1e-3, 3e-3, 1e-2, 3e-2, 1e-1):
            rise = (scores(images + length * direction) - scores(images - length * direction)) / (2 * length)
            error = ((rise - promised).abs() / promised.abs().clamp_min(1e-30)).cpu().numpy()
            best = np.minimum(best, error)
        worst = np.maximum(worst, best)
    wrong = worst > _MISMATCH
    if wrong.any():
        yield Flag(
            "gradient mismatch",
            f"on {int(wrong.sum())} of {len(images)} images the score does not change as its gradient says (off by"
            f" {np.median(worst[wrong]):.0%}): something is detached, rounded or recomputed on the way, and the attack"
            " follows a gradient that is not the score's",
        )


def _check_rounding(detector: AnomalyDetector, images: Tensor, gradient: Tensor, seed: int) -> Iterator[Flag]:
    """Move single values, those that matter most, by far less than a level of 8 bits: the score must move, too."""
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
        promised = 2 * step * slopes.flatten()[places].abs().double()
        # Below this float32 itself stands still.
        visible = promised > 100 * torch.finfo(torch.float32).eps * up.abs()
        still += int(((up == down) & visible).sum())
        moved += int(((up != down) & visible).sum())
    if still > moved:
        yield Flag(
            "rounded inside",
            f"moving a pixel by a twentieth of an 8-bit level left the score exactly where it was in {still} of"
            f" {still + moved} cases: the detector rounds its input, so gradients do not tell of small changes",
        )


def check_audit(audit: RobustnessResult) -> list[Flag]:
    """What an audit's own rows tell."""
    flags = []
    eps = audit.plan.threat.eps
    outside = [row for row in audit.rows if row.distance > eps * (1 + 1e-4) + 1e-7]
    if outside:
        furthest = max(row.distance for row in outside)
        words = f"{len(outside)} images were changed by more than eps, up to {furthest:.4g}"
        flags.append(Flag("outside the ball", words))
    if eps == 0:
        spread = float(np.std([row.clean for row in audit.rows])) + 1e-12
        moved = [row for row in audit.rows if abs(row.worst - row.clean) > _ROUNDING * spread]
        if moved:
            flags.append(Flag("eps 0 is not clean", f"at eps 0 the scores of {len(moved)} images changed"))
    flags += _check_black_box(audit)
    return flags


def _check_black_box(audit: RobustnessResult) -> list[Flag]:
    """Whether asking for scores alone found more than following gradients did."""
    blind = {member.name for member in audit.members if member.attack in WITHOUT_GRADIENTS}
    seeing = {member.name for member in audit.members} - blind
    if not seeing or not blind:
        return []
    wins = total = 0
    for row in audit.rows:
        sign = 1 if row.label == 0 else -1
        ours = [sign * value for name, value in row.scores.items() if name in seeing]
        theirs = [sign * value for name, value in row.scores.items() if name in blind]
        if ours and theirs:
            total += 1
            wins += max(theirs) > max(ours) + 0.05 * abs(max(ours) - sign * row.clean)
    if total and wins > 0.1 * total:
        return [
            Flag(
                "black box wins",
                f"on {wins} of {total} images Square, which sees scores only, found worse than the gradients did:"
                " they mislead, and the figure is void",
            )
        ]
    return []


def check_ladder(
    detector: AnomalyDetector,
    subjects: ImageSet,
    threat: Threat,
    folder: Path,
    *,
    seed: int = 0,
    steps: int = 20,
    eot: int = 1,
    identity: str = "",
    progress: ProgressReporter = SILENT,
) -> tuple[list[Flag], dict[str, float]]:
    """Attack with more and less of everything: more must never help the defender, and enough must leave nothing.

    Args:
        detector: under audit.
        subjects: images of both kinds; a dozen are enough.
        threat: of the audit.
        folder: for the rows.
        seed: of everything.
        steps: of the weaker attack; the stronger has four times as many.
        eot: calls averaged.
        identity: of the detector.
        progress: Receives the progress.

    Returns:
        The flags, and the AUROC of every run by its name.
    """
    surrogate = "score"
    member = AttackSpec(attack="pgd", surrogate=surrogate, steps=steps, eot=eot)
    longer = AttackSpec(attack="pgd", surrogate=surrogate, steps=4 * steps, eot=eot)
    square = AttackSpec(attack="square", surrogate=surrogate, steps=2 * steps)
    huge = Threat(norm="linf", eps=_HUGE)
    grid: list[tuple[str, Threat, tuple[AttackSpec, ...]]] = [
        ("eps 0", Threat(norm=threat.norm, eps=0.0), (member,)),
        ("eps", threat, (member,)),
        ("eps, 4 x the steps", threat, (longer,)),
        (
            "4 x eps",
            Threat(norm=threat.norm, eps=min(4 * threat.eps, 1.0 if threat.norm == "linf" else np.inf)),
            (member,),
        ),
        ("eps 64/255", huge, (longer,)),
        ("eps, Square too", threat, (member, square)),
    ]
    flags: list[Flag] = []
    areas: dict[str, float] = {}
    for index, (name, model, members) in enumerate(grid):
        audit = evaluate_robustness(
            detector,
            subjects,
            AttackPlan(threat=model, members=members, seed=seed),
            folder / f"ladder-{index}",
            identity=identity,
        )
        flags += check_audit(audit)
        if not areas:
            areas["clean"] = _area(audit, [row.clean for row in audit.rows])
        areas[name] = _area(audit, [row.worst for row in audit.rows])
        progress.update(index + 1, len(grid))
    bad = int(subjects.labels.sum())
    slack = _SLACK + 2 / max(1, bad * (len(subjects.labels) - bad))  # two pairs of images may change places by luck
    for less, more, what in (
        ("eps", "eps, 4 x the steps", "four times the steps"),
        ("eps", "4 x eps", "four times the radius"),
    ):
        if areas[more] > areas[less] + slack:
            flags.append(
                Flag(
                    "more helps the defender",
                    f"{what} left an AUROC of {areas[more]:.3f}, less left {areas[less]:.3f}: the attack loses its way",
                )
            )
    if areas["eps 64/255"] > _HUGE_AUROC:
        flags.append(
            Flag(
                "survives the impossible",
                f"at linf 64/255 the AUROC is still {areas['eps 64/255']:.3f}, where it should be about 0: the attack"
                " does not find what must be there",
            )
        )
    return flags, areas


def _area(audit: RobustnessResult, scores: Sequence[float]) -> float:
    return metrics.auroc(np.array([row.label for row in audit.rows]), np.array(scores))
