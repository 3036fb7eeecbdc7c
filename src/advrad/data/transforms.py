"""Arrays to tensors, and resizing with non-negative weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor


def to_tensor(array: npt.NDArray[np.float32]) -> Tensor:
    """Convert an image, (h, w, 3) float, into a tensor, (3, h, w)."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def resize(images: Tensor, size_px: int | tuple[int, int]) -> Tensor:
    """Resize images by antialiased bilinear interpolation, whatever their aspect ratio.

    Each new pixel is a weighted mean of the pixels beneath it. Resizing is linear and differentiable, keeps constants
    and, up to rounding, the range. Images of this size stay the same.

    Args:
        images: Images, (b, c, h, w), float.
        size_px: Side of a square, or height and width.

    Returns:
        The images, (b, c, height, width).

    Example:
        >>> import torch
        >>> from advrad.data import resize
        >>> resize(torch.ones(1, 3, 40, 60), 16).shape
        torch.Size([1, 3, 16, 16])
    """
    from torch.nn.functional import interpolate
    from torch.onnx import is_in_onnx_export

    rows, columns = (size_px, size_px) if isinstance(size_px, int) else size_px
    if is_in_onnx_export():  # some runtimes, such as OpenVINO, ignore the antialiasing
        height, width = images.shape[2:]
        if isinstance(height, int) and isinstance(width, int) and (height, width) == (rows, columns):
            return images
        return _resize_matrix(images, height, rows) @ images @ _resize_matrix(images, width, columns).mT
    return interpolate(images, size=(rows, columns), mode="bilinear", align_corners=False, antialias=True)


def _resize_matrix(like: Tensor, length: int, size_px: int) -> Tensor:
    """The matrix, (size_px, length), that :func:`resize` applies along one side.

    Each row is a triangle around the position of its new pixel; its half width is the distance of two new pixels, and
    at least one old pixel.
    """
    import torch

    old, new = (torch.arange(n, device=like.device) for n in (length, size_px))
    # In whole numbers, which are exact in float32: the distance of the middles, times 2 * length * size.
    distance = ((2 * old + 1) * size_px - (2 * new + 1)[:, None] * length).abs()
    maximum: Any = torch.sym_max  # the length may be a symbolic number
    weights: Tensor = (2 * maximum(length, size_px) - distance).clamp_min(0).to(like.dtype)
    return weights.div(weights.sum(1, keepdim=True))
