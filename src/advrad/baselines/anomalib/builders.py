"""How each model of anomalib is built.

Where a model accepts any timm network, it gets EfficientNet-lite0 by name. Fastflow, Reverse Distillation and CFA
accept only a few names; for EfficientNet-lite0 they are built for ``resnet18`` while the function that makes the
backbone is substituted.

Each builder takes the model's class, the timm name of the backbone and keyword arguments, among them the pre-processor.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advrad.baselines.anomalib.backbone import LITE0, features, packaged_lite0, timm_name
from advrad.detectors.feature_timm import download_errors
from advrad.errors import ConfigError
from advrad.utils.substitution import substituted

if TYPE_CHECKING:
    from anomalib.models.components.base import AnomalibModule

Builder = Callable[[Callable[..., "AnomalibModule"], str, dict[str, Any]], "AnomalibModule"]


def any_backbone(make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]) -> AnomalibModule:
    """Build a model that accepts any timm network."""
    with download_errors(backbone, LITE0):
        return make(backbone=timm_name(backbone), **arguments)


def without_backbone(make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]) -> AnomalibModule:
    """Build a model that has no backbone."""
    return make(**arguments)


def fastflow(make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]) -> AnomalibModule:
    """Build Fastflow. It adapts to the backbone's widths, but checks its name."""
    if backbone != LITE0:
        return any_backbone(make, backbone, arguments)
    import timm
    from anomalib.models.image.fastflow import torch_model

    def create_model(name: str, **options: Any) -> nn.Module:
        network: nn.Module = timm.create_model(packaged_lite0(), **options)
        return network

    with substituted(torch_model, "timm", SimpleNamespace(create_model=create_model)):
        return make(backbone="resnet18", **arguments)


class _Rectified(nn.Module):
    """An encoder whose maps have the widths of ResNet-18 and no negative values, as Reverse Distillation expects.

    Positive and negative parts become separate channels, followed by zeros. No information is lost, and the decoder,
    which ends in a ReLU, can produce every value.
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
    """Build Reverse Distillation.

    Its decoder mirrors a ResNet, so the maps of EfficientNet-lite0 are brought to the widths of ResNet-18.
    """
    if backbone != LITE0:
        return any_backbone(make, backbone, arguments)
    from anomalib.models.image.reverse_distillation import torch_model

    extractor = torch_model.TimmFeatureExtractor

    def extract(backbone: str, **options: Any) -> nn.Module:
        network: nn.Module = extractor(backbone=packaged_lite0(), **options)
        return network

    with substituted(torch_model, "TimmFeatureExtractor", extract):
        model = make(backbone="resnet18", layers=[1, 2, 3], **arguments)
    model.model.encoder = _Rectified(model.model.encoder)
    return model


class _NamedFeatures(nn.Module):
    """Feature maps under the names that CFA uses for a ResNet. The network normalises the images itself."""

    def __init__(self) -> None:
        super().__init__()
        self.features = features((2, 3, 4))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(("layer1", "layer2", "layer3"), self.features(images), strict=True))


def cfa(make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]) -> AnomalibModule:
    """Build CFA, which accepts a few torchvision networks of fixed widths.

    EfficientNet-lite0 gets a descriptor of its own width. It normalises images inside, because anomalib computes CFA's
    initial memory from images that did not pass the pre-processor.
    """
    if backbone != LITE0:
        try:
            return make(backbone=backbone, **arguments)
        except (OSError, NotImplementedError) as error:
            raise ConfigError(f"cfa: the backbone {backbone!r} is not available ({error}); use {LITE0}") from error
    from anomalib.models.image.cfa import torch_model
    from anomalib.pre_processing import PreProcessor

    network = _NamedFeatures()
    resize_only = PreProcessor(arguments["pre_processor"].transform.transforms[0])
    with substituted(torch_model, "get_feature_extractor", lambda *_: network):
        model = make(backbone="resnet18", **arguments | {"pre_processor": resize_only})
    width = sum(network.features.channels)
    model.model.descriptor.layer = torch_model.CoordConv2d(width, width // model.model.gamma_d, kernel_size=1)
    return model


def draem(make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]) -> AnomalibModule:
    """Build DRAEM with anomalib's Perlin textures in place of photographs, and with narrower networks.

    The paper's texture photographs (DTD) would have to be downloaded; to use them, pass their folder as the argument
    ``dtd_dir``. The argument ``base_width`` is the width of the reconstructing network (128 in the paper); the other
    network has half of it.
    """
    from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
    from anomalib.models.image.draem import torch_model

    arguments = dict(arguments)
    width, folder = arguments.pop("base_width"), arguments.pop("dtd_dir")
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(f"{folder}: is not a folder; set `dtd_dir` to a folder of texture images, or leave it out")
    # anomalib downloads textures unless the folder exists, so any existing folder will do.
    model = make(dtd_dir=folder or Path(__file__).parent, **arguments)
    model.augmenter = PerlinAnomalyGenerator(folder, blend_factor=arguments.get("beta", (0.1, 1.0)))
    sspcab = arguments.get("enable_sspcab", False)
    model.model.reconstructive_subnetwork = torch_model.ReconstructiveSubNetwork(base_width=width, sspcab=sspcab)
    model.model.discriminative_subnetwork = torch_model.DiscriminativeSubNetwork(6, 2, base_width=width // 2)
    if sspcab:
        model.setup_sspcab()
    return model


def efficient_ad(make: Callable[..., AnomalibModule], backbone: str, arguments: dict[str, Any]) -> AnomalibModule:
    """Build EfficientAD from local files, since its teacher and its penalty images are in no Python package.

    The argument ``folder`` holds them: ``pretrained_teacher_small.pth`` (or ``_medium``) of anomalib's release
    ``efficientad_pretrained_weights``, and ``imagenette``, a folder of folders of images. Maps are normalised by
    quantiles over the normal training images, since there are no validation images.
    """
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
