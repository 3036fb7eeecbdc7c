"""Synthetic defects, pasted on normal images.

They stand in for real defects, of which training has no images: the denoiser learns to remove them, and the score is
chosen with other families of defects than those of training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float32]
Rng = np.random.Generator
Family = Callable[[Rng, Array, Array], Array]
"""Pastes a random defect on an image, (3, h, w), with a donor of the same shape; returns a new image."""


def _window(rng: Rng, image: Array, low: float, high: float) -> tuple[slice, slice]:
    """A random window; its side is a log-uniform fraction of the image's, and half of the windows lie on structure."""
    _, height, width = image.shape
    side = np.exp(rng.uniform(np.log(low), np.log(high)))
    aspect = np.exp(rng.uniform(-0.7, 0.7))
    window_height = int(np.clip(side * aspect**0.5 * height, 3, height))
    window_width = int(np.clip(side / aspect**0.5 * width, 3, width))
    if rng.random() < 0.5:
        centre_y, centre_x = rng.uniform(0, height), rng.uniform(0, width)
    else:
        # Of eight candidates the one with the most contrast: more often on the product than on its background.
        candidates = rng.uniform(0, 1, (8, 2)) * (height - 1, width - 1)
        radius = max(2, height // 32)
        contrast = [
            float(image[:, max(0, int(y) - radius) : int(y) + radius, max(0, int(x) - radius) : int(x) + radius].std())
            for y, x in candidates
        ]
        centre_y, centre_x = candidates[int(np.argmax(contrast))]
    top = int(np.clip(centre_y - window_height / 2, 0, height - window_height))
    left = int(np.clip(centre_x - window_width / 2, 0, width - window_width))
    return slice(top, top + window_height), slice(left, left + window_width)


def _grid(rows: int, columns: int) -> tuple[Array, Array]:
    """Coordinates y, (rows, 1), and x, (1, columns), in [-1, 1]."""
    y = np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, columns, dtype=np.float32)[None, :]
    return y, x


def _blob(rng: Rng, rows: int, columns: int) -> Array:
    """A soft star-shaped region with an irregular outline, (rows, columns) in [0, 1]."""
    y, x = _grid(rows, columns)
    angle = np.arctan2(y, x)
    radius = np.sqrt(y * y + x * x)
    outline = np.full_like(angle, 0.75)
    for harmonic in range(2, 6):
        outline += rng.uniform(0, 0.5 / harmonic) * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi))
    sharpness = np.exp(rng.uniform(np.log(2.0), np.log(12.0)))
    blob: Array = np.clip((outline - radius) * sharpness + 0.5, 0, 1).astype(np.float32)
    return blob


def _is_grey(image: Array) -> bool:
    return bool((image[0] == image[1]).all() and (image[0] == image[2]).all())


def _noise(rng: Rng, rows: int, columns: int, colourful: float) -> Array:
    """Smooth noise of random grain, three channels, roughly in [-1, 1]; ``colourful`` 0 makes it grey."""
    y, x = _grid(rows, columns)
    field = np.zeros((3, rows, columns), np.float32)
    for _ in range(5):
        frequency = np.exp(rng.uniform(np.log(1.0), np.log(max(2.0, min(rows, columns) / 2))))
        direction = rng.uniform(0, 2 * np.pi)
        wave = np.sin(frequency * np.pi * (x * np.cos(direction) + y * np.sin(direction)) + rng.uniform(0, 6.3))
        weight = 1 - colourful + colourful * rng.uniform(-1, 1, 3)
        field += (weight[:, None, None] * wave / 2.2).astype(np.float32)
    return field


def _blend(image: Array, where: tuple[slice, slice], patch: Array, alpha: Array) -> Array:
    out = image.copy()
    region = out[:, where[0], where[1]]
    out[:, where[0], where[1]] = region + alpha * (patch - region)
    return out


