"""Small benchmark grids, and a function that writes grids."""

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


#: What makes the smoke grid quicker: less training, a shorter projection for attacks to go through, small networks.
QUICKER = {
    'kind = "advrad"\nsteps = 40': 'kind = "advrad"\nsteps = 4',
    'kind = "apae"\nsteps = 10': 'kind = "apae"\nprojection_steps = 2\nsteps = 2',
    "walk_steps = 2\nsteps = 5": "walk_steps = 2\nsteps = 2\nchannels = [8, 16]\nblocks = [1, 1]",
}


def quick_smoke() -> str:
    """The grid `grids/smoke.toml`, made quicker."""
    text = (Path(__file__).parents[2] / "grids" / "smoke.toml").read_text(encoding="utf-8")
    for shown, quicker in QUICKER.items():
        assert text.count(shown) == 1
        text = text.replace(shown, quicker)
    return text
