"""The model folder of a guarded detector: every kind of half, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from toy_guarded import SIZE_PX, closed_form, dents, guarded, normals
from toy_models import detector as learned_detector
from toy_models import generator

from advrad.detectors.advrad import AdvRAD
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.feature_config import FeatureConfig, NetworkConfig
from advrad.detectors.feature_memory import FeatureDetector, features_of
from advrad.detectors.feature_network import build_network
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.guarded_config import AttackableConfig, GuardedConfig
from advrad.detectors.loading import load_config, load_detector, load_target, to_loaded
from advrad.detectors.reference import refer
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.errors import CheckpointError, ConfigError

IMAGES = torch.cat([normals(2, 5), dents(2, 6)])
FILE = "def score(images): return images.std((1, 2, 3))\n"


def features() -> FeatureDetector:
    """A detector on features of a network with random weights, which needs no package of weights."""
    config = FeatureConfig(network=NetworkConfig(name="lite0", layers=(1,)), image_size_px=SIZE_PX)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(config.network)
    with torch.no_grad():
        found = features_of(network.eval(), config, normals(3, 0))
    bank = found.movedim(1, -1).flatten(0, 2)
    return FeatureDetector(config, network, bank, torch.arange(3).repeat_interleave(len(bank) // 3))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> GuardedDetector:
    """One half of each kind that a folder can hold."""
    file = tmp_path_factory.mktemp("mine") / "mine.py"
    file.write_text(FILE)
    stored, mine = refer(f"{file}:score", size_px=SIZE_PX)
    others = (
        AttackableConfig(name="learned"),
        AttackableConfig(name="mine", detector=stored),
        AttackableConfig(name="features"),
    )
    memory = closed_form(normals(16, 0))
    halves = {"features": features(), "learned": learned_detector(calibrated=False), "mine": mine}
    found = GuardedDetector(GuardedConfig(memory=memory.config, others=others), memory, halves).eval()
    found.calibrate([normals(39, 1)], 0.1)
    found.update_config(ceiling=-0.25)
    return found


@pytest.fixture
def folder(made: GuardedDetector, tmp_path: Path) -> Path:
    made.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_folder_holds_every_half(made: GuardedDetector, folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    loaded = load_detector(folder)
    assert isinstance(loaded, GuardedDetector) and not loaded.training and loaded.config == made.config
    kinds = [type(half).__name__ for half in loaded.others.values()]
    assert list(loaded.others) == ["learned", "mine", "features"]
    assert kinds == ["WhiteBoxAdvRAD", "CallableDetector", "FeatureDetector"]
    ours, theirs = made.predict_batch(IMAGES), loaded.predict_batch(IMAGES)
    assert ours.half_scores is not None and theirs.half_scores is not None
    assert torch.equal(ours.half_scores, theirs.half_scores) and torch.equal(ours.scores, theirs.scores)
    assert [str(one.word) for one in loaded.verdicts(IMAGES)] == [str(one.word) for one in made.verdicts(IMAGES)]
    assert load_config(folder) == made.config
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "learned" in card and "features" in card and "memory" in card
    learned = loaded.others["learned"]
    assert isinstance(learned, WhiteBoxAdvRAD) and not any(part.requires_grad for part in learned.detector.parameters())


def test_the_thresholds_survive_to_the_last_bit(made: GuardedDetector, folder: Path) -> None:
    tests = load_config(folder).tests  # type: ignore[attr-defined]
    assert [test.threshold for test in tests] == [test.threshold for test in made.tests]
    assert all(test.threshold in test.scores for test in tests)


def test_results_of_another_detector_are_not_continued(made: GuardedDetector, folder: Path) -> None:
    target = load_target(str(folder))
    assert target.folder == folder and target.detector.threshold == 0.0
    assert to_loaded(made).identity == to_loaded(load_detector(folder)).identity
    changed = load_detector(folder)
    assert isinstance(changed, GuardedDetector)
    changed.update_config(ceiling=-0.5)
    assert to_loaded(changed).identity != to_loaded(made).identity


def test_folders_of_other_kinds_are_named(made: GuardedDetector, folder: Path, tmp_path: Path) -> None:
    made.memory.save_pretrained(tmp_path / "memory")
    with pytest.raises(CheckpointError, match="is not a guarded detector"):
        GuardedDetector.from_pretrained(tmp_path / "memory")
    with pytest.raises(CheckpointError, match="is not a closed-form detector"):
        ClosedFormDetector.from_pretrained(folder)
    found: object = AdvRAD.from_pretrained(folder)
    assert isinstance(found, GuardedDetector)


def test_a_damaged_or_newer_folder_is_one_clear_line(folder: Path) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))

    def with_others(**changes: object) -> str:
        others = [dict(part) for part in values["others"]]
        others[0] |= changes
        return json.dumps(values | {"others": others})

    path.write_text(with_others(detector={"kind": "telepathy"}))
    with pytest.raises(CheckpointError, match=r"config\.json: holds a half of kind 'telepathy'.*newer advrad"):
        load_detector(folder)
    path.write_text(with_others(detector=None))
    with pytest.raises(CheckpointError, match="the half 'learned' is not stored; save the detector again"):
        load_detector(folder)
    path.write_text(with_others(detector=FeatureConfig().model_dump(mode="json")))
    with pytest.raises(CheckpointError, match=r"config\.json: the tensors do not belong to"):
        load_detector(folder)
    path.write_text(json.dumps(values | {"ceiling": 0.01}))
    with pytest.raises(ConfigError, match=r"config\.json: .*ceiling must not lie between 0 and 0\.1"):
        load_detector(folder)


def test_a_half_of_this_process_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"half: cannot be saved, .* exists in this process only; .*FILE\.py:NAME"):
        guarded().save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_features_and_learned_halves_can_be_attacked_together(made: GuardedDetector) -> None:
    images = IMAGES.clone().requires_grad_()
    names = {name.partition(":")[0] for name in made.surrogates}
    assert names == {"memory", "learned", "mine", "features", "verdict", "all halves"}
    for name in ("learned", "features", "verdict", "all halves"):
        (gradient,) = torch.autograd.grad(made.surrogates[name](images, generator()).sum(), images)
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0
    bounds, output = made.score_bounds(IMAGES, 2 / 255, "linf"), made.infer(IMAGES, generator(5))
    assert bool((bounds.lower <= output.scores).all() and (output.scores <= bounds.upper).all())
