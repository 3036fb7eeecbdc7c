"""A whole run, from data to a calibrated detector: every preset, repeatable and resumable."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import trained_run
from safetensors.torch import load_file
from short_runs import LEAN, TINY, Listener, StopAt, replace, weights
from toy_datasets import make_folder, make_mvtec, write_good
from toy_models import generator, random_images

import advrad.training.normal_images as normal_images
from advrad.data.layouts import find_records
from advrad.data.loading import load_images
from advrad.data.options import DataOptions
from advrad.data.splits import split_normals
from advrad.denoisers.ddpm import PRESETS as DDPM_PRESETS
from advrad.denoisers.ddpm import DdpmDenoiser, build
from advrad.denoisers.lean import LeanDenoiser
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.score_config import paper_score
from advrad.errors import CheckpointError, ConfigError, DataError
from advrad.training.error_statistics import fit_statistics
from advrad.training.options import RunOptions
from advrad.training.plan import RunPlan
from advrad.training.run import train

pytestmark = pytest.mark.usefixtures("small_networks")


# --- end to end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "size_px"),
    [(replace(TINY, score="auto"), DdpmDenoiser, 16), (LEAN, LeanDenoiser, 64)],
    ids=["tiny", "lean"],
)
def test_a_preset_trains_calibrates_and_predicts(
    options: RunOptions, kind: type, size_px: int, data: Path, tmp_path: Path
) -> None:
    made = train(data, tmp_path, options)
    assert isinstance(made.denoiser, kind) and made.size_px == size_px
    calibration = made.calibration
    assert calibration.n >= 4 and calibration.false_alarm_rate == 0.2
    loaded = AdvRAD.from_pretrained(tmp_path)
    files = sorted(data.rglob("*.png"))[:3]
    got = list(loaded.predict(files))
    assert [prediction.path for prediction in got] == files
    assert [p.score for p in got] == [p.score for p in made.predict(files)]
    assert all(p.anomaly_map.shape == (size_px, size_px) for p in got)
    images = random_images(2, size_px).requires_grad_()
    (gradient,) = torch.autograd.grad(loaded.score(images, generator(1)).sum(), images)
    assert gradient.abs().max() > 0


def test_lean_estimates_statistics_before_its_first_step(data: Path, tmp_path: Path) -> None:
    made = train(data, tmp_path, replace(LEAN, steps=1))
    assert isinstance(made.denoiser, LeanDenoiser)
    split = split_normals(find_records(data).records, 0, false_alarm_rate=0.2)
    images = load_images(split.train, 64, cache_dir=False).batch(slice(None))
    usual = (made.denoiser.mean + 1) / 2
    # Also with what mirroring and light do to the training images.
    assert float((usual.mean() - images.mean()).abs()) < 0.05
    assert float(made.denoiser.variance.mean()) < 0.9 * 0.25


@pytest.mark.parametrize("options", [TINY, replace(LEAN, score="paper")], ids=["tiny", "lean"])
def test_one_step_and_several_use_the_same_reconstruct(
    options: RunOptions, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = train(data, tmp_path, options)
    asked: list[float] = []
    real = made.denoiser.denoise

    def spy(z: torch.Tensor, sigma: torch.Tensor, window: torch.Tensor | None = None) -> torch.Tensor:
        asked.append(round(float(sigma[0]), 6))
        return real(z, sigma, window)

    monkeypatch.setattr(made.denoiser, "denoise", spy)
    walks = {}
    sigma = 0.4
    for steps in (1, 3):
        asked.clear()
        score = paper_score(made.size_px, sigma).model_copy(update={"steps": steps})
        config = made.detector_config.model_copy(update={"score": score})
        statistics = fit_statistics(
            made.denoiser, random_images(4, made.size_px), random_images(4, made.size_px), paper_score(made.size_px), 0
        )
        asked.clear()
        walks[steps] = AdvRAD(made.denoiser, config, statistics).predict_batch(random_images(1, made.size_px))[2]
        assert len(asked) == steps and asked[0] == sigma and asked == sorted(asked, reverse=True)
    assert (walks[1] - walks[3]).abs().max() > 1e-3


def test_the_files_of_a_run(data: Path, tmp_path: Path) -> None:
    listener = Listener()
    train(data, tmp_path, LEAN, progress=listener)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "config.json", "model.safetensors", "training"}
    kept = {path.name for path in (tmp_path / "training").iterdir()}
    assert {"plan.json", "state.safetensors", "log.jsonl"} <= kept
    assert listener.steps == [1, 2, 3, 4, 5, 6]
    assert listener.stages == ["Reading images", "Training", "Choosing the score", "Calibrating"]
    values = json.loads((tmp_path / "config.json").read_text())
    plan = RunPlan.parse(json.loads((tmp_path / "training" / "plan.json").read_text()), "plan")
    assert plan.train.steps == 6 and len(plan.names) == values["training"]["pictures"]["train"]
    assert sum(values["training"]["pictures"].values()) == 20
    tried = values["training"]["tried"]
    assert tried == sorted(tried, key=lambda row: -row[1]) and len(tried) > 10


def test_a_score_for_attacks_can_be_asked_for(data: Path, tmp_path: Path) -> None:
    made = train(data, tmp_path, replace(LEAN, score="robust", steps=1))
    config = made.detector_config
    assert config.score.normalisation == "noise_tolerant" and len(config.score.views) == 1
    assert len(config.training.attacked) == 6 and "under a quick attack" in config.training.reason


def test_the_papers_score_can_be_asked_for(data: Path, tmp_path: Path) -> None:
    made = train(data, tmp_path, replace(LEAN, score="paper", steps=1))
    assert made.detector_config.score == paper_score(64)


def test_minutes_are_turned_into_steps_and_kept(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path, replace(LEAN, steps=None, minutes=0.02))
    plan = RunPlan.parse(json.loads((tmp_path / "training" / "plan.json").read_text()), "plan")
    assert plan.train.steps >= 1 and plan.budget_minutes == 0.02


def test_test_images_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_mvtec(tmp_path / "data", train=20, good=3, defects={"dent": 3}, size=64)
    opened: list[Path] = []
    real = normal_images.load_images

    def spy(records: tuple, *arguments: object, **options: object) -> object:
        opened.extend(record.path for record in records)
        return real(records, *arguments, **options)

    monkeypatch.setattr(normal_images, "load_images", spy)
    train(root, tmp_path / "run", replace(LEAN, steps=1))
    assert len(opened) == len(set(opened)) == 20, "each normal image is used once, for one purpose"
    assert all("train" in path.parts for path in opened)


# --- the same again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [TINY, LEAN], ids=["tiny", "lean"])
def test_seeds_repeat_bit_by_bit(options: RunOptions, data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "a", options)
    torch.rand(5)
    train(data, tmp_path / "b", options)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in "ab"]
    for config in configs:
        config["training"].pop("seconds")
    assert configs[0] == configs[1]
    train(data, tmp_path / "c", replace(options, seed=1))
    assert weights(tmp_path / "c") != weights(tmp_path / "a")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `LEAN`; to be read only."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        trained_run.shrink(patch)
        torch.set_num_threads(1)
        train(data, folder, LEAN)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(finished: Path) -> bytes:
    return weights(finished)


@pytest.mark.parametrize(
    "stop",
    [
        StopAt(stage="Reading images"),
        StopAt(stage="Training"),
        StopAt(step=1),
        StopAt(step=4),
        StopAt(step=6),
        StopAt(stage="Choosing the score"),
        StopAt(stage="Calibrating"),
    ],
    ids=lambda stop: stop.title or f"step {stop.last}",
)
def test_stopped_at_any_stage_it_resumes_to_the_same_model(
    stop: StopAt, data: Path, tmp_path: Path, uninterrupted: bytes
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, LEAN, progress=stop)
    assert not (tmp_path / "config.json").exists()
    with pytest.raises(CheckpointError):
        AdvRAD.from_pretrained(tmp_path)
    # The plan knows; only where it was not yet written must the options be given again.
    options = LEAN if stop.title == "Reading images" else RunOptions()
    made = train(data, tmp_path, options, resume=True)
    assert made.detector_config.precision == "float32"
    assert weights(tmp_path) == uninterrupted


@pytest.mark.parametrize("stop", [StopAt(stage="Training"), StopAt(step=1)], ids=["before", "within"])
def test_a_run_from_a_checkpoint_resumes_to_the_same_model(stop: StopAt, data: Path, tmp_path: Path) -> None:
    build(DDPM_PRESETS["tiny"]).network.save_pretrained(tmp_path / "unet")
    options = replace(TINY, preset="lean", denoiser=str(tmp_path / "unet"), size_px=16)
    train(data, tmp_path / "whole", options)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "cut", options, progress=stop)
    train(data, tmp_path / "cut", RunOptions(), resume=True)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


KILLED = """
import sys, time
from pathlib import Path
import pytest, torch, trained_run
import advrad.training.trainer
from advrad.training.plan import RunOptions
from advrad.training.run import train
from advrad.utils.progress import SilentReporter
torch.set_num_threads(1)
trained_run.shrink(pytest.MonkeyPatch())
advrad.training.trainer.SAVE_EVERY_S = 0.0
class Held(SilentReporter):
    def step(self, state):
        if Path(sys.argv[2], "training", "state.safetensors").exists():
            time.sleep(600)  # until it is killed
