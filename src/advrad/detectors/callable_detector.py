"""A detector made of a callable, by :func:`advrad.wrap`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advrad.detectors.base import DetectorOutput, SurrogateLoss
from advrad.errors import DetectorError


@dataclass(frozen=True)
class CallableDetector:
    """A detector made from a callable; see :func:`advrad.wrap` for the attributes.

    Example:
        >>> import advrad
        >>> advrad.wrap(lambda images: images.mean((1, 2, 3)), size_px=64).size_px
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
