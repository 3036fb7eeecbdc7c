"""The command line: what it prints where, and with which status it ends."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import trained_run
from PIL import Image
from trained_run import MAIN, Cli

import advrad


def test_version(cli: Cli) -> None:
    done = cli("--version")
    assert (done.status, done.out.strip()) == (0, f"advrad {advrad.__version__}")


@pytest.mark.parametrize("command", ["train", "predict", "evaluate", "report", "info", "demo", "certify"])
def test_every_command_has_help(cli: Cli, command: str) -> None:
    done = cli(command, "--help")
    assert done.status == 0
    assert done.out.startswith(f"Usage: advrad {command}")


def test_help_is_quick() -> None:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", MAIN, "--help"], check=True)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.5


def test_no_command_shows_the_help(cli: Cli) -> None:
    done = cli()
    assert done.status == 2
    assert "Usage: advrad" in done.err


SHORTCUT = "Brightness alone tells good from defective test images with AUROC 1.000 (good ones are darker)"


def unframed(screen: str) -> str:
    """What a screen says, without frames and line breaks."""
    return " ".join(re.sub("[─│╭╮╰╯┌┐└┘]", " ", screen).split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--nonsense"], "No such option"),
        (["paint"], "No such command"),
        (["train", "x", "-o", "y", "--steps", "many"], "--steps"),
        (["train", "x", "-o", "y", "--score", "best"], "choose auto, robust, paper"),
        (["train", "x", "-o", "y", "--precision", "int8"], "--precision int8"),
        (["train", "x", "-o", "y", "--steps", "1", "--minutes", "1"], "give one of them"),
        (["train", "x", "-o", "y", "--false-alarm-rate", "2"], "--false-alarm-rate 2"),
        (["data", "inspect", ".", "--layout", "zip"], "layout 'zip' is unknown"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(cli: Cli, arguments: list[str], words: str) -> None:
    done = cli(*arguments)
    assert done.status == 2
    assert words in done.one_error_line()
    assert done.out == ""


# --- data inspect ---


def test_inspect(cli: Cli, widgets: Path) -> None:
    done = cli("data", "inspect", widgets, "--json")
    found = json.loads(done.out)
    assert found["layout"] == "mvtec"
    assert found["counts"]["train"] == {"good": 48}
    done = cli("data", "inspect", widgets)
    assert done.status == 0
    assert "mvtec" in done.out
    assert "scratch 3" in done.out


def test_inspect_warns_once_where_brightness_alone_tells_defects(cli: Cli, widgets: Path) -> None:
    shown = cli("data", "inspect", widgets, "--size", 64)
    assert (shown.out.count("WARNING"), shown.err.count("warning")) == (1, 0)
    assert SHORTCUT in unframed(shown.out)
    piped = cli("data", "inspect", widgets, "--size", 64, "--json")
    found = json.loads(piped.out)
    assert found["shortcuts"]["brightness"] == 1.0
    assert set(found["conditions"]) == {"brightness", "contrast", "sharpness"}
    assert piped.err.splitlines()[1:] == [f"advrad: warning: {words}" for words in found["warnings"]]
    assert SHORTCUT in piped.err


# --- train ---


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def test_train_says_what_it_made_and_what_to_type_next(
    cli: Cli, widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_run.shrink(monkeypatch)
    run = tmp_path / "a run"
    done = cli("train", widgets, "-o", run, "--size", 64, "--steps", 2)
    assert done.status == 0, done.err
    assert "threshold" in done.out
    assert "score" in done.out
    assert f"advrad evaluate '{run}' {widgets}" in done.out
    assert "Training" in done.err
    again = cli("train", widgets, "-o", run, "--size", 64, "--steps", 2)
    assert again.status == 2
    assert "--resume" in again.one_error_line()


def test_an_interrupted_training_says_how_to_finish_and_loses_nothing(
    cli: Cli, widgets: Path, widget_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from advrad.cli.screen import Screen

    trained_run.shrink(monkeypatch)
    run = tmp_path / "run"
    step = Screen.step

    def interrupted(self: Screen, state: object) -> None:
        step(self, state)  # type: ignore[arg-type]
        if self.last_step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Screen, "step", interrupted)
    done = cli("train", widgets, "-o", run, "--size", 64, "--steps", trained_run.STEPS, "--score", "paper")
    assert done.status == 130
    finish = f"advrad train {widgets} -o {run} --resume"
    assert done.err.splitlines()[-1] == f"interrupted at step 2; finish with: {finish}"
    assert "Traceback" not in done.err
    assert "--resume" in cli("info", run).one_error_line()
    monkeypatch.setattr(Screen, "step", step)
    # What was typed counts, be it a default; what was not contradicts nothing.
    for option, value, held in (("--seed", 1, 0), ("--score", "auto", "paper"), ("--size", 128, 64)):
        done = cli(*finish.split()[1:], option, value)
        assert done.status == 2
        assert f"{option} {value}: the run in {run} was begun with {held}; leave {option} out" in done.one_error_line()
    assert cli(*finish.split()[1:]).status == 0
    assert weights(run) == weights(widget_run)


def test_an_interrupt_before_training_leaves_the_same_command_possible(
    cli: Cli, widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import advrad.training.run

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(advrad.training.run, "load_images", interrupt)
    done = cli("train", widgets, "-o", tmp_path / "run", "--size", 64, "--steps", 1)
    assert done.status == 130
    assert "run the same command again" in done.err


# --- predict ---


def test_predict_prints_one_json_line_per_image(cli: Cli, widgets: Path, widget_run: Path) -> None:
    done = cli("predict", widget_run, widgets / "test")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert (done.status, done.err) == (0, "")
    assert [row["path"] for row in rows] == sorted(str(path) for path in (widgets / "test").rglob("*.png"))
    for row in rows:
        assert set(row) == {"path", "score", "threshold", "verdict"}
        assert row["verdict"] == ("defective" if row["score"] > row["threshold"] else "good")


def test_predict_on_a_terminal_is_readable(
    cli: Cli, widgets: Path, widget_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
    image = widgets / "test" / "good" / "000.png"
    done = cli("predict", widget_run, image)
    assert done.out.split()[0] in ("good", "DEFECTIVE")
    assert "threshold" in done.out
    assert str(image) in done.out
    assert json.loads(cli("predict", widget_run, image, "--json").out)["path"] == str(image)


def test_predict_writes_overlays_that_do_not_collide(cli: Cli, widgets: Path, widget_run: Path, tmp_path: Path) -> None:
    one = trained_run.image(tmp_path / "a" / "part.png", 1, size=80)
    trained_run.image(tmp_path / "b" / "part.png", 2, size=48)
    out = tmp_path / "out" / "deep"
    done = cli("predict", widget_run, tmp_path / "a", tmp_path / "b", "-o", out)
    rows = [json.loads(line) for line in done.out.splitlines()]
    files = [row[kind] for row in rows for kind in ("overlay", "reconstruction")]
    assert sorted(files) == sorted(str(path) for path in out.iterdir())
    assert len(set(files)) == 4
    with Image.open(rows[0]["overlay"]) as overlay, Image.open(rows[0]["reconstruction"]) as recon:
        assert overlay.size == (80, 80)
        assert recon.size == (64, 64)
    # The results do not depend on whether they are drawn.
    assert json.loads(cli("predict", widget_run, one).out)["score"] == rows[0]["score"]


def test_predict_does_not_judge_its_own_results(cli: Cli, widget_run: Path, tmp_path: Path) -> None:
    trained_run.image(tmp_path / "part.png", 1)
    for _ in range(2):
        done = cli("predict", widget_run, tmp_path, "-o", tmp_path / "out")
        assert len(done.out.splitlines()) == 1


def test_predict_certifies_on_a_trained_model(cli: Cli, widgets: Path, widget_run: Path) -> None:
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


def test_predict_without_images_on_a_terminal(cli: Cli, widget_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    done = cli("predict", widget_run)
    assert done.status == 2
    assert "name images or folders" in done.one_error_line()


def test_predict_stops_at_a_broken_image_after_the_results_before_it(
    cli: Cli, widget_run: Path, tmp_path: Path
) -> None:
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


def test_nothing_but_broken_images_is_a_failure_with_skip_bad_too(cli: Cli, widget_run: Path, tmp_path: Path) -> None:
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


def test_predict_answers_each_line_at_once_and_ends_in_words(widgets: Path, widget_run: Path) -> None:
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


def test_a_reader_that_goes_away_is_no_error(widgets: Path, widget_run: Path) -> None:
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


# --- evaluate, report, info ---


def test_evaluate_prints_one_json_object_or_a_table(cli: Cli, widgets: Path, widget_run: Path, tmp_path: Path) -> None:
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


def test_certify_on_a_trained_model(cli: Cli, widgets: Path, widget_run: Path, tmp_path: Path) -> None:
    options = ("--radius", 0.05, "--draws", 40, "--limit", 2, "-o", tmp_path / "out")
    done = cli("certify", widget_run, widgets, *options, "--json")
    assert done.status == 0, done.err
    result = json.loads(done.out)
    assert result["method"] == "two-path" and result["certified_auroc"]["0.05"] <= result["clean_auroc"]


def test_info(cli: Cli, widget_run: Path) -> None:
    facts = json.loads(cli("info", widget_run, "--json").out)
    assert facts["denoiser"]["kind"] == "lean"
    assert facts["parameters"] > 1000
    assert facts["size_px"] == 64
    assert facts["calibration"]["n"] == 19
    done = cli("info", widget_run)
    assert "calibration.threshold" in done.out
    assert "asked for by name" in done.out


# --- demo ---


def test_demo_does_everything_and_keeps_what_is_finished(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import advrad.demo.run

    trained_run.shrink(monkeypatch)

    def small(folder: Path, seed: int, **_: object) -> Path:
        from toy_datasets import make_mvtec

        return make_mvtec(folder.parent, folder.name, train=48, good=4, size=64)

    monkeypatch.setattr(advrad.demo.run, "write_product", small)
    run = tmp_path / "demo"
    done = cli("demo", "-o", run, "--steps", 1, "--size", 64)
    assert done.status == 0, done.err
    assert (run / "report.html").is_file()
    assert "Not evaluated yet" not in (run / "README.md").read_text()
    assert str(run / "report.html") in done.out
    before = weights(run)
    monkeypatch.setattr(advrad.demo.run, "train", None)
    assert cli("demo", "-o", run, "--steps", 1, "--size", 64).status == 0
    assert weights(run) == before


@pytest.mark.parametrize(("typed", "minutes"), [((), 4.25), (("--minutes", 2), 2.0), (("--steps", 5), None)])
def test_the_demo_has_a_budget_of_its_own(
    typed: tuple[object, ...], minutes: float | None, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import advrad.demo.run

    asked: list[float | None] = []

    def train(data: Path, folder: Path, options: advrad.demo.run.RunOptions, **_: object) -> None:
        asked.append(options.minutes)
        raise KeyboardInterrupt

    monkeypatch.setattr(advrad.demo.run, "write_product", lambda folder, seed, **_: folder)
    monkeypatch.setattr(advrad.demo.run, "train", train)
    assert cli("demo", "-o", tmp_path / "demo", *typed).status == 130
    assert asked == [minutes]
    assert f"[default: {advrad.demo.run.DEFAULT_MINUTES}]" in cli("demo", "--help").out


def test_an_interrupted_demo_goes_on_with_its_own_options(
    cli: Cli, widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import advrad.demo.run
    from advrad.cli.screen import Screen

    trained_run.shrink(monkeypatch)
    monkeypatch.setattr(advrad.demo.run, "write_product", lambda folder, seed, **_: widgets)
    step = Screen.step

    def interrupted(self: Screen, state: object) -> None:
        step(self, state)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(Screen, "step", interrupted)
    run = tmp_path / "demo"
    done = cli("demo", "-o", run, "--steps", 2, "--size", 64)
    assert done.status == 130
    assert done.err.splitlines()[-1] == f"interrupted at step 1; finish with: advrad demo -o {run}"
    monkeypatch.setattr(Screen, "step", step)
    assert "--steps 3: the run in" in cli("demo", "-o", run, "--steps", 3).err
    assert cli("demo", "-o", run).status == 0
    assert json.loads(cli("info", run, "--json").out)["training"]["plan"]["train"]["steps"] == 2


# --- predict as a library would, from Python ---


def test_the_command_and_the_library_agree(cli: Cli, widgets: Path, widget_run: Path) -> None:
    image = widgets / "test" / "scratch" / "000.png"
    row = json.loads(cli("predict", widget_run, image).out)
    prediction = next(advrad.AdvRAD.from_pretrained(widget_run).predict(image))
    np.testing.assert_allclose(row["score"], prediction.score, rtol=1e-5)
    assert row["threshold"] == prediction.threshold
