"""Make a detector of any callable."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from advrad.detectors.base import AnomalyDetector, LossFunction, SurrogateLoss
from advrad.detectors.callable_detector import CallableDetector
from advrad.errors import ConfigError


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
            ``pred_score`` and ``anomaly_map``. Larger is more anomalous. Tensors, arrays and lists of any real type
            are taken; only tensors can pass gradients to the images. If it has a parameter ``generator``, all its
            randomness must come from it; otherwise from the global generators of PyTorch, NumPy or Python, which are
            seeded for each call and restored after it. A module, also one whose method is given, is put in evaluation
            mode. A callable that fails on several images gets one at a time. A model of
            anomalib brings its own values of the other arguments; what is given here replaces them.
        size_px: Side of the square images that it takes, in pixels; None for images of any size.
        deterministic: Whether an image always gets the same score. Attacks verify it.
        differentiable: Whether gradients reach the images. Attacks verify it.
        threshold: Threshold of the score for verdicts; None for none.
        noise_seed: Seed of the noise that the deployed detector always uses; None if it is not fixed.
        surrogates: Losses that an attack may follow in place of the score, by name: functions of images and a
            generator, or :class:`advrad.detectors.base.SurrogateLoss`.

    Raises:
        ConfigError: The argument cannot be called, is a class, or is a detector of advrad already.

    Example:
        >>> import torch
        >>> detector = wrap(lambda images: images.std((1, 2, 3)), deterministic=True, threshold=0.3)
        >>> detector.infer(torch.zeros(2, 3, 8, 8), torch.Generator()).scores
        tensor([0., 0.])
    """
    if not callable(call):
        raise ConfigError(f"wrap: {type(call).__name__} cannot be called; give a function or a module")
    if isinstance(call, type):
        raise ConfigError(f"wrap: {call.__name__} is a class; make an object of it first, as in {call.__name__}()")
    if _is_a(call, "advrad", "AdvRAD"):
        raise ConfigError("wrap: an AdvRAD model needs no wrapping; give it as it is")
    losses = {name: _to_loss(loss) for name, loss in surrogates.items()} if surrogates is not None else None
    if _is_a(call, "anomalib", "AnomalibModule"):
        from advrad.detectors.anomalib import expose

        known = expose(call)
        given: dict[str, Any] = {
            "size_px": size_px,
            "threshold": threshold,
            "noise_seed": noise_seed,
            "surrogates": losses,
        }
        return replace(known, **{name: value for name, value in given.items() if value is not None})
    module = _module_of(call)
    if module is not None:
        module.eval()
    return CallableDetector(
        call, size_px, deterministic, differentiable, threshold, noise_seed, losses or {}, _takes_generator(call)
    )


def as_detector(found: Any) -> AnomalyDetector:
    """Return a detector unchanged, an AdvRAD model in its white-box form, and :func:`wrap` anything else.

    Raises:
        ConfigError: The argument cannot be called, or lacks a part of the interface.
    """
    if _is_a(found, "advrad", "AdvRAD"):
        from advrad.detectors.white_box import WhiteBoxAdvRAD

        return WhiteBoxAdvRAD(found)
    if isinstance(found, type) or not hasattr(found, "infer"):
        return wrap(found)
    missing = [name for name in _ATTRIBUTES if not hasattr(found, name)]
    if not missing:
        detector: AnomalyDetector = found
        return detector
    if callable(found):  # its infer is something else
        return wrap(found)
    raise ConfigError(
        f"{type(found).__name__} has infer, but no {', '.join(missing)}; add what AnomalyDetector asks for, or give a"
        " function of images instead"
    )


#: What the interface of detectors asks for besides ``infer``.
_ATTRIBUTES = ("size_px", "deterministic", "differentiable", "threshold", "noise_seed", "surrogates")


def _module_of(call: Callable[..., Any]) -> nn.Module | None:
    """The module that a callable is, or whose method it is; None for others."""
    while isinstance(call, partial):
        call = call.func
    owner = getattr(call, "__self__", None)
    return call if isinstance(call, nn.Module) else owner if isinstance(owner, nn.Module) else None


def takes_colour(detector: object) -> bool:
    """Whether a detector takes three channels, so that grey images are repeated; a wrapped callable may take others.

    Args:
        detector: Detector.
    """
    return not isinstance(detector, CallableDetector)


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
