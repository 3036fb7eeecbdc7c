"""Attacks on exports: queries of scores, and images that were made on the detector that was exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_exports
from torch import Tensor
from trained_run import Cli

import advrad
from advrad.attacks.exported import changed_in_8_bits, in_8_bits, is_original
from advrad.detectors.exported import ExportedDetector
from advrad.detectors.loading import load_config
from advrad.errors import ConfigError

EPS = 8 / 255


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> ExportedDetector:
    folder = toy_exports.write(tmp_path_factory.mktemp("exports") / "plain")
    return ExportedDetector.from_pretrained(folder)


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, list[int]]:
    draws = torch.Generator().manual_seed(0)
    values = 0.5 + 0.1 * torch.rand(6, 3, 32, 32, generator=draws) - 0.05
    values[3:] += 0.06
    return values, [0, 0, 0, 1, 1, 1]


def mean(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3))


def test_transferred_images_reach_the_export_in_8_bits(
    export: ExportedDetector, images: tuple[Tensor, list[int]], tmp_path: Path
) -> None:
    source = advrad.wrap(mean, deterministic=True)
    result = advrad.attack(
        export,
        images,
        attack="transfer",
        source=source,
        eps="8/255",
        steps=10,
        output=tmp_path / "out",
        save_images=True,
    )
    # The source has the gradient of the export, so every pixel moves by the whole radius.
    for row in result.rows:
        wanted = row.clean + EPS if row.label == 0 else row.clean - EPS
        assert row.worst == pytest.approx(wanted, abs=1e-4)
        assert row.worst == row.rounded and row.distance <= EPS * (1 + 1e-5)
    assert result.clean_auroc == 1.0 and result.robust_auroc == 0.0
    assert result.note is not None and "no gradients" in result.note
    assert result.original is None and result.flags == ()
    saved = sorted((tmp_path / "out" / "pictures").iterdir())
    assert len(saved) == 6


def test_square_needs_scores_only(export: ExportedDetector, images: tuple[Tensor, list[int]]) -> None:
    result = advrad.attack(export, images, attack="square", eps="8/255", steps=20)
    assert result.gradients == 0
    assert all(row.distance <= EPS * (1 + 1e-5) for row in result.rows)
    moved = [(row.worst - row.clean) * (1 if row.label == 0 else -1) for row in result.rows]
    assert min(moved) > 0.02 * EPS


@pytest.mark.parametrize("name", ["suite", "pgd", "apgd", "lowfrequency", "patch"])
def test_attacks_with_gradients_are_refused(
    export: ExportedDetector, images: tuple[Tensor, list[int]], name: str
) -> None:
    with pytest.raises(ConfigError, match=f"attack {name}: needs gradients.* choose square, .* or transfer"):
        advrad.attack(export, images, attack=name)


def test_a_source_without_gradients_is_refused(export: ExportedDetector, images: tuple[Tensor, list[int]]) -> None:
    with pytest.raises(ConfigError, match="source: is an export, which has no gradients"):
        advrad.attack(export, images, attack="transfer", source=export)
    with pytest.raises(ConfigError, match="source: is needed for a transfer attack"):
        advrad.attack(export, images, attack="transfer")


def test_rounded_changes_stay_inside_the_radius() -> None:
    draws = torch.Generator().manual_seed(1)
    given = in_8_bits(torch.rand(2, 3, 8, 8, generator=draws))
    for eps in (2 / 255, 1.5 / 255, 0.03):
        changed = (given + eps * (2 * torch.rand(given.shape, generator=draws) - 1)).clamp(0, 1)
        found = changed_in_8_bits(changed, given)
        assert torch.equal((found * 255).round() / 255, found)
        assert float((found - given).abs().max()) <= eps + 1e-6
        assert float((found - changed).abs().max()) <= 1 / 255 + 1e-6
    whole = (given + 2 / 255).clamp(0, 1)  # a whole number of steps is kept, whatever float rounding makes of it
    assert torch.equal(changed_in_8_bits(whole, given), in_8_bits(whole))


def test_the_original_is_attacked_too_and_shown_beside(
    cli: Cli, widgets: Path, closed_form_run: Path, tmp_path: Path
) -> None:
    training: Any = load_config(closed_form_run).training
    folder = toy_exports.write(tmp_path / "export", training=training)
    detector = advrad.load_detector(closed_form_run)
    assert is_original(advrad.load_detector(folder), detector)  # type: ignore[arg-type]
    other = toy_exports.write(tmp_path / "other")
    assert not is_original(advrad.load_detector(other), detector)  # type: ignore[arg-type]

    options = ("--from", closed_form_run, "--limit", 4, "--eps", "2/255", "--steps", 3)
    done = cli("attack", folder, widgets, "--attack", "transfer", *options, "--json")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["attack"] == "transfer" and found["original"]["attack"] == "pgd"
    assert found["original"]["gradients"] > 0 and found["original"]["n_good"] == found["n_good"] == 2
    assert Path(found["original"]["folder"]) == Path(found["folder"]) / "original"
    shown = cli("attack", folder, widgets, "--attack", "transfer", *options).out
    assert "Beside the PyTorch detector" in shown and shown.count("transfer") >= 2
    square = json.loads(cli("attack", folder, widgets, "--attack", "square", *options, "--json").out)
    assert square["original"]["attack"] == "square"
    alone = json.loads(cli("attack", other, widgets, "--attack", "square", *options, "--json").out)
    assert "original" not in alone
