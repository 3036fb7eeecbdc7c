"""How each model of anomalib is made: as it is where it takes EfficientNet-lite0, and with that in its place where not.

Every builder is given the model's class, timm's name of the backbone and arguments, among them the pre-processor.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advrad.baselines.anomalib.backbone import LITE0, features, pretrained
from advrad.errors import ConfigError

if TYPE_CHECKING:
    from anomalib.models.components.base import AnomalibModule

Builder = Callable[[Callable[..., "AnomalibModule"], str, dict[str, Any]], "AnomalibModule"]


def plainly(make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]) -> AnomalibModule:
    """A model that takes any backbone of timm."""
    with pretrained():
        return make(backbone=backbone, **arguments)


def without_backbone(make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]) -> AnomalibModule:
    """A model that learns from nothing."""
    del backbone
    return make(**arguments)


def fastflow(make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]) -> AnomalibModule:
    """Fastflow asks the backbone for its widths, so any would do; but it lets few names pass."""
    if backbone != LITE0:
        return plainly(make, backbone, arguments)
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


def reverse_distillation(
    make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]
) -> AnomalibModule:
    """Its decoder mirrors a ResNet, so the maps of EfficientNet-lite0 are brought to that one's widths."""
    if backbone != LITE0:
        return plainly(make, backbone, arguments)
    with pretrained(lite0_for="resnet18"):
        model = make(backbone="resnet18", layers=[1, 2, 3], **arguments)
    model.model.encoder = _Rectified(model.model.encoder)
    return model


class _Named(nn.Module):
    """Feature maps by the names that CFA has for a ResNet's. It scales images itself."""

    def __init__(self) -> None:
        super().__init__()
        self.features = features((2, 3, 4))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(("layer1", "layer2", "layer3"), self.features(images), strict=True))


def cfa(make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]) -> AnomalibModule:
    """CFA takes networks of torchvision, of few names and fixed widths.

    EfficientNet-lite0 goes in with a descriptor of its width. It scales images inside, because anomalib computes
    CFA's first memory from images that its pre-processor did not see.
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


def draem(make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]) -> AnomalibModule:
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
        raise ConfigError(f"{folder}: is not a folder; `dtd_dir` must hold images of textures, or be left out")
    # Any folder that exists keeps anomalib from downloading.
    model = make(dtd_dir=folder or Path(__file__).parent, **arguments)
    model.augmenter = PerlinAnomalyGenerator(folder, blend_factor=arguments.get("beta", (0.1, 1.0)))
    sspcab = arguments.get("enable_sspcab", False)
    model.model.reconstructive_subnetwork = torch_model.ReconstructiveSubNetwork(base_width=width, sspcab=sspcab)
    model.model.discriminative_subnetwork = torch_model.DiscriminativeSubNetwork(6, 2, base_width=width // 2)
    if sspcab:
        model.setup_sspcab()
    return model


def efficient_ad(make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]) -> AnomalibModule:
    """EfficientAD, whose teacher and whose penalty's images cannot be had from the package index.

    The argument ``folder`` holds them: ``pretrained_teacher_small.pth`` (or ``_medium``) of anomalib's release
    ``efficientad_pretrained_weights``, and ``imagenette``, a folder of folders of images. Its maps are normalised by
    quantiles over the normal images, since there are no others to validate on.
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
