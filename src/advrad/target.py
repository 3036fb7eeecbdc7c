"""What an audit needs of a detector, and how any callable becomes one.

Whoever attacks or certifies knows this form only, so that our detector and anybody else's meet the same code. Resizing
and normalisation happen inside the detector: a threat model lives on the picture as given.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from advrad.errors import ConfigError, DetectorError

#: A score that an attacker may climb in place of the true one: (b, c, h, w) and a source of noise -> (b,).
Hint = Callable[[Tensor, torch.Generator], Tensor]

#: Classes of other libraries whose models need more than being called -> the module whose ``expose`` makes a detector
#: of one. By name, so that no library is loaded before one of its models is met.
_EXPOSERS = {("anomalib", "AnomalibModule"): "advrad.integrations.anomalib.exposed"}


@dataclass(frozen=True, slots=True)
class Judged:
    """What a detector says of b pictures.

    Attributes:
        scores: (b,) larger is more anomalous.
        maps: (b, 1, h, w) where it comes from, or None.
    """

    scores: Tensor
    maps: Tensor | None = None


class Detector(Protocol):
    """Any anomaly detector, ours or another."""

    @property
    def size_px(self) -> int | None:
        """Side of the square at which it takes pictures; None for any size."""

    @property
    def deterministic(self) -> bool:
        """Whether it says that the same picture always gets the same score, whatever the generator."""

    @property
    def differentiable(self) -> bool:
        """Whether it says that gradients reach the picture."""

    @property
    def threshold(self) -> float | None:
        """Verdict defective where score > threshold; None if it does not decide."""

    @property
    def noise_seed(self) -> int | None:
        """Of the noise that it uses once deployed, the same for every picture; None if nobody knows beforehand."""

    @property
    def hints(self) -> Mapping[str, Hint]:
        """Scores that an attacker may climb in place of the true one; what they find is judged by the true one.

        Names that begin with ``part`` mean unbiased parts of the score: their mean is the score's own mean.
        """

    def judge(self, images: Tensor, generator: torch.Generator) -> Judged:
        """Score pictures; row i depends on row i only.

        Args:
            images: (b, c, h, w) float in [0, 1].
            generator: source of all randomness.
        """


@dataclass(frozen=True)
class Wrapped:
    """A detector made from a callable; see :func:`wrap`."""

    call: Callable[..., Any]
    size_px: int | None
    deterministic: bool
    differentiable: bool
    threshold: float | None
    noise_seed: int | None
    hints: Mapping[str, Hint]
    takes_generator: bool

    def judge(self, images: Tensor, generator: torch.Generator) -> Judged:
        """See :class:`Detector`.

        Raises:
            DetectorError: the callable answers with something that is no score.
        """
        if self.takes_generator:
            return _understood(self.call(images, generator=generator), len(images))
        if self.deterministic:
            return _understood(self.call(images), len(images))
        # Its noise comes from the global source: let that follow the generator, and leave it as it was.
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return _understood(self.call(images), len(images))


def wrap(
    call: Callable[..., Any],
    *,
    size_px: int | None = None,
    deterministic: bool = False,
    differentiable: bool = True,
    threshold: float | None = None,
    noise_seed: int | None = None,
    hints: Mapping[str, Hint] | None = None,
) -> Wrapped:
    """Make a detector of a function or a module.

    Args:
        call: pictures (b, c, h, w) in [0, 1] -> scores (b,), or maps (b, 1, h, w) or (b, h, w) whose maximum is the
            score, or a pair of both in any order, or an object or a mapping with ``pred_score`` and ``anomaly_map``. If
            it has a parameter ``generator``, it is given one; else its randomness, if any, must come from PyTorch's
            global source. A module is used in the mode it is in, and in evaluation mode if it is asked nothing else.
            Or a model of anomalib, of which everything below is known; what is given goes before it.
        size_px: side of the square at which it takes pictures; None for any.
        deterministic: a promise, which an audit will test. Without it, noise is expected.
        differentiable: a promise, which an audit will test.
        threshold: of its verdict.
        noise_seed: of the noise it always uses once deployed.
        hints: scores to climb in place of the true one.

    Raises:
        ConfigError: it cannot be called.
    """
    if not callable(call):
        raise ConfigError(f"wrap: {type(call).__name__} cannot be called; give a function or a module")
    for base in type(call).__mro__:
        if exposer := _EXPOSERS.get((base.__module__.partition(".")[0], base.__name__)):
            known: Wrapped = import_module(exposer).expose(call)
            given: dict[str, Any] = {
                "size_px": size_px,
                "threshold": threshold,
                "noise_seed": noise_seed,
                "hints": hints,
            }
            return replace(known, **{name: value for name, value in given.items() if value is not None})
    if isinstance(call, nn.Module):
        call.eval()
    try:
        parameters = inspect.signature(call.forward if isinstance(call, nn.Module) else call).parameters
    except (TypeError, ValueError):  # some built-in functions do not tell
        parameters = {}  # type: ignore[assignment]
    takes_generator = "generator" in parameters
    return Wrapped(
        call, size_px, deterministic, differentiable, threshold, noise_seed, dict(hints or {}), takes_generator
    )


def as_detector(found: Any) -> Detector:
    """What somebody's file holds or their function made, as a detector: itself, or :func:`wrap` of it."""
    detector: Detector = found if hasattr(found, "judge") else wrap(found)
    return detector


