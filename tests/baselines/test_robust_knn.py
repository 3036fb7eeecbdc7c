"""Robust nearest neighbours: their score by hand, the effect of fine-tuning, and weights from a file."""

from __future__ import annotations

import os
import pickle
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from toy_features import ToyFeatures, assert_contract, make_context, normal_and_anomalous
from toy_models import generator, random_images

from advrad.baselines.base import freeze
from advrad.baselines.features import adversarial_examples
from advrad.baselines.robust_knn import (
    RobustKnn,
    RobustKnnOptions,
    finetune_adversarially,
    fit_robust_knn,
    global_features,
    load_network,
)
from advrad.data.transforms import resize
from advrad.errors import ConfigError
from advrad.metrics import auroc

EPS = 8 / 255
OPTIONS = RobustKnnOptions(view_px=32, attack_eps=EPS, steps=60, batch_size=8, learning_rate=1e-2)
PLAIN = OPTIONS.model_copy(update={"attack_eps": 0.0})


@cache
def tuned() -> nn.Module:
    return finetune_adversarially(freeze(ToyFeatures()), make_context(24), OPTIONS)


def moved(network: nn.Module, images: Tensor) -> float:
    """Measure how far an attack moves features, relative to the distance between images."""
    place = global_features(network, images).detach()

    def away(x: Tensor) -> Tensor:
        return (global_features(network, x) - place).square().sum(1)

    return float(away(adversarial_examples(away, images, EPS, 10, generator(3))).mean() / place.var(0).sum())


def test_contract() -> None:
    assert_contract(fit_robust_knn(make_context(), PLAIN, ToyFeatures()), maps=False)


def test_the_score_is_the_distance_to_the_nearest_normal_images() -> None:
    options = PLAIN.model_copy(update={"view_px": 32, "neighbours": 3})
    system = fit_robust_knn(make_context(size_px=64), options, ToyFeatures())
    images = random_images(2, 64, seed=5)

    def features(images: Tensor) -> Tensor:
        return ToyFeatures()(resize(images, 32))[-1].mean((2, 3)).detach()

    good = features(make_context(size_px=64).normal_images.batch(slice(None)))
    for feature, score in zip(features(images), system.infer(images, generator()).scores, strict=True):
        nearest = sorted(float((feature - other).square().sum()) for other in good)[:3]
        assert float(score) == pytest.approx(sum(nearest) / 3, rel=1e-4)


def test_attacks_move_tuned_features_less() -> None:
    fresh, _ = normal_and_anomalous(10)
    assert moved(tuned(), fresh) < 0.5 * moved(freeze(ToyFeatures()), fresh)


def test_tuned_features_stay_near_the_ordinary_ones() -> None:
    fresh, defective = normal_and_anomalous(10)
    for images in (fresh, defective):
        ordinary, ours = (global_features(network, images).detach() for network in (freeze(ToyFeatures()), tuned()))
        distance = (ours - ordinary).square().sum(1).mean()
        assert float(distance) < 2 * float(ordinary.var(0).sum())
        assert not torch.equal(ours, ordinary)


def test_tuning_leaves_the_ordinary_network_and_ends_frozen() -> None:
    ordinary = freeze(ToyFeatures())
    ours = finetune_adversarially(ordinary, make_context(), OPTIONS.model_copy(update={"steps": 2}))
    for before, parameter, after in zip(
        ToyFeatures().parameters(), ordinary.parameters(), ours.parameters(), strict=True
    ):
        assert torch.equal(before, parameter)
        assert not torch.equal(parameter, after)
        assert not parameter.requires_grad and not after.requires_grad


def test_no_radius_takes_the_ordinary_network_as_it_is() -> None:
    system = fit_robust_knn(make_context(), PLAIN, ToyFeatures())
    for before, after in zip(ToyFeatures().parameters(), system.network.parameters(), strict=True):
        assert torch.equal(before, after)


