"""The command `advrad data inspect`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from toy_datasets import make_folder
from trained_run import Cli

SHORTCUT = "Brightness alone separates normal from anomalous test images with AUROC 1.000 (normal ones are darker)"


def unframed(screen: str) -> str:
    """What a screen says, without frames and line breaks."""
    return " ".join(re.sub("[─│╭╮╰╯┌┐└┘┃━┏┓┡┩]", " ", screen).split())


def test_inspect(cli: Cli, widgets: Path) -> None:
    done = cli("data", "inspect", widgets, "--json")
    found = json.loads(done.out)
    assert found["layout"] == "mvtec"
    assert found["counts"]["train"] == {"good": 48}
    done = cli("data", "inspect", widgets)
    assert done.status == 0
    assert "mvtec" in done.out
    assert "scratch 3" in done.out


def test_inspect_accounts_for_every_file(cli: Cli, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", good=25, defects={"dent": 1}, size=32)
    for name in ("@eaDir/a.png", "good/notes.txt", "masks/dent/none.png", "hole/"):
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        path.is_dir() or path.write_text("x")
    piped = cli("data", "inspect", folder, "--size", 32, "--json")
    found = json.loads(piped.out)
    assert {(entry["use"], entry["what"]): entry["count"] for entry in found["account"]} == {
        ("train", "good"): 20,
        ("test", "good"): 5,
        ("test", "dent"): 1,
        (None, "clutter of a file manager"): 1,
        (None, "not an image"): 1,
        (None, "mask without an image"): 1,
    }
    assert "masks without an image are not used: 1 (masks/dent/none.png)" in " ".join(found["warnings"])
    assert "advrad: warning: hole/ holds no images" in piped.err
    shown = unframed(cli("data", "inspect", folder, "--size", 32).out)
    assert "1 mask without an image, such as masks/dent/none.png" in shown
    assert "20 train good, such as good/part" in shown


def test_inspect_warns_once_that_brightness_reveals_defects(cli: Cli, widgets: Path) -> None:
    shown = cli("data", "inspect", widgets, "--size", 64)
    assert (shown.out.count("WARNING"), shown.err.count("warning")) == (1, 0)
    assert SHORTCUT in unframed(shown.out)
    piped = cli("data", "inspect", widgets, "--size", 64, "--json")
    found = json.loads(piped.out)
    assert found["shortcuts"]["brightness"] == 1.0
    assert set(found["conditions"]) == {"brightness", "contrast", "sharpness"}
    assert piped.err.splitlines()[1:] == [f"advrad: warning: {words}" for words in found["warnings"]]
    assert SHORTCUT in piped.err


@pytest.mark.parametrize(
    ("normals", "closed_form", "both", "features"),
    [
        (
            10,
            "too few different images: 5 % needs 19, these allow a rate of 0.091 or more",
            "5 to learn from, 2 to choose the score and how both denoisers are combined, 3 for the threshold; too few:"
            " 5 % needs 42 in all, these allow a rate of 0.25 or more",
            "too few different images: 5 % needs 39, these allow a rate of 0.1819 or more",
        ),
        (
            20,
            "all 20 in memory, and all set the threshold, each compared with the others; a false-alarm rate of 5 % is"
            " in reach",
            "10 to learn from, 2 to choose the score and how both denoisers are combined, 8 for the threshold; too few:"
            " 5 % needs 42 in all, these allow a rate of 0.1112 or more",
            "too few different images: 5 % needs 39, these allow a rate of 0.0953 or more",
        ),
        (
            60,
            "all 60 in memory; 20 of them set the threshold, each compared with the others; the other 40 choose how"
            " images are compared; a false-alarm rate of 5 % is in reach",
            "33 to learn from, 8 to choose the score and how both denoisers are combined, 19 for the threshold; a"
            " false-alarm rate of 5 % is in reach",
            "all 60 in both halves; 39 of them set the thresholds, each compared with the others; the other 21 choose"
            " how the halves compare images and how they are joined; a false-alarm rate of 5 % is in reach",
        ),
        (
            90,
            "60 in memory, which also choose how images are compared; 30 others set the threshold; a false-alarm rate"
            " of 5 % is in reach",
            "62 to learn from, 9 to choose the score and how both denoisers are combined, 19 for the threshold; a"
            " false-alarm rate of 5 % is in reach",
            "51 in both halves, which also choose how these compare images and how they are joined; 39 others set the"
            " thresholds; a false-alarm rate of 5 % is in reach",
        ),
    ],
    ids=str,
)
def test_it_says_how_normal_images_are_used_with_and_without_a_budget(
    normals: int, closed_form: str, both: str, features: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "600")
    done = cli("data", "inspect", make_folder(tmp_path / "data", good=normals, size=32))
    assert done.status == 0, done.err
    shown = unframed(done.out)
    assert f"used by train {closed_form} with --minutes {both} with --features {features}" in shown
    refused = "needs 39 different normal images for the thresholds of 2 detectors"
    assert (f"note train with features will refuse: a false-alarm rate of 0.05 {refused}" in shown) == (normals < 39)


def test_of_images_that_are_cut_into_tiles_features_take_none(cli: Cli, tmp_path: Path) -> None:
    good = tmp_path / "data" / "good"
    good.mkdir(parents=True)
    for index in range(40):
        Image.new("RGB", (200, 32), (index, 90, 90)).save(good / f"{index:02}.png")
    done = cli("data", "inspect", tmp_path / "data", "--json")
    found = json.loads(done.out)
    named = {**found["normals_needed"], **found["lowest_false_alarm_rate"]}
    assert found["features"] is None and "features" not in named
    shown = unframed(cli("data", "inspect", tmp_path / "data").out)
    refusal = "train with features will refuse: the images would be cut into tiles"
    assert refusal in shown and "with --features refused: the images would be cut into tiles" in shown


def test_of_very_few_images_only_the_closed_form_is_possible(cli: Cli, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", good=5, size=32)
    shown = unframed(cli("data", "inspect", folder, "--false-alarm-rate", 0.2).out)
    assert "all 5 in memory, and all set the threshold" in shown
    assert "with --minutes too few images: 20 % needs 12" in shown
