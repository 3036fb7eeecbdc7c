"""A model folder of advrad 0.1.0 still loads, and gives the same scores, verdicts, attacks and certificates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from golden_model import GOLDEN, write_images, write_model
from trained_run import Cli

#: The options with which advrad 0.1.0 made the figures.
COMMANDS = {
    "attack pgd linf": ["attack", "--attack", "pgd", "--steps", "4"],
    "attack pgd l2": ["attack", "--attack", "pgd", "--norm", "l2", "--eps", "0.2", "--steps", "4"],
    "attack apgd linf": ["attack", "--attack", "apgd", "--steps", "6"],
    "attack square linf": ["attack", "--attack", "square", "--steps", "20", "--noise", "known"],
    "certify two-path": ["certify", "--draws", "60", "--confidence", "0.99", "--radius", "0.05,0.1"],
    "certify percentile": [
        *("certify", "--draws", "60", "--confidence", "0.99", "--radius", "0.05,0.1", "--method", "percentile")
    ],
}
#: Relative. Scores differ by float rounding alone; an attack's steps can enlarge a rounding difference.
TOLERANCE = {"predict": 1e-5, "attack": 1e-3, "certify": 1e-5}


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    result: dict[str, Any] = json.loads((GOLDEN / "figures.json").read_text(encoding="utf-8"))
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("golden") / "model")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The folder's name is the category, from which nothing is drawn.
    return write_images(tmp_path_factory.mktemp("golden") / "data")


def test_predictions(figures: dict[str, Any], model: Path, images: Path, cli: Cli) -> None:
    lines = [json.loads(line) for line in cli("predict", model, images / "test").out.splitlines()]
    found = {Path(line["path"]).relative_to(images).as_posix(): line for line in lines}
    assert found.keys() == figures["predict"].keys()
    for name, (score, verdict) in figures["predict"].items():
        assert found[name]["score"] == pytest.approx(score, rel=TOLERANCE["predict"])
        assert found[name]["verdict"] == verdict


@pytest.mark.parametrize("label", COMMANDS)
def test_attacks_and_certificates(
    figures: dict[str, Any], model: Path, images: Path, cli: Cli, tmp_path: Path, label: str
) -> None:
    command, *options = COMMANDS[label]
    arithmetic = ["--gradients", "float32"] if command == "attack" else []
    done = cli(command, model, images, *options, *arithmetic, "-o", tmp_path / "result")
    assert done.status == 0, done.err
    rows = [json.loads(line) for line in (tmp_path / "result" / "rows.jsonl").read_text("utf-8").splitlines()]
    found = {row["name"]: row for row in rows}
    assert found.keys() == figures[label].keys()
    for name, expected in figures[label].items():
        for key, value in expected.items():
            for one, other in zip(*map(_listed, (found[name][key], value)), strict=True):
                # None: the draws do not reach that radius.
                assert one == (other if other is None else pytest.approx(other, rel=TOLERANCE[command])), (name, key)


def test_evaluation(figures: dict[str, Any], model: Path, images: Path, cli: Cli) -> None:
    found = json.loads(cli("evaluate", model, images, "--json").out)
    for key, value in figures["evaluate"].items():
        if isinstance(value, dict):
            assert found[key].keys() == value.keys()
            for name, part in value.items():
                assert found[key][name] == pytest.approx(part, rel=1e-6)
        else:
            assert found[key] == pytest.approx(value, rel=1e-6)
