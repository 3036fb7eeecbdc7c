"""Models of anomalib as baselines: trained by anomalib's engine on normal images, then wrapped as detectors.

By default they use EfficientNet-lite0, whose ImageNet weights come from a Python package. With another backbone every
model is exactly anomalib's own, and its weights come from the Hugging Face hub.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import nn

from advrad.baselines.anomalib import builders
from advrad.baselines.anomalib.backbone import LITE0, MEAN, STD, check_layers
from advrad.detectors.callable_detector import CallableDetector
from advrad.errors import ConfigError
from advrad.utils.config import Config
from advrad.utils.seeding import seeded_globals

if TYPE_CHECKING:
    from anomalib.models.components.base import AnomalibModule

    from advrad.baselines.base import FitContext

Name = Literal[
    "patchcore",
    "padim",
    "cfa",
    "fastflow",
    "cflow",
    "stfpm",
    "reverse-distillation",
    "draem",
    "ganomaly",
    "supersimplenet",
    "efficient-ad",
]


class AnomalibOptions(Config):
    """Which model of anomalib, and how it is trained. None takes the default of the model, see :data:`MODELS`.

    Attributes:
        model: Name of the model.
        backbone: timm name of a network with ImageNet weights; None for ``tf_efficientnet_lite0``.
        layers: Indices of the backbone's feature maps, 0 to 4, at 1/2 to 1/32 of the image's side.
        steps: Number of training batches.
        batch_size: Number of images per batch.
        size_px: Side at which the model works, in pixels; images are resized inside the detector.
        pictures: Largest number of training images, drawn at random; None for all. The cost of a model with a memory of
            all patches grows with the square of this number.
        arguments: Arguments of the model's class in anomalib; they override those of :data:`MODELS`.
    """

    model: Name
    backbone: str | None = None
    layers: tuple[int, ...] | None = None
    steps: int | None = Field(None, ge=1)
    batch_size: int | None = Field(None, ge=1)
    size_px: int | None = Field(None, ge=32)
    pictures: int | None = Field(None, ge=2)
    arguments: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Defaults for building and training one model.

    Attributes:
        name: Name of its class in ``anomalib.models``.
        build: Function that builds it from the class, the backbone and arguments.
        steps: Number of training batches; None for one pass over the images, for models fitted in closed form.
        layers: Indices of the backbone's feature maps; None where they cannot be chosen.
        batch_size: Number of images per batch.
        size_px: Side at which it works, in pixels; None for that of the images.
        least_px: Smallest side at which it works, in pixels.
        arguments: Arguments of its class.
        backbone: Whether it has a backbone.
        normalise: Whether its pre-processor normalises images.
    """

    name: str
    build: builders.Builder
    steps: int | None
    layers: tuple[int, ...] | None = None
    batch_size: int = 8
    size_px: int | None = None
    least_px: int = 32
    arguments: dict[str, Any] = field(default_factory=dict)
    backbone: bool = True
    normalise: bool = True


#: Defaults of every model, chosen to train in a minute or two on two cores at 256 px.
MODELS: dict[Name, Recipe] = {
    # Each point of the coreset costs a pass over all patches, so the coreset is small.
    "patchcore": Recipe("Patchcore", builders.any_backbone, None, (2, 3), arguments={"coreset_sampling_ratio": 0.002}),
    "padim": Recipe("Padim", builders.any_backbone, None, (1, 2, 3), arguments={"n_features": 100}),
    "cfa": Recipe("Cfa", builders.cfa, 100),
    "fastflow": Recipe("Fastflow", builders.fastflow, 150),
    "cflow": Recipe("Cflow", builders.any_backbone, 25, (2, 3, 4), arguments={"fiber_batch_size": 256}),
    # Its AUROC on MVTec AD toothbrush is 0.21 after 100 steps, 0.76 after 400 and 0.94 after 1,200.
    "stfpm": Recipe("Stfpm", builders.any_backbone, 400, (1, 2, 3)),
    "reverse-distillation": Recipe("ReverseDistillation", builders.reverse_distillation, 80, batch_size=4),
    "draem": Recipe(
        "Draem",
        builders.draem,
        120,
        batch_size=4,
        size_px=128,
        arguments={"base_width": 16, "dtd_dir": None},
        backbone=False,
        normalise=False,
    ),
    "ganomaly": Recipe(
        "Ganomaly",
        builders.without_backbone,
        300,
        batch_size=16,
        size_px=64,
        arguments={"n_features": 32},
        backbone=False,
    ),
    # Its losses and learning rates are made for hundreds of passes; with so few steps it is weak. More `steps` help.
    "supersimplenet": Recipe("Supersimplenet", builders.any_backbone, 40, (2, 3), batch_size=4, least_px=128),
    "efficient-ad": Recipe(
        "EfficientAd",
        builders.efficient_ad,
        70,
        batch_size=1,
        size_px=256,
        least_px=256,
        arguments={"folder": None},
        backbone=False,
        normalise=False,
    ),
}


