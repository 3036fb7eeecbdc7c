"""Adapter for models of anomalib: a detector whose gradients reach the images.

Models of anomalib run their feature networks under ``no_grad`` and detach maps before they compute the score. Here the
same code runs while both are disabled for the calling thread: values stay the same, and the graph stays connected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from advrad.detectors.base import SurrogateLoss
from advrad.detectors.callable_detector import CallableDetector
from advrad.errors import ConfigError
from advrad.utils.compat import is_grad_switch

if TYPE_CHECKING:
    from anomalib.models.components.base import AnomalibModule

#: Models that score each row of a batch independently. All others get one image at a time: Cflow, for example, divides
#: its maps by the largest value in the batch.
_INDEPENDENT_ROWS = frozenset(
    {
        "Cfa",
        "Draem",
        "EfficientAd",
        "Fastflow",
        "Ganomaly",
        "Padim",
        "Patchcore",
        "ReverseDistillation",
        "Stfpm",
        "Supersimplenet",
    }
)

_DETACH = (torch.Tensor.detach, torch.detach)
_ROOTS = (torch.sqrt, torch.Tensor.sqrt, torch.Tensor.sqrt_)


class WholeGraph(TorchFunctionMode):
    """Context in which ``no_grad`` and ``detach`` have no effect, and the gradient of the root of 0 is 0.

    It applies to the calling thread only and changes no value. Whether gradients are recorded is decided before it is
    entered. It has no effect on ``inference_mode``.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Called by PyTorch in place of ``func``."""
        del types
        if is_grad_switch(func):
            return None
        if func in _DETACH:
            return args[0]
        if func in _ROOTS and args[0].requires_grad and torch.is_grad_enabled():
            # The distance of a patch that is in the memory is exactly 0. The infinite slope of its root, times the 0
            # from the minimum over all distances, would be NaN.
            positive = args[0].detach() > 0
            args[0].register_hook(lambda gradient: torch.where(positive, gradient, 0))
        return func(*args, **(kwargs or {}))


class AnomalibAdapter:
    """Function from images to the raw scores and maps of a model of anomalib.

    Args:
        model: Trained model.
    """

    def __init__(self, model: AnomalibModule) -> None:
        self.model = model
        self.__name__ = type(model).__name__
        pre_processor = model.pre_processor
        # The transform of training and testing. The one of exported graphs resizes without antialiasing.
        self.transform: Callable[[Tensor], Tensor] | None = getattr(pre_processor, "transform", pre_processor)
        self.independent_rows = type(model).__name__ in _INDEPENDENT_ROWS

    def __call__(self, images: Tensor) -> Any:
        """Compute the model's output before anomalib's normalisation, for images, (b, 3, h, w), in [0, 1]."""
        return self.run(self.model.model, images)

    def run(self, score: Callable[[Tensor], Any], images: Tensor) -> Any:
        """Pre-process images and apply a function of the model, with gradients that reach the images.

        Args:
            score: Function from pre-processed images to outputs.
            images: Images, (b, 3, h, w), in [0, 1].
        """
        with WholeGraph():
            images = images.to(self.model.device)
            prepared = images if self.transform is None else self.transform(images)
            if self.independent_rows or len(prepared) < 2:
                return score(prepared)
            answers = [score(row) for row in torch.split(prepared, 1)]
            if isinstance(answers[0], Tensor):
                return torch.cat(answers)
            columns = zip(*answers, strict=True)
            return type(answers[0])(*(None if column[0] is None else torch.cat(column) for column in columns))


def expose(model: AnomalibModule) -> CallableDetector:
    """Make a detector of a trained model of anomalib.

    Scores and maps are the model's own, before anomalib's post-processor normalises them; images pass through the
    model's pre-processor first. A model whose rows depend on each other scores images one by one. The model is put in
    evaluation mode.

    Args:
        model: Trained model.

    Returns:
        A detector for the size to which the model's pre-processor resizes, with the threshold that anomalib found in
        validation, if any. A model whose score saturates has the surrogate loss ``unsaturated``.

    Raises:
        ConfigError: The model has no network in its attribute ``model``.
    """
    if not isinstance(getattr(model, "model", None), nn.Module):
        raise ConfigError(f"{type(model).__name__}: has no network in its attribute `model`; wrap a function instead")
    model.eval()
    adapter = AnomalibAdapter(model)
    side = model.input_size
    return CallableDetector(
        adapter,
        size_px=int(side[0]) if side is not None and side[0] == side[1] else None,
        deterministic=True,
        differentiable=True,
        threshold=_raw_threshold(model.post_processor),
        noise_seed=None,
        surrogates=_surrogates(adapter),
        takes_generator=False,
    )


def _raw_threshold(post_processor: Any) -> float | None:
    """The threshold of anomalib's post-processor in units of raw scores; None if it has none."""
    threshold = getattr(post_processor, "image_threshold", None)
    if threshold is None:
        return None
    spread = post_processor.image_max - post_processor.image_min
    # The post-processor normalises to (score - threshold) / spread + 0.5 and compares with 1 - sensitivity.
    shift = (0.5 - post_processor.image_sensitivity) * (float(spread) if math.isfinite(spread) else 0.0)
    value = float(threshold) + shift
    return value if math.isfinite(value) else None


def _surrogates(adapter: AnomalibAdapter) -> Mapping[str, SurrogateLoss]:
    """A loss that does not saturate, for models whose score does."""
    linear = _UNSATURATED.get(type(adapter.model).__name__)
    if linear is None:
        return {}

    def unsaturated(images: Tensor, generator: torch.Generator) -> Tensor:
        del generator
        scores: Tensor = adapter.run(lambda prepared: linear(adapter.model.model, prepared), images)
        return scores

    return {"unsaturated": SurrogateLoss(unsaturated, "unsaturated")}


def _fastflow(model: Any, images: Tensor) -> Tensor:
    """The energy of the latent variables; the map is 1 - exp(-energy), which saturates."""
    energies: list[Tensor] = []
    features = model._get_cnn_features(images)
    for flow, feature in zip(model.fast_flow_blocks, features, strict=True):
        energy = flow(feature)[0].square().mean(1, keepdim=True) / 2
        energies.append(F.interpolate(energy, size=images.shape[-2:], mode="bilinear", align_corners=False))
    return torch.stack(energies).sum(0).flatten(1).amax(1)


def _draem(model: Any, images: Tensor) -> Tensor:
    """The largest logit of the map; the score is the largest probability."""
    logits = model.discriminative_subnetwork(torch.cat([images, model.reconstructive_subnetwork(images)], 1))
    scores: Tensor = (logits[:, 1] - logits[:, 0]).flatten(1).amax(1)
    return scores


def _supersimplenet(model: Any, images: Tensor) -> Tensor:
    """The logit of the score, which is a probability."""
    features = model.feature_extractor(images)
    adapted = model.adaptor(features)
    logits: Tensor = model.segdec(adapted, adapted if model.adapt_cls_features else features)[1]
    return logits


_UNSATURATED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "Draem": _draem,
    "Fastflow": _fastflow,
    "Supersimplenet": _supersimplenet,
}
