"""Every command that takes a model folder, with an export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import toy_exports
from PIL import Image
from trained_run import Cli

from advrad.detectors.loading import load_config


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_exports.write(tmp_path_factory.mktemp("exports") / "plain")


@pytest.fixture(scope="module")
def guarded_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_exports.write(tmp_path_factory.mktemp("exports") / "guarded", guarded=True)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of different sizes: dark ones are normal, bright ones have a defect."""
    root = tmp_path_factory.mktemp("parts")
    draws = np.random.default_rng(0)
    for name, level, count in (("train/good", 90, 4), ("test/good", 90, 4), ("test/bright", 170, 3)):
        folder = root / name
        folder.mkdir(parents=True)
        for place in range(count):
            values = draws.normal(level, 6, (48, 48, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(values).save(folder / f"{place}.png")
    return root


def test_predict_decides_and_draws(cli: Cli, export: Path, parts: Path, tmp_path: Path) -> None:
    done = cli("predict", export, parts / "test", "-o", tmp_path / "maps", "--csv", tmp_path / "table.csv")
    assert done.status == 0, done.err
    found = [json.loads(line) for line in done.out.splitlines()]
    assert {Path(one["path"]).parent.name: one["verdict"] for one in found} == {"bright": "defective", "good": "good"}
    with Image.open(found[0]["overlay"]) as drawn:
        assert drawn.size == (48, 48)
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 8


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_predict_takes_an_engine(cli: Cli, export: Path, parts: Path, engine: str) -> None:
    done = cli("predict", export, parts / "test" / "bright" / "0.png", "--engine", engine)
    assert done.status == 0 and json.loads(done.out)["verdict"] == "defective"


def test_predict_with_another_threshold(cli: Cli, export: Path, parts: Path) -> None:
    done = cli("predict", export, parts / "test" / "bright" / "0.png", "--threshold", 0.9)
    assert json.loads(done.out)["verdict"] == "good"


def test_a_guarded_export_names_the_half_that_speaks(cli: Cli, guarded_export: Path, parts: Path) -> None:
    done = cli("predict", guarded_export, parts / "test" / "bright" / "0.png")
    found = json.loads(done.out)
    assert found["verdict"] == "defective"
    assert [(half["name"], half["speaks"]) for half in found["halves"]] == [("memory", True), ("contrast", False)]
    assert "lower" not in found["halves"][0]
    refused = cli("predict", guarded_export, parts / "test", "--threshold", 0.5)
    assert "cannot be used with a guarded detector" in refused.one_error_line()


def test_evaluate_measures_and_saves(cli: Cli, parts: Path, tmp_path: Path) -> None:
    folder = toy_exports.write(tmp_path / "export")
    done = cli("evaluate", folder, parts, "--save", "--scores", tmp_path / "scores.jsonl", "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["image_auroc"] == 1.0
    assert load_config(folder).figures.tpr == 1.0
    scores = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    for row in scores:
        with Image.open(row["path"]) as image:
            assert row["score"] == pytest.approx(np.asarray(image).mean() / 255, abs=1e-5)
    assert cli("evaluate", folder, parts).status == 0  # the hash of the new card is known


def test_evaluate_reports_the_halves_of_a_guarded_export(cli: Cli, guarded_export: Path, parts: Path) -> None:
    found = json.loads(cli("evaluate", guarded_export, parts, "--json").out)
    assert found["guarded"]["halves"]["memory"]["tpr"] == 1.0 and found["tpr"] == 1.0
    assert found["guarded"]["halves"]["contrast"]["tpr"] == 0.0
    words = found["guarded"]["words"]["anomalous"]
    assert words["defective"] == found["n_defect"] and words["defective, proven"] == 0, "an export proves nothing"


@pytest.mark.parametrize("kind", ["export", "guarded_export"])
def test_report_shows_an_export(
    cli: Cli, kind: str, parts: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    page = tmp_path / "report.html"
    done = cli("report", request.getfixturevalue(kind), parts, "-o", page)
    assert done.status == 0, done.err
    text = page.read_text()
    assert "exported for onnxruntime, float32" in text
    assert ("Half" in text) is (kind == "guarded_export")


def test_info_shows_where_an_export_comes_from(cli: Cli, export: Path, guarded_export: Path) -> None:
    text = " ".join(cli("info", export).out.split())
    for words in (
        "39 calibration images, in onnxruntime",
        "2e-07 relative (train/good/007.png);",
        "as the exported graph computes them",
        "closed_form, configuration 0123456789ab",
        "Nothing is proven about a toy.",
        "advrad 0.1.0, onnx 1.23.2",
    ):
        assert words in text.replace("│", "").replace("  ", " "), words
    found = json.loads(cli("info", export, "--json").out)
    assert found["precision"] == "float32" and found["parity"]["flips"] == 0 and found["megabytes"] > 0
    assert cli("info", guarded_export, "--all").status == 0
    assert "does not compute the bounds" in " ".join(cli("info", guarded_export).out.split())


def test_what_an_export_cannot_do_is_one_line(cli: Cli, export: Path, parts: Path, tmp_path: Path) -> None:
    image = parts / "test" / "bright" / "0.png"
    for arguments, words in (
        (("calibrate", export, parts, "-o", tmp_path / "new"), "calibrate the model folder with 'advrad calibrate'"),
        (("predict", export, image, "--certify"), "--certify: an export computes no bounds; certify with the model"),
        (("predict", export, image, "--engine", "torch"), "--engine torch: "),
        (("predict", export, image, "--engine", "tvm"), "--engine tvm: is unknown; choose torch, openvino, onnx"),
        (("attack", export, parts), "--attack suite: needs gradients, which an export has not; choose square"),
        (("attack", export, parts, "--attack", "pgd"), "--attack pgd: needs gradients"),
        (("attack", export, parts, "--attack", "transfer"), "--from belongs to --attack transfer"),
        (
            ("attack", export, parts, "--attack", "transfer", "--from", export),
            "--from: is an export, which has no gradients; give the model folder",
        ),
        (("curve", export, parts), "--attack pgd: needs gradients"),
        (("checks", export, parts), "is an export, which has no gradients to check; check the model folder"),
    ):
        done = cli(*arguments)
        assert done.status == 2 and words in done.err.splitlines()[-1], (arguments, done.err)
        assert [line for line in done.err.splitlines()[:-1] if line != "Attacking"] == []
    assert not (tmp_path / "new").exists()


def test_a_changed_byte_is_one_line_in_every_command(cli: Cli, parts: Path, tmp_path: Path) -> None:
    folder = toy_exports.write(tmp_path / "export")
    graph = folder / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    for arguments in (("predict", folder, parts / "test"), ("evaluate", folder, parts), ("info", folder)):
        done = cli(*arguments)
        assert done.status == 2 and "model.onnx: was changed after the export" in done.one_error_line()


def test_results_do_not_replace_the_files_of_an_export(cli: Cli, export: Path, parts: Path) -> None:
    done = cli("report", export, parts, "-o", export / "README.md")
    assert "belongs to a model; name another file" in done.one_error_line()
    done = cli("predict", export, parts / "test", "-o", export)
    assert "holds an exported detector" in done.one_error_line()


def test_data_leaves_an_export_out(cli: Cli, parts: Path, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "parts"
    shutil.copytree(parts, root)
    toy_exports.write(root / "export")
    done = cli("data", "inspect", root, "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["counts"]["test"]["good"] == 4
