"""Models of anomalib as baselines: trained by its own engine on normal images alone, then exposed as detectors.

They rest on EfficientNet-lite0, whose ImageNet weights come from the package index, so that no network is needed. Where
a model of anomalib takes few backbones only, it is built for ``resnet18`` and handed EfficientNet-lite0 in its place.
With another backbone every model is exactly anomalib's own, and its weights come from the hub.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from torch import nn

from advrad.baselines.anomalib import builders
from advrad.baselines.anomalib.backbone import LITE0, MEAN, STD, check_layers
from advrad.detectors.wrappers import CallableDetector
from advrad.errors import ConfigError
from advrad.utils.config import Config

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
    """Which model, and how it is trained. What is None is the model's own, see :data:`MODELS`.

    Attributes:
        model: one of anomalib's.
        backbone: timm's name of a network with ImageNet weights; None is ``tf_efficientnet_lite0``.
        layers: which of the backbone's maps, 0 to 4, at 1/2 to 1/32 of the image's side.
        steps: batches to train on.
        batch_size: images in each.
        size_px: side at which the model works; images are resized inside the detector.
        images: at most so many of the good ones are learnt from, drawn at random; None for all. What keeps a memory
            of all patches grows with their square.
        arguments: for the model's class in anomalib, over those of its row.
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
    """How a model is built and trained where the options do not say.

    Attributes:
        name: its class in ``anomalib.models``.
        build: makes it from the class, the backbone and arguments.
        steps: batches to train on; None for one pass over the images, after which it is fitted in closed form.
        layers: of the backbone; None where they cannot be chosen.
        batch_size: images in a step.
        size_px: side at which it works; None for that of the images.
        least_px: the smallest at which it can: anomalib's textures need some room, and so do some networks.
        arguments: for its class.
        backbone: it rests on one.
        normalise: its pre-processor does.
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


#: Sized to train in a minute or two on two cores, at 256 px.
MODELS: dict[Name, Recipe] = {
    # Every coreset point costs a pass over all patches, so the coreset is small.
    "patchcore": Recipe("Patchcore", builders.plainly, None, (2, 3), arguments={"coreset_sampling_ratio": 0.002}),
    "padim": Recipe("Padim", builders.plainly, None, (1, 2, 3), arguments={"n_features": 100}),
    "cfa": Recipe("Cfa", builders.cfa, 100),
    "fastflow": Recipe("Fastflow", builders.fastflow, 150),
    "cflow": Recipe("Cflow", builders.plainly, 25, (2, 3, 4), arguments={"fiber_batch_size": 256}),
    # After 100 steps it ranks toothbrushes the wrong way round (AUROC 0.21), after 400 at 0.76, after 1,200 at 0.94.
    "stfpm": Recipe("Stfpm", builders.plainly, 400, (1, 2, 3)),
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
    # Its losses and rates are for hundreds of passes; after so few steps it tells little. More `steps` are worth it.
    "supersimplenet": Recipe("Supersimplenet", builders.plainly, 40, (2, 3), batch_size=4, least_px=128),
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


def build(options: AnomalibOptions, size_px: int) -> AnomalibModule:
    """Make an untrained model.

    Args:
        options: which.
        size_px: side at which it shall work.

    Raises:
        ConfigError: it cannot be built like that, or something that it needs is missing.
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


def fit_anomalib(lesson: FitContext, options: AnomalibOptions) -> CallableDetector:
    """Train a model of anomalib with anomalib's engine, on normal images alone.

    Nothing is left on disk, and the global sources of randomness are as before.

    Args:
        lesson: normal images and a seed; the same lesson gives the same detector.
        options: which model.

    Returns:
        A detector, see :func:`advrad.detectors.anomalib.expose`, for images of the lesson's size.

    Raises:
        ConfigError: see :func:`build`.
    """
    recipe = MODELS[options.model]
    side = options.size_px or recipe.size_px or lesson.size_px
    try:
        from advrad.baselines.anomalib.training import own_randomness, train
    except ImportError as error:
        raise ConfigError(f"{options.model}: anomalib is not installed ({error}); install advrad[anomalib]") from error
    from advrad.detectors.anomalib import expose

    with own_randomness(lesson.generator("anomalib", options.model)):
        model = build(options, side)
        try:
            train(
                model,
                lesson,
                options.steps or recipe.steps,
                options.batch_size or recipe.batch_size,
                side,
                options.pictures,
            )
        except ValueError as error:
            raise ConfigError(f"{options.model}: anomalib cannot train it so ({error}); change the options") from error
    return replace(expose(model.requires_grad_(False)), size_px=lesson.size_px)
