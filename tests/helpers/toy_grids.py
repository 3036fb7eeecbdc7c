"""A small benchmark grid, and a function that writes grids."""

from __future__ import annotations

from pathlib import Path

GRID = """
size_px = 64
limit = 4
seeds = [0, 1]
[categories]
widget = "widget"
[detectors.ours]
kind = "advrad"
steps = 4
[detectors.plain]
kind = "autoencoder"
steps = 2
[detectors.clean]
kind = "purified"
inner = "plain"
sigma = 0.2
[attacks.pgd]
attack = "pgd"
steps = 2
[attacks.suite]
budget = "quick"
detectors = ["plain"]
[certificates.l2]
radius = "0.1"
detectors = ["ours"]
"""


def write(folder: Path, text: str = GRID, name: str = "grid.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
