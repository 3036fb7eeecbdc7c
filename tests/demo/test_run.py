"""The demonstration: which models it makes; the command line's tests run it as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_bounds import ToyConfig, Unbounded

import advrad.demo.run
from advrad.demo.run import run_demo
from advrad.errors import OutputError
from advrad.training.options import RunOptions


def test_the_model_of_an_older_demonstration_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").touch()
    monkeypatch.setattr(advrad.demo.run, "write_product", lambda folder, seed, **_: folder)
    monkeypatch.setattr(advrad.demo.run, "load_detector", lambda folder: Unbounded(ToyConfig(kind="advrad")))
    with pytest.raises(OutputError, match="older demonstration; give another folder"):
        run_demo(tmp_path, RunOptions())


def test_the_closed_form_gets_every_option_but_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def train(data: Path, folder: Path, options: RunOptions, *, resume: bool, **_: object) -> None:
        asked[folder.name] = options
        assert resume
        if len(asked) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(advrad.demo.run, "write_product", lambda folder, seed, **_: folder)
    monkeypatch.setattr(advrad.demo.run, "train", train)
    monkeypatch.setattr(advrad.demo.run, "load_detector", lambda folder: Unbounded())
    options = RunOptions(steps=3, size_px=64, seed=5)
    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path / "run", options)
    assert asked["run"] == RunOptions(size_px=64, seed=5)
    assert asked["run"].model_fields_set == {"size_px", "seed"}
    assert asked["learned"] == RunOptions(steps=3, size_px=64, seed=5, denoiser="lean")
