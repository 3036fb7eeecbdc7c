"""Damaged model folders: one clear line, exit status 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import trained_run
from trained_run import Cli


def damage(kind: str, run: Path) -> None:
    config, model = run / "config.json", run / "model.safetensors"
    values = json.loads(config.read_text())
    if kind == "no folder":
        shutil.rmtree(run)
    elif kind == "no config":
        config.unlink()
    elif kind == "no weights":
        model.unlink()
    elif kind == "truncated weights":
        model.write_bytes(model.read_bytes()[:1000])
    elif kind == "truncated config":
        config.write_bytes(config.read_bytes()[:100])
    elif kind == "config of bytes":
        config.write_bytes(b"\xff\xfe\x00")
    elif kind == "foreign":
        config.write_text('{"_class_name": "UNet2DModel"}')
    elif kind == "list":
        config.write_text("[]")
    elif kind == "newer":
        config.write_text(json.dumps(values | {"format_version": 99}))
    elif kind == "unknown key":
        config.write_text(json.dumps(values | {"colour": "red"}))
    elif kind == "other network":
        values["denoiser"]["channels"] = [8, 24]
        config.write_text(json.dumps(values))


DAMAGES = [
    ("no folder", "there is no such model folder"),
    ("no config", "holds no model"),
    ("no weights", "cannot be read"),
    ("truncated weights", "cut short or replaced"),
    ("truncated config", "is damaged"),
    ("config of bytes", "is damaged"),
    ("foreign", "is not a model of advrad"),
    ("list", "is not a model of advrad"),
    ("newer", "install a newer advrad"),
    ("unknown key", "colour"),
]


@pytest.mark.parametrize(("kind", "words"), [*DAMAGES, ("other network", "do not belong together")])
def test_damaged_models_are_refused(cli: Cli, run: Path, tmp_path: Path, kind: str, words: str) -> None:
    damage(kind, run)
    image = trained_run.image(tmp_path / "part.png", 1)
    done = cli("predict", run, image)
    assert done.status == 2
    assert words in done.one_error_line()
    assert str(run) in done.err
    assert cli("certify", run, tmp_path).one_error_line() == done.one_error_line()


@pytest.mark.parametrize(("kind", "words"), DAMAGES)
def test_info_refuses_damaged_models(cli: Cli, run: Path, kind: str, words: str) -> None:
    damage(kind, run)
    done = cli("info", run)
    assert done.status == 2
    assert words in done.one_error_line()


def test_a_pickle_is_never_opened(cli: Cli, run: Path, tmp_path: Path) -> None:
    (run / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    (run / "model.safetensors").unlink()
    assert cli("info", run).status == 2


def test_a_diverged_model_is_refused(cli: Cli, run: Path, tmp_path: Path) -> None:
    import hashlib

    from safetensors.torch import load_file, save_file

    model, config = run / "model.safetensors", run / "config.json"
    tensors = {name: value * float("nan") for name, value in load_file(model).items()}
    save_file(tensors, model)
    values = json.loads(config.read_text())
    values["weights_sha256"] = hashlib.sha256(model.read_bytes()).hexdigest()
    config.write_text(json.dumps(values))
    done = cli("predict", run, trained_run.image(tmp_path / "part.png", 1))
    assert done.status == 2
    assert "its score is nan" in done.one_error_line()
    assert done.out == ""
