"""Operator norms against brute force: the quadratic forms of the score's own code, written out as matrices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_models import generator

from advrad.certificates.operator_norms import map_norms
from advrad.data.resize_norm import resize_matrix, resize_norm
from advrad.data.transforms import resize
from advrad.detectors.score_config import NoiseView, ScoreConfig
from advrad.detectors.scoring import combine_scales, mean_filter, scale_errors

SIZE = 24


def kernels_and_maps(scales: str, filter_px: int, size: int = SIZE) -> tuple[tuple, Callable[[Tensor], list[Tensor]]]:
    """The norms of a view, and its error maps as a function of one channel of a difference, (size * size,)."""
    view = NoiseView(view_px=size, sigma=0.2)
    config = ScoreConfig(views=(view,), scales=scales, filter_px=filter_px)

    def maps(difference: Tensor) -> list[Tensor]:
        # All channels are treated alike, so the norm is that of one with the others at 0.
        image = torch.zeros(1, 3, size, size, dtype=torch.float64).index_add(
            1, torch.tensor([1]), difference.view(1, 1, size, size)
        )
        return [mean_filter(m, filter_px) for m in combine_scales(scale_errors(image, torch.zeros_like(image)), scales)]

    return map_norms(view, config), maps


def true_norm(form: Callable[[Tensor], Tensor], size: int = SIZE) -> float:
    """Largest ``sqrt(form(d)) / |d|`` of a quadratic form."""
    matrix = torch.autograd.functional.hessian(form, torch.zeros(size * size, dtype=torch.float64), vectorize=True) / 2
    return float(torch.linalg.eigvalsh(matrix)[-1].clamp_min(0).sqrt())


@pytest.mark.parametrize("filter_px", [1, 3, 7])
@pytest.mark.parametrize("scales", ["averaged", "separate"])
def test_the_norm_of_every_kind_of_cell_is_that_of_its_matrix(scales: str, filter_px: int) -> None:
    found, maps = kernels_and_maps(scales, filter_px)
    for index, norms in enumerate(found):
        side = norms.cells.shape[-1]
        assert norms.cells.shape == (1, 1, side, side)
        # Corner, border, and cells that lie in other places of their coarsest block.
        places = {(0, 0), (0, side // 2), (side - 1, 1), (side // 2, side // 2), (side // 2 - 1, side // 3)}
        for y, x in sorted(places):
            true = true_norm(lambda d, y=y, x=x, index=index: maps(d)[index][0, 0, y, x])
            got = float(norms.cells[0, 0, y, x])
            assert true <= got <= true * (1 + 2e-4), (index, y, x)


def test_cells_that_look_alike_share_their_norm_and_no_other() -> None:
    (norms,), _ = kernels_and_maps("averaged", 3, 64)
    cells = norms.cells[0, 0]
    # Far from the border all repeats with the coarsest cell.
    torch.testing.assert_close(cells[16:40, 16:40], cells[24:48, 24:48], rtol=1e-6, atol=0)
    # All is the same seen from the other side, and with rows for columns.
    for seen in (cells.flip(0), cells.flip(1), cells.T):
        torch.testing.assert_close(cells, seen, rtol=1e-5, atol=0)
    assert len(cells[24:32, 24:32].unique()) > 3


@settings(max_examples=12, deadline=None)
@given(
    scales=st.sampled_from(["averaged", "separate"]),
    filter_px=st.sampled_from([1, 3, 7]),
    seed=st.integers(0, 10**6),
    share=st.floats(0.01, 1),
)
def test_the_norm_of_a_sum_of_cells_is_never_too_small(scales: str, filter_px: int, seed: int, share: float) -> None:
    found, maps = kernels_and_maps(scales, filter_px, 16)
    draws = generator(seed)
    for index, norms in enumerate(found):
        weights = torch.rand(2, *norms.cells.shape[1:], generator=draws, dtype=torch.float64)
        weights = weights * (torch.rand(weights.shape, generator=draws) < share)
        got = norms.sum_norm(weights)
        assert got.shape == (2,)
        for row in range(2):
            true = true_norm(lambda d, w=weights[row], index=index: (w * maps(d)[index][0]).sum(), 16)
            assert float(got[row]) >= true
            if scales == "separate":  # one scale: its blocks are apart, so the bound is the truth
                assert float(got[row]) <= true * (1 + 1e-5)


@pytest.mark.parametrize("filter_px", [1, 3, 7])
@pytest.mark.parametrize("scales", ["averaged", "separate"])
def test_the_norm_of_the_mean_is_near_the_truth(scales: str, filter_px: int) -> None:
    found, maps = kernels_and_maps(scales, filter_px)
    for index, norms in enumerate(found):
        true = true_norm(lambda d, index=index: maps(d)[index].mean())
        got = float(norms.sum_norm(torch.full_like(norms.cells, 1 / norms.cells.numel())))
        assert true <= got <= true * 1.1
        # Cells that lie together share what they see: far less than the norm of one cell.
        assert got < float(norms.cells.max()) / 2 or norms.cells.numel() < 50


def test_a_wider_filter_has_smaller_norms() -> None:
    cells = [kernels_and_maps("averaged", f, 64)[0][0].cells[0, 0] for f in (1, 3, 7, 11)]
    # In the corner, where the window is cut off, and inside; the figures are those of docs/certificates.md.
    assert [round(float(c.max()), 2) for c in cells] == [0.30, 0.20, 0.12, 0.09]
    assert [round(float(c[32, 29]), 2) for c in cells] == [0.29, 0.13, 0.07, 0.05]


@pytest.mark.parametrize(
    ("height_px", "width_px", "sizes_px"),
    [
        (12, 12, (8,)),
        (12, 12, (12, 8)),
        (24, 24, (16, 8)),
        (9, 14, (8,)),
        (7, 20, (16, 8)),
        (8, 20, (8, 8)),
        (8, 8, (16,)),  # enlarging lengthens a change
        (8, 11, (16, 8)),
        (8, 8, (8, 8)),
    ],
)
def test_the_norm_of_resizing_is_that_of_the_code_that_resizes(
    height_px: int, width_px: int, sizes_px: tuple[int, ...]
) -> None:
    impulses = torch.eye(height_px * width_px).view(-1, 1, height_px, width_px)
    for size_px in sizes_px:
        impulses = resize(impulses, size_px)
    true = float(torch.linalg.matrix_norm(impulses.flatten(1).double(), 2))
    assert true * (1 - 1e-7) <= resize_norm(height_px, width_px, *sizes_px) <= true * (1 + 1e-5)


def test_the_norms_of_resizing_that_are_written_down() -> None:
    assert resize_norm(256, 256, 256, 128) == pytest.approx(0.5006, abs=1e-4)
    assert resize_norm(384, 384, 256, 128) == pytest.approx(0.3337, abs=1e-4)
    assert resize_norm(128, 128, 256) == pytest.approx(2, abs=1e-3)
    assert resize_norm(128, 128, 128) == pytest.approx(1, abs=1e-5)


def test_a_long_side_is_resized_piece_by_piece() -> None:
    matrix = resize_matrix(2500, 16)
    assert matrix.shape == (16, 2500)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)
    image = torch.rand(1, 1, 2500, 16, generator=generator())
    torch.testing.assert_close(torch.from_numpy(matrix).float() @ image[0, 0], resize(image, 16)[0, 0])
