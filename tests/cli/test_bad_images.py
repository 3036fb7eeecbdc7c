"""Bad folders, images and masks: one clear line, exit status 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import trained_run
from PIL import Image
from toy_datasets import make_folder, make_mvtec
from trained_run import Cli


@pytest.mark.parametrize("command", [["data", "inspect"], ["train", "-o", "RUN"], ["evaluate", "RUN"]])
def test_missing_folder(cli: Cli, tmp_path: Path, command: list[str]) -> None:
    words = [str(tmp_path / "run") if word == "RUN" else word for word in command]
    done = cli(*words, tmp_path / "nowhere")
    assert done.status == 2
    assert "nowhere: there is no such folder" in done.one_error_line()
    assert not (tmp_path / "run" / "training").exists() or not any((tmp_path / "run" / "training").iterdir())


@pytest.mark.parametrize(("count", "words"), [(0, "no normal image"), (1, "only one normal image")])
def test_too_few_normal_images(cli: Cli, tmp_path: Path, count: int, words: str) -> None:
    data = make_mvtec(tmp_path, train=count)
    (data / "train" / "good").mkdir(parents=True, exist_ok=True)
    done = cli("train", data, "-o", tmp_path / "run", "--steps", 1, "--size", 64)
    assert done.status == 2
    assert words in done.one_error_line()


def test_too_few_normal_images_for_the_false_alarm_rate(cli: Cli, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "parts", good=12)
    done = cli("train", data, "-o", tmp_path / "run", "--steps", 1, "--size", 64)
    assert done.status == 2
    assert "--false-alarm-rate 0.05: needs 19" in done.err.splitlines()[-1]


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
    assert [found.name for found in out.iterdir()] == [".advrad-output"]  # the mark of our own folders


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_unusual_images_are_accepted(cli: Cli, widget_run: Path, tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("part.tif" if mode == "CMYK" else "part.png")
    trained_run.image(path, 1, size=72, mode=mode)
    ranged = ("--value-range", 65535) if mode == "I;16" else ()  # the model was trained on images of 8 bits
    done = cli("predict", widget_run, path, "-o", tmp_path / "out", *ranged)
    assert done.status == 0, done.err
    with Image.open(json.loads(done.out)["overlay"]) as overlay:
        assert overlay.size == (72, 72)


def test_hidden_colours_of_transparent_pixels_do_not_matter(cli: Cli, widget_run: Path, tmp_path: Path) -> None:
    scores = []
    for hidden in (0, 255):
        values = np.full((64, 64, 4), hidden, np.uint8)
        values[16:48, 16:48] = (90, 120, 130, 255)
        values[..., 3] = 0
        values[16:48, 16:48, 3] = 255
        Image.fromarray(values).save(tmp_path / f"{hidden}.png")
        scores.append(json.loads(cli("predict", widget_run, tmp_path / f"{hidden}.png").out)["score"])
    assert scores[0] == scores[1]


def test_a_very_large_image_is_accepted(cli: Cli, widget_run: Path, tmp_path: Path) -> None:
    Image.new("1", (3_600, 3_400), 1).save(tmp_path / "large.png")
    done = cli("predict", widget_run, tmp_path / "large.png")
    assert done.status == 0, done.err
    assert "64 x 64 px" in json.loads(done.out)["warning"]
    done = cli("predict", widget_run, tmp_path / "large.png", "--max-pixels", 1_000_000)
    assert done.status == 2
    assert "max_pixels" in done.one_error_line()


@pytest.mark.slow
def test_a_square_of_12_000_px_is_accepted(cli: Cli, widget_run: Path, tmp_path: Path) -> None:
    Image.new("1", (12_000, 12_000), 1).save(tmp_path / "huge.png")
    done = cli("predict", widget_run, tmp_path / "huge.png")
    assert done.status == 0, done.err


def test_training_accepts_images_of_different_sizes(
    cli: Cli, widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_run.shrink(monkeypatch)
    data = tmp_path / "widget"
    shutil.copytree(widgets, data)
    for number, size in enumerate((40, 50, 120)):
        trained_run.image(data / "train" / "good" / f"{number:03}.png", number, size=size)
    done = cli("train", data, "-o", tmp_path / "run", "--steps", 1, "--size", 64, "--score", "paper")
    assert done.status == 0, done.err


def test_masks_of_wrong_size_or_missing(cli: Cli, widgets: Path, run: Path, tmp_path: Path) -> None:
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
