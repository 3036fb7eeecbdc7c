"""Detectors in Python files of users: what they print, return and raise; each command works or says why in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from trained_run import Cli

FILE = """
import os, torch
from beside_it import half_brightness
print("loading the weights")
torch.set_grad_enabled(False)
os.chdir("/")

def levels(images):
    print("scoring", len(images))
    return (half_brightness(images) * 255).long()

def upside_down(images):
    return -half_brightness(images)

def broken(images):
    return images.view(-1)[:3]

class Model(torch.nn.Module):
    def forward(self, images):
        return images
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "beside_it.py").write_text("def half_brightness(images):\n    return images.amax((1, 2, 3)) / 2\n")
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def dark_and_bright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six dark normal images for the test, and six bright anomalous ones."""
    from PIL import Image

    root = tmp_path_factory.mktemp("bright")
    for folder, level in (("train/good", 80), ("test/good", 80), ("test/bright", 200)):
        (root / folder).mkdir(parents=True)
        for index in range(6):
            Image.new("RGB", (32, 32), (level + index, level, level)).save(root / folder / f"{index}.png")
    return root


def test_json_stays_json_whatever_a_detector_prints(
    cli: Cli, mine: Path, dark_and_bright: Path, tmp_path: Path
) -> None:
    folder = Path.cwd()
    for command, options in (
        ("attack", ("-o", tmp_path / "a", "--size", 32, "--attack", "pgd", "--steps", 2)),
        ("certify", ("-o", tmp_path / "c", "--size", 32, "--radius", 0.01, "--draws", 60, "--limit", 4)),
        ("evaluate", ()),
    ):
        done = cli(command, f"{mine}:levels", dark_and_bright, *options, "--json")
        assert done.status == 0, done.err
        found = json.loads(done.out)
        assert "loading the weights" in done.err and "scoring 1" in done.err
        if command == "attack":
            assert found["clean_auroc"] == 1.0 and not found["differentiable"]
            assert "no gradient" in [flag["name"] for flag in found["flags"]]
    assert Path.cwd() == folder and torch.is_grad_enabled()


def test_a_score_that_points_the_wrong_way_is_said_by_every_command(
    cli: Cli, mine: Path, dark_and_bright: Path, tmp_path: Path
) -> None:
    name = f"{mine}:upside_down"
    attacked = cli(
        "attack", name, dark_and_bright, "-o", tmp_path / "a", "--size", 32, "--attack", "square", "--steps", 2
    )
    said = " ".join(attacked.out.replace("│", " ").split())
    assert "wrong direction" in said and "larger for normal images" in said and "mean nothing" in said
    checked = cli("checks", name, dark_and_bright, "-o", tmp_path / "k", "--size", 32, "--steps", 1)
    assert checked.status == 1 and "wrong direction" in checked.out
    evaluated = cli("evaluate", name, dark_and_bright, "--json")
    assert any("negate it" in text for text in json.loads(evaluated.out)["warnings"]) and "negate it" in evaluated.err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken", "scores of shape (3,)"),
        ("Model", "Model is a class"),
        ("absent", "does not define 'absent'; define a function or an object of that name, or name one of"),
    ],
)
@pytest.mark.parametrize("command", ["attack", "certify", "evaluate"])
def test_what_is_wrong_with_a_detector_is_one_line(
    cli: Cli, mine: Path, dark_and_bright: Path, tmp_path: Path, command: str, name: str, words: str
) -> None:
    output = () if command == "evaluate" else ("-o", tmp_path / "out", "--size", 32)
    done = cli(command, f"{mine}:{name}", dark_and_bright, *output)
    assert done.status == 2 and words in done.err
    assert "Traceback" not in done.err and done.err.count("advrad: error:") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def d(x", "SyntaxError"),
        ("class Net:\n    def __init__(self, path): pass\nd = Net()", "TypeError"),
        ("import sys\nsys.exit('no GPU')", "SystemExit: no GPU; file.py, line 2"),
    ],
)
def test_a_file_that_cannot_be_run_is_one_line(
    cli: Cli, dark_and_bright: Path, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "file.py").write_text(text)
    done = cli("attack", f"{tmp_path / 'file.py'}:d", dark_and_bright, "-o", tmp_path / "out")
    assert done.status == 2 and words in done.err and done.err.count("\n") == 1


def test_a_python_file_has_no_folder_to_save_figures_in(cli: Cli, mine: Path, dark_and_bright: Path) -> None:
    done = cli("evaluate", f"{mine}:levels", dark_and_bright, "--save")
    assert done.status == 2 and "--save: needs a model folder" in done.err
