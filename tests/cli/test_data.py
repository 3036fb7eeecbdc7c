"""The command `advrad data inspect`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from trained_run import Cli

SHORTCUT = "Brightness alone separates normal from anomalous test images with AUROC 1.000 (normal ones are darker)"


def unframed(screen: str) -> str:
    """What a screen says, without frames and line breaks."""
    return " ".join(re.sub("[─│╭╮╰╯┌┐└┘]", " ", screen).split())


def test_inspect(cli: Cli, widgets: Path) -> None:
    done = cli("data", "inspect", widgets, "--json")
    found = json.loads(done.out)
    assert found["layout"] == "mvtec"
    assert found["counts"]["train"] == {"good": 48}
    done = cli("data", "inspect", widgets)
    assert done.status == 0
    assert "mvtec" in done.out
    assert "scratch 3" in done.out


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