def build_model(options: AnomalibOptions, size_px: int) -> AnomalibModule:
    """Build an untrained model.

    Args:
        options: Options of the model.
        size_px: Side at which it will work, in pixels.

    Raises:
        ConfigError: It cannot be built with these options, or something that it needs is missing.
    """
    recipe = MODELS[options.model]
    if size_px < recipe.least_px:
        raise ConfigError(f"size_px {size_px}: {options.model} needs at least {recipe.least_px}")
    if options.backbone is not None and not recipe.backbone:
        raise ConfigError(f"backbone: {options.model} has none; leave it out")
    if options.layers is not None and recipe.layers is None:
        raise ConfigError(f"layers: those of {options.model} cannot be chosen; leave them out")
    try:
        from anomalib import models
        from anomalib.pre_processing import PreProcessor
        from torchvision.transforms.v2 import Compose, Normalize, Resize
    except ImportError as error:
        raise ConfigError(f"{options.model}: anomalib is not installed ({error}); install advrad[anomalib]") from error

    backbone = options.backbone or LITE0
    steps: list[nn.Module] = [Resize((size_px, size_px), antialias=True)]
    if recipe.normalise:
        lite0 = recipe.backbone and backbone == LITE0
        mean, std = ([MEAN] * 3, [STD] * 3) if lite0 else ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        steps.append(Normalize(mean, std))
    arguments: dict[str, Any] = {
        "pre_processor": PreProcessor(Compose(steps)),
        "post_processor": False,
        "evaluator": False,
        "visualizer": False,
        **recipe.arguments,
        **options.arguments,
    }
    if recipe.layers is not None:
        layers = options.layers or recipe.layers
        check_layers(layers)
        arguments["layers"] = list(layers)
    try:
        return recipe.build(getattr(models, recipe.name), backbone, arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"{options.model}: anomalib cannot build it ({error}); change `arguments` or the backbone"
        ) from error


def fit_anomalib(context: FitContext, options: AnomalibOptions) -> CallableDetector:
    """Train a model of anomalib with anomalib's engine on normal images.

    No file is left behind, and the global random generators keep their states.

    Args:
        context: Training images; the same context gives the same detector.
        options: Options of the model.

    Returns:
        Detector for images of the context's size, see :func:`advrad.detectors.anomalib.expose`.

    Raises:
        ConfigError: The model cannot be built or trained with these options, or anomalib is not installed.
    """
    recipe = MODELS[options.model]
    side = options.size_px or recipe.size_px or context.size_px
    try:
        from advrad.baselines.anomalib.training import train_model
    except ImportError as error:
        raise ConfigError(f"{options.model}: anomalib is not installed ({error}); install advrad[anomalib]") from error
    from advrad.detectors.anomalib import expose

    seed = int(torch.randint(2**32, (1,), generator=context.generator("anomalib", options.model)))
    with seeded_globals(seed):
        model = build_model(options, side)
        try:
            train_model(
                model,
                context,
                options.steps or recipe.steps,
                options.batch_size or recipe.batch_size,
                side,
                options.pictures,
            )
        except ValueError as error:
            raise ConfigError(f"{options.model}: anomalib cannot train it so ({error}); change the options") from error
    return replace(expose(model.requires_grad_(False)), size_px=context.size_px)
