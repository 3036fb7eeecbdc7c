"""Make a detector of any callable."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from advrad.detectors.base import AnomalyDetector, DetectorOutput, SurrogateLoss
from advrad.errors import ConfigError, DetectorError

#: Classes of other libraries whose models need more than being called -> the module whose ``expose`` makes a detector
#: of one. By name, so that no library is loaded before one of its models is met.
_EXPOSERS = {("anomalib", "AnomalibModule"): "advrad.detectors.anomalib"}


@dataclass(frozen=True)
class CallableDetector:
    """A detector made from a callable; see :func:`wrap`."""

    call: Callable[..., Any]
    size_px: int | None
    deterministic: bool
    differentiable: bool
    threshold: float | None
    noise_seed: int | None
    surrogates: Mapping[str, SurrogateLoss]
    takes_generator: bool

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """See :class:`AnomalyDetector`.

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
    surrogates: Mapping[str, SurrogateLoss] | None = None,
) -> CallableDetector:
    """Make a detector of a function or a module.

    Args:
        call: images (b, c, h, w) in [0, 1] -> scores (b,), or maps (b, 1, h, w) or (b, h, w) whose maximum is the
            score, or a pair of both in any order, or an object or a mapping with ``pred_score`` and ``anomaly_map``. If
            it has a parameter ``generator``, it is given one; else its randomness, if any, must come from PyTorch's
            global source. A module is used in the mode it is in, and in evaluation mode if it is asked nothing else.
            Or a model of anomalib, of which everything below is known; what is given goes before it.
        size_px: side of the square at which it takes images; None for any.
        deterministic: a promise, which an audit will test. Without it, noise is expected.
        differentiable: a promise, which an audit will test.
        threshold: of its verdict.
        noise_seed: of the noise it always uses once deployed.
        surrogates: scores to climb in place of the true one.

    Raises:
        ConfigError: it cannot be called.
    """
    if not callable(call):
        raise ConfigError(f"wrap: {type(call).__name__} cannot be called; give a function or a module")
    for base in type(call).__mro__:
        if exposer := _EXPOSERS.get((base.__module__.partition(".")[0], base.__name__)):
            known: CallableDetector = import_module(exposer).expose(call)
            given: dict[str, Any] = {
                "size_px": size_px,
                "threshold": threshold,
                "noise_seed": noise_seed,
                "surrogates": surrogates,
            }
            return replace(known, **{name: value for name, value in given.items() if value is not None})
    if isinstance(call, nn.Module):
        call.eval()
    try:
        parameters = inspect.signature(call.forward if isinstance(call, nn.Module) else call).parameters
    except (TypeError, ValueError):  # some built-in functions do not tell
        parameters = {}  # type: ignore[assignment]
    takes_generator = "generator" in parameters
    return CallableDetector(
        call, size_px, deterministic, differentiable, threshold, noise_seed, dict(surrogates or {}), takes_generator
    )


def as_detector(found: Any) -> AnomalyDetector:
    """What somebody's file holds or their function made, as a detector: itself, or :func:`wrap` of it."""
    detector: AnomalyDetector = found if hasattr(found, "infer") else wrap(found)
    return detector


def _understood(answer: object, count: int) -> DetectorOutput:
    """Scores and maps in whatever a callable answered."""
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
            raise DetectorError(f"the detector answered with {type(part).__name__}; it must answer with tensors")
        if part.ndim >= 3:
            maps = part[:, None] if part.ndim == 3 else part
        else:
            scores = part.reshape(-1) if part.shape == (count, 1) else part
    if scores is None and maps is not None:
        scores = maps.flatten(1).amax(1)
    if scores is None:
        raise DetectorError("the detector answered with neither scores nor maps")
    return DetectorOutput(scores, maps)
