"""Bad input and bad luck: one clear line, status 2, nothing lost, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trained_run
from PIL import Image
from toy_datasets import make_folder, make_mvtec
from trained_run import MAIN, Cli


@pytest.fixture
def run(widget_run: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, to be damaged."""
    folder = tmp_path / "run"
    shutil.copytree(widget_run, folder)
    return folder


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".part" in path.name]


# --- data folders ---


@pytest.mark.parametrize("command", [["data", "inspect"], ["train", "-o", "RUN"], ["evaluate", "RUN"]])
def test_missing_folder(cli: Cli, tmp_path: Path, command: list[str]) -> None:
    words = [str(tmp_path / "run") if word == "RUN" else word for word in command]
    done = cli(*words, tmp_path / "nowhere")
    assert done.status == 2
    assert "nowhere: there is no such folder" in done.one_error_line()
    assert not (tmp_path / "run" / "training").exists() or not any((tmp_path / "run" / "training").iterdir())


@pytest.mark.parametrize(("count", "words"), [(0, "no normal image"), (1, "only one normal image")])
def test_too_few_normals(cli: Cli, tmp_path: Path, count: int, words: str) -> None:
    data = make_mvtec(tmp_path, train=count)
    (data / "train" / "good").mkdir(parents=True, exist_ok=True)
    done = cli("train", data, "-o", tmp_path / "run", "--steps", 1, "--size", 64)
    assert done.status == 2
    assert words in done.one_error_line()


def test_too_few_normals_for_the_promise(cli: Cli, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "parts", good=12)
    done = cli("train", data, "-o", tmp_path / "run", "--steps", 1, "--size", 64)
    assert done.status == 2
    assert "--false-alarm-rate 0.05: needs 19" in done.one_error_line()