def _texture(rng: Rng, image: Array, donor: Array) -> Array:
    """Foreign material: a blob with its own colour and texture."""
    where = _window(rng, image, 0.03, 0.25)
    region = image[:, where[0], where[1]]
    _, rows, columns = region.shape
    colourful = 0.0 if _is_grey(region) else rng.uniform(0, 1)
    colour = region.mean() + rng.choice([-1.0, 1.0]) * rng.uniform(0, 0.6)
    colour += colourful * rng.uniform(-0.4, 0.4, (3, 1, 1))
    grain = rng.uniform(0, 0.4) * _noise(rng, rows, columns, colourful)
    patch = np.clip(colour + grain, 0, 1).astype(np.float32)
    return _blend(image, where, patch, rng.uniform(0.3, 1.0) * _blob(rng, rows, columns))


def _patch(rng: Rng, image: Array, donor: Array) -> Array:
    """Material in the wrong place: a piece of this or another image, rotated and pasted elsewhere."""
    where = _window(rng, image, 0.04, 0.3)
    rows, columns = image[0, where[0], where[1]].shape
    source = donor if rng.random() < 0.5 else image
    _, height, width = source.shape
    side = max(rows, columns)
    side = min(side, height, width)
    top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    patch = np.rot90(source[:, top : top + side, left : left + side], int(rng.integers(4)), (1, 2))
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    patch = patch[:, :rows, :columns]
    rows, columns = patch.shape[1:]
    where = (slice(where[0].start, where[0].start + rows), slice(where[1].start, where[1].start + columns))
    return _blend(image, where, patch, rng.uniform(0.6, 1.0) * _blob(rng, rows, columns))


def _stain(rng: Rng, image: Array, donor: Array) -> Array:
    """Discolouration: brightness and tint change, the structure stays."""
    where = _window(rng, image, 0.05, 0.35)
    region = image[:, where[0], where[1]]
    _, rows, columns = region.shape
    tint = rng.choice([-1.0, 1.0]) * rng.uniform(0.06, 0.4) * np.ones((3, 1, 1))
    if not _is_grey(region):
        tint += rng.uniform(-0.1, 0.1, (3, 1, 1))
    return _blend(image, where, np.clip(region + tint, 0, 1).astype(np.float32), _blob(rng, rows, columns))


def _scratch(rng: Rng, image: Array, donor: Array) -> Array:
    """Scratch: a thin bent line, brighter or darker, sometimes with a rim of the opposite brightness."""
    height = image.shape[1]
    where = _window(rng, image, 0.06, 0.5)
    rows, columns = image[0, where[0], where[1]].shape
    y, x = _grid(rows, columns)
    direction = rng.uniform(0, np.pi)
    along = x * np.cos(direction) + y * np.sin(direction)
    across = -x * np.sin(direction) + y * np.cos(direction) + rng.uniform(-0.5, 0.5) * (along**2 - 0.3)
    across += rng.uniform(0, 0.1) * np.sin(along * rng.uniform(2, 8) + rng.uniform(0, 6.3))
    thickness = rng.uniform(0.5, 2.0) * height / 128 * 2 / max(rows, columns)
    line = np.exp(-((across / thickness) ** 2)) * (np.abs(along) < rng.uniform(0.5, 1.0))
    contrast = rng.choice([-1.0, 1.0]) * rng.uniform(0.1, 0.5)
    profile = contrast * line
    if rng.random() < 0.4:
        profile -= 0.7 * contrast * np.exp(-(((across - 2.2 * thickness) / thickness) ** 2)) * (np.abs(along) < 0.9)
    out = image.copy()
    out[:, where[0], where[1]] = np.clip(out[:, where[0], where[1]] + profile, 0, 1)
    return out


def _specks(rng: Rng, image: Array, donor: Array) -> Array:
    """One to five small pits or grains."""
    out = image
    colour = rng.uniform(0, 1)
    for _ in range(int(rng.integers(1, 6))):
        where = _window(rng, image, 0.02, 0.06)
        rows, columns = image[0, where[0], where[1]].shape
        patch = np.full((3, rows, columns), np.clip(colour + rng.uniform(-0.1, 0.1), 0, 1), np.float32)
        out = _blend(out, where, patch, rng.uniform(0.4, 1.0) * _blob(rng, rows, columns))
    return out


