"""Make a detector of any callable."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from advrad.detectors.base import AnomalyDetector, DetectorOutput, LossFunction, SurrogateLoss
from advrad.errors import ConfigError, DetectorError


@dataclass(frozen=True)
class CallableDetector:
    """A detector made from a callable; see :func:`wrap` for the attributes.

    Example:
        >>> wrap(lambda images: images.mean((1, 2, 3)), size_px=64).size_px
        64
    """

    call: Callable[..., Any]
    size_px: int | None
    deterministic: bool
    differentiable: bool
    threshold: float | None
    noise_seed: int | None
    surrogates: Mapping[str, SurrogateLoss]
    takes_generator: bool

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """See :class:`advrad.detectors.base.AnomalyDetector`.

        Raises:
            DetectorError: The callable returned neither scores nor maps.
        """
        if self.takes_generator:
            return _to_output(self.call(images, generator=generator), len(images))
        if self.deterministic:
            return _to_output(self.call(images), len(images))
        # Its noise comes from PyTorch's global generator: seed that from the given one, and restore it afterwards.
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return _to_output(self.call(images), len(images))


def wrap(
    call: Callable[..., Any],
    *,
    size_px: int | None = None,
    deterministic: bool = False,
    differentiable: bool = True,
    threshold: float | None = None,
    noise_seed: int | None = None,
    surrogates: Mapping[str, LossFunction | SurrogateLoss] | None = None,
) -> CallableDetector:
    """Make a detector of a function, a module, or a model of anomalib.

    Args:
        call: Callable that maps images, (b, c, h, w), in [0, 1], to scores (b,), or to maps, (b, 1, h, w) or (b, h, w),
            whose maximum is then the score, or to a pair of both in any order, or to an object or mapping with
            ``pred_score`` and ``anomaly_map``. If it has a parameter ``generator``, all its randomness must come from
            it; otherwise from PyTorch's global generator. A module is put in evaluation mode. A model of anomalib
            brings its own values of the other arguments; what is given here replaces them.
        size_px: Side of the square images that it takes, in pixels; None for images of any size.
        deterministic: Whether an image always gets the same score. Attacks verify it.
        differentiable: Whether gradients reach the images. Attacks verify it.
        threshold: Threshold of the score for verdicts; None for none.
        noise_seed: Seed of the noise that the deployed detector always uses; None if it is not fixed.
        surrogates: Losses that an attack may follow in place of the score, by name: functions of images and a
            generator, or :class:`advrad.detectors.base.SurrogateLoss`.

    Raises:
        ConfigError: The argument cannot be called, or is a detector of advrad already.

    Example:
        >>> detector = wrap(lambda images: images.std((1, 2, 3)), deterministic=True, threshold=0.3)
        >>> detector.infer(torch.zeros(2, 3, 8, 8), torch.Generator()).scores
        tensor([0., 0.])
    """
    if not callable(call):
        raise ConfigError(f"wrap: {type(call).__name__} cannot be called; give a function or a module")
    if _is_a(call, "advrad", "AdvRAD"):
        raise ConfigError("wrap: an AdvRAD model needs no wrapping; give it as it is")
    losses = {name: _to_loss(loss) for name, loss in surrogates.items()} if surrogates is not None else None
    if _is_a(call, "anomalib", "AnomalibModule"):
        known: CallableDetector = import_module("advrad.detectors.anomalib").expose(call)
        given: dict[str, Any] = {
            "size_px": size_px,
            "threshold": threshold,
            "noise_seed": noise_seed,
            "surrogates": losses,
        }
        return replace(known, **{name: value for name, value in given.items() if value is not None})
    if isinstance(call, nn.Module):
        call.eval()
    return CallableDetector(
        call, size_px, deterministic, differentiable, threshold, noise_seed, losses or {}, _takes_generator(call)
    )


def as_detector(found: Any) -> AnomalyDetector:
    """Return a detector unchanged, an AdvRAD model in its white-box form, and :func:`wrap` anything else.

    Raises:
        ConfigError: The argument cannot be called.
    """
    if _is_a(found, "advrad", "AdvRAD"):
        ours: AnomalyDetector = import_module("advrad.detectors.white_box").WhiteBoxAdvRAD(found)
        return ours
    detector: AnomalyDetector = found if hasattr(found, "infer") else wrap(found)
    return detector


def _is_a(value: object, package: str, name: str) -> bool:
    """Whether the value's class, or a base of it, has this name in this package. Imports nothing."""
    return any(base.__name__ == name and base.__module__.partition(".")[0] == package for base in type(value).__mro__)


def _to_loss(loss: LossFunction | SurrogateLoss) -> SurrogateLoss:
    return loss if isinstance(loss, SurrogateLoss) else SurrogateLoss(loss)


def _takes_generator(call: Callable[..., Any]) -> bool:
    try:
        return "generator" in inspect.signature(call.forward if isinstance(call, nn.Module) else call).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False


def _to_output(answer: object, count: int) -> DetectorOutput:
    """Find scores and maps in the answer of a callable for ``count`` images."""
    if isinstance(answer, DetectorOutput):
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
            raise DetectorError(f"the detector returned {type(part).__name__}; it must return tensors")
        if part.ndim >= 3:
            maps = part[:, None] if part.ndim == 3 else part
        else:
            scores = part.reshape(-1) if part.shape == (count, 1) else part
    if scores is None and maps is not None:
        scores = maps.flatten(1).amax(1)
    if scores is None:
        raise DetectorError("the detector returned neither scores nor maps")
    return DetectorOutput(scores, maps)
