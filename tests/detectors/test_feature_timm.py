"""Networks of timm in the detector on features: layers, normalisation, the model folder, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_feature_detectors import anomalous_images, normal_images
from toy_models import random_images

import advrad
from advrad.errors import ConfigError

pytestmark = pytest.mark.anomalib


@pytest.fixture(scope="module")
def local_network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a narrow ResNet in a local folder, with drawn weights and a normalisation of its own."""
    import timm
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("network")
    torch.manual_seed(0)
    save_file(timm.create_model("resnet10t", stem_width=8).state_dict(), folder / "model.safetensors")
    facts = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "num_classes": 1000, "input_size": [3, 64, 64]}
    config = {"architecture": "resnet10t", "pretrained_cfg": facts, "model_args": {"stem_width": 8}}
    (folder / "config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


def test_maps_are_those_of_timm(local_network: str) -> None:
    import timm

    from advrad.detectors.feature_network import pretrained_network

    network = pretrained_network(local_network, (1, 2)).train()
    theirs = timm.create_model(local_network, pretrained=True, features_only=True, out_indices=(1, 2)).eval()
    images = random_images(2, 64)
    values = (images - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    with torch.no_grad():
        for part, other in zip(network(images), theirs(values), strict=True):
            torch.testing.assert_close(part, other)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network.config.architecture == "resnet10t" and network.config.arguments == {"stem_width": 8}


def test_a_folder_holds_the_weights(local_network: str, tmp_path: Path) -> None:
    from advrad.training.feature_fit import fit_features

    detector = fit_features(normal_images(3), network=local_network, layers=(1,))
    detector.save_pretrained(tmp_path / "model")
    Path(local_network.partition(":")[2]).rename(tmp_path / "elsewhere")
    try:
        loaded = advrad.load_detector(tmp_path / "model", "cpu")
    finally:
        (tmp_path / "elsewhere").rename(local_network.partition(":")[2])
    images = torch.cat([normal_images(1, seed=3), anomalous_images(1)])
    assert torch.equal(loaded.predict_batch(images).scores, detector.predict_batch(images).scores)
    assert loaded.predict_batch(images).scores.diff() > 0
    assert any("layer 1" in line for line in loaded.describe())


@pytest.mark.parametrize(
    ("name", "layers", "words"),
    [
        ("no_such_network", (2,), "timm has no such network; use one of timm.list_models"),
        ("resnet10t", (9,), "timm cannot build it with the layers 9"),
        ("somewhere:resnet18", (2,), "write hf-hub or local-dir before the colon"),
        ("local-dir:/no/such/folder", (2,), "neither cached nor could they be downloaded"),
    ],
)
def test_what_cannot_be_built_is_refused(name: str, layers: tuple[int, ...], words: str) -> None:
    from advrad.detectors.feature_network import pretrained_network

    with pytest.raises(ConfigError, match=words):
        pretrained_network(name, layers)


def test_weights_that_cannot_be_had_say_so() -> None:
    # In a separate process, since the hub reads HF_HUB_OFFLINE when it is imported.
    code = (
        "from advrad.errors import ConfigError\n"
        "from advrad.detectors.feature_network import pretrained_network\n"
        "for name in ('resnet18', 'hf-hub:timm/resnet18.a1_in1k'):\n"
        "    try: pretrained_network(name)\n"
        "    except ConfigError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for line, name in zip(done.stdout.splitlines(), ("resnet18", "hf-hub:timm/resnet18.a1_in1k"), strict=True):
        assert name in line and "use lite2, whose weights are installed" in line
