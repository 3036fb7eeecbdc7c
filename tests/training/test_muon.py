"""Muon: orthogonal steps of a known length, and a toy problem."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from advrad.training.muon import Muon, orthogonalise


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
def test_singular_values_come_near_one(rows: int, columns: int, seed: int, scale: float) -> None:
    draws = torch.Generator().manual_seed(seed)
    # Well conditioned on purpose: what five rounds promise.
    u, _ = torch.linalg.qr(torch.randn(rows, rows, generator=draws))
    v, _ = torch.linalg.qr(torch.randn(columns, columns, generator=draws))
    rank = min(rows, columns)
    values = 0.1 + 0.9 * torch.rand(rank, generator=draws)
    matrix = scale * (u[:, :rank] * values) @ v[:, :rank].T
    result = orthogonalise(matrix)
    assert result.shape == matrix.shape and result.dtype == torch.float32
    measured = torch.linalg.svdvals(result)
    assert measured.min() > 0.6 and measured.max() < 1.3
    # The singular directions stay: between them the result is diagonal.
    between = u[:, :rank].T @ result @ v[:, :rank]
    torch.testing.assert_close(between, torch.diag(between.diagonal()), rtol=0, atol=1e-2)


@pytest.mark.parametrize("spread", [1e-1, 1e-2])
def test_small_singular_values_are_enlarged(spread: float) -> None:
    torch.manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(16, 16))
    v, _ = torch.linalg.qr(torch.randn(64, 16))
    values = torch.linspace(1, spread, 16)
    measured = torch.linalg.svdvals(orthogonalise((u * values) @ v.T))
    assert measured.min() > 0.3 and measured.max() < 1.3


def test_rank_one_does_not_blow_up() -> None:
    torch.manual_seed(0)
    result = orthogonalise(torch.randn(12, 1) @ torch.randn(1, 300))
    values = torch.linalg.svdvals(result)
    assert 0.6 < values[0] < 1.3 and values[1] < 0.3


def test_step_is_orthogonal_and_of_the_given_length() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(8, 4, 3, 3))
    before = weight.detach().clone()
    weight.grad = torch.randn_like(weight)
    Muon([weight], lr=0.1, weight_decay=0.0).step()
    moved = (before - weight.detach()).flatten(1)
    values = torch.linalg.svdvals(moved)
    assert values.min() > 0.06 and values.max() < 0.13
    assert (moved * weight.grad.flatten(1)).sum() > 0  # downhill


def test_tall_matrices_step_further() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(64, 4))
    weight.grad = torch.randn(64, 4)
    Muon([weight], lr=0.1, weight_decay=0.0).step()
    values = torch.linalg.svdvals(weight.detach())
    assert values.min() > 0.06 * 4 and values.max() < 0.13 * 4  # the root of 64 / 4


def test_memory_format_does_not_change_the_step() -> None:
    torch.manual_seed(0)
    start, gradient = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(start.clone().to(memory_format=layout))
        weight.grad = gradient.clone().to(memory_format=layout)
        Muon([weight], lr=0.1).step()
        results.append(weight.detach())
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-5)


def test_weight_decay_is_decoupled() -> None:
    weight = nn.Parameter(torch.full((4, 4), 2.0))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), 2.0 * (1 - 0.05)))


def test_parameters_without_gradient_stay() -> None:
    weight = nn.Parameter(torch.ones(4, 4))
    Muon([weight]).step()
    assert torch.equal(weight.detach(), torch.ones(4, 4))


def test_momentum_averages_gradients() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    muon = Muon([weight], lr=0.1, momentum=0.9)
    for gradient in (torch.eye(2), 3 * torch.eye(2)):
        weight.grad = gradient.clone()
        muon.step()
        assert torch.equal(weight.grad, gradient)  # the gradient itself is left alone
    torch.testing.assert_close(muon.state[weight]["momentum"], (0.9 * 0.1 * 1 + 0.1 * 3) * torch.eye(2))


def test_it_solves_a_toy_problem() -> None:
    """Two layers learn a linear map whose directions differ a hundredfold in size."""
    torch.manual_seed(0)
    x = torch.randn(256, 16)
    target = x @ torch.diag(torch.logspace(0, -2, 16)) @ torch.linalg.qr(torch.randn(16, 16))[0]
    model = nn.Sequential(nn.Linear(16, 32, bias=False), nn.Linear(32, 16, bias=False))
    muon = Muon(model.parameters(), lr=0.05, weight_decay=0.0)
    losses = []
    for step in range(120):
        for group in muon.param_groups:
            group["lr"] = 0.05 * (1 - step / 120)
        loss = (model(x) - target).square().mean()
        muon.zero_grad()
        loss.backward()
        muon.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.01 * losses[0]
