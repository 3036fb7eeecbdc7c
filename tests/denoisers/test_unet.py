"""The lean U-Net: shapes, sizes and initialisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toy_models import generator

from advrad.denoisers.unet import LeanUNet, ResidualBlock


def unet(stem_px: int = 2, channels: tuple[int, ...] = (8, 16)) -> LeanUNet:
    torch.manual_seed(0)
    return LeanUNet(3, 7, channels, (1,) * len(channels), stem_px, scalars=2, condition_channels=16)


def inputs(height: int, width: int, stem_px: int = 2, count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    draws = generator(1)
    return (
        torch.randn(count, 3, height, width, generator=draws),
        torch.randn(count, 2, generator=draws),
        torch.rand(count, 2, height // stem_px, width // stem_px, generator=draws),
    )


def wake(network: torch.nn.Module) -> None:
    draws = generator(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draws))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (16, 40)])
@pytest.mark.parametrize("stem_px", [1, 2, 4])
def test_any_multiple_is_a_size(height: int, width: int, stem_px: int) -> None:
    network = unet(stem_px)
    wake(network)
    assert network.multiple_px == 2 * stem_px
    out = network(*inputs(height, width, stem_px))
    assert out.shape == (2, 7, height, width)
    assert out.std() > 0


def test_the_multiple_is_the_smallest() -> None:
    network = unet(2, (8, 8, 8))
    assert network.multiple_px == 8
    network(*inputs(8, 8))
    with pytest.raises(RuntimeError):
        network(*inputs(12, 12))


def test_output_is_zero_at_the_start() -> None:
    assert not unet()(*inputs(16, 16)).any()


def test_block_is_the_identity_at_the_start_and_not_later() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(8, 16)
    x, condition = torch.randn(2, 8, 4, 4), torch.randn(2, 16)
    assert torch.equal(block(x, condition), x)
    wake(block)
    assert not torch.allclose(block(x, condition), x, atol=1e-3)


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_every_input_matters_and_rows_do_not_mix(changed: int) -> None:
    network = unet()
    wake(network)
    arguments = list(inputs(16, 16))
    before = network(*arguments)
    arguments[changed] = arguments[changed].clone()
    arguments[changed][1] += 0.5
    after = network(*arguments)
    assert torch.equal(after[0], before[0])
    assert (after[1] - before[1]).abs().max() > 1e-4


def test_every_parameter_gets_a_gradient_after_the_first_step() -> None:
    network = unet()
    wake(network)
    network(*inputs(16, 16)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_blocks_of_constant_zero_stay_finite() -> None:
    network = unet()
    wake(network)
    x, scalars, position = inputs(16, 16)
    x = torch.zeros_like(x).requires_grad_()
    out = network(x, scalars, position)
    out.sum().backward()
    assert out.isfinite().all() and x.grad is not None and x.grad.isfinite().all()