train(Path(sys.argv[1]), Path(sys.argv[2]), RunOptions(**eval(sys.argv[3])), progress=Held())
"""


def test_really_killed_it_resumes_to_the_same_model(data: Path, tmp_path: Path, uninterrupted: bytes) -> None:
    tests = Path(__file__).resolve().parents[1]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tests.parent / "src"), str(tests / "helpers")]),
        "OMP_NUM_THREADS": "1",
    }
    options = {
        "denoiser": "lean",
        "steps": 6,
        "size_px": 64,
        "false_alarm_rate": 0.2,
        "precision": "float32",
        "batch_size": 4,
    }
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(data), str(tmp_path), repr(options)], env=env)
    state = tmp_path / "training" / "state.safetensors"
    deadline = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert process.returncode == -signal.SIGKILL
    assert load_file(state) and not (tmp_path / "config.json").exists()
    train(data, tmp_path, RunOptions(), resume=True)
    assert weights(tmp_path) == uninterrupted


def test_resuming_a_finished_run_changes_nothing(data: Path, tmp_path: Path, finished: Path) -> None:
    folder, listener = Path(shutil.copytree(finished, tmp_path / "run")), Listener()
    train(data, folder, RunOptions(), resume=True, progress=listener)
    assert listener.steps == [] and weights(folder) == weights(finished)


# --- refusals ------------------------------------------------------------------------------------------------------


def test_changed_data_are_noticed_on_resuming(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", good=20, size=64)
    with pytest.raises(KeyboardInterrupt):
        train(root, tmp_path / "run", LEAN, progress=StopAt(step=2))
    for i in range(4):
        write_good(root / f"more{i}.png", 64, 100 + i)
    with pytest.raises(DataError, match="not those that the run was started with"):
        train(root, tmp_path / "run", LEAN, resume=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"minutes": 1.0}, "minutes 1: cannot be combined with steps"),
        ({"steps": None, "minutes": 0.0}, "minutes 0: must be above 0"),
        ({"steps": None, "minutes": float("nan")}, "minutes nan: must be above 0"),
        ({"false_alarm_rate": 0.0}, "false_alarm_rate 0: must"),
        ({"false_alarm_rate": 0.001}, "needs 999 normal images"),
        ({"preset": "huge"}, "preset huge: is unknown"),
        ({"size_px": 50}, "size_px 50: must be"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_options_are_named_before_anything_is_done(
    changes: dict[str, object], words: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        train(data, tmp_path / "run", replace(LEAN, **changes))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "training" / "plan.json").exists()


def test_the_rate_in_the_message_is_possible(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="accept a rate of") as caught:
        train(data, tmp_path / "a", replace(TINY, false_alarm_rate=0.01))
    offered = float(str(caught.value).split("accept a rate of ")[1].split()[0])
    assert train(data, tmp_path / "b", replace(TINY, false_alarm_rate=offered)).calibration.false_alarm_rate == offered


def test_as_many_images_as_the_message_asks_for_suffice(tmp_path: Path) -> None:
    few = make_folder(tmp_path / "few", good=15, size=64)
    with pytest.raises(ConfigError, match="give at least") as caught:
        train(few, tmp_path / "a", replace(TINY, false_alarm_rate=0.1))
    asked = int(str(caught.value).split("give at least ")[1].split()[0])
    enough = make_folder(tmp_path / "enough", good=asked, size=64)
    assert train(enough, tmp_path / "b", replace(TINY, false_alarm_rate=0.1)).calibration.n >= 9


def test_left_out_images_are_noticed_before_training(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", good=22, size=64)
    broken, copy = sorted(root.glob("*.png"))[3:5]
    broken.write_bytes(b"broken")
    listener = Listener()
    options = replace(TINY, false_alarm_rate=0.1, data=DataOptions(skip_bad=True))
    with pytest.raises(ConfigError, match=r"only 8 of the 21 \(of 22; 1 cannot be read\) are available"):
        train(root, tmp_path / "run", options, progress=listener)
    assert listener.stages == ["Reading images"] and len(listener.notes) == 2
    assert listener.notes[0].startswith("computing with ") and listener.notes[1].startswith("skipped: ")
    make_folder(tmp_path / "data", good=22, size=64)
    copy.write_bytes(broken.read_bytes())
    with pytest.raises(ConfigError, match=r"only 8 of the 21 \(of 22; 1 is a copy of another\) are available"):
        train(root, tmp_path / "run", options)
