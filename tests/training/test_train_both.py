"""A run with a budget: the closed form and a learned denoiser, combined as held-out images show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from short_runs import Listener, StopAt, replace, small, weights
from toy_datasets import make_folder, write_good

import advrad.training.combination as combination
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.combined import CombinedDetector
from advrad.detectors.loading import load_detector
from advrad.errors import ConfigError, DataError
from advrad.training.combination import LEARNED, MEMORY, Candidate, Combination
from advrad.training.options import CalibrateOptions, RunOptions
from advrad.training.plan import RunPlan, plan_path
from advrad.training.recalibrate import calibrate
from advrad.training.run import train

pytestmark = pytest.mark.usefixtures("small_networks")

BOTH = RunOptions(steps=4, size_px=64, false_alarm_rate=0.2, precision="float32", batch_size=4)
SUM = Candidate(True, 0.5, -1.0, 4.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("product"), good=24, size=64)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Weights of a run that was not interrupted, and that combines both."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch, small(patch):
        choose(SUM, patch)
        train(data, folder, BOTH)
    return weights(folder)


def choose(candidate: Candidate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the selection choose this candidate."""
    chosen = Combination(candidate, f"because {candidate}", ((str(candidate), 1.0),))
    monkeypatch.setattr(combination, "choose_combination", lambda *_, **__: chosen)


@pytest.mark.parametrize(
    ("candidate", "kind"),
    [(SUM, CombinedDetector), (MEMORY, ClosedFormDetector), (LEARNED, AdvRAD)],
    ids=["both", "memory", "learned"],
)
def test_what_is_chosen_is_calibrated_and_saved(
    candidate: Candidate, kind: type, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(candidate, monkeypatch)
    listener = Listener()
    made = train(data, tmp_path, BOTH, progress=listener)
    assert isinstance(made, kind) and not made.training
    assert listener.stages == [
        "Reading images",
        "Choosing the plans",
        "Comparing normal images",
        "Training",
        "Choosing the score",
        "Combining the closed form and the learned denoiser",
        "Calibrating",
    ]
    assert made.calibration.false_alarm_rate == 0.2 and made.calibration.source["category"] == data.name
    training = made.config.training
    assert training.reason.startswith(f"because {candidate}") and training.images is not None
    assert made.calibration.n == training.images.calibration
    loaded = load_detector(tmp_path)
    files = sorted(data.rglob("*.png"))[:3]
    assert [one.score for one in loaded.predict(files)] == [one.score for one in made.predict(files)]


def test_the_choice_is_made_from_what_was_held_out(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[combination.HeldOut] = []
    real = combination.choose_combination

    def spy(held_out: combination.HeldOut, *arguments: object, **options: object) -> Combination:
        seen.append(held_out)
        return real(held_out, *arguments, **options)

    monkeypatch.setattr(combination, "choose_combination", spy)
    made = train(data, tmp_path, BOTH)
    (held_out,) = seen
    counts = made.config.training.images
    assert counts is not None and int((held_out.labels == 0).sum()) == counts.selection
    assert int(held_out.labels.sum()) >= 8
    assert (held_out.lower <= held_out.memory).all() and (held_out.memory <= held_out.upper).all()
    assert "\n" not in made.config.training.reason and "on held-out normal images" in made.config.training.reason


@pytest.mark.parametrize("stop", [StopAt(stage="Training"), StopAt(step=2), StopAt(stage="Calibrating")], ids="abc")
def test_an_interrupted_run_resumes_to_the_same_model(
    stop: StopAt, whole: bytes, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(SUM, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "cut", BOTH, progress=stop)
    assert not (tmp_path / "cut" / "config.json").exists()
    listener = Listener()
    train(data, tmp_path / "cut", resume=True, progress=listener)
    assert "Choosing the plans" not in listener.stages, "it was kept"
    assert weights(tmp_path / "cut") == whole


def test_a_run_that_was_stopped_early_leaves_nothing_in_the_way(data: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", BOTH, progress=StopAt(stage="Choosing the plans"))
    assert not (tmp_path / "run").exists()


def test_the_plan_remembers_that_both_were_asked_for(data: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, BOTH, progress=StopAt(stage="Training"))
    plan = RunPlan.parse(json.loads(plan_path(tmp_path).read_text(encoding="utf-8")))
    assert plan.memory and plan.train.steps == 4
    for changes, words in (({"denoiser": "lean"}, "denoiser lean: the run in"), ({"steps": 5}, "steps 5: the run in")):
        with pytest.raises(ConfigError, match=words):
            train(data, tmp_path, RunOptions(**changes), resume=True)
    write_good(tmp_path / "more.png", 64, 99)
    assert isinstance(train(data, tmp_path, BOTH, resume=True), torch.nn.Module)


def test_the_closed_form_counts_in_the_budget(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import advrad.training.learned_fit as learned_fit
    import advrad.training.run as run

    spent: list[float] = []
    real = learned_fit.steps_for

    def spy(minutes: float, *arguments: object) -> int:
        spent.append(float(arguments[4]))  # type: ignore[arg-type]
        return min(2, real(minutes, *arguments))  # type: ignore[arg-type]

    monkeypatch.setattr(learned_fit, "steps_for", spy)
    monkeypatch.setattr(run, "seconds_to_combine", lambda *_: 1000.0)
    train(data, tmp_path, replace(BOTH, steps=None, minutes=0.02))
    assert spent and min(spent) > 1000


def test_changed_images_are_noticed_on_resuming(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", good=24, size=64)
    with pytest.raises(KeyboardInterrupt):
        train(root, tmp_path / "run", BOTH, progress=StopAt(stage="Training"))
    for number in range(4):
        write_good(root / f"more{number}.png", 64, 100 + number)
    with pytest.raises(DataError, match="not those that the run was started with"):
        train(root, tmp_path / "run", BOTH, resume=True)


@pytest.mark.parametrize("candidate", [SUM, MEMORY], ids=["both", "memory"])
def test_the_threshold_can_be_set_again_from_the_same_images(
    candidate: Candidate, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(candidate, monkeypatch)
    made = train(data, tmp_path, BOTH)
    again = calibrate(tmp_path, data)
    assert again.calibration == made.calibration
    proven = calibrate(tmp_path, data, CalibrateOptions(radius=2 / 255, norm="linf")).config.robust_calibration
    assert proven is not None and proven.threshold > made.calibration.threshold and proven.norm == "linf"