def _warp(rng: Rng, image: Array, donor: Array) -> Array:
    """Deformation: the image is pushed, swirled or pinched inside a window."""
    from scipy.ndimage import map_coordinates

    where = _window(rng, image, 0.1, 0.4)
    region = image[:, where[0], where[1]]
    _, rows, columns = region.shape
    y, x = _grid(rows, columns)
    fall = np.clip(1 - (y * y + x * x), 0, 1) ** 2
    kind = rng.integers(3)
    if kind == 0:
        angle = rng.uniform(0, 2 * np.pi)
        shift = rng.uniform(0.2, 0.7)
        move_y, move_x = shift * np.sin(angle) * fall, shift * np.cos(angle) * fall
    elif kind == 1:
        turn = rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1.6) * fall
        move_y, move_x = x * np.sin(turn) + y * (np.cos(turn) - 1), x * (np.cos(turn) - 1) - y * np.sin(turn)
    else:
        scale = rng.choice([-0.6, 0.8]) * rng.uniform(0.5, 1.0) * fall
        move_y, move_x = y * scale, x * scale
    at_y = np.clip((y + move_y + 1) / 2 * (rows - 1), 0, rows - 1)
    at_x = np.clip((x + move_x + 1) / 2 * (columns - 1), 0, columns - 1)
    moved = [map_coordinates(channel, (at_y, at_x), order=1, mode="nearest") for channel in region]
    out = image.copy()
    out[:, where[0], where[1]] = moved
    return out


def _missing(rng: Rng, image: Array, donor: Array) -> Array:
    """Missing material: a blob takes the colour of another point, such as the background."""
    where = _window(rng, image, 0.04, 0.25)
    rows, columns = image[0, where[0], where[1]].shape
    _, height, width = image.shape
    y, x = rng.integers(0, height), rng.integers(0, width)
    radius = max(2, height // 32)
    around = image[:, max(0, y - radius) : y + radius, max(0, x - radius) : x + radius]
    patch = np.broadcast_to(around.mean((1, 2), keepdims=True), (3, rows, columns))
    return _blend(image, where, patch, rng.uniform(0.7, 1.0) * _blob(rng, rows, columns))


def _swap(rng: Rng, image: Array, donor: Array) -> Array:
    """A rectangle of the donor in the wrong place, with hard edges."""
    where = _window(rng, image, 0.05, 0.25)
    rows, columns = image[0, where[0], where[1]].shape
    _, height, width = donor.shape
    top, left = int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1))
    out = image.copy()
    out[:, where[0], where[1]] = donor[:, top : top + rows, left : left + columns]
    return out


