"""The optimal denoiser of the patches of normal images, in closed form. Nothing is trained.

The best estimate of a patch behind Gaussian noise, if it is one of the memory patches m_1..m_M, is their mean, weighted
by how well each explains the noisy patch q:

    D(q, sigma) = sum_m softmax_m(-|q - m|^2 / (2 sigma^2)) m.

As sigma falls to 0 it becomes the nearest memory patch; as sigma rises it becomes the mean of the memory patches. Each
patch of an image is compared with the patches of the memory within a window around its own position, and overlapping
estimates are averaged. A diffusion model trained on these patches to the optimum would compute the same.

Source: Kamb and Ganguli, "An analytic theory of creativity in convolutional diffusion models", arXiv 2412.20292.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from advrad.data.transforms import resize
from advrad.denoisers.base import Denoiser
from advrad.denoisers.memory_config import PatchCells
from advrad.denoisers.patch_memory import PatchMemory
from advrad.denoisers.posterior_mean import PatchShape, posterior_mean
from advrad.errors import ConfigError, DataError
from advrad.utils.config import Config

#: Smallest noise level of a cell: below it, squares of it would be 0 in float32.
_MIN_SIGMA = 1e-6
#: Range of the noise levels of :meth:`MemoryDenoiser.training_loss`, [0, 1] pixel units.
_LOSS_SIGMAS = (0.02, 0.6)


class MemoryDenoiserConfig(Config):
    """Shape of the memory denoiser.

    Attributes:
        kind: Name of this kind of denoiser in files.
        side_cells: Side of an image in cells. An image whose side is a multiple of this is averaged over the pixels of
            each cell, and the estimated cells are enlarged again.
        patch_cells: Side of a patch, cells; odd.
        window_cells: Largest distance, along each axis, between a patch and the memory patches that it is compared
            with, cells.
        gains: Factors by which memory patches may be brighter or darker; each makes a copy of the memory.
        sheets: Number of normal images in the memory; 0 before it is filled.

    Example:
        >>> MemoryDenoiserConfig().side_cells
        64
    """

    kind: Literal["memory"] = "memory"
    side_cells: Annotated[int, Field(gt=0)] = 64
    patch_cells: PatchCells = 7
    window_cells: Annotated[int, Field(ge=0)] = 2
    gains: tuple[Annotated[float, Field(gt=0)], ...] = Field((1.0,), min_length=1)
    sheets: Annotated[int, Field(ge=0)] = 0


class MemoryDenoiser(Denoiser):
    """The posterior mean of an image whose patches are those of a memory of normal images.

    It has no parameters: :meth:`fit` fills the memory.

    Args:
        config: Shape of the denoiser.
        sheets: Memory, (config.sheets, 3, side_cells, side_cells) uint8: normal images as cells. None for a blank one,
            whose values are loaded or filled later.

    Raises:
        ConfigError: A patch is larger than an image, or the memory has another shape.

    Example:
        >>> config = MemoryDenoiserConfig(side_cells=8, patch_cells=3, window_cells=1)
        >>> normals = torch.full((2, 3, 8, 8), 0.4)
        >>> denoiser = MemoryDenoiser.fit(normals, config)
        >>> bool(torch.allclose(denoiser(normals + 0.1, torch.tensor([0.1, 0.1])), normals))
        True
    """

    sheets: Tensor

    def __init__(self, config: MemoryDenoiserConfig, sheets: Tensor | None = None) -> None:
        super().__init__()
        if config.patch_cells > config.side_cells:
            raise ConfigError(
                f"must be at most {config.side_cells}, the side of an image in cells",
                option="patch_cells",
                value=config.patch_cells,
            )
        shape = (config.sheets, 3, config.side_cells, config.side_cells)
        sheets = torch.zeros(shape, dtype=torch.uint8) if sheets is None else sheets
        if sheets.shape != shape or sheets.dtype != torch.uint8:
            raise ConfigError(
                f"sheets: expected the shape {shape} and uint8, got {tuple(sheets.shape)}, {sheets.dtype}"
            )
        self.config = config
        self.multiple_px = config.side_cells
        self.register_buffer("sheets", sheets)

    @classmethod
    def fit(cls, images: Tensor | Iterable[Tensor], config: MemoryDenoiserConfig) -> MemoryDenoiser:
        """Make a denoiser whose memory holds normal images.

        Args:
            images: Normal images, (n, 3, h, w) float in [0, 1]; or batches of them.
            config: Shape of the denoiser; its number of sheets is replaced.

        Returns:
            The denoiser, in evaluation mode.

        Raises:
            DataError: There are no images.
        """
        batches = [images] if isinstance(images, Tensor) else images
        parts = [PatchMemory.quantised(resize(batch, config.side_cells)) for batch in batches]
        if not sum(len(part) for part in parts):
            raise DataError("there are no normal images to fill the memory with")
        sheets = torch.cat(parts)
        return cls(config.model_copy(update={"sheets": len(sheets)}), sheets).eval()

    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Replace the memory by whole normal images.

        Args:
            batches: Normal images of one size, (b, 3, h, w) float in [0, 1] each.

        Raises:
            DataError: There are no images.
        """
        filled = self.fit(batches, self.config)
        self.config = filled.config
        self.sheets = filled.sheets.to(self.sheets.device)

    def denoise(self, z: Tensor, sigma: Tensor, window: Tensor | None = None) -> Tensor:
        """Estimate the clean image; see :meth:`Denoiser.denoise`.

        Noise levels below 1e-6 count as 1e-6. If a cell has several pixels, its noise level is that of their mean.

        Raises:
            ConfigError: The memory is empty, the size does not suit it, or the window is not the whole image.
        """
        config = self.config
        if not config.sheets:
            raise ConfigError("the memory of the denoiser is empty; fit it on normal images")
        height, width = z.shape[2:]
        if height != width or height % config.side_cells:
            raise ConfigError(
                f"the memory denoiser takes squares whose side is a multiple of {config.side_cells} px, not"
                f" {height} x {width} px"
            )
        if window is not None and bool((window != window.new_tensor([-1.0, -1.0, 1.0, 1.0])).any()):
            raise ConfigError("the memory denoiser takes whole images only; train no views of crops")
        cell_px = height // config.side_cells
        with torch.autocast(z.device.type, enabled=False):
            exact = z if z.dtype == torch.float64 else z.float()
            cells = F.avg_pool2d(exact, cell_px) if cell_px > 1 else exact
            levels = (sigma.to(cells) / cell_px).clamp_min(_MIN_SIGMA)
            sheets = self.sheets.contiguous().to(cells) / 255
            memory = torch.cat([gain * sheets for gain in config.gains])
            reach = min(config.window_cells, config.side_cells - config.patch_cells)
            shape = PatchShape(config.side_cells, config.patch_cells, reach)
            # Image by image, so that the size of the batch changes nothing.
            rows = [posterior_mean(cells[row], float(levels[row]), memory, shape) for row in range(len(cells))]
            recon = torch.stack(rows) if rows else cells
            recon = recon.repeat_interleave(cell_px, 2).repeat_interleave(cell_px, 3) if cell_px > 1 else recon
        return recon.to(z.dtype)

    def training_loss(
        self, images: Tensor, corrupted: Tensor, level: Tensor, noise: Tensor, window: Tensor | None = None
    ) -> Tensor:
        """Measure the squared error of the estimate. There are no parameters, so it trains nothing.

        See :meth:`Denoiser.training_loss`; the noise levels are log-uniform between 0.02 and 0.6.
        """
        low, high = (math.log(sigma) for sigma in _LOSS_SIGMAS)
        sigma = torch.exp(low + (high - low) * level)
        estimate = self.denoise(corrupted + sigma[:, None, None, None] * noise, sigma, window)
        return (estimate - images).square().mean((1, 2, 3))
