"""Networks of the library timm, for detectors on features. Their weights are downloaded once, for the fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from advrad.detectors.feature_config import LITE_NAMES, NetworkConfig
from advrad.detectors.feature_network import FeatureNetwork
from advrad.errors import ConfigError

#: Layers that are compared by default: at 1/8 and 1/16 of the image's side, as in PatchCore.
USUAL_LAYERS = (2, 3)
#: Normalisation of networks that do not say how their images are normalised: that of ImageNet.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def import_timm() -> Any:
    """Import timm.

    Raises:
        ConfigError: timm is not installed.
    """
    try:
        import timm
    except ImportError:
        raise ConfigError("features of a network trained on ImageNet need timm; install advrad[anomalib]") from None
    return timm


@contextmanager
def download_errors(network: str, instead: str) -> Iterator[None]:
    """Turn a failed download of weights into a :class:`ConfigError` that names the network and the fix.

    Args:
        network: Name of the network that is built while the context is open.
        instead: Name of a network whose weights are packages.
    """
    try:
        yield
    except OSError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"its weights are neither cached nor could they be downloaded ({reason}); connect to the internet, or use"
            f" {instead}, whose weights are installed",
            option="network",
            value=network,
        ) from error


def check_name(network: str) -> None:
    """Check the name of a timm network.

    Args:
        network: timm name, or an address such as ``hf-hub:...``.

    Raises:
        ConfigError: timm does not know the name, or is not installed.
    """
    if ":" not in network and not import_timm().is_model(network):
        raise ConfigError("timm has no such network; use one of timm.list_models()", option="network", value=network)


class TimmNetwork(FeatureNetwork):
    """A network of timm, without trained weights.

    Args:
        config: The network and its layers.
        model: The network; None to build it without weights.

    Raises:
        ConfigError: timm is not installed, or cannot build the network.
    """

    def __init__(self, config: NetworkConfig, model: nn.Module | None = None) -> None:
        super().__init__(config)
        if model is None:
            with torch.random.fork_rng(devices=[]):
                model = _create(str(config.architecture), config.layers, False, config.arguments)
        self.model = model
        self.freeze()

    def maps(self, values: Tensor) -> list[Tensor]:
        """See :meth:`FeatureNetwork.maps`."""
        found: list[Tensor] = self.model(values)
        return found


def timm_network(name: str, layers: tuple[int, ...] = USUAL_LAYERS) -> TimmNetwork:
    """Build a network of timm with its trained weights.

    Args:
        name: timm name, or an address such as ``hf-hub:timm/resnet18.a1_in1k``.
        layers: Numbers of the feature maps, ascending.

    Raises:
        ConfigError: timm is not installed, or has no such network or layer; or the weights cannot be downloaded.
    """
    try:
        import_timm()
    except ConfigError:
        raise ConfigError(
            f"is unknown; choose {' or '.join(LITE_NAMES)}; other networks need timm: install advrad[anomalib]",
            option="network",
            value=name,
        ) from None
    check_name(name)
    with download_errors(name, LITE_NAMES[-1]), torch.random.fork_rng(devices=[]):
        architecture, arguments = _resolved(name)
        with torch.device("meta"):  # without weights, so that missing layers are noticed before a download
            _create(architecture, layers, False, arguments)
        model = _create(name, layers, True, {})
    facts = getattr(model, "pretrained_cfg", None) or {}
    config = NetworkConfig(
        kind="timm",
        name=name,
        layers=layers,
        architecture=architecture,
        arguments=arguments,
        mean=tuple(facts.get("mean") or _MEAN),
        std=tuple(facts.get("std") or _STD),
    )
    network = TimmNetwork(config, model)
    _check_maps(network)
    return network


def _resolved(name: str) -> tuple[str, dict[str, Any]]:
    """Name of a network's architecture in timm, and the arguments with which timm builds it.

    Raises:
        ConfigError: The address is none that timm knows.
        OSError: What lies at the address cannot be had.
    """
    source, _, place = name.partition(":")
    if not place:
        return name, {}
    readers = {"hf-hub": "load_model_config_from_hf", "local-dir": "load_model_config_from_path"}
    if source not in readers:
        raise ConfigError(f"is unknown; write {' or '.join(readers)} before the colon", option="network", value=name)
    with _refusals(name):
        _, architecture, arguments = getattr(import_timm().models._hub, readers[source])(place)
        return str(architecture), dict(arguments or {})


@contextmanager
def _refusals(name: str, layers: tuple[int, ...] | None = None) -> Iterator[None]:
    """Turn the many errors with which timm refuses a network into a :class:`ConfigError`."""
    try:
        yield
    except (RuntimeError, AssertionError, LookupError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        of_layers = "" if layers is None else f" with the layers {', '.join(map(str, layers))}"
        raise ConfigError(
            f"timm cannot build it{of_layers} ({reason}); use another network or other layers",
            option="network",
            value=name,
        ) from None


def _create(name: str, layers: tuple[int, ...], pretrained: bool, arguments: dict[str, Any]) -> nn.Module:
    """Build a network of timm that gives feature maps.

    Raises:
        ConfigError: timm has no such network, or the network no such layers.
        OSError: The weights cannot be downloaded.
    """
    with _refusals(name, layers):
        model: nn.Module = import_timm().create_model(
            name, pretrained=pretrained, features_only=True, out_indices=layers, **arguments
        )
    return model


def _check_maps(network: TimmNetwork) -> None:
    """Check that a network gives one map of (b, c, h, w) for each layer.

    Raises:
        ConfigError: It does not.
    """
    expected = list(network.model.feature_info.channels())  # type: ignore[union-attr,operator]
    try:
        with torch.no_grad():
            maps = network(torch.full((1, 3, 256, 256), 0.5))
        fits = [part.ndim == 4 and part.shape[1] for part in maps] == expected
    except (RuntimeError, AssertionError):
        fits = False
    if not fits:
        raise ConfigError(
            "does not give feature maps of images of 256 px; use a convolutional network",
            option="network",
            value=network.config.name,
        )