def _smear(rng: Rng, image: Array, donor: Array) -> Array:
    """Smear: the structure is blurred along one direction."""
    where = _window(rng, image, 0.08, 0.35)
    region = image[:, where[0], where[1]]
    _, rows, columns = region.shape
    axis = int(rng.integers(1, 3))
    length = max(2, int(rng.uniform(0.2, 0.7) * region.shape[axis]))
    smeared = np.mean([np.roll(region, shift, axis) for shift in range(-length // 2, length // 2 + 1)], axis=0)
    return _blend(image, where, smeared.astype(np.float32), _blob(rng, rows, columns))


def _grain(rng: Rng, image: Array, donor: Array) -> Array:
    """Roughness: pixel noise over a blob, like corrosion or a coating fault."""
    where = _window(rng, image, 0.04, 0.3)
    region = image[:, where[0], where[1]]
    _, rows, columns = region.shape
    noise = rng.normal(0, rng.uniform(0.08, 0.25), (1, rows, columns))
    return _blend(image, where, np.clip(region + noise, 0, 1).astype(np.float32), _blob(rng, rows, columns))


def _dent(rng: Rng, image: Array, donor: Array) -> Array:
    """A shallow dent or bump: one side brighter, the other darker."""
    where = _window(rng, image, 0.06, 0.3)
    region = image[:, where[0], where[1]]
    _, rows, columns = region.shape
    y, x = _grid(rows, columns)
    angle = rng.uniform(0, 2 * np.pi)
    slope = (y * np.sin(angle) + x * np.cos(angle)) * np.exp(-3 * (y * y + x * x))
    shade = rng.uniform(0.2, 0.9) * slope
    out = image.copy()
    out[:, where[0], where[1]] = np.clip(region + shade, 0, 1)
    return out


def _shade(rng: Rng, image: Array, donor: Array) -> Array:
    """Uneven light or thickness: a wide, soft change of brightness."""
    where = _window(rng, image, 0.4, 0.9)
    region = image[:, where[0], where[1]]
    _, rows, columns = region.shape
    y, x = _grid(rows, columns)
    fall = np.clip(1 - (y * y + x * x), 0, 1)
    gain = 1 + rng.choice([-1.0, 1.0]) * rng.uniform(0.12, 0.45) * fall
    out = image.copy()
    out[:, where[0], where[1]] = np.clip(region * gain, 0, 1)
    return out


#: Families of defects that the denoiser learns to remove.
TRAINING: Mapping[str, Family] = {
    "texture": _texture,
    "patch": _patch,
    "stain": _stain,
    "scratch": _scratch,
    "specks": _specks,
    "warp": _warp,
    "missing": _missing,
}

#: Families of defects with which the score is chosen. Training never shows them, so a score cannot win by recognising
#: the families of training.
SELECTION: Mapping[str, Family] = {
    "swap": _swap,
    "smear": _smear,
    "grain": _grain,
    "dent": _dent,
    "shade": _shade,
}

#: All families by name.
DEFECTS: Mapping[str, Family] = {**TRAINING, **SELECTION}

#: Smallest visible change of a pixel: five grey levels of 255.
VISIBLE = 0.02


def paste_defects(
    images: Tensor, donors: Tensor, seeds: Sequence[int], kinds: Sequence[str] = tuple(TRAINING), attempts: int = 4
) -> tuple[Tensor, Tensor]:
    """Paste one synthetic defect on every image.

    A defect that changes nothing visible, such as white on white, is drawn again, up to ``attempts`` times.

    Args:
        images: Normal images, (b, 3, h, w), float in [0, 1].
        donors: Normal images from which pieces are taken, (b, 3, h, w), float in [0, 1].
        seeds: Seeds, b; row i depends on ``images[i]``, ``donors[i]`` and ``seeds[i]`` alone.
        kinds: Names of the families to draw from, keys of :data:`DEFECTS`.
        attempts: Largest number of draws for each image.

    Returns:
        Anomalous images, (b, 3, h, w), in [0, 1]; and masks of the visible changes, (b, 1, h, w) bool.

    Example:
        >>> import torch
        >>> from advrad.data import paste_defects
        >>> images = torch.rand(2, 3, 32, 32)
        >>> defective, masks = paste_defects(images, images.flip(0), seeds=[0, 1])
        >>> masks.flatten(1).any(1)
        tensor([True, True])
    """
    originals = images.detach().cpu().numpy()
    sources = donors.detach().cpu().numpy()
    out = np.empty_like(originals)
    masks = np.zeros((len(originals), 1, *originals.shape[2:]), bool)
    for i, seed in enumerate(seeds):
        rng = np.random.default_rng(seed)
        for _ in range(attempts):
            kind = kinds[int(rng.integers(len(kinds)))]
            out[i] = DEFECTS[kind](rng, originals[i], sources[i])
            masks[i, 0] = np.abs(out[i] - originals[i]).max(0) > VISIBLE
            if masks[i].sum() >= 4:
                break
    return torch.from_numpy(out).to(images.device), torch.from_numpy(masks).to(images.device)
