"""The view of the whole image: its cells, and how far a perturbation moves them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from advrad.detectors.views import View, WholeConfig, WholeView
from advrad.errors import ConfigError


def test_cells_are_means() -> None:
    view: View = WholeView(WholeConfig(size_px=32, cell_px=4))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(view.sheets(images)[:, 0], F.avg_pool2d(images, 4))
    assert view.shape == (3, 8, 8) and view.parts == 1
    grey = WholeView(WholeConfig(size_px=32, cell_px=4, channels=1)).sheets(images)
    assert torch.allclose(grey[:, 0, 0], F.avg_pool2d(images, 4).mean(1))


def test_every_perturbation_reaches_the_only_pose() -> None:
    view = WholeView(WholeConfig(size_px=32, cell_px=4))
    image = torch.rand(1, 3, 40, 24, generator=torch.Generator().manual_seed(0))
    reached = view.reachable(image, 0.5, "linf")
    assert reached is not None and len(reached) == 1
    assert torch.equal(reached[0], view.sheets(image)[0])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (50, 80), (20, 32)])
def test_the_l2_norm_is_attained(height: int, width: int, channels: int) -> None:
    view = WholeView(WholeConfig.parse({"size_px": 32, "cell_px": 4, "channels": channels}))
    change = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    for _ in range(60):  # power iteration
        square = view.sheets(change).square().sum()
        (gradient,) = torch.autograd.grad(square, change)
        change = (gradient / gradient.norm()).requires_grad_()
    norm = float(view.sheets(change.detach()).norm())
    assert 0.999 * view.l2_norm(height, width) <= norm <= view.l2_norm(height, width)


def test_cells_must_divide_the_square() -> None:
    with pytest.raises(ConfigError, match="cell_px: must divide size_px"):
        WholeConfig.parse({"size_px": 32, "cell_px": 5})
