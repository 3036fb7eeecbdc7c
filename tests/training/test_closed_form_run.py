"""A run without a budget: the closed form alone, from a folder of images to a calibrated model folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import trained_run
from PIL import Image
from short_runs import Listener, StopAt, weights
from toy_datasets import make_folder, make_mvtec, write_good

import advrad.training.normal_images as normal_images
from advrad.data import splits
from advrad.data.layouts import find_records
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.loading import load_detector
from advrad.errors import ConfigError, DataError, ImageError, OutputError
from advrad.training.closed_form_run import aspect_of
from advrad.training.options import RunOptions
from advrad.training.plan import ClosedFormPlan, plan_path
from advrad.training.run import train
from advrad.utils.files import PART

pytestmark = pytest.mark.usefixtures("small_networks")

SMALL = RunOptions(size_px=64)
PLAN, FIT = "Choosing the plans", "Comparing normal images"


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; to be read only."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        trained_run.shrink(patch)
        train(data, folder, SMALL)
    return folder


def test_twenty_images_make_a_calibrated_detector(data: Path, tmp_path: Path) -> None:
    listener = Listener()
    made = train(data, tmp_path / "run", SMALL, progress=listener)
    assert isinstance(made, ClosedFormDetector) and not made.training
    assert listener.stages == ["Reading images", PLAN, FIT]
    threads, note = listener.notes
    assert threads.startswith("computing with ")
    assert note.startswith("the normal images hardly differ"), "they show one scene with a little noise"
    assert made.calibration.false_alarm_rate == 0.05
    assert made.calibration.source == {"data": data.name, "category": data.name, "split_seed": 0}
    kept = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert kept == {"README.md", "config.json", "model.safetensors", "training/plan.json"}
    files = sorted(data.rglob("*.png"))[:3]
    loaded = load_detector(tmp_path / "run")
    assert [one.score for one in loaded.predict(files)] == [one.score for one in made.predict(files)]


def test_the_plan_holds_what_was_used(finished: Path, data: Path) -> None:
    values = json.loads(plan_path(finished).read_text(encoding="utf-8"))
    plan = ClosedFormPlan.parse(values)
    assert plan.model_dump(mode="json") == values
    assert (plan.size_px, plan.seed, plan.false_alarm_rate, plan.aspect) == (64, 0, 0.05, 1.0)
    assert len(plan.names) == 20 and plan.data == str(data)
    config = json.loads((finished / "config.json").read_text(encoding="utf-8"))
    assert str(data) not in json.dumps(config), "the model folder names no path of the machine"
    assert config["training"]["plan"]["size_px"] == 64 and config["training"]["seconds"] > 0


def test_the_same_images_and_seed_make_the_same_model(finished: Path, data: Path, tmp_path: Path) -> None:
    torch.rand(5)
    train(data, tmp_path / "again", SMALL)
    assert weights(tmp_path / "again") == weights(finished)


@pytest.mark.parametrize("stage", ["Reading images", PLAN, FIT])
def test_an_interrupted_fit_is_run_again_by_the_same_command(
    stage: str, finished: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", SMALL, progress=StopAt(stage=stage))
    assert not (tmp_path / "run").exists()
    train(data, tmp_path / "run", SMALL)
    assert weights(tmp_path / "run") == weights(finished)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "other", SMALL, progress=StopAt(stage=stage))
    train(data, tmp_path / "other", SMALL, resume=True)
    assert weights(tmp_path / "other") == weights(finished)


def killed(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("place", "left", "resume"),
    [
        ("advrad.detectors.model_folder.write_json", {".advrad-output", "model.safetensors"}, False),
        ("advrad.training.run.save_plan", {"README.md", "config.json", "model.safetensors"}, True),
    ],
)
def test_a_run_that_was_killed_while_it_saved_starts_again(
    place: str,
    left: set[str],
    resume: bool,
    finished: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(place, killed)
        train(data, run, SMALL)
    assert {path.name for path in run.iterdir()} == left
    (run / f".0123456789ab{PART}.safetensors").write_bytes(b"half a mod")
    if resume:
        with pytest.raises(OutputError, match="resume it"):
            train(data, run, SMALL)
    train(data, run, SMALL, resume=resume)
    assert weights(run) == weights(finished)
    assert {path.name for path in run.iterdir()} == {"README.md", "config.json", "model.safetensors", "training"}


def test_progress_counts_every_image_that_is_compared(data: Path, tmp_path: Path) -> None:
    class Counts(Listener):
        def update(self, done: int, total: int) -> None:
            if self.stages[-1] == FIT:
                counts.append((done, total))

    counts: list[tuple[int, int]] = []
    train(data, tmp_path / "run", SMALL, progress=Counts())
    assert counts == [(8, 20), (16, 20), (20, 20)]
    counts.clear()
    train(make_folder(tmp_path / "more", good=40, size=64), tmp_path / "other", SMALL, progress=Counts())
    done, totals = zip(*counts, strict=True)
    assert set(totals) == {40} and done[-1] == 40 and list(done) == sorted(set(done)) and len(done) > 4


def test_a_finished_fit_says_that_there_is_nothing_to_resume(finished: Path, data: Path) -> None:
    listener, before = Listener(), weights(finished)
    made = train(data, finished, RunOptions(), resume=True, progress=listener)
    assert isinstance(made, ClosedFormDetector) and made.calibration.false_alarm_rate == 0.05
    assert listener.stages == [] and weights(finished) == before
    assert listener.notes == [f"{finished}: the closed form is finished; there is nothing to resume"]
    with pytest.raises(OutputError, match="holds an earlier run"):
        train(data, finished, SMALL)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"minutes": 5.0}, "minutes 5: the run in {} was started without it"),
        ({"size_px": 128}, "size_px 128: the run in {} was started with 64"),
        ({"seed": 1}, "seed 1: the run in {} was started with 0"),
        ({"denoiser": "lean"}, "denoiser lean: the run in {} was started with memory"),
    ],
    ids=str,
)
def test_other_options_than_those_of_the_finished_fit_are_refused(
    changes: dict[str, object], words: str, finished: Path, data: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        train(data, finished, RunOptions(**changes), resume=True)
    assert words.format(finished) in str(caught.value)


def test_too_few_images_are_named_before_they_are_read(tmp_path: Path) -> None:
    few = make_folder(tmp_path / "few", good=12, size=64)
    listener = Listener()
    words = r"needs 19 different normal images, but there are 12; add .* a rate of 0\.077"
    with pytest.raises(ConfigError, match=words):
        train(few, tmp_path / "run", SMALL, progress=listener)
    assert listener.stages == [] and not (tmp_path / "run").exists()
    listener = Listener()
    made = train(few, tmp_path / "run", RunOptions(size_px=64, false_alarm_rate=0.08), progress=listener)
    assert made.calibration.false_alarm_rate == 0.08


def test_a_missing_folder_of_images_leaves_nothing_behind(tmp_path: Path) -> None:
    for options in (SMALL, RunOptions(steps=2), RunOptions(denoiser="lean")):
        with pytest.raises(DataError):
            train(tmp_path / "missing", tmp_path / "run", options)
    assert list(tmp_path.iterdir()) == []


def test_test_images_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_mvtec(tmp_path / "data", train=20, good=3, defects={"dent": 3}, size=64)
    opened: list[Path] = []
    real = normal_images.load_images

    def spy(records: list, *arguments: object, **options: object) -> object:
        opened.extend(record.path for record in records)
        return real(records, *arguments, **options)

    monkeypatch.setattr(normal_images, "load_images", spy)
    train(root, tmp_path / "run", SMALL)
    assert len(opened) == len(set(opened)) == 20 and all("train" in path.parts for path in opened)


def test_of_very_many_images_some_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(tmp_path / "data", good=50, size=64)
    monkeypatch.setattr(splits, "MOST_IMAGES", 20)
    listener = Listener()
    made = train(root, tmp_path / "run", SMALL, progress=listener)
    plan = ClosedFormPlan.parse(json.loads(plan_path(tmp_path / "run").read_text(encoding="utf-8")))
    # Twice as many as the false-alarm rate needs are always used.
    assert len(plan.names) == 38
    assert any(note.startswith("38 of the 50 normal images are used") for note in listener.notes)
    assert f"computing with {made.config.training.threads} thread" in " ".join(listener.notes)
    assert made.calibration.false_alarm_rate == 0.05
    train(root, tmp_path / "other", RunOptions(size_px=64, seed=1))
    other = ClosedFormPlan.parse(json.loads(plan_path(tmp_path / "other").read_text(encoding="utf-8")))
    assert set(other.names) != set(plan.names)


def test_an_unreadable_image_is_an_error_or_left_out(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", good=20, size=64)
    sorted((root / "good").iterdir() if (root / "good").is_dir() else root.iterdir())[0].write_bytes(b"broken")
    with pytest.raises(ImageError):
        train(root, tmp_path / "run", SMALL)
    assert not (tmp_path / "run").exists()
    listener = Listener()
    train(root, tmp_path / "run", RunOptions(size_px=64, skip_bad=True), progress=listener)
    assert sum(note.startswith("skipped: ") for note in listener.notes) == 1


def test_the_shape_of_the_files_is_kept_where_they_agree(tmp_path: Path) -> None:
    def files(*sizes: tuple[int, int]) -> float:
        folder = tmp_path / "-".join(f"{width}x{height}" for width, height in sizes)
        folder.mkdir()
        for number, size in enumerate(sizes * 4):
            Image.new("RGB", size, (number, 90, 90)).save(folder / f"{number:02}.png")
        return aspect_of(find_records(folder).records, 10**6)

    assert files((100, 50)) == 2.0
    assert files((100, 50), (101, 50), (100, 50)) == pytest.approx(2.0)
    assert files((100, 50), (50, 100)) == 1.0
    write_good(tmp_path / "one.png", 64, 0)