def test_a_defect_is_found() -> None:
    system = RobustKnn(
        32, tuned(), OPTIONS, global_features(tuned(), make_context(24).normal_images.batch(slice(None))).detach()
    )
    good, _ = normal_and_anomalous(10)
    bad = good.clone()
    bad[:, :, 4:12, 18:26] = 1.0
    scores = [*system.infer(good, generator()).scores.tolist(), *system.infer(bad, generator()).scores.tolist()]
    assert auroc([0] * 10 + [1] * 10, scores) > 0.9


def test_the_seed_decides() -> None:
    options = OPTIONS.model_copy(update={"steps": 2})
    one, same, other = (fit_robust_knn(make_context(seed=seed), options, ToyFeatures()).bank for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_odd_batches_are_tuned_on(batch_size: int) -> None:
    options = OPTIONS.model_copy(update={"steps": 1, "batch_size": batch_size})
    assert fit_robust_knn(make_context(2), options, ToyFeatures()).bank.shape == (2, 10)


@pytest.mark.parametrize("values", [{"neighbours": 0}, {"view_px": 8}, {"attack_eps": "much"}, {"k": 2}])
def test_bad_options_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"grid.toml: {next(iter(values))}"):
        RobustKnnOptions.parse(values, "grid.toml")


# --- weights of one's own ---


@cache
def resnet() -> nn.Module:
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: nn.Module = timm.create_model("resnet18", pretrained=False)
    return network.eval()


def saved(path: Path, prefix: str = "") -> Path:
    save_file({prefix + name: value.contiguous() for name, value in resnet().state_dict().items()}, path)
    return path


class _Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.anomalib
@pytest.mark.parametrize("prefix", ["", "module.model.", "module.attacker.model."])
def test_weights_of_ones_own_are_used(tmp_path: Path, prefix: str) -> None:
    path = saved(tmp_path / "robust.safetensors", prefix)
    images = random_images(2, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = resnet().forward_features((images - mean[:, None, None]) / std[:, None, None])
        last = load_network("resnet18", path)(images)[-1]
    torch.testing.assert_close(last, expected)


@pytest.mark.anomalib
def test_with_weights_nothing_is_tuned(tmp_path: Path) -> None:
    options = RobustKnnOptions(weights=saved(tmp_path / "robust.safetensors"), view_px=32)
    system = fit_robust_knn(make_context(3), options)
    assert system.bank.shape == (3, 512)
    assert torch.equal(system.network.state_dict()["maps.conv1.weight"], resnet().state_dict()["conv1.weight"])
    assert_contract(system, maps=False)


@pytest.mark.anomalib
def test_weights_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    def refusal(path: Path, backbone: str = "resnet18") -> str:
        with pytest.raises(ConfigError) as refused:
            fit_robust_knn(make_context(2), RobustKnnOptions(weights=path, backbone=backbone))
        message = str(refused.value)
        assert "\n" not in message
        return message

    good = saved(tmp_path / "good.safetensors")
    missing = tmp_path / "missing.safetensors"
    assert str(missing) in refusal(missing) and "cannot be read" in refusal(missing)
    assert "cannot be read" in refusal(tmp_path)
    corrupt = tmp_path / "corrupt.safetensors"
    corrupt.write_bytes(good.read_bytes()[:1000])
    assert "cannot be read as safetensors" in refusal(corrupt)
    assert "holds other shapes than resnet50" in refusal(good, "resnet50")
    assert "lacks" in refusal(good, "resnet34")
    assert "backbone: resnet_of_mine is not a timm network" in refusal(good, "resnet_of_mine")

    # A pickle, whatever its name, is not run.
    folder = tmp_path / "made"
    for name in ("weights.pt", "weights.safetensors"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps({"conv1.weight": _Code(folder)}))
        assert "save_file" in refusal(path)
    torch.save({"state_dict": resnet().state_dict(), "code": _Code(folder)}, tmp_path / "torch.pt")
    assert "save_file" in refusal(tmp_path / "torch.pt")
    assert not folder.exists()
