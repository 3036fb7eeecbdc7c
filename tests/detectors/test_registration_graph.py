"""Poses and sheets in the form for exported graphs: as in PyTorch, though the sums are in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from turned_parts import SIZE, turned_bars, two_bars

from advrad.detectors.registration import RegisteredView
from advrad.detectors.registration_config import PartConfig, RegisteredConfig
from advrad.detectors.registration_fit import RegistrationOptions, fit_registration
from advrad.detectors.registration_graph import graph_pose
from advrad.detectors.registration_poses import Poses

NAMES = tuple(Poses.__slots__)


@pytest.fixture(params=["one", "two"])
def sample(request: pytest.FixtureRequest) -> tuple[RegisteredView, Tensor]:
    """A view of one part or of two, and images; in the last one no part is found."""
    draw = turned_bars if request.param == "one" else two_bars
    view = fit_registration(draw(24), options=RegistrationOptions(size_px=SIZE, step_cells=(1, 1)))
    assert view is not None
    images = draw(24, seed=9).float()
    images[-1] = 0.2
    return view, images.clamp(0, 1)


def graph_form(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("torch.onnx._internal.exporter._flags._is_onnx_exporting", True)


def test_a_graph_finds_the_same_poses(sample: tuple[RegisteredView, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    view, images = sample
    expected = view.poses(images)
    graph_form(monkeypatch)
    found = view.poses(images)
    for name in NAMES:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert not expected.present.all() and expected.present.sum() > 20
    assert view.parts > 1 or len(expected.flipped.unique()) == 2


def test_a_graph_cuts_out_the_same_sheets_and_what_lies_outside(
    sample: tuple[RegisteredView, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    view, images = sample
    sheets, outside = view.sheets(images), view.stray_weights(images)
    graph_form(monkeypatch)
    # 1 less a sum of weights, which a graph adds everywhere, is rounded.
    torch.testing.assert_close(view.sheets(images), sheets, rtol=0, atol=1e-6)
    assert torch.equal(view.stray_weights(images), outside)


@pytest.mark.parametrize("flip", ["reach", "width", "both"])
def test_moments_of_a_small_part_at_the_border_hold_in_float32(flip: str) -> None:
    # Far from the centre of the image, third moments about it are a million times those about the part.
    config = RegisteredConfig.parse(
        {"size_px": 256, "height_cells": 9, "width_cells": 21, "low": 0.1, "high": 0.5, "turns": 90}
        | {"parts": [PartConfig.parse({"flip": flip, "balance": 0.7, "least_mass": 1.0}).model_dump()]}
    )
    view, draws = RegisteredView(config, torch.zeros(1, 3, 64, 64)), torch.Generator().manual_seed(5)
    weights = torch.zeros(60, 64, 64)
    weights[:, 57:62, 55:63] = torch.rand(60, 5, 8, generator=draws)
    weights = weights.flatten(1)
    expected = view.poses_of(weights[:, None])
    x, y = view.basis[1:3].float()
    turn, row, column, flipped = graph_pose(view.lattices[0], weights, x, y)
    assert torch.equal(turn, expected.turn[:, 0]) and torch.equal(flipped, expected.flipped[:, 0])
    assert torch.equal(row.long(), expected.row[:, 0]) and torch.equal(column.long(), expected.column[:, 0])
    assert 10 < int(flipped.sum()) < 50