def test_an_empty_folder(cli: Cli, tmp_path: Path, widget_run: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no normal images" in cli("train", tmp_path / "empty", "-o", tmp_path / "r").one_error_line()
    assert "holds no images" in cli("predict", widget_run, tmp_path / "empty").one_error_line()


def test_a_broken_training_image(cli: Cli, widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_run.shrink(monkeypatch)
    data, run = tmp_path / "widget", tmp_path / "run"
    shutil.copytree(widgets, data)
    (data / "train" / "good" / "007.png").write_text("text")
    options = ("--steps", 1, "--size", 64, "--score", "paper")
    done = cli("train", data, "-o", run, *options)
    assert done.status == 2
    assert "007.png: holds text" in done.err.splitlines()[-1]
    assert not (run / "config.json").exists()
    done = cli("train", data, "-o", run, *options, "--skip-bad")
    assert done.status == 0, done.err
    assert "skipped: " in done.err


# --- images ---


def png_head(path: Path) -> bytes:
    trained_run.image(path, 0)
    return path.read_bytes()


def bad_image(kind: str, path: Path) -> Path:
    if kind == "text":
        path.write_text("I am no image\n")
    elif kind == "truncated":
        whole = png_head(path)
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "1 x 1":
        Image.new("RGB", (1, 1)).save(path)
    elif kind == "animated":
        frames = [Image.new("RGB", (32, 32), (shade, 0, 0)) for shade in (0, 200)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(500))
    elif kind == "folder":
        path.mkdir()
        (path / "note.txt").touch()
    elif kind == "bomb":
        Image.new("1", (20_000, 12_000)).save(path)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("text", "holds text, not an image"),
        ("truncated", "truncated"),
        ("empty", "is empty (0 bytes)"),
        ("1 x 1", "at least 16 px"),
        ("animated", "holds 2 frames"),
        ("noise", "not an image of a known format"),
        ("missing", "there is no such file"),
        ("folder", "holds no images"),
        ("bomb", "max_pixels"),
    ],
)
def test_images_that_are_refused(cli: Cli, widget_run: Path, tmp_path: Path, kind: str, words: str) -> None:
    path, out = bad_image(kind, tmp_path / "part.png"), tmp_path / "out"
    done = cli("predict", widget_run, path, "-o", out)
    assert done.status == 2
    line = done.one_error_line()
    assert str(path) in line
    assert words in line
    assert done.out == ""
    assert not list(out.iterdir())


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_unusual_images_are_judged(cli: Cli, widget_run: Path, tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("part.tif" if mode == "CMYK" else "part.png")
    trained_run.image(path, 1, size=72, mode=mode)
    done = cli("predict", widget_run, path, "-o", tmp_path / "out")
    assert done.status == 0, done.err
    with Image.open(json.loads(done.out)["overlay"]) as overlay:
        assert overlay.size == (72, 72)


def test_a_transparent_image_is_not_judged_by_its_hidden_colours(cli: Cli, widget_run: Path, tmp_path: Path) -> None:
    scores = []
    for hidden in (0, 255):
        values = np.full((64, 64, 4), hidden, np.uint8)
        values[16:48, 16:48] = (90, 120, 130, 255)
        values[..., 3] = 0
        values[16:48, 16:48, 3] = 255
        Image.fromarray(values).save(tmp_path / f"{hidden}.png")
        scores.append(json.loads(cli("predict", widget_run, tmp_path / f"{hidden}.png").out)["score"])
    assert scores[0] == scores[1]


def test_a_very_large_image_is_judged(cli: Cli, widget_run: Path, tmp_path: Path) -> None:
    Image.new("1", (12_000, 1_000), 1).save(tmp_path / "wide.png")
    done = cli("predict", widget_run, tmp_path / "wide.png")
    assert done.status == 0, done.err
    assert done.err == ""
    done = cli("predict", widget_run, tmp_path / "wide.png", "--max-pixels", 1_000_000)
    assert done.status == 2
    assert "max_pixels" in done.one_error_line()


@pytest.mark.slow
def test_a_square_of_12_000_px_is_judged(cli: Cli, widget_run: Path, tmp_path: Path) -> None:
    Image.new("1", (12_000, 12_000), 1).save(tmp_path / "huge.png")
    done = cli("predict", widget_run, tmp_path / "huge.png")
    assert done.status == 0, done.err


def test_mixed_sizes_are_trained_on(cli: Cli, widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_run.shrink(monkeypatch)
    data = tmp_path / "widget"
    shutil.copytree(widgets, data)
    for number, size in enumerate((40, 50, 120)):
        trained_run.image(data / "train" / "good" / f"{number:03}.png", number, size=size)
    done = cli("train", data, "-o", tmp_path / "run", "--steps", 1, "--size", 64, "--score", "paper")
    assert done.status == 0, done.err


# --- masks ---


def test_masks_of_another_size_or_missing(cli: Cli, widgets: Path, run: Path, tmp_path: Path) -> None:
    data = tmp_path / "widget"
    shutil.copytree(widgets, data)
    mask = data / "ground_truth" / "dent" / "000_mask.png"
    Image.new("L", (10, 10), 255).save(mask)
    done = cli("evaluate", run, data, "--json")
    assert done.status == 2
    assert "000_mask.png: is 10 x 10 px, but its image" in done.err.splitlines()[-1]
    assert done.out == ""
    mask.unlink()
    done = cli("evaluate", run, data, "--json")
    assert done.status == 0
    assert json.loads(done.out)["pixel_auroc"] is not None
    shutil.rmtree(data / "ground_truth")
    figures = json.loads(cli("evaluate", run, data, "--json").out)
    assert figures["pixel_auroc"] is figures["aupro"] is None
    assert figures["image_auroc"] is not None


# --- model folders ---


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
def test_info_refuses_damaged_models_too(cli: Cli, run: Path, kind: str, words: str) -> None:
    damage(kind, run)
    done = cli("info", run)
    assert done.status == 2
    assert words in done.one_error_line()


def test_a_pickle_is_never_opened(cli: Cli, run: Path, tmp_path: Path) -> None:
    (run / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    (run / "model.safetensors").unlink()
    assert cli("info", run).status == 2


def test_a_diverged_model_does_not_call_everything_good(cli: Cli, run: Path, tmp_path: Path) -> None:
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


# --- places that cannot be written ---


def test_output_below_a_file(cli: Cli, widget_run: Path, widgets: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "out"
    image = trained_run.image(tmp_path / "part.png", 1)
    for command in (
        ["predict", widget_run, image, "-o", below],
        ["report", widget_run, widgets, "-o", below / "x.html"],
        ["evaluate", widget_run, widgets, "--scores", below / "x.jsonl"],
        ["certify", widget_run, widgets, "--radius", 0.05, "-o", below],
        ["train", widgets, "-o", below],
        ["train", widgets, "-o", tmp_path / "file"],
        ["demo", "-o", below],
    ):
        done = cli(*command)
        assert done.status == 2, command
        assert str(tmp_path / "file") in done.err.splitlines()[-1]
        assert "Traceback" not in done.err


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the super-user may write everywhere")
def test_read_only_output(cli: Cli, widget_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    done = cli("predict", widget_run, trained_run.image(tmp_path / "part.png", 1), "-o", out)
    assert done.status == 2
    assert "permission denied" in done.one_error_line()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_does_not_take_it(
    cli: Cli, run: Path, widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    image, out = trained_run.image(tmp_path / "part.png", 1), tmp_path / "out"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("advrad.utils.files.os.replace", refuse)
    for command in (
        ["predict", run, image, "-o", out],
        ["report", run, widgets, "-o", out / "x.html"],
        ["evaluate", run, widgets, "--save"],
        ["certify", run, widgets, "--radius", 0.05],
        ["train", widgets, "-o", out / "new", "--steps", 1, "--size", 64],
    ):
        done = cli(*command)
        assert done.status == 2, command
        line = done.err.splitlines()[-1]
        assert line.startswith("advrad: error: ")
        assert "cannot be written" in line
        assert "Traceback" not in done.err
        assert done.out == ""
    assert not leftovers(tmp_path)
    assert not list(out.glob("*.*"))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_standard_output(widget_run: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", MAIN, "info", widget_run, "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "advrad: error: standard output: the disk is full; free some space or write elsewhere"
    ]


def test_too_little_memory_is_said_in_words(
    cli: Cli, widget_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import advrad.inference.prediction

    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(advrad.inference.prediction, "heat", refuse)
    done = cli("predict", widget_run, trained_run.image(tmp_path / "part.png", 1), "-o", tmp_path / "out")
    assert done.status == 1
    assert "not enough memory" in done.one_error_line()


# --- being stopped ---


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_predict_stopped_anywhere_leaves_whole_images_only(
    cli: Cli, widget_run: Path, tmp_path: Path, number: signal.Signals
) -> None:
    for seed in range(60):
        trained_run.image(tmp_path / "in" / f"{seed:03}.png", seed, size=96)
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, "predict", str(widget_run), str(tmp_path / "in"), "-o", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert err.splitlines() == ["advrad: interrupted"]
        assert not leftovers(out)
    written = [path for path in out.iterdir() if not path.name.startswith(".")]
    assert 6 <= len(written) < 120
    for path in written:
        with Image.open(path) as image:
            image.load()
    done = cli("predict", widget_run, tmp_path / "in", "-o", out)
    assert done.status == 0
    assert len(done.out.splitlines()) == 60
    assert len([path for path in out.iterdir() if not path.name.startswith(".")]) == 120