def _understood(answer: object, count: int) -> Judged:
    """Scores and maps in whatever a callable answered."""
    if isinstance(answer, Judged):
        return answer
    if isinstance(answer, Mapping):
        parts = [answer.get("pred_score"), answer.get("anomaly_map")]
    elif hasattr(answer, "pred_score") or hasattr(answer, "anomaly_map"):
        parts = [getattr(answer, "pred_score", None), getattr(answer, "anomaly_map", None)]
    else:
        parts = list(answer) if isinstance(answer, (tuple, list)) else [answer]
    scores: Tensor | None = None
    maps: Tensor | None = None
    for part in parts:
        if part is None:
            continue
        if not isinstance(part, Tensor):
            raise DetectorError(f"the detector answered with {type(part).__name__}; it must answer with tensors")
        if part.ndim >= 3:
            maps = part[:, None] if part.ndim == 3 else part
        else:
            scores = part.reshape(-1) if part.shape == (count, 1) else part
    if scores is None and maps is not None:
        scores = maps.flatten(1).amax(1)
    if scores is None:
        raise DetectorError("the detector answered with neither scores nor maps")
    return Judged(scores, maps)


def judged(detector: Detector, images: Tensor, generator: torch.Generator) -> Judged:
    """What a detector says, once it is clear that it is an answer. For scoring; gradients are not asked of it.

    Args:
        detector: any.
        images: (b, c, h, w) in [0, 1].
        generator: source of its randomness.

    Returns:
        Scores and maps, float32 on the CPU.

    Raises:
        DetectorError: wrong shape, or not finite.
    """
    with torch.no_grad():
        answer = detector.judge(images, generator)
    scores = answer.scores.detach().float().cpu()
    if scores.shape != (len(images),):
        raise DetectorError(
            f"the detector answered {len(images)} pictures with scores of shape {tuple(scores.shape)}; it must be"
            f" ({len(images)},)"
        )
    if not bool(torch.isfinite(scores).all()):
        raise DetectorError("the detector answered with a score that is no finite number")
    if answer.maps is None:
        return Judged(scores)
    maps = answer.maps.detach().float().cpu()
    if maps.ndim != 4 or maps.shape[:2] != (len(images), 1):
        raise DetectorError(
            f"the detector's maps have the shape {tuple(maps.shape)}; it must be ({len(images)}, 1, h, w)"
        )
    if not bool(torch.isfinite(maps).all()):
        raise DetectorError("the detector's map holds a value that is no finite number")
    return Judged(scores, maps)


@dataclass(frozen=True, slots=True)
class Traits:
    """What a detector is found to be, whatever it says.

    Attributes:
        deterministic: the same score under other noise.
        differentiable: a gradient reaches the pictures.
        why_not: why none does.
        agreement: cosine between the gradients of two noise draws, the mean over pictures; 1 without noise, or without
            a gradient to compare.
    """

    deterministic: bool
    differentiable: bool
    why_not: str = ""
    agreement: float = 1.0


def find_traits(detector: Detector, images: Tensor) -> Traits:
    """Try a detector on pictures, (b, c, h, w) in [0, 1]."""
    first, second = (judged(detector, images, torch.Generator().manual_seed(seed)).scores for seed in (1, 2))
    deterministic = bool(torch.equal(first, second))
    try:
        one = gradient_of(detector, images, 1)
    except (RuntimeError, NotImplementedError) as error:
        return Traits(deterministic, False, str(error).strip().splitlines()[0])
    other = one if deterministic else gradient_of(detector, images, 2)
    one, other = (part.double().nan_to_num(0.0, 0.0, 0.0).flatten(1) for part in (one, other))
    alive = (one != 0).any(1) & (other != 0).any(1)
    agreement = torch.cosine_similarity(one[alive], other[alive], dim=1)
    return Traits(deterministic, True, agreement=float(agreement.mean()) if bool(alive.any()) else 1.0)


def gradient_of(detector: Detector, images: Tensor, seed: int) -> Tensor:
    """Gradient of the score by the pictures, of their shape, on the noise of a seed.

    Raises:
        RuntimeError: none reaches the pictures.
    """
    point = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        scores = detector.judge(point, torch.Generator().manual_seed(seed)).scores
        (gradient,) = torch.autograd.grad(scores.sum(), point)
    return gradient.detach()
