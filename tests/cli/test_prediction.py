"""The commands that use a model: predict, evaluate, report and info."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trained_run
from PIL import Image
from trained_run import MAIN, Cli

import advrad
from advrad.utils.output_folders import MARKER

SHORTCUT = "Brightness alone separates normal from anomalous test images with AUROC 1.000 (normal ones are darker)"


def unframed(screen: str) -> str:
    """What a screen says, without frames and line breaks."""
    return " ".join(re.sub("[─│╭╮╰╯┌┐└┘]", " ", screen).split())


def test_predict_prints_one_json_line_per_image(cli: Cli, widgets: Path, widget_run: Path) -> None:
    done = cli("predict", widget_run, widgets / "test")
    rows = [json.loads(line) for line in done.out.splitlines()]
    defective = sum(row["verdict"] == "defective" for row in rows)
    assert (done.status, done.err) == (0, f"advrad: {defective} of {len(rows)} images are defective\n")
    assert [row["path"] for row in rows] == sorted(str(path) for path in (widgets / "test").rglob("*.png"))
    for row in rows:
        assert set(row) == {"path", "score", "threshold", "verdict"}
        assert row["verdict"] == ("defective" if row["score"] > row["threshold"] else "good")


def test_predict_prints_text_on_a_terminal(
    cli: Cli, widgets: Path, widget_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
    image = widgets / "test" / "good" / "000.png"
    done = cli("predict", widget_run, image)
    assert done.out.split()[0] in ("good", "DEFECTIVE")
    assert "threshold" in done.out
    assert str(image) in done.out
    assert json.loads(cli("predict", widget_run, image, "--json").out)["path"] == str(image)


def test_predict_gives_each_heat_map_its_own_name(cli: Cli, widgets: Path, widget_run: Path, tmp_path: Path) -> None:
    one = trained_run.image(tmp_path / "a" / "part.png", 1, size=80)
    trained_run.image(tmp_path / "b" / "part.png", 2, size=48)
    out = tmp_path / "out" / "deep"
    done = cli("predict", widget_run, tmp_path / "a", tmp_path / "b", "-o", out)
    rows = [json.loads(line) for line in done.out.splitlines()]
    files = [row[kind] for row in rows for kind in ("overlay", "reconstruction")]
    assert sorted(files) == sorted(str(path) for path in out.iterdir() if path.name != MARKER)
    assert len(set(files)) == 4
    assert Path(rows[0]["overlay"]).name.startswith("a-part-") and Path(rows[1]["overlay"]).name.startswith("b-part-")
    with Image.open(rows[0]["overlay"]) as overlay, Image.open(rows[0]["reconstruction"]) as recon:
        assert overlay.size == (80, 80)
        assert recon.size == (64, 64)
    # The results do not depend on whether they are drawn.
    assert json.loads(cli("predict", widget_run, one).out)["score"] == rows[0]["score"]


def test_predict_skips_its_own_heat_maps(cli: Cli, widget_run: Path, tmp_path: Path) -> None:
    trained_run.image(tmp_path / "part.png", 1)
    for _ in range(2):
        done = cli("predict", widget_run, tmp_path, "-o", tmp_path / "out")
        assert len(done.out.splitlines()) == 1


def test_predict_names_files_that_it_does_not_judge(cli: Cli, widget_run: Path, tmp_path: Path) -> None:
    trained_run.image(tmp_path / "in" / "part.png", 1)
    shutil.copy(tmp_path / "in" / "part.png", tmp_path / "in" / "scan")
    for name in ("notes.txt", "part.nef", "thumbs.db"):
        (tmp_path / "in" / name).write_bytes(b"II*\0" if name == "part.nef" else b"text")
    done = cli("predict", widget_run, tmp_path / "in")
    assert done.status == 0
    assert [Path(json.loads(line)["path"]).name for line in done.out.splitlines()] == ["part.png", "scan"]
    assert "advrad: 2 files were not judged" in done.err
    assert "that advrad reads: notes.txt, part.nef (.nef, .txt; raw files of cameras are not read)" in done.err
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.dng").write_bytes(b"II*\0")
    done = cli("predict", widget_run, tmp_path / "none")
    assert done.status == 2 and "holds no images, but 1 other file: a.dng" in done.one_error_line()


def test_predict_writes_a_table(cli: Cli, widget_run: Path, tmp_path: Path) -> None:
    for name in "ac":
        trained_run.image(tmp_path / "in" / f"{name}, 1.png", 1)
    (tmp_path / "in" / "b.png").write_text("no image")
    table = tmp_path / "new" / "verdicts.csv"
    done = cli("predict", widget_run, tmp_path / "in", "--csv", table, "-o", tmp_path / "out", "--skip-bad")
    with table.open(newline="") as file:
        found = list(csv.DictReader(file))
    printed = [json.loads(line) for line in done.out.splitlines()]
    assert list(found[0]) == ["path", "score", "threshold", "verdict", "overlay", "reconstruction", "error"]
    for row, wanted in zip(found, printed, strict=True):
        assert {name: value for name, value in row.items() if value} == {k: str(v) for k, v in wanted.items()}
    before = table.read_text()
    done = cli("predict", widget_run, tmp_path / "in", "--csv", table)
    assert done.status == 2 and table.read_text() == before


def test_predict_with_another_threshold_says_that_it_promises_nothing(
    cli: Cli, widgets: Path, widget_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = widgets / "test" / "good"
    calibrated = [json.loads(line) for line in cli("predict", widget_run, folder).out.splitlines()]
    scores = sorted(row["score"] for row in calibrated)
    done = cli("predict", widget_run, folder, "--threshold", scores[2])
    for row, before in zip(map(json.loads, done.out.splitlines()), calibrated, strict=True):
        assert row["verdict"] == ("defective" if row["score"] > scores[2] else "good")
        assert (row["threshold"], row["calibrated"]) == (scores[2], False)
        assert row["calibrated_threshold"] == before["threshold"] and row["score"] == before["score"]
    assert "3 of 6 images are defective at the given threshold" in done.err
    assert "promises no false-alarm rate" in done.err
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
    lines = cli("predict", widget_run, folder, "--threshold", scores[0] - 1).out.splitlines()
    assert all(line.startswith("DEFECTIVE") and "given, no promise; calibrated" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threshold", "nan"], "--threshold nan: must be a finite number"),
        (["--threshold", "1", "--certify"], "--threshold 1: cannot be combined with certification"),
        (["--threshold", "high"], "--threshold"),
    ],
)
def test_thresholds_that_make_no_sense(cli: Cli, widget_run: Path, options: list[str], words: str) -> None:
    done = cli("predict", widget_run, "part.png", *options)
    assert done.status == 2 and words in done.one_error_line()


def test_predict_certifies_with_a_trained_model(cli: Cli, widgets: Path, widget_run: Path) -> None:
    done = cli("predict", widget_run, widgets / "test" / "dent", "--certify", "--radius", 0.05, "--draws", 40)
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert done.status == 0 and len(rows) == 2 and "promises no false-alarm rate" in done.err
    assert {row["certified"] for row in rows} <= {"certified anomalous", "certified normal", "abstain"}


@pytest.mark.parametrize("names", [["-"], []])
def test_predict_reads_paths_from_standard_input(
    cli: Cli, widgets: Path, widget_run: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    paths = sorted((widgets / "test" / "good").iterdir())[:2]
    text = "\n".join(map(str, paths)) + "\n\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    done = cli("predict", widget_run, *names)
    assert [json.loads(line)["path"] for line in done.out.splitlines()] == list(map(str, paths))


def test_an_empty_list_is_an_error(cli: Cli, widget_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    done = cli("predict", widget_run)
    assert done.status == 2 and "standard input: names no image" in done.one_error_line()


def test_predict_without_images_is_an_error(cli: Cli, widget_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    done = cli("predict", widget_run)
    assert done.status == 2
    assert "name images or folders" in done.one_error_line()


def test_predict_prints_earlier_results_before_it_fails(cli: Cli, widget_run: Path, tmp_path: Path) -> None:
    for name in "acd":
        trained_run.image(tmp_path / f"{name}.png", 1)
    (tmp_path / "b.png").write_text("no image")
    done = cli("predict", widget_run, tmp_path)
    assert done.status == 2
    assert len(done.out.splitlines()) == 1
    assert "b.png: holds text" in done.one_error_line()
    done = cli("predict", widget_run, tmp_path, "--skip-bad")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert done.status == 0
    assert ["score" in row for row in rows] == [True, False, True, True]
    assert rows[1] == {"path": str(tmp_path / "b.png"), "error": "holds text, not an image"}
    assert "1 of 4" in done.err


def test_skip_bad_fails_if_every_image_is_broken(cli: Cli, widget_run: Path, tmp_path: Path) -> None:
    done = cli("predict", widget_run, tmp_path / "none.png", "--skip-bad")
    assert done.status == 2
    assert "no such file" in done.out


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_predict_answers_each_piped_path_at_once(widgets: Path, widget_run: Path) -> None:
    image = widgets / "test" / "good" / "000.png"
    with start("predict", widget_run, "-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(2):
            process.stdin.write(f"{image}\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["path"] == str(image)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines() == ["advrad: interrupted"]


def test_a_closed_output_pipe_is_no_error(widgets: Path, widget_run: Path) -> None:
    with start("predict", widget_run, "-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.close()
        process.stdin.write(f"{widgets / 'test' / 'good' / '000.png'}\n" * 2)
        process.stdin.close()
        assert process.stderr is not None
        err = process.stderr.read()
        assert process.wait(timeout=60) == 0
    assert err == ""


def test_evaluate_prints_json_or_a_table(cli: Cli, widgets: Path, widget_run: Path, tmp_path: Path) -> None:
    done = cli("evaluate", widget_run, widgets, "--json", "--scores", tmp_path / "new" / "scores.jsonl")
    figures = json.loads(done.out)
    assert done.status == 0
    assert figures["n_good"] == 6
    assert f"advrad: warning: {SHORTCUT}" in done.err
    assert len((tmp_path / "new" / "scores.jsonl").read_text().splitlines()) == 11
    done = cli("evaluate", widget_run, widgets)
    assert "image AUROC" in done.out
    assert "scratch" in done.out
    assert "WARNING" in done.out
    assert SHORTCUT in unframed(done.out)


def test_evaluate_saves_only_when_asked(cli: Cli, widgets: Path, widget_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(widget_run, run)
    before = (run / "config.json").read_bytes()
    cli("evaluate", run, widgets)
    assert (run / "config.json").read_bytes() == before
    assert cli("evaluate", run, widgets, "--save").status == 0
    assert json.loads(cli("info", run, "--json").out)["figures"]["n_defect"] == 5


def test_report(cli: Cli, widgets: Path, widget_run: Path, tmp_path: Path) -> None:
    page = tmp_path / "out" / "report.html"
    done = cli("report", widget_run, widgets, "-o", page)
    assert (done.status, done.out.strip()) == (0, str(page))
    assert SHORTCUT in page.read_text()
    assert f"advrad: warning: {SHORTCUT}" in done.err
    done = cli("report", widget_run, widgets, "-o", tmp_path)
    assert done.status == 2
    assert "is a folder" in done.one_error_line()


def test_info(cli: Cli, widget_run: Path) -> None:
    facts = json.loads(cli("info", widget_run, "--json").out)
    assert facts["denoiser"]["kind"] == "lean"
    assert facts["parameters"] > 1000
    assert facts["size_px"] == 64
    assert facts["calibration"]["n"] == 19
    assert "chosen by name" in cli("info", widget_run).out


def test_the_command_and_the_library_agree(cli: Cli, widgets: Path, widget_run: Path) -> None:
    image = widgets / "test" / "scratch" / "000.png"
    row = json.loads(cli("predict", widget_run, image).out)
    prediction = next(advrad.AdvRAD.from_pretrained(widget_run).predict(image))
    np.testing.assert_allclose(row["score"], prediction.score, rtol=1e-5)
    assert row["threshold"] == prediction.threshold
