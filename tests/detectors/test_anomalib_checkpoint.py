"""Checkpoints of anomalib: the right model, without a download and without running code of theirs."""

from __future__ import annotations

import json
import os
import pickle
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trained_run
from anomalib_checkpoints import MODELS, Trained, changed, product, train
from anomalib_runs import MARKS
from toy_guarded import EPS, RATE, closed_form, dents, normals
from toy_models import generator

import advrad
from advrad.data.png import write_image
from advrad.detectors.anomalib_checkpoint import PACKAGED, READABLE, read_anomalib
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.reference import ReferenceConfig, load_reference, refer
from advrad.detectors.verdicts import Verdict
from advrad.errors import CheckpointError, ConfigError

pytestmark = MARKS


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    root, made = product(tmp_path_factory.mktemp("product")), dict[str, Trained]()

    def get(name: str) -> Trained:
        if name not in made:
            made[name] = train(name, root, tmp_path_factory.mktemp(name))
        return made[name]

    return get


def go_offline(patch: pytest.MonkeyPatch) -> None:
    """From here on there is neither a network nor the package with the weights of EfficientNet-lite0."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a download")

    for name in ("getaddrinfo", "create_connection"):
        patch.setattr(socket, name, refused)
    patch.setattr("advrad.baselines.anomalib.backbone.lite0_weights", refused)


@pytest.mark.parametrize("name", MODELS)
def test_a_checkpoint_scores_as_its_model(
    name: str, trained: Callable[[str], Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = trained(name), torch.cat([normals(2, 3), dents(2, 4)])
    go_offline(monkeypatch)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    config, detector = refer(model.path)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())
    theirs, ours = advrad.wrap(model.model), load_reference(ReferenceConfig.parse(config.model_dump(mode="json")))
    wanted = theirs.infer(images, generator())
    for found in (detector, ours):
        output = found.infer(images, generator())
        torch.testing.assert_close(output.scores, wanted.scores)
        torch.testing.assert_close(output.anomaly_maps, wanted.anomaly_maps)
        assert (found.size_px, found.threshold) == (theirs.size_px, theirs.threshold)
    assert wanted.scores.unique().numel() == 4
    assert (config.what, config.model, config.image_size_px) == ("anomalib", type(model.model).__name__, 32)
    assert config.target == str(model.path) and config.name == type(model.model).__name__.lower()


def test_the_gradient_reaches_the_image(trained: Callable[[str], Trained]) -> None:
    _, detector = refer(trained("Stfpm").path)
    point = normals(1, 0).requires_grad_()
    (gradient,) = torch.autograd.grad(detector.infer(point, generator()).scores.sum(), point)
    assert gradient.any()


def test_the_names_that_checkpoints_may_hold() -> None:
    from anomalib import models

    from advrad.baselines.anomalib.backbone import LITE0, packaged_lite0

    assert {packaged_lite0(): LITE0} == PACKAGED
    assert all(hasattr(models, name) for name in READABLE)


def test_no_two_models_have_the_same_arguments() -> None:
    import inspect

    from advrad.detectors.anomalib_checkpoint import _kinds

    takes = {kind.__name__: frozenset(inspect.signature(kind.__init__).parameters) for kind in _kinds()}
    assert len(set(takes.values())) == len(takes) and takes.keys() >= READABLE


def rename_engine_folder(content: dict[str, Any]) -> None:
    for state in content["callbacks"].values():
        if "dirpath" in state:
            state["dirpath"] = state["dirpath"].replace("Padim", "MyPadim")


def drop_a_tensor(content: dict[str, Any]) -> None:
    del content["state_dict"]["model.gaussian.mean"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["hyper_parameters"].update(tied=True), "is of no model of the installed anomalib .*tied.*another"),
        (lambda c: c.update(hyper_parameters={"backbone": "a"}), r"is of no model .* FILE\.py:NAME"),
        (lambda c: c.pop("anomalib_components_enabled"), r"of an earlier version .* \(anomalib 2\.\S+ is installed\)"),
        (lambda c: c.pop("state_dict"), "is not a checkpoint of anomalib"),
        (
            lambda c: c["anomalib_pre_processor_config"].update(transform=None),
            "does not hold how its model pre-processes",
        ),
        (lambda c: c.pop("anomalib_pre_processor_config"), "does not hold how its model pre-processes images"),
        (rename_engine_folder, "has the arguments of Padim, but anomalib's engine did not store it as Padim"),
        (
            drop_a_tensor,
            "does not fit Padim of the installed anomalib .*gaussian.mean.*install the version",
        ),
        (
            lambda c: c.update(hyper_parameters=dict.fromkeys(("class_name", "k_shot", "scales", "few_shot_source"))),
            "anomalib's engine did not store it as WinClip",
        ),
    ],
)
def test_a_checkpoint_that_is_not_understood(
    change: Callable[[dict[str, Any]], object], words: str, trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    path = changed(trained("Padim").path, tmp_path / "other.ckpt", change)
    with pytest.raises(ConfigError, match=rf"other\.ckpt: .*{words}") as raised:
        refer(path)
    assert "\n" not in str(raised.value)


def test_a_model_that_needs_other_files(
    trained: Callable[[str], Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def to_winclip(content: dict[str, Any]) -> None:
        content["hyper_parameters"] = dict.fromkeys(("class_name", "k_shot", "scales", "few_shot_source"))
        content["callbacks"] = {}

    path = changed(trained("Padim").path, tmp_path / "other.ckpt", to_winclip)
    go_offline(monkeypatch)
    with pytest.raises(ConfigError, match="is of WinClip, which is not built without files from elsewhere"):
        refer(path)


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_checkpoint_is_not_run(
    write: Callable[[Any, Path], object], trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    place, path = tmp_path / "made", tmp_path / "other.ckpt"
    kept = changed(trained("Padim").path, path, lambda content: None)
    content = torch.load(kept, weights_only=True)
    write(content | {"hyper_parameters": content["hyper_parameters"] | {"extra": Harmful(place)}}, path)
    with pytest.raises(ConfigError, match=r"other\.ckpt: "):
        refer(path)
    assert not place.exists()


@pytest.mark.parametrize("length", [0, 100, 5000])
def test_a_damaged_checkpoint(length: int, trained: Callable[[str], Trained]) -> None:
    with pytest.raises(ConfigError, match=r"model\.ckpt: .* checkpoint of anomalib; name a \.ckpt"):
        read_anomalib(trained("Padim").path.read_bytes()[:length], "model.ckpt")


def test_another_version_of_anomalib(trained: Callable[[str], Trained]) -> None:
    config, _ = refer(trained("Padim").path)
    with pytest.raises(
        CheckpointError, match=r"was read with anomalib 2\.5\.1 .*, and 2\.\S+ is installed; install anomalib==2\.5\.1"
    ):
        load_reference(config.model_copy(update={"version": "2.5.1"}))


def test_scores_that_changed(trained: Callable[[str], Trained]) -> None:
    config, _ = refer(trained("Padim").path)
    assert config.probe_score is not None
    with pytest.raises(CheckpointError, match="scores a test image"):
        load_reference(config.model_copy(update={"probe_score": 1.1 * config.probe_score}))


@pytest.fixture(scope="module")
def guarded(trained: Callable[[str], Trained]) -> GuardedDetector:
    memory = closed_form(normals(16, 0))
    memory.calibrate([normals(39, 1)], RATE)
    return advrad.guard(str(trained("Patchcore").path), memory, normals(39, 2))


def test_a_guarded_checkpoint_is_saved_and_loaded(
    guarded: GuardedDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_offline(monkeypatch)
    images = torch.cat([normals(2, 3), dents(2, 4)])
    guarded.save_pretrained(tmp_path / "model")
    again = advrad.load_detector(tmp_path / "model")
    assert isinstance(again, GuardedDetector) and list(again.others) == ["patchcore"]
    torch.testing.assert_close(again.predict_batch(images).scores, guarded.predict_batch(images).scores)
    stored = json.loads((tmp_path / "model" / "config.json").read_text())["others"][0]["detector"]
    assert (stored["kind"], stored["model"]) == ("reference", "Patchcore") and len(stored["sha256"]) == 64
    words = [found.word for found in again.verdicts(images)]
    assert words[2:] == [Verdict.PROVEN_DEFECTIVE] * 2


def test_a_model_in_memory_is_guarded_and_not_saved(
    guarded: GuardedDetector, trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    images = torch.cat([normals(2, 3), dents(2, 4)])
    made = advrad.guard(trained("Patchcore").model, guarded.memory, normals(39, 2))
    torch.testing.assert_close(made.predict_batch(images).scores, guarded.predict_batch(images).scores)
    with pytest.raises(ConfigError, match="patchcore: cannot be saved, because it exists in this process only"):
        made.save_pretrained(tmp_path / "model")


def test_the_bounds_hold_under_attack(guarded: GuardedDetector) -> None:
    images = torch.cat([normals(2, 5), dents(2, 6)])
    labels = torch.tensor([0, 0, 1, 1])
    bounds = guarded.score_bounds(images, EPS, "linf")
    result = advrad.attack(guarded, (images, labels), eps=EPS, attack="pgd", steps=4, surrogate="patchcore")
    attacked = torch.tensor([row.worst for row in result.rows])
    assert (attacked >= bounds.lower - 1e-6).all() and (attacked <= bounds.upper + 1e-6).all()
    assert not torch.allclose(attacked, bounds.scores.to(attacked))


def test_a_checkpoint_is_guarded_by_training(
    trained: Callable[[str], Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_run.shrink(monkeypatch)
    (tmp_path / "data" / "train" / "good").mkdir(parents=True)
    for place, image in enumerate(normals(20, 7)):
        write_image(tmp_path / "data" / "train" / "good" / f"{place}.png", image.permute(1, 2, 0).numpy())
    options: dict[str, Any] = {"features": str(trained("Stfpm").path), "false_alarm_rate": 0.2}
    made = advrad.train(tmp_path / "data", tmp_path / "run", **options)  # at the size of the model
    again, images = advrad.load_detector(tmp_path / "run"), torch.cat([normals(2, 8), dents(2, 9)])
    assert isinstance(again, GuardedDetector) and again.image_size_px == 32
    assert [part.detector.kind for part in again.config.others if part.detector] == ["reference"]
    assert torch.equal(again.predict_batch(images).scores, made.predict_batch(images).scores)
