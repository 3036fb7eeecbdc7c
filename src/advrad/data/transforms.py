"""Arrays to tensors, and resizing with non-negative weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor


def to_tensor(array: npt.NDArray[np.float32]) -> Tensor:
    """Turn (h, w, 3) float into a (3, h, w) tensor."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def resize(images: Tensor, size_px: int) -> Tensor:
    """Resize to a square by antialiased bilinear interpolation; the aspect ratio is squeezed.

    Each result is a weighted mean of the pixels beneath it: linear, differentiable, a constant stays
    constant, and the range is kept up to rounding. At equal size nothing changes.

    Args:
        images: (b, c, h, w) float.
        size_px: side of the square.

    Returns:
        (b, c, size_px, size_px).
    """
    from torch.nn.functional import interpolate
    from torch.onnx import is_in_onnx_export

    if is_in_onnx_export():  # OpenVINO, for one, takes no notice of antialiasing
        height, width = images.shape[2:]
        return _triangles(images, height, size_px) @ images @ _triangles(images, width, size_px).mT
    return interpolate(images, size=(size_px, size_px), mode="bilinear", align_corners=False, antialias=True)


def _triangles(like: Tensor, length: int, size_px: int) -> Tensor:
    """What :func:`resize` does along one side, as a matrix (size_px, length).

    Each row is a triangle about the place of its result, as wide as two results are apart, at least two pixels.
    """
    import torch

    places, results = (torch.arange(n, device=like.device, dtype=like.dtype) + 0.5 for n in (length, size_px))
    apart = length / size_px
    largest: Any = torch.sym_max  # of numbers that may be symbolic
    reach = largest(apart, 1.0)
    weights: Tensor = (1 - (places - results[:, None] * apart).abs() / reach).clamp_min(0)
    return weights.div(weights.sum(1, keepdim=True))
