"""The commands that make a model: train and demo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trained_run
from toy_bounds import Brightest
from toy_datasets import make_mvtec
from trained_run import Cli

import advrad


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def test_train_prints_the_model_and_the_next_commands(
    cli: Cli, widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_run.shrink(monkeypatch)
    run = tmp_path / "a run"
    done = cli("train", widgets, "-o", run, "--size", 64, "--steps", 2, "--denoiser", "lean")
    assert done.status == 0, done.err
    assert "threshold" in done.out
    assert "score" in done.out
    assert f"advrad evaluate '{run}' {widgets}" in done.out
    assert "Training" in done.err
    again = cli("train", widgets, "-o", run, "--size", 64, "--steps", 2)
    assert again.status == 2
    assert "holds an earlier run; resume it" in again.one_error_line()


def test_train_without_a_budget_fits_the_closed_form(
    cli: Cli, widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_run.shrink(monkeypatch)
    run = tmp_path / "run"
    done = cli("train", widgets, "-o", run, "--size", 64)
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("threshold  ") and lines[1].endswith("with a probability of at most 0.05")
    assert lines[2].startswith("score      compares patches of 3 x 3 cells")
    assert f"model      {run}" in lines and f"next       advrad evaluate {run} {widgets}" in lines
    assert lines[-1] == f"           advrad certify {run} {widgets} --norm linf --radius 2/255"
    assert "Training" not in done.err
    again = cli("train", widgets, "-o", run, "--resume")
    assert again.status == 0 and "there is nothing to resume" in again.err
    assert again.out == done.out
    assert "--minutes 2: the run in" in cli("train", widgets, "-o", run, "--resume", "--minutes", 2).one_error_line()


def test_train_with_features_prints_each_half_and_why_they_are_joined_so(
    cli: Cli, widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_run.shrink(monkeypatch)
    (tmp_path / "mine.py").write_text("def score(images): return images.flatten(1).std(1)\n", encoding="utf-8")
    run, target = tmp_path / "run", f"{tmp_path / 'mine.py'}:score"
    done = cli("train", widgets, "-o", run, "--size", 32, "--features", target)
    assert done.status == 0, done.err
    assert f"is promised only if {target} was not trained on the 48 normal images" in " ".join(done.err.split())
    lines = done.out.splitlines()
    assert lines[0].startswith("memory     ") and lines[2].startswith("features   ")
    assert lines[1] == lines[3] == "           a normal image exceeds it with a probability of at most 0.0204"
    assert lines[4] == "together   a normal image is called defective with a probability of at most 0.05"
    assert lines[5].startswith("score      defective if the memory or another half says so")
    assert any(line.strip().startswith("ceiling ") and "memory alone" in line for line in lines)
    assert f"next       advrad evaluate {run} {widgets}" in lines
    assert lines[-1] == f"           advrad certify {run} {widgets} --norm linf --radius 2/255"
    unknown = cli("train", widgets, "-o", tmp_path / "other", "--features", "padim")
    assert unknown.status == 2
    assert "--features padim: is unknown; choose patchcore" in unknown.one_error_line()
    assert (
        "--backbone lite0: is the network of a detector on features"
        in cli("train", widgets, "-o", tmp_path / "other", "--backbone", "lite0").one_error_line()
    )


def test_train_with_a_budget_says_how_both_are_combined(
    cli: Cli, widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_run.shrink(monkeypatch)
    run = tmp_path / "run"
    done = cli("train", widgets, "-o", run, "--size", 64, "--steps", 2, "--score", "robust")
    assert done.status == 0, done.err
    assert "on held-out normal images and synthetic defects" in done.out
    assert "Combining the closed form and the learned denoiser" in done.err
    assert cli("info", run).status == 0


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("--denoiser", "memory", "--minutes", 5), "--minutes 5: the memory is not trained; leave it out"),
        (("--harden", "2/255"), "--harden 0.00784314: is for a learned denoiser only"),
        (("--denoiser", "memory", "--score", "paper", "--size", 96), "--size 96: must be a multiple of 64 px"),
        (("--denoiser", "lean", "--preset", "paper"), "--preset paper: is no lean network"),
        (("--denoiser", "nowhere/unet", "--steps", 1), "nowhere/unet"),
    ],
    ids=str,
)
def test_denoisers_and_options_that_do_not_fit(
    typed: tuple[object, ...], words: str, cli: Cli, widgets: Path, tmp_path: Path
) -> None:
    done = cli("train", widgets, "-o", tmp_path / "run", *typed)
    assert done.status == 2 and words in done.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_an_interrupted_training_can_be_finished(
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
    assert "resume its training" in cli("info", run).one_error_line()
    monkeypatch.setattr(Screen, "step", step)
    # What was typed counts, be it a default; what was not contradicts nothing.
    for option, value, held in (("--seed", 1, 0), ("--score", "auto", "paper"), ("--size", 128, 64)):
        done = cli(*finish.split()[1:], option, value)
        assert done.status == 2
        assert (
            f"{option} {value}: the run in {run} was started with {held}; leave the option out" in done.one_error_line()
        )
    assert cli(*finish.split()[1:]).status == 0
    assert weights(run) == weights(widget_run)


def test_after_an_early_interrupt_the_command_can_be_repeated(
    cli: Cli, widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import advrad.training.normal_images

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(advrad.training.normal_images, "load_images", interrupt)
    done = cli("train", widgets, "-o", tmp_path / "run", "--size", 64, "--steps", 1)
    assert done.status == 130
    assert "run the same command again" in done.err


def test_demo_keeps_what_is_finished(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import advrad.demo.run

    trained_run.shrink(monkeypatch)

    def small(folder: Path, seed: int, **_: object) -> Path:

        return make_mvtec(folder.parent, folder.name, train=48, good=4, size=64)

    monkeypatch.setattr(advrad.demo.run, "write_product", small)
    run = tmp_path / "demo"
    done = cli("demo", "-o", run, "--steps", 1, "--size", 64)
    assert done.status == 0, done.err
    assert "Detectors compared" in (run / "report.html").read_text()
    for model in (run, run / "learned"):
        assert "Not evaluated yet" not in (model / "README.md").read_text()
        assert str(model) in done.out
    assert "proven  no attack within linf 2/255 leaves an AUROC below" in done.out
    assert str(run / "report.html") in done.out
    assert done.out.splitlines()[-1] == f"look    advrad serve {run}"
    before = weights(run) + weights(run / "learned")
    monkeypatch.setattr(advrad.demo.run, "train", None)
    assert cli("demo", "-o", run, "--steps", 1, "--size", 64).status == 0
    assert weights(run) + weights(run / "learned") == before


@pytest.mark.parametrize(("typed", "minutes"), [((), 0.8), (("--minutes", 2), 2.0), (("--steps", 5), None)])
def test_demo_has_its_own_default_budget(
    typed: tuple[object, ...], minutes: float | None, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import advrad.demo.run

    asked: list[tuple[str | None, float | None]] = []

    def train(data: Path, folder: Path, options: advrad.demo.run.RunOptions, **_: object) -> None:
        asked.append((options.denoiser, options.minutes))
        if options.denoiser is not None:
            raise KeyboardInterrupt

    monkeypatch.setattr(advrad.demo.run, "write_product", lambda folder, seed, **_: folder)
    monkeypatch.setattr(advrad.demo.run, "train", train)
    monkeypatch.setattr(advrad.demo.run, "load_detector", lambda folder: Brightest())
    assert cli("demo", "-o", tmp_path / "demo", *typed).status == 130
    assert asked == [(None, None), ("lean", minutes)]
    assert f"[default: {advrad.demo.run.DEFAULT_MINUTES}]" in " ".join(cli("demo", "--help").out.split())


def test_an_interrupted_demo_continues_with_its_options(
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
    assert json.loads(cli("info", run / "learned", "--json").out)["training"]["plan"]["train"]["steps"] == 2
