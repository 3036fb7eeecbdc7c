"""Models of anomalib as baselines: trained by its own engine on good pictures alone, then exposed as detectors.

They rest on EfficientNet-lite0, whose ImageNet weights come from the package index, so that no network is needed. Where
a model of anomalib takes few backbones only, it is built for ``resnet18`` and handed EfficientNet-lite0 in its place.
With another backbone every model is exactly anomalib's own, and its weights come from the hub.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from unittest import mock

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from advrad.config import Config
from advrad.errors import ConfigError
from advrad.integrations.anomalib.backbone import LITE0, MEAN, STD, check_layers, features, pretrained
from advrad.target import Wrapped

if TYPE_CHECKING:
    from anomalib.models.components.base import AnomalibModule

    from advrad.baselines.base import Lesson

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
        layers: which of the backbone's maps, 0 to 4, at 1/2 to 1/32 of the picture's side.
        steps: batches to train on.
        batch_size: pictures in each.
        size_px: side at which the model works; pictures are resized inside the detector.
        arguments: for the model's class in anomalib, over those of its row.
    """

    model: Name
    backbone: str | None = None
    layers: tuple[int, ...] | None = None
    steps: int | None = Field(None, ge=1)
    batch_size: int | None = Field(None, ge=1)
    size_px: int | None = Field(None, ge=32)
    arguments: dict[str, Any] = Field(default_factory=dict)


Builder = Callable[[Callable[..., "AnomalibModule"], str, dict[str, Any]], "AnomalibModule"]


def _plainly(make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]) -> AnomalibModule:
    """A model that takes any backbone of timm."""
    with pretrained():
        return make(backbone=backbone, **arguments)


def _without_backbone(make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]) -> AnomalibModule:
    """A model that learns from nothing."""
    del backbone
    return make(**arguments)


def _fastflow(make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]) -> AnomalibModule:
    """Fastflow asks the backbone for its widths, so any would do; but it lets few names pass."""
    if backbone != LITE0:
        return _plainly(make, backbone, arguments)
    with pretrained(lite0_for="resnet18"):
        return make(backbone="resnet18", **arguments)


class _Rectified(nn.Module):
    """An encoder whose maps are as wide as those of ResNet-18, and not negative, as Reverse Distillation expects.

    Positive and negative parts lie side by side, then zeros: nothing is lost, and the decoder, which ends in a ReLU,
    can reach every value.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> dict[Any, Tensor]:
        maps = self.encoder(images)
        rectified = {}
        for (layer, part), width in zip(maps.items(), (64, 128, 256), strict=True):
            both = torch.cat([part.relu(), (-part).relu()], 1)
            rectified[layer] = F.pad(both, (0, 0, 0, 0, 0, width - both.shape[1]))
        return rectified


def _reverse_distillation(
    make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]
) -> AnomalibModule:
    """Its decoder mirrors a ResNet, so the maps of EfficientNet-lite0 are brought to that one's widths."""
    if backbone != LITE0:
        return _plainly(make, backbone, arguments)
    with pretrained(lite0_for="resnet18"):
        model = make(backbone="resnet18", layers=[1, 2, 3], **arguments)
    model.model.encoder = _Rectified(model.model.encoder)
    return model


class _Named(nn.Module):
    """Feature maps by the names that CFA has for a ResNet's. It scales pictures itself."""

    def __init__(self) -> None:
        super().__init__()
        self.features = features((2, 3, 4))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(("layer1", "layer2", "layer3"), self.features(images), strict=True))


