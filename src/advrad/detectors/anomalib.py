"""Any model of anomalib as a detector whose gradients reach the image.

Anomalib's models are built to score, not to be attacked: they run their feature networks under ``no_grad`` and detach
maps on the way to the score. Here the same code runs with both made void for the calling thread, so that the values
stay what they are and the graph stays whole.
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
from advrad.detectors.wrappers import CallableDetector
from advrad.errors import ConfigError
from advrad.utils.compat import is_grad_switch

if TYPE_CHECKING:
    from anomalib.models.components.base import AnomalibModule

#: Models known to score every row of a batch for itself. All others see one image at a time: Cflow, for one, scales
#: its map by the largest value in the batch.
_ROWS_APART = frozenset(
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
    """While it is open, ``no_grad`` and ``detach`` do nothing, and roots of zero have the gradient zero.

    It acts on the thread that opens it alone, and changes no value. Whether gradients are recorded is what it was when
    it was opened. ``inference_mode`` is beyond its reach.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """See the class; called by PyTorch in place of ``func``."""
        del types
        if is_grad_switch(func):
            return None
        if func in _DETACH:
            return args[0]
        if func in _ROOTS and args[0].requires_grad and torch.is_grad_enabled():
            # A distance of exactly zero, of a patch that lies in the memory: its root has an infinite slope, which
            # times the zero of the minimum over all distances would be no number.
            positive = args[0].detach() > 0
            args[0].register_hook(lambda gradient: torch.where(positive, gradient, 0))
        return func(*args, **(kwargs or {}))


class AnomalibAdapter:
    """What :func:`expose` makes of a model: images in, its raw scores and maps out.

    Args:
        model: trained.
    """

    def __init__(self, model: AnomalibModule) -> None:
        self.model = model
        pre_processor = model.pre_processor
        # The transform of training and testing. The one for exported graphs resizes without antialiasing.
        self.transform: Callable[[Tensor], Tensor] | None = getattr(pre_processor, "transform", pre_processor)
        self.together = type(model).__name__ in _ROWS_APART

    def __call__(self, images: Tensor) -> Any:
        """(b, 3, h, w) in [0, 1] -> the model's own answer, before anomalib's normalisation."""
        return self.run(self.model.model, images)

    def run(self, score: Callable[[Tensor], Any], images: Tensor) -> Any:
        """Pre-process images and score them, with a whole graph."""
        with WholeGraph():
            images = images.to(self.model.device)
            prepared = images if self.transform is None else self.transform(images)
            if self.together or len(prepared) < 2:
                return score(prepared)
            answers = [score(row) for row in torch.split(prepared, 1)]
            if isinstance(answers[0], Tensor):
                return torch.cat(answers)
            columns = zip(*answers, strict=True)
            return type(answers[0])(*(None if column[0] is None else torch.cat(column) for column in columns))


def expose(model: AnomalibModule) -> CallableDetector:
    """Make a detector of a trained model of anomalib.

    Scores and maps are the model's own, before anomalib's post-processor normalises them; images go through the
    model's pre-processor first. For a model whose rows depend on each other, they are those of images scored one by
    one. The model is put into evaluation mode and stays the caller's.

    Args:
        model: trained.

    Returns:
        A detector at the side to which the model's pre-processor resizes, with the threshold that anomalib found while
        validating, if it did. Where the score saturates, the hint ``unsaturated`` is what it is a growing function of.

    Raises:
        ConfigError: the model is made for something else than images of one camera.
    """
    if not isinstance(getattr(model, "model", None), nn.Module):
        raise ConfigError(f"{type(model).__name__}: has no network in its attribute `model`; wrap a function instead")
    model.eval()
    exposed = AnomalibAdapter(model)
    side = model.input_size
    return CallableDetector(
        exposed,
        size_px=int(side[0]) if side is not None and side[0] == side[1] else None,
        deterministic=True,
        differentiable=True,
        threshold=_raw_threshold(model.post_processor),
        noise_seed=None,
        surrogates=_hints(exposed),
        takes_generator=False,
    )


def _raw_threshold(post_processor: Any) -> float | None:
    """Anomalib's threshold in units of raw scores; None if it has none."""
    threshold = getattr(post_processor, "image_threshold", None)
    if threshold is None:
        return None
    spread = post_processor.image_max - post_processor.image_min
    # It normalises to (score - threshold) / spread + 0.5 and compares with 1 - sensitivity.
    shift = (0.5 - post_processor.image_sensitivity) * (float(spread) if math.isfinite(spread) else 0.0)
    value = float(threshold) + shift
    return value if math.isfinite(value) else None


def _hints(exposed: AnomalibAdapter) -> Mapping[str, SurrogateLoss]:
    """A score that does not saturate, for models whose own does."""
    linear = _UNSATURATED.get(type(exposed.model).__name__)
    if linear is None:
        return {}

    def unsaturated(images: Tensor, generator: torch.Generator) -> Tensor:
        del generator
        scores: Tensor = exposed.run(lambda prepared: linear(exposed.model.model, prepared), images)
        return scores

    return {"unsaturated": unsaturated}


def _fastflow(model: Any, images: Tensor) -> Tensor:
    """The energy of the latent variables, where the map has one minus its exponential, which dies away."""
    total: Tensor | float = 0.0
    features = model._get_cnn_features(images)
    for flow, feature in zip(model.fast_flow_blocks, features, strict=True):
        energy = flow(feature)[0].square().mean(1, keepdim=True) / 2
        total = total + F.interpolate(energy, size=images.shape[-2:], mode="bilinear", align_corners=False)
    assert isinstance(total, Tensor)
    return total.flatten(1).amax(1)


def _draem(model: Any, images: Tensor) -> Tensor:
    """The logit of the map of which the score is the maximum."""
    logits = model.discriminative_subnetwork(torch.cat([images, model.reconstructive_subnetwork(images)], 1))
    scores: Tensor = (logits[:, 1] - logits[:, 0]).flatten(1).amax(1)
    return scores


def _supersimplenet(model: Any, images: Tensor) -> Tensor:
    """The logit of the score."""
    features = model.feature_extractor(images)
    adapted = model.adaptor(features)
    logits: Tensor = model.segdec(adapted, adapted if model.adapt_cls_features else features)[1]
    return logits


_UNSATURATED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "Draem": _draem,
    "Fastflow": _fastflow,
    "Supersimplenet": _supersimplenet,
}
