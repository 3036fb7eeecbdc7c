"""The commands on a model folder that holds a closed-form detector."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trained_run
from PIL import Image
from toy_datasets import write_good
from trained_run import Cli

import advrad
from advrad.attacks import pipeline
from advrad.attacks.options import AttackOptions
from advrad.certificates.inputs import load_test_images
from advrad.certificates.options import CertifyOptions
from advrad.detectors.config import RobustCalibration
from advrad.detectors.loading import load_detector, load_target


def rows_of(done: trained_run.Done) -> list[dict[str, Any]]:
    assert done.status == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def test_predict_decides_and_draws(cli: Cli, widgets: Path, closed_form_run: Path, tmp_path: Path) -> None:
    done = cli("predict", closed_form_run, widgets / "test", "-o", tmp_path / "out")
    rows = rows_of(done)
    found = [row["verdict"] for row in rows].count("defective")
    assert len(rows) == 11 and done.err == f"advrad: {found} of 11 images are defective\n"
    for row in rows:
        assert set(row) - {"reconstruction"} == {"path", "score", "threshold", "verdict", "overlay"}
        assert row["verdict"] == ("defective" if row["score"] > row["threshold"] else "good")
        assert Path(row["overlay"]).is_file()
    assert [row["verdict"] for row in rows if "/good/" not in row["path"]] == ["defective"] * 5


def test_the_command_and_the_library_agree(cli: Cli, widgets: Path, closed_form_run: Path) -> None:
    image = widgets / "test" / "scratch" / "000.png"
    (row,) = rows_of(cli("predict", closed_form_run, image))
    (prediction,) = load_detector(closed_form_run).predict(image)
    assert (row["score"], row["threshold"]) == (prediction.score, prediction.threshold)


def test_evaluate_prints_and_saves_the_same_figures(
    cli: Cli, widgets: Path, closed_form_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(closed_form_run, tmp_path / "run"))
    done = cli("evaluate", run, widgets, "--json", "--save", "--scores", tmp_path / "scores.jsonl")
    figures = json.loads(done.out)
    assert figures["image_auroc"] == 1.0 and figures["tpr"] == 1.0 and figures["pixel_auroc"] > 0.9
    result = advrad.evaluate(load_detector(run), widgets)
    assert json.loads(json.dumps(result.to_dict())) == figures
    scores = [json.loads(line)["score"] for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    np.testing.assert_array_equal(scores, result.scores)
    facts = json.loads(cli("info", run, "--json").out)
    assert facts["figures"]["image_auroc"] == 1.0
    assert "| Image AUROC | 1.0000" in (run / "README.md").read_text()


def test_info_describes_it(cli: Cli, closed_form_run: Path) -> None:
    facts = json.loads(cli("info", closed_form_run, "--json").out)
    assert facts["kind"] == "closed_form" and facts["parameters"] == 0 and facts["megabytes"] > 0
    assert facts["description"] == load_detector(closed_form_run).describe()
    assert facts["calibration"]["threshold"] == load_detector(closed_form_run).threshold
    shown = cli("info", closed_form_run, "--all").out
    assert "calibration.threshold" in shown and "held_out" not in shown


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_predict_proves_verdicts(cli: Cli, widgets: Path, closed_form_run: Path, norm: str) -> None:
    radius = {"linf": "2/255", "l2": "0.2"}[norm]
    done = cli("predict", closed_form_run, widgets / "test", "--certify", "--norm", norm, "--radius", radius)
    rows, plain = rows_of(done), rows_of(cli("predict", closed_form_run, widgets / "test"))
    for row, bare in zip(rows, plain, strict=True):
        assert {name: row[name] for name in bare} == bare, "the plain verdict stays as it is"
        added = {"certified", "certified_radius", "certified_threshold", "norm", "radius", "lower", "upper"}
        assert set(row) - set(bare) == added
        assert row["norm"] == norm and row["radius"] == pytest.approx(2 / 255 if norm == "linf" else 0.2)
        assert row["lower"] < row["score"] < row["upper"]
        proven = {"defective": row["lower"] > row["threshold"], "good": row["upper"] <= row["threshold"]}
        expected = f"proven {row['verdict']}" if proven[row["verdict"]] else "not proven"
        assert row["certified"] == expected
        assert (row["certified_radius"] >= row["radius"]) == (row["certified"] != "not proven")
    assert {row["certified"] for row in rows if "/dent/" in row["path"]} == {"proven defective"}


def test_linf_two_levels_is_the_default(cli: Cli, widgets: Path, closed_form_run: Path) -> None:
    image = widgets / "test" / "dent" / "000.png"
    (row,) = rows_of(cli("predict", closed_form_run, image, "--certify"))
    assert (row["norm"], row["radius"]) == ("linf", 2 / 255)
    (other,) = rows_of(cli("predict", closed_form_run, image, "--certify", "--norm", "l2"))
    assert (other["norm"], other["radius"]) == ("l2", 0.2)


def test_options_of_noise_are_not_needed(cli: Cli, widgets: Path, closed_form_run: Path) -> None:
    image = widgets / "test" / "dent" / "000.png"
    done = cli("predict", closed_form_run, image, "--certify", "--draws", 50, "--seed", 1)
    assert "the bounds are exact: nothing is drawn" in done.err
    assert rows_of(done) == rows_of(cli("predict", closed_form_run, image, "--certify"))


def test_a_terminal_shows_the_radius_in_levels(
    cli: Cli, widgets: Path, closed_form_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
    image = widgets / "test" / "dent" / "000.png"
    done = cli("predict", closed_form_run, image, "--certify")
    assert "proven defective" in done.out and "/255" in done.out and "linf radius" in done.out
    assert "l2 radius" in cli("predict", closed_form_run, image, "--certify", "--norm", "l2").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--norm", "linf"), "--norm: can only be used with certification; add --certify"),
        (("--certify", "--norm", "l1"), "--norm l1: is unknown; choose linf, l2"),
        (("--certify", "--radius", "1/255,2/255"), "--radius 1/255,2/255: holds several radii; give one"),
        (("--certify", "--radius", "1/0"), "--radius 1/0: must be a number or a fraction, such as 2/255"),
        (("--certify", "--radius", "2"), "--radius 2: must be between 0 and 1"),
        (("--certify", "--radius", "-1/255"), "--radius -1/255: must be between 0 and 1"),
    ],
)
def test_options_that_make_no_sense(
    arguments: tuple[str, ...], words: str, cli: Cli, widgets: Path, closed_form_run: Path
) -> None:
    done = cli("predict", closed_form_run, widgets / "test" / "good" / "000.png", *arguments)
    assert done.status == 2 and words in done.one_error_line() and done.out == ""


def test_a_learned_detector_has_no_proof_in_linf(cli: Cli, widgets: Path, widget_run: Path) -> None:
    image = widgets / "test" / "good" / "000.png"
    done = cli("predict", widget_run, image, "--certify", "--norm", "linf")
    assert done.status == 2 and done.out == ""
    assert "--norm linf: needs exact bounds of the score, which a closed-form detector has" in done.one_error_line()


def test_a_file_of_another_size_is_proven_too(cli: Cli, closed_form_run: Path, tmp_path: Path) -> None:
    """In linf the radius is the same at every size; in l2 a larger file has a larger one."""
    small, large = (write_good(tmp_path / f"{size}.png", size, 1) for size in (32, 128))
    for path in (small, large):
        (row,) = rows_of(cli("predict", closed_form_run, path, "--certify", "--radius", "1/255"))
        assert row["lower"] < row["score"] < row["upper"]
    widths = []
    for path in (small, large):
        (row,) = rows_of(cli("predict", closed_form_run, path, "--certify", "--norm", "l2", "--radius", "0.1"))
        widths.append(row["upper"] - row["score"])
    assert widths[0] > 2 * widths[1], "a change of this length is diluted when the larger file is scaled down"


@pytest.mark.parametrize(
    ("damage", "words"),
    [("kind", "which this advrad does not know"), ("newer", "install a newer advrad"), ("cut", "cut short")],
)
@pytest.mark.parametrize("command", ["predict", "evaluate", "info"])
def test_damaged_folders_are_refused(
    cli: Cli, widgets: Path, closed_form_run: Path, tmp_path: Path, command: str, damage: str, words: str
) -> None:
    run = Path(shutil.copytree(closed_form_run, tmp_path / "run"))
    values = json.loads((run / "config.json").read_text())
    if damage == "cut":
        (run / "model.safetensors").write_bytes(b"short")
    else:
        values |= {"kind": "wavelet"} if damage == "kind" else {"format_version": 99}
        (run / "config.json").write_text(json.dumps(values))
    arguments = {"predict": (run, widgets / "test"), "evaluate": (run, widgets), "info": (run,)}[command]
    done = cli(command, *arguments)
    assert done.status == 2 and words in done.one_error_line() and done.out == ""


def test_attacks_and_certificates_take_files_at_the_size_of_predict(widgets: Path, closed_form_run: Path) -> None:
    target = load_target(str(closed_form_run))
    assert pipeline.prepare(target, widgets, AttackOptions(limit=4)).images.images.shape[2:] == (64, 64)
    assert load_test_images(target.detector, widgets, CertifyOptions(limit=4)).sizes == ((64, 64),)
    assert pipeline.prepare(target, widgets, AttackOptions(limit=4, size_px=32)).images.images.shape[2:] == (32, 32)


def test_an_attack_stays_within_what_is_proven(cli: Cli, widgets: Path, closed_form_run: Path, tmp_path: Path) -> None:
    options = ("--attack", "pgd", "--steps", 5, "--eps", "2/255", "--limit", 6, "--json")
    attacked = json.loads(cli("attack", closed_form_run, widgets, *options, "-o", tmp_path / "attack").out)
    options = ("--norm", "linf", "--radius", "2/255", "--limit", 6, "--json")
    certified = json.loads(cli("certify", closed_form_run, widgets, *options, "-o", tmp_path / "proof").out)
    (area,) = certified["certified_auroc"].values()
    assert area <= attacked["robust_auroc"] <= attacked["clean_auroc"] == certified["clean_auroc"]


def test_certify_writes_into_the_model_card_when_asked(
    cli: Cli, widgets: Path, closed_form_run: Path, widget_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(closed_form_run, tmp_path / "run"))
    options = ("--norm", "linf", "--radius", "1/255,2/255", "--json")
    before = (run / "config.json").read_bytes()
    cli("certify", run, widgets, *options)
    assert (run / "config.json").read_bytes() == before
    areas = list(json.loads(cli("certify", run, widgets, *options, "--save").out)["certified_auroc"].values())
    figures = json.loads(cli("info", run, "--json").out)["figures"]
    assert figures == {"certified_linf": dict(zip(["1/255", "2/255"], areas, strict=True))}
    assert f"| linf 2/255 | {areas[1]:.4f} |" in (run / "README.md").read_text()
    assert load_target(str(run)).identity == load_target(str(closed_form_run)).identity
    learned = Path(shutil.copytree(widget_run, tmp_path / "learned"))
    done = cli("certify", run, widgets, *options, "--save", "--limit", 6)
    assert done.status == 2 and "--save: needs all test images" in done.err
    done = cli("certify", learned, widgets, "--save", "--draws", 20, "--radius", "0.05")
    assert done.status == 2 and "--save: needs a model folder and exact bounds" in done.err


def test_the_threshold_under_attack_decides_at_its_radius(
    cli: Cli, widgets: Path, closed_form_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector: Any = load_detector(closed_form_run)
    robust = RobustCalibration(threshold=1e6, false_alarm_rate=0.05, radius=2 / 255, norm="linf", n=20)
    detector.config = detector.config.model_copy(update={"robust_calibration": robust})
    detector.save_pretrained(tmp_path / "run")
    image = widgets / "test" / "dent" / "000.png"
    options = ("predict", tmp_path / "run", image, "--certify")
    (at_it,), (below,) = (rows_of(cli(*options, "--radius", radius)) for radius in ("2/255", "1/255"))
    assert (at_it["certified_threshold"], at_it["certified"]) == (1e6, "proven good")
    assert at_it["threshold"] == detector.threshold and at_it["verdict"] == "defective", "the plain verdict stays"
    assert below["certified_threshold"] == detector.threshold and below["certified"] == "proven defective"
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
    words = "at the threshold under attack 1e+06"
    assert words in cli(*options, "--radius", "2/255").out and words not in cli(*options, "--radius", "1/255").out


def test_train_names_what_is_odd_about_normal_images(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_run.shrink(monkeypatch)
    data = tmp_path / "parts"
    for number in range(20):
        write_good(data / f"{number:02}.png", 64, number)
    Image.new("RGB", (64, 64), (250, 10, 10)).save(data / "07.png")
    done = cli("train", data, "-o", tmp_path / "run")
    assert done.status == 0
    (note,) = [line for line in done.err.splitlines() if "07.png" in line]
    assert note.startswith("07.png: differs from the other normal images far more") and "the threshold is" in note
    (data / "07.png").write_bytes(b"")
    done = cli("train", data, "-o", tmp_path / "other")
    assert done.status == 2 and "is empty (0 bytes); mend or remove the file" in done.err.splitlines()[-1]
    assert "--skip-bad" in done.err.splitlines()[-1] and not (tmp_path / "other").exists()
    for path in data.iterdir():
        shutil.copy(data / "08.png", path) if path.name != "08.png" else None
    done = cli("train", data, "-o", tmp_path / "other")
    assert done.status == 2 and "but there are 1 (of 20; 19 are copies of others)" in done.err.splitlines()[-1]
    assert not (tmp_path / "other").exists()
