"""Every model, trained by anomalib's engine for a step or two, satisfies the detector protocol."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_models import assert_gradient, generator, random_images, stack

from advrad.baselines.anomalib.backbone import lite0_weights
from advrad.baselines.anomalib.models import MODELS, AnomalibOptions, Name, build_model, fit_anomalib
from advrad.baselines.base import FitContext
from advrad.detectors.callable_detector import CallableDetector
from advrad.detectors.probing import probe
from advrad.errors import ConfigError
from advrad.utils.progress import CallbackReporter

pytestmark = [
    pytest.mark.anomalib,
    pytest.mark.filterwarnings("ignore:Importing from timm.models.layers:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The anomalib.models.components.dinov2 package:FutureWarning"),
]

#: What makes them small.
SMALL: dict[str, dict[str, Any]] = {
    "patchcore": {"arguments": {"coreset_sampling_ratio": 0.2}, "steps": None},
    "padim": {"arguments": {"n_features": 20}, "steps": None},
    "cflow": {"arguments": {"fiber_batch_size": 16, "coupling_blocks": 2}},
    "fastflow": {"arguments": {"flow_steps": 2}},
    "draem": {"arguments": {"base_width": 8}},
    "ganomaly": {"arguments": {"n_features": 8}},
    "supersimplenet": {"size_px": 128},
}
#: Of central differences in float64: smaller than most, because the networks are steep, and bent everywhere.
STEP = 1e-7
FINER_STEP = {"supersimplenet": 1e-8}
NAMES = [name for name in MODELS if name != "efficient-ad"]


def make_context(size_px: int = 64, **changes: Any) -> FitContext:
    return replace(FitContext(stack(6, size_px), seed=3), **changes)


def options(name: str, **changes: Any) -> AnomalibOptions:
    return AnomalibOptions.parse(
        {"model": name, "steps": 1, "batch_size": 4, "size_px": 64} | SMALL.get(name, {}) | changes, "test"
    )


@cache
def fitted(name: str) -> CallableDetector:
    return fit_anomalib(make_context(), options(name))


def inputs(name: str, count: int = 3) -> Tensor:
    images = stack(count, 64, seed=5).batch(slice(0, count))
    return (images + 0.2 * random_images(count, 64, seed=6)).clamp(0, 1)


def test_the_table_has_every_name() -> None:
    assert tuple(MODELS) == get_args(Name)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_plain_models(name: str) -> None:
    detector, images = fitted(name), inputs(name)
    assert detector.size_px == 64
    model = detector.call.model  # type: ignore[attr-defined]
    answer = detector.infer(images, generator())
    assert answer.scores.shape == (3,)
    assert (answer.anomaly_maps is None) == (name == "ganomaly")
    for row in range(3):
        one = images[row : row + 1]
        with torch.no_grad():
            plain = model.model(model.pre_processor.transform(one))
        alone = detector.infer(one, generator())
        # With a graph and without one, kernels may round differently.
        torch.testing.assert_close(alone.scores.detach(), plain.pred_score.reshape(1), rtol=1e-5, atol=1e-7)
        # The score of an image does not depend on the batch.
        torch.testing.assert_close(alone.scores, answer.scores[row : row + 1], rtol=1e-5, atol=1e-7)
        if answer.anomaly_maps is not None and alone.anomaly_maps is not None:
            assert answer.anomaly_maps.shape[1] == 1
            torch.testing.assert_close(alone.anomaly_maps, answer.anomaly_maps[row : row + 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    _check_gradient(fitted(name), inputs(name, 1), FINER_STEP.get(name, STEP))


def _check_gradient(detector: CallableDetector, images: Tensor, step: float) -> None:
    assert probe(detector, images).differentiable
    model = detector.call.model.double()  # type: ignore[attr-defined]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # some models create tensors of the default type
    detector = replace(detector, dtype=torch.float64)
    try:
        point = images.double().requires_grad_()
        score = detector.infer(point, generator()).scores
        scale = float(score.detach().abs())
        (gradient,) = torch.autograd.grad(score.sum() / scale, point)
        assert_gradient(lambda x: detector.infer(x, generator()).scores / scale, images.double(), 2, step=step)
        with torch.no_grad():
            move = step * gradient / gradient.norm()
            up, down = (detector.infer(images.double() + sign * move, generator()).scores for sign in (1, -1))
        slope = float((up - down).sum()) / scale / (2 * step)
        assert abs(slope - float(gradient.norm())) <= 1e-4 * slope
        for hint in detector.surrogates.values():
            assert_gradient(lambda x, hint=hint: hint(x, generator()), images.double(), 2, step=step)
    finally:
        torch.set_default_dtype(before)
        model.float()  # float64 values that came from float32 convert back exactly


@pytest.mark.parametrize("name", NAMES)
def test_one_context_gives_one_detector(name: str) -> None:
    images = inputs(name)
    lite0_weights.cache_clear()  # it must not matter whether they are loaded already
    torch.rand(7)
    again = fit_anomalib(make_context(), options(name))
    assert torch.equal(again.infer(images, generator()).scores, fitted(name).infer(images, generator()).scores)


def test_only_so_many_images_are_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    from advrad.baselines.anomalib import training

    seen = []
    real = training.InMemoryImages
    monkeypatch.setattr(training, "InMemoryImages", lambda images: seen.append(images) or real(images))
    for most in (None, 3, 1000):
        fit_anomalib(make_context(), AnomalibOptions(model="padim", pictures=most))
    whole, few, all_of_them = seen
    assert len(few) == 3 < len(whole) == len(all_of_them)
    assert all(any(torch.equal(one, other) for other in whole) for one in few)


def test_another_seed_gives_another() -> None:
    images = inputs("stfpm")
    other = fit_anomalib(make_context(seed=4), options("stfpm"))
    assert not torch.equal(other.infer(images, generator()).scores, fitted("stfpm").infer(images, generator()).scores)


def test_hints_grow_with_the_score() -> None:
    images = torch.cat([inputs("draem", 4), random_images(4, 64)])
    for name in ("draem", "supersimplenet"):
        detector = fitted(name)
        raw = detector.infer(images, generator()).scores.detach()
        hint = detector.surrogates["unsaturated"](images, generator())
        torch.testing.assert_close(hint.sigmoid().detach(), raw, rtol=1e-4, atol=1e-6)
    assert "unsaturated" in fitted("fastflow").surrogates


def test_training_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    torch.manual_seed(1)
    states = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    level = logging.getLogger("anomalib").level
    told: list[tuple[int, int]] = []
    fit_anomalib(
        make_context(progress=CallbackReporter(lambda done, of: told.append((done, of)))),
        options("stfpm", steps=3, batch_size=6),
    )
    fit_anomalib(make_context(), options("patchcore"))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert logging.getLogger("anomalib").level == level
    out, err = capfd.readouterr()
    assert out == "" and err == ""


def test_a_model_may_work_at_another_size_than_the_images() -> None:
    detector = fit_anomalib(make_context(48), options("padim"))
    assert detector.size_px == 48
    point = random_images(1, 48).requires_grad_()
    (gradient,) = torch.autograd.grad(detector.infer(point, generator()).scores.sum(), point)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("draem", {"backbone": "resnet18"}, "has none"),
        ("cfa", {"layers": (1, 2)}, "cannot be chosen"),
        ("patchcore", {"layers": (3, 2)}, "ascending"),
        ("patchcore", {"backbone": "no_such"}, "no such network"),
        ("patchcore", {"arguments": {"neighbours": 3}}, "neighbours"),
        ("padim", {"arguments": {"n_features": 1000}}, "n_features"),
        ("cfa", {"backbone": "efficientnet_b5"}, "efficientnet_b5"),
        ("draem", {"arguments": {"dtd_dir": "/no/such"}}, "/no/such"),
        ("supersimplenet", {"size_px": 64}, "at least 128"),
        ("efficient-ad", {"size_px": 256}, "pretrained_teacher_small.pth"),
    ],
)
def test_bad_options_say_what_to_do(name: str, changes: dict[str, Any], words: str) -> None:
    chosen = options(name, **changes)
    with pytest.raises(ConfigError, match=words):
        build_model(chosen, chosen.size_px or 64)


def test_what_anomalib_cannot_train_says_so() -> None:
    with pytest.raises(ConfigError, match="fibers"):
        fit_anomalib(make_context(), options("cflow", arguments={"fiber_batch_size": 10**6, "coupling_blocks": 2}))


def test_unknown_options() -> None:
    with pytest.raises(ConfigError, match="model"):
        AnomalibOptions.parse({"model": "patchcor"}, "grid")
    with pytest.raises(ConfigError, match="colour"):
        AnomalibOptions.parse({"model": "patchcore", "colour": 1}, "grid")


def test_options_and_table_load_no_library() -> None:
    code = (
        "import sys, advrad.baselines.anomalib.models\n"
        "print(sorted({'anomalib', 'lightning', 'timm', 'torchvision'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_anomalib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anomalib", None)
    with pytest.raises(ConfigError, match=r"install advrad\[anomalib\]"):
        build_model(options("padim"), 64)


@pytest.mark.slow
def test_efficient_ad_from_a_folder(tmp_path: Path) -> None:
    from anomalib.models.image.efficient_ad.torch_model import SmallPatchDescriptionNetwork
    from PIL import Image

    torch.manual_seed(0)
    torch.save(SmallPatchDescriptionNetwork(384).state_dict(), tmp_path / "pretrained_teacher_small.pth")
    (tmp_path / "imagenette" / "fish").mkdir(parents=True)
    Image.effect_noise((300, 300), 60).convert("RGB").save(tmp_path / "imagenette" / "fish" / "one.png")
    chosen = options("efficient-ad", size_px=256, steps=1, batch_size=1, arguments={"folder": str(tmp_path)})
    few = FitContext(stack(2, 64), seed=3)
    detector = fit_anomalib(few, chosen)
    images = inputs("efficient-ad", 1)
    model = detector.call.model  # type: ignore[attr-defined]
    with torch.no_grad():
        plain = model.model(model.pre_processor.transform(images))
    scores = detector.infer(images, generator()).scores.detach()
    torch.testing.assert_close(scores, plain.pred_score.reshape(1), rtol=1e-5, atol=1e-7)
    assert model.model.is_set(model.model.quantiles)
    _check_gradient(detector, images, STEP)


def _engine_auroc(model: Any, good: Tensor, images: Tensor, labels: Tensor, folder: Path) -> float:
    """Compute the AUROC with anomalib, validated and tested on the same images as it does by default.

    Without validation its scores are not brought to [0, 1], and torchmetrics presses them through a sigmoid in float32,
    where most of them become equal. With it, they are clamped to [0, 1] around its threshold, where the outermost ones
    become equal: no matter as long as those are of one class.
    """
    from anomalib.engine import Engine
    from anomalib.metrics import AUROC, Evaluator
    from anomalib.post_processing import PostProcessor

    from advrad.baselines.anomalib.training import InMemoryDataModule, InMemoryImages, quiet

    metric = AUROC(fields=["pred_score", "gt_label"], prefix="image_")
    model.evaluator = Evaluator(test_metrics=[metric])
    model.post_processor = PostProcessor()
    data = InMemoryDataModule(InMemoryImages(good), 4, generator(), test=InMemoryImages(images, labels))
    with quiet():
        engine = Engine(logger=False, default_root_dir=folder, enable_progress_bar=False, devices=1)
        engine.validate(model, datamodule=data, verbose=False)
        (found,) = engine.test(model, datamodule=data, verbose=False)
    return float(found["image_AUROC"])


def _our_auroc(detector: CallableDetector, images: Tensor, labels: Tensor) -> float:
    from advrad.metrics import auroc

    with torch.no_grad():
        scores = torch.cat([detector.infer(part, generator()).scores for part in images.split(3)])
    return float(auroc(labels.numpy(), scores.numpy()))


@pytest.mark.parametrize("name", ["patchcore", "padim"])
def test_auroc_is_that_of_anomalibs_engine(name: str, tmp_path: Path) -> None:
    good = stack(12, 64, seed=8).batch(slice(0, 12))
    amount = torch.linspace(0, 0.2, 12)[:, None, None, None]  # from invisible to obvious
    images = torch.cat([good, good.flip(0) * (1 - amount) + random_images(12, 64) * amount])
    labels = torch.arange(24) >= 12
    detector = fit_anomalib(make_context(), options(name))
    ours = _our_auroc(detector, images, labels)
    model = detector.call.model  # type: ignore[attr-defined]
    assert abs(ours - _engine_auroc(model, images[:4], images, labels, tmp_path)) < 1e-4
    assert 0.6 < ours < 0.999


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", ["patchcore", "padim"])
def test_auroc_is_that_of_anomalibs_engine_on_bottles(name: str, shared_data: Path, tmp_path: Path) -> None:
    from advrad.data.layouts import find_records
    from advrad.data.loading import load_images

    records = find_records(shared_data / "mvtec_ad" / "bottle").records
    train = [record for record in records if record.split == "train"][:40]
    test = [record for record in records if record.split == "test"][::2]
    good = load_images(train, 256)
    images = load_images(test, 256).batch(slice(None))
    labels = torch.tensor([record.label for record in test])
    detector = fit_anomalib(FitContext(good, seed=1), AnomalibOptions(model=name))  # type: ignore[arg-type]
    ours = _our_auroc(detector, images, labels)
    model = detector.call.model  # type: ignore[attr-defined]
    assert abs(ours - _engine_auroc(model, images[:4], images, labels, tmp_path)) < 1e-4
    assert ours > 0.9
