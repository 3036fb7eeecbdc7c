"""What 'advrad info' shows, and what 'advrad evaluate' says where another threshold would be far better."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from trained_run import Cli

from advrad.detectors import load_detector
from advrad.inference import evaluate

FIGURES: dict[str, Any] = {
    "image_auroc": 0.91, "image_auroc_ci": [0.85, 0.96], "pixel_auroc": None, "aupro": None, "tpr": 0.75, "fpr": 0.1,
    "threshold": 1.0, "n_good": 10, "n_defect": 4, "per_defect": {"scratch": {"n": 4, "auroc": 0.91, "tpr": 0.75}},
    "shortcuts": {}, "warnings": ["Brightness alone tells."], "certified_linf": {"2/255": 0.42},
}  # fmt: skip


def changed(run: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a model folder with other values in its configuration."""
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        config[name] = config[name] | value if isinstance(config.get(name), dict) else value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_threshold_promise_and_figures_come_first(cli: Cli, closed_form_run: Path, tmp_path: Path) -> None:
    shown = cli("info", changed(closed_form_run, tmp_path / "my run", figures=FIGURES)).out
    order = [
        "Threshold and promise", "at most 5 %", "Measured on test images", "0.9100", "75 %", "scratch",
        "2/255", "0.4200", "How it was made", "closed form", "Brightness alone tells.", "--all",
    ]  # fmt: skip
    places = [shown.index(words) for words in order]
    assert places == sorted(places)
    assert "calibration." not in shown, "internals wait for --all"
    assert "'" + str(tmp_path / "my run") + "' --all" in shown


def test_all_adds_every_value_and_json_stays_as_it_is(cli: Cli, closed_form_run: Path) -> None:
    facts = json.loads(cli("info", closed_form_run, "--json").out)
    assert facts == json.loads(cli("info", closed_form_run, "--json", "--all").out)
    assert {"folder", "parameters", "megabytes", "description", "calibration", "training", "figures"} <= set(facts)
    shown = cli("info", closed_form_run, "--all").out
    assert shown.index("Threshold and promise") < shown.index("calibration.threshold")
    for internal in ("calibration.heat_low", "image_size_px", "parameters"):
        assert internal in shown
    assert "calibration.scores" not in shown and "training.tried" not in shown


def test_a_model_that_was_not_evaluated_says_how_to(cli: Cli, closed_form_run: Path) -> None:
    shown = cli("info", closed_form_run).out
    assert f"not evaluated yet: advrad evaluate {closed_form_run} DATA --save" in shown
    assert "Measured on test images" not in shown


@pytest.fixture(scope="module")
def strict_run(closed_form_run: Path, widgets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose threshold is far above all scores, as odd calibration images would put it."""
    found = evaluate(load_detector(closed_form_run), widgets)
    high, usual = float(found.scores.max()) + 1, float(found.scores[found.labels == 0].max())
    changes = {"threshold": high, "n": 20, "scores": [*[usual] * 19, high]}
    return changed(closed_form_run, tmp_path_factory.mktemp("strict") / "run", calibration=changes)


def test_evaluate_says_how_to_find_more_defects(
    cli: Cli, strict_run: Path, widgets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advrad.inference.threshold_advice._LEAST_NORMAL", 1)
    monkeypatch.setattr("advrad.inference.threshold_advice._CHANCE", 0.5)
    done = cli("evaluate", strict_run, widgets)
    assert "promise nothing" in done.err
    command = f"next  advrad calibrate {strict_run} {widgets} -o {strict_run}-0.1 --false-alarm-rate 0.1"
    assert command in done.out.splitlines()
    values = json.loads(cli("evaluate", strict_run, widgets, "--json").out)
    assert any("--false-alarm-rate 0.1" in note and "measured on the test images" in note for note in values["notes"])
    page = strict_run / "report.html"
    assert cli("report", strict_run, widgets, "-o", page).status == 0
    assert "Another threshold?" in page.read_text() and "--false-alarm-rate 0.1" in page.read_text()


def test_evaluate_says_nothing_about_a_good_threshold(cli: Cli, closed_form_run: Path, widgets: Path) -> None:
    done = cli("evaluate", closed_form_run, widgets)
    assert "next " not in done.out and "calibrate" not in done.err
