"""The plan of a run: its contents, options given again on resuming, and refused folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trained_run
from short_runs import LEAN, TINY, StopAt, replace, weights

from advrad.data.layouts import find_records
from advrad.denoisers.ddpm import PRESETS as DDPM_PRESETS
from advrad.denoisers.ddpm import DdpmConfig, build
from advrad.denoisers.lean import LeanConfig, LeanDenoiser
from advrad.detectors.advrad import AdvRAD
from advrad.errors import CheckpointError, ConfigError, OutputError
from advrad.training.options import RunOptions
from advrad.training.plan import RunPlan, lean_views
from advrad.training.run import train

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.mark.parametrize("size_px", [64, 96, 128, 160, 256])
def test_the_views_of_every_size_suit_the_network(size_px: int) -> None:
    multiple = LeanDenoiser(LeanConfig()).multiple_px
    views = lean_views(size_px, 10**6)
    assert max(view.image_px for view in views) == size_px
    assert {view.image_px for view in lean_views(size_px, 10)} == {min(view.image_px for view in views)}
    for view in views:
        assert view.window_px <= view.image_px and view.window_px % multiple == 0 and view.image_px % multiple == 0


def test_the_plan_roundtrips(data: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, TINY, progress=StopAt(stage="Training"))
    values = json.loads((tmp_path / "training" / "plan.json").read_text())
    plan = RunPlan.parse(values, "plan")
    assert isinstance(plan.denoiser, DdpmConfig)
    assert plan.model_dump(mode="json") == values
    assert len(plan.names) + 1 < len(find_records(data).records)


def test_files_keep_the_names_of_earlier_versions(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path, replace(LEAN, steps=1, score="paper", adversarial_eps=0.01))
    stored = json.loads((tmp_path / "training" / "plan.json").read_text())["train"]
    assert (stored["restore"], stored["exposure"], stored["harden"]) == (0.6, 0.1, 0.01)
    assert [set(view) for view in stored["views"]] == [{"picture_px", "window_px"}]
    kept = json.loads((tmp_path / "config.json").read_text())["training"]["plan"]["train"]
    assert kept == stored
    train_config = RunPlan.parse(json.loads((tmp_path / "training" / "plan.json").read_text())).train
    assert (train_config.defect_probability, train_config.brightness_jitter) == (0.6, 0.1)
    assert train_config.adversarial_eps == 0.01 and train_config.views[0].image_px == 64


# --- options given again -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def interrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `LEAN`, stopped before its first step; to be read only."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        trained_run.shrink(patch)
        train(data, folder, LEAN, progress=StopAt(stage="Training"))
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"minutes": 5.0}, "minutes 5: the run in {} was started without it; leave the option out"),
        ({"steps": 7}, "steps 7: the run in {} was started with 6; leave the option out"),
        ({"preset": "tiny"}, "preset tiny: the run in {} was started with lean;"),
        ({"denoiser": "unet"}, "denoiser unet: the run in {} was started with lean; leave the option out"),
        ({"source": "memory"}, "denoiser memory: the run in {} was started with lean; leave the option out"),
        ({"size_px": 128}, "size_px 128: the run in {} was started with 64; leave the option out"),
        ({"seed": 1}, "seed 1: the run in {} was started with 0; leave the option out"),
        ({"batch_size": 8}, "batch_size 8: the run in {} was started with 4;"),
        ({"learning_rate": 0.1}, "learning_rate 0.1: the run in {} was started with 0.001;"),
        ({"false_alarm_rate": 0.05}, "false_alarm_rate 0.05: the run in {} was started with 0.2;"),
        ({"score": "paper"}, "score paper: the run in {} was started with auto;"),
        ({"harden": "1/2"}, "adversarial_eps 0.5: the run in {} was started without it; leave the option out"),
        ({"precision": "auto"}, "precision auto: the run in {} was started with float32;"),
        ({"layout": "mvtec"}, "layout mvtec: the run in {} was started with folder;"),
        ({"category": "other"}, "category other: the run in {} was started with product"),
        ({"skip_bad": True}, "skip_bad: the run in {} was started without it;"),
        ({"max_pixels": 1000}, "max_pixels 1000: the run in {} was started with 200000000;"),
    ],
    ids=lambda part: next(iter(part)) if isinstance(part, dict) else "",
)
def test_an_option_that_contradicts_the_interrupted_run_is_refused(
    changes: dict[str, object], words: str, data: Path, interrupted: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        train(data, interrupted, RunOptions(**changes), resume=True)
    assert words.format(interrupted) in str(caught.value)
    assert "\n" not in str(caught.value) and not (interrupted / "config.json").exists()


@pytest.mark.parametrize(("typed", "words"), [("near", "a number or a fraction"), ("-1", "between 0 and 1"), (2, "1")])
def test_a_wrong_adversarial_radius_is_refused(typed: str | float, words: str) -> None:
    with pytest.raises(ConfigError, match=f"adversarial_eps {typed}: must be .*{words}"):
        RunOptions.parse({"harden": typed})


def stop_and_repeat(data: Path, folder: Path, options: RunOptions) -> AdvRAD:
    """Interrupt a run, and finish it with the same options."""
    with pytest.raises(KeyboardInterrupt):
        train(data, folder, options, progress=StopAt(stage="Training"))
    return train(data, folder, options, resume=True)


def test_the_same_options_may_be_given_again(data: Path, tmp_path: Path) -> None:
    more = {"preset": "lean", "seed": 3, "learning_rate": 0.002, "score": "paper", "layout": "auto", "minutes": None}
    made = stop_and_repeat(data, tmp_path / "lean", replace(LEAN, **more))
    assert made.detector_config.noise_seed == 3
    build(DDPM_PRESETS["tiny"]).network.save_pretrained(tmp_path / "unet")
    for name, options in {
        "preset": TINY,
        "size": replace(TINY, size_px=32),
        "checkpoint": replace(TINY, preset="lean", denoiser=str(tmp_path / "unet"), size_px=16),
    }.items():
        assert stop_and_repeat(data, tmp_path / name, options).size_px == (options.size_px or 16)


def test_a_budget_may_be_given_again_but_no_other(data: Path, tmp_path: Path) -> None:
    options = replace(LEAN, steps=None, minutes=0.02)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, options, progress=StopAt(stage="Training"))
    with pytest.raises(ConfigError, match=r"minutes 1: the run in .* was started with 0\.02;"):
        train(data, tmp_path, RunOptions(minutes=1.0), resume=True)
    assert (
        train(data, tmp_path, options, resume=True).detector_config.training.to_dict()["plan"]["budget_minutes"] == 0.02
    )


# --- refusals ------------------------------------------------------------------------------------------------------


def test_an_earlier_run_is_not_overwritten(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path, replace(TINY, steps=1))
    before = weights(tmp_path)
    with pytest.raises(OutputError, match="resume it"):
        train(data, tmp_path, TINY)
    assert weights(tmp_path) == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"data": 1}', "null"])
def test_a_damaged_plan_is_named(data: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "plan.json").write_text(text)
    with pytest.raises((CheckpointError, ConfigError), match=r"plan\.json") as caught:
        train(data, tmp_path, LEAN, resume=True)
    assert "\n" not in str(caught.value)


def test_a_file_in_place_of_the_folder_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for resume in (True, False):
        with pytest.raises(OutputError, match="is a file"):
            train(data, tmp_path / "file", LEAN, resume=resume)