def _cfa(make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]) -> AnomalibModule:
    """CFA takes networks of torchvision, of few names and fixed widths.

    EfficientNet-lite0 goes in with a descriptor of its width. It scales pictures inside, because anomalib computes
    CFA's first memory from pictures that its pre-processor did not see.
    """
    if backbone != LITE0:
        try:
            return make(backbone=backbone, **arguments)
        except (OSError, NotImplementedError) as error:
            raise ConfigError(f"cfa: the backbone {backbone!r} cannot be had ({error}); take {LITE0}") from error
    from anomalib.models.image.cfa import torch_model
    from anomalib.pre_processing import PreProcessor

    network = _Named()
    resize_only = PreProcessor(arguments["pre_processor"].transform.transforms[0])
    with mock.patch.object(torch_model, "get_feature_extractor", lambda *_: network):
        model = make(backbone="resnet18", **arguments | {"pre_processor": resize_only})
    width = sum(network.features.channels)
    model.model.descriptor.layer = torch_model.CoordConv2d(width, width // model.model.gamma_d, kernel_size=1)
    return model


def _draem(make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]) -> AnomalibModule:
    """DRAEM with anomalib's Perlin textures in place of photographs, and networks narrow enough for two cores.

    Photographs of textures (DTD) would have to be downloaded; give their folder as the argument ``dtd_dir``. The
    argument ``base_width`` is 128 in the paper, for the reconstructing network; the other has half of it.
    """
    del backbone
    from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
    from anomalib.models.image.draem import torch_model

    arguments = dict(arguments)
    width, folder = arguments.pop("base_width"), arguments.pop("dtd_dir")
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(f"{folder}: is not a folder; `dtd_dir` must hold pictures of textures, or be left out")
    # Any folder that exists keeps anomalib from downloading.
    model = make(dtd_dir=folder or Path(__file__).parent, **arguments)
    model.augmenter = PerlinAnomalyGenerator(folder, blend_factor=arguments.get("beta", (0.1, 1.0)))
    sspcab = arguments.get("enable_sspcab", False)
    model.model.reconstructive_subnetwork = torch_model.ReconstructiveSubNetwork(base_width=width, sspcab=sspcab)
    model.model.discriminative_subnetwork = torch_model.DiscriminativeSubNetwork(6, 2, base_width=width // 2)
    if sspcab:
        model.setup_sspcab()
    return model


def _efficient_ad(make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]) -> AnomalibModule:
    """EfficientAD, whose teacher and whose penalty's pictures cannot be had from the package index.

    The argument ``folder`` holds them: ``pretrained_teacher_small.pth`` (or ``_medium``) of anomalib's release
    ``efficientad_pretrained_weights``, and ``imagenette``, a folder of folders of pictures. Its maps are normalised by
    quantiles over the good pictures, since there are no others to validate on.
    """
    del backbone
    arguments = dict(arguments)
    folder = Path(arguments.pop("folder") or "efficient-ad")
    model = make(imagenet_dir=folder / "imagenette", **arguments)
    teacher = folder / f"pretrained_teacher_{model.model_size.value}.pth"
    for path in (teacher, model.imagenet_dir):
        if not path.exists():
            raise ConfigError(
                f"efficient-ad: {path} is missing. Put {teacher.name} of anomalib's release"
                " efficientad_pretrained_weights, and fast.ai's imagenette2 as `imagenette`, into one folder, and name"
                ' it: arguments = {"folder": ...}'
            )

    def load_teacher() -> None:
        model.model.teacher.load_state_dict(torch.load(teacher, map_location=model.device, weights_only=True))

    def measure_quantiles() -> None:
        model.eval()
        model.model.quantiles.update(model.map_norm_quantiles(model.trainer.datamodule.train_dataloader()))

    model.prepare_pretrained_model = load_teacher
    model.on_train_end = measure_quantiles
    return model


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is built and trained where the options do not say.

    Attributes:
        name: its class in ``anomalib.models``.
        build: makes it from the class, the backbone and arguments.
        steps: batches to train on; None for one pass over the pictures, after which it is fitted in closed form.
        layers: of the backbone; None where they cannot be chosen.
        batch_size: pictures in a step.
        size_px: side at which it works; None for that of the pictures.
        least_px: the smallest at which it can: anomalib's textures need some room, and so do some networks.
        arguments: for its class.
        backbone: it rests on one.
        normalise: its pre-processor does.
    """

    name: str
    build: Builder
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
    "patchcore": Recipe("Patchcore", _plainly, None, (2, 3), arguments={"coreset_sampling_ratio": 0.005}),
    "padim": Recipe("Padim", _plainly, None, (1, 2, 3), arguments={"n_features": 100}),
    "cfa": Recipe("Cfa", _cfa, 100),
    "fastflow": Recipe("Fastflow", _fastflow, 150),
    "cflow": Recipe("Cflow", _plainly, 60, (2, 3, 4), arguments={"fiber_batch_size": 256}),
    "stfpm": Recipe("Stfpm", _plainly, 100, (1, 2, 3)),
    "reverse-distillation": Recipe("ReverseDistillation", _reverse_distillation, 80, batch_size=4),
    "draem": Recipe(
        "Draem",
        _draem,
        120,
        batch_size=4,
        size_px=128,
        arguments={"base_width": 32, "dtd_dir": None},
        backbone=False,
        normalise=False,
    ),
    "ganomaly": Recipe(
        "Ganomaly", _without_backbone, 300, batch_size=16, size_px=64, arguments={"n_features": 32}, backbone=False
    ),
    "supersimplenet": Recipe("Supersimplenet", _plainly, 40, (2, 3), batch_size=4, least_px=128),
    "efficient-ad": Recipe(
        "EfficientAd",
        _efficient_ad,
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


def fit_anomalib(lesson: Lesson, options: AnomalibOptions) -> Wrapped:
    """Train a model of anomalib with anomalib's engine, on good pictures alone.

    Nothing is left on disk, and the global sources of randomness are as before.

    Args:
        lesson: good pictures and a seed; the same lesson gives the same detector.
        options: which model.

    Returns:
        A detector, see :func:`advrad.integrations.anomalib.exposed.expose`, for pictures of the lesson's size.

    Raises:
        ConfigError: see :func:`build`.
    """
    recipe = MODELS[options.model]
    side = options.size_px or recipe.size_px or lesson.size_px
    try:
        from advrad.integrations.anomalib.training import own_randomness, train
    except ImportError as error:
        raise ConfigError(f"{options.model}: anomalib is not installed ({error}); install advrad[anomalib]") from error
    from advrad.integrations.anomalib.exposed import expose

    with own_randomness(lesson.generator("anomalib", options.model)):
        model = build(options, side)
        try:
            train(model, lesson, options.steps or recipe.steps, options.batch_size or recipe.batch_size, side)
        except ValueError as error:
            raise ConfigError(f"{options.model}: anomalib cannot train it so ({error}); change the options") from error
    return replace(expose(model.requires_grad_(False)), size_px=lesson.size_px)
