"""Scores of closed forms in float64, from the formulas alone: nothing of the code that computes them is used."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from advrad.data.framing import Framing
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.closed_form_member import ClosedFormMember
from advrad.detectors.views import WholeConfig

Floats = npt.NDArray[np.float64]


def resize_matrix(length: int, size: int) -> Floats:
    """Weights of antialiased bilinear interpolation along one side, (size, length)."""
    old, new = np.arange(length) + 0.5, np.arange(size) + 0.5
    step = length / size
    weights = np.maximum(0, 1 - np.abs(old - new[:, None] * step) / max(step, 1))
    return weights / weights.sum(1, keepdims=True)


def mean_matrix(length: int, side: int) -> Floats:
    """Means over ``side`` neighbours, (ceil(length / side), length); the last mean may be over fewer."""
    rows = np.arange(length)[None] // side == np.arange(-(-length // side))[:, None]
    return rows / rows.sum(1, keepdims=True)


def along_both(image: Floats, rows: Floats, columns: Floats) -> Floats:
    """Multiply an image, (h, w, c), with matrices of both sides."""
    return np.einsum("ih,hwc,jw->ijc", rows, image, columns, optimize=True)


def working_image(framing: Framing, pixels: npt.NDArray[np.uint8]) -> Floats:
    """The working image, (h, w, 3), of an image of 8 bits that is not averaged first."""
    height, width = pixels.shape[:2]
    rows, columns = framing.scaled_size(height, width)
    scaled = along_both(pixels / 255.0, resize_matrix(height, rows), resize_matrix(width, columns))
    whole = np.full((framing.height_px, framing.width_px, 3), 128 / 255)
    whole[framing.window(height, width)] = scaled
    return whole


def exact_cells(view: WholeConfig, working: Floats) -> Floats:
    """Cells, (c, H, W), of a working image."""
    grey = working.mean(2, keepdims=True) if view.channels == 1 else working
    side = view.size_px // view.cell_px
    matrices = [mean_matrix(view.size_px, view.cell_px) @ resize_matrix(n, view.size_px) for n in working.shape[:2]]
    cells = along_both(grey, *matrices)
    assert cells.shape[:2] == (side, side)
    return cells.transpose(2, 0, 1)


def segment_distance(patch: Floats, memory: Floats, weights: Floats, gain: float) -> float:
    """Least weighted distance of a patch, (d,), to segments of memory patches, (n, d)."""
    along, sizes = (memory * weights) @ patch, np.square(memory) @ weights
    factor = np.clip(along / np.where(sizes > 0, sizes, 1), 1 - gain, 1 + gain)
    differences = patch - factor[:, None] * memory
    return float(np.sqrt((np.square(differences) @ weights).min()))


def exact_distances(member: ClosedFormMember, cells: Floats) -> Floats:
    """Distances by site, (down, across), of cells, (c, H, W)."""
    config = member.config.memory
    sheets = member.memory.sheets.numpy() / 255.0
    weights, side = config.weights().numpy(), config.patch_cells
    found = np.empty(config.sites)
    for i, row in enumerate(config.rows):
        for j, column in enumerate(config.columns):
            patch = cells[:, row : row + side, column : column + side].ravel()
            if member.memory.chosen is not None:
                starts = member.memory.chosen[i * config.sites[1] + j].numpy()
                sheet, place = np.divmod(starts, sheets[0].size)
                places = [(n, *divmod(p, sheets.shape[3])) for n, p in zip(sheet, place, strict=True)]
            else:
                near = config.window_cells or (10**9, 10**9)
                downs, acrosses = (
                    range(max(0, at - reach), min(length - side, at + reach) + 1)
                    for at, reach, length in ((row, near[0], sheets.shape[2]), (column, near[1], sheets.shape[3]))
                )
                places = [(n, y, x) for n in range(len(sheets)) for y in downs for x in acrosses]
            memory = np.stack([sheets[n, :, y : y + side, x : x + side].ravel() for n, y, x in places])
            found[i, j] = segment_distance(patch, memory, weights, config.gain)
    return found


def exact_score(detector: ClosedFormDetector, pixels: npt.NDArray[np.uint8]) -> float:
    """Score of an image, (h, w, 3) uint8, by a closed form of whole images."""
    working = working_image(detector.framing, pixels)
    scores = []
    for member in detector.members:
        assert isinstance(member, ClosedFormMember) and isinstance(member.view.config, WholeConfig)
        config = member.config
        distances = exact_distances(member, exact_cells(member.view.config, working))
        mean, spread = member.mean.double().numpy()[0, 0], member.spread.double().numpy()[0, 0]
        values = np.sort(((distances - mean) / (spread + config.tolerance)).ravel())[::-1]
        count = max(1, round(config.pooling * values.size))
        scores.append((values[:count].mean() - config.location) / config.scale)
    return max(scores)
