"""The function train from Python: the same as the command, with typed options, a callback and a temporary folder."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from short_runs import LEAN, Listener, replace, weights
from trained_run import Cli

import advrad
from advrad.errors import ConfigError
from advrad.training.options import RunOptions, TrainKeywords
from advrad.training.run import train

pytestmark = pytest.mark.usefixtures("small_networks")

#: The options of `LEAN` with the score of the paper, by name.
FEW = {
    "denoiser": "lean",
    "size_px": 64,
    "score": "paper",
    "false_alarm_rate": 0.2,
    "precision": "float32",
    "batch_size": 4,
}


def config_in(folder: Path) -> dict[str, object]:
    """The stored configuration, without the duration of the training."""
    values: dict[str, dict[str, object]] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    values["training"].pop("seconds")
    return dict(values)


def test_it_trains_the_same_model_as_the_command(data: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli(
        *("train", data, "-o", tmp_path / "command", "--steps", 2, "--size", 64, "--batch-size", 4),
        *("--denoiser", "lean", "--score", "paper"),
        *("--false-alarm-rate", 0.2, "--precision", "float32", "--harden", "2/255"),
    )
    assert done.status == 0, done.err
    detector = advrad.train(str(data), tmp_path / "python", steps=2, adversarial_eps="2/255", **FEW)
    assert weights(tmp_path / "python") == weights(tmp_path / "command")
    assert config_in(tmp_path / "python") == config_in(tmp_path / "command")
    assert not detector.training


def test_single_options_equal_one_object_of_options(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "object", replace(LEAN, score="paper"))
    train(data, tmp_path / "single", steps=LEAN.steps, **FEW)
    assert weights(tmp_path / "single") == weights(tmp_path / "object")


def test_without_a_folder_the_detector_is_calibrated_and_nothing_is_left(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    detector = train(data, steps=1, **FEW)
    assert list(temporary.iterdir()) == []
    assert detector.calibration.false_alarm_rate == 0.2
    files = sorted(data.rglob("*.png"))[:2]
    kept = train(data, tmp_path / "run", steps=1, **FEW)
    assert [p.score for p in detector.predict(files)] == [p.score for p in kept.predict(files)]
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(detector.score(images, torch.Generator().manual_seed(0)).sum(), images)
    assert float(gradient.abs().max()) > 0


def test_the_callback_receives_the_steps(data: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    train(data, tmp_path, steps=3, callback=lambda done, total: calls.append((done, total)), **FEW)
    assert [call for call in calls if call[1] == 3] == [(1, 3), (2, 3), (3, 3)]
    assert all(0 < done <= total for done, total in calls)


def test_an_exception_of_the_callback_stops_the_run_and_it_resumes(data: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if (done, total) == (2, 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "cut", steps=3, callback=stop, **FEW)
    train(data, tmp_path / "cut", resume=True)
    train(data, tmp_path / "whole", steps=3, **FEW)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"colour": 1}, "colour"),
        ({"steps": "many"}, "steps many"),
        ({"steps": 2, "minutes": 1.0}, "minutes 1: cannot be combined with steps"),
        ({"minutes": -1.0}, "minutes -1: must be above 0"),
        ({"false_alarm_rate": 2.0}, "false_alarm_rate 2: must lie strictly between 0 and 1"),
        ({"score": "best"}, "score best"),
        ({"score": "robust", "optimise_for_radius": 0.2}, "optimise_for_radius 0.2: cannot be combined with score"),
        ({"adversarial_eps": "near"}, "adversarial_eps near: must be a number or a fraction"),
        ({"layout": "shelf"}, "layout shelf: is unknown"),
        ({"max_pixels": 0}, "max_pixels 0"),
        ({"resume": True}, "output: is needed to resume a run"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_option_is_an_error_that_names_it(options: dict[str, object], words: str, data: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        train(data, **options)  # type: ignore[arg-type]
    assert words in str(caught.value) and "\n" not in str(caught.value) and "--" not in str(caught.value)
    assert (caught.value.option is not None and caught.value.option in options) or caught.value.option == "output"


def test_single_options_beside_an_object_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed: cannot be combined with options"):
        train(data, tmp_path, LEAN, seed=3)


def test_every_option_is_a_keyword_with_the_same_type() -> None:
    keywords, fields = get_type_hints(TrainKeywords), RunOptions.flat_fields()
    assert set(keywords) | {"minutes", "steps"} == set(fields)
    for name, hint in keywords.items():
        wider = {str} if name == "adversarial_eps" else set()  # a fraction such as 2/255
        wanted = fields[name].annotation
        if get_args(hint) and type(None) in get_args(hint):
            assert set(get_args(hint)) == set(get_args(wanted)) | wider, name
        else:
            assert hint == wanted, name


def test_detailed_progress_in_place_of_the_callback(data: Path, tmp_path: Path) -> None:
    listener = Listener()
    train(data, tmp_path, steps=1, progress=listener, **FEW)
    assert listener.stages == ["Reading images", "Training", "Choosing the score", "Calibrating"]
