"""What can be refused is refused before any image is looked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from trained_run import Cli

import advrad
from advrad.errors import ConfigError
from advrad.training.choice import needs_diffusers
from advrad.training.options import RunOptions


@pytest.fixture
def no_images(widget_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make looking for images an error."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("images are looked for")

    for module in ("training.run", "training.threshold_images", "data.labelled"):
        monkeypatch.setattr(f"advrad.{module}.find_records", refuse)


@pytest.mark.usefixtures("no_images")
@pytest.mark.parametrize(
    "options", [{"preset": "tiny"}, {"preset": "paper"}, {"denoiser": "ddpm"}, {"denoiser": "a/b"}]
)
def test_a_missing_library_is_named_first(
    options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ConfigError, match=r"needs the diffusers library: pip install 'advrad\[ddpm\]'"):
        advrad.train(tmp_path, tmp_path / "run", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_other_runs_need_no_library() -> None:
    assert not any(map(needs_diffusers, (RunOptions(), RunOptions(minutes=1), RunOptions(denoiser="lean"))))
    assert needs_diffusers(RunOptions(preset="paper")) and needs_diffusers(RunOptions(denoiser="folder"))


@pytest.mark.usefixtures("no_images")
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["calibrate", "--false-alarm-rate", "0.01"], "--false-alarm-rate 0.01: needs 99 calibration images, but 19"),
        (["attack", "--attack", "nuke"], "--attack nuke: is unknown"),
        (["attack", "--budget", "endless"], "--budget endless: is unknown"),
        (["attack", "--attack", "pgd", "--surrogate", "fog"], "--surrogate fog: is unknown here"),
        (["attack", "--attack", "transfer", "--from", "none"], "none: there is no such model folder"),
        (["curve", "--over", "time"], "--over time: is unknown"),
        (["curve", "--over", "steps", "--values", "1,many"], "--values many"),
        (["certify", "--norm", "linf", "--radius", "1/255"], "--norm linf: needs exact bounds"),
        (["certify", "--sigma", "0.1"], "--sigma: applies to method percentile"),
        (["certify", "--save"], "--save: needs a model folder and exact bounds"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_are_checked_first(cli: Cli, widget_run: Path, tmp_path: Path, command: list[str], words: str) -> None:
    name, *options = command
    before = sorted(widget_run.rglob("*"))
    done = cli(name, widget_run, tmp_path, *options)
    assert done.status == 2 and words in done.one_error_line()
    assert sorted(widget_run.rglob("*")) == before


@pytest.mark.usefixtures("no_images")
@pytest.mark.parametrize("command", ["attack", "checks", "certify"])
def test_a_detector_without_a_folder_needs_one(cli: Cli, tmp_path: Path, command: str) -> None:
    (tmp_path / "mine.py").write_text("def score(images): return images.mean((1, 2, 3))")
    done = cli(command, f"{tmp_path / 'mine.py'}:score", tmp_path)
    assert done.status == 2 and "--output: is needed, because this detector has no folder" in done.one_error_line()


def test_a_benchmark_names_missing_packages_at_the_start(
    widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from advrad.benchmark import run
    from advrad.benchmark.grid import read_grid
    from advrad.benchmark.jobs import jobs_of

    detectors = {
        "net": {"kind": "advrad", "preset": "tiny"},
        "near": {"kind": "spade"},
        "far": {"kind": "guarded", "inner": "near"},
        "ours": {"kind": "features"},
        "plain": {"kind": "autoencoder"},
    }
    lines = [
        f"detectors.{name} = {{ {', '.join(f'{k} = {json.dumps(v)}' for k, v in row.items())} }}"
        for name, row in detectors.items()
    ]
    grid = tmp_path / "grid.toml"
    grid.write_text("\n".join(['categories.widget = "widget"', *lines]))
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    jobs = jobs_of(read_grid(grid), widgets.parent)
    assert run.missing_packages(jobs) == (
        "far, near: will fail, because packages are missing: pip install 'advrad[anomalib]'",
        "net: will fail, because packages are missing: pip install 'advrad[ddpm]'",
        "ours: will fail, because packages are missing: pip install 'advrad[features]'",
    )
    monkeypatch.setattr(run, "find_spec", lambda name: name)
    assert run.missing_packages(jobs) == ()
