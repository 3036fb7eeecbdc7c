"""A synthetic product: rendered photographs of a machined flange, normal and anomalous.

The demonstration and the examples use it where no data set is at hand. The images show a shape with turning marks,
holes and an engraving, lit by three area lights. Normal parts differ in pose, light, finish, background and sensor
noise. An anomalous part differs from the normal part of the same seed only by its defect.

The same seed gives the same image on the same kind of machine; between machines the last bit of a pixel may differ.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from advrad.demo.flange.defects import DEFECTS
from advrad.demo.flange.fields import Array, Mask, Rng, smooth_noise
from advrad.demo.flange.scene import Scene
from advrad.demo.flange.surface import SUPERSAMPLING, Part
from advrad.errors import ConfigError, OutputError
from advrad.utils.files import explain
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.seeding import numpy_generator_for, seed_of

__all__ = ["DEFECTS", "render", "write_product"]

# To be increased with every change of the pixels: a folder of another version is not reused.
_VERSION = 2
_MANIFEST = "product.json"
# Smallest severity of a defect: visible at 128 px.
_MIN_SEVERITY = 0.12


def render(
    seed: int,
    size_px: int = 256,
    defect: str | None = None,
    severity: float | None = None,
) -> tuple[Array, Mask]:
    """Render one image and its mask.

    Args:
        seed: Seed of the part, its pose and its light, which are the same with and without a defect.
        size_px: Side of the square image in pixels, >= 32.
        defect: Key of ``DEFECTS``, or None for a normal part.
        severity: Severity of the defect from 0 (subtle but visible) to 1 (plain); None draws it from the seed.

    Returns:
        The image, (size_px, size_px, 3), in [0, 1], and the mask, (size_px, size_px), True on the defect.

    Raises:
        ConfigError: An argument is unknown or out of range.

    Example:
        >>> image, mask = render(0, 32, "scratch")
        >>> image.shape, mask.shape
        ((32, 32, 3), (32, 32))
    """
    if size_px < 32:
        raise ConfigError("must be at least 32", option="size_px", value=size_px)
    if defect is not None and defect not in DEFECTS:
        raise ConfigError(f"is unknown; choose one of {', '.join(DEFECTS)}", option="defect", value=defect)
    if severity is not None and not 0 <= severity <= 1:
        raise ConfigError("must be between 0 and 1", option="severity", value=severity)
    # Independent generators, so that a defect does not change the rest of the image.
    part = Part(Scene.draw(numpy_generator_for(seed, "scene")), numpy_generator_for(seed, "finish"), size_px)
    samples = np.zeros(part.radius.shape, np.bool_)
    if defect is not None:
        rng = numpy_generator_for(seed, "defect", defect)
        drawn = rng.uniform(_MIN_SEVERITY, 1.0)
        samples = DEFECTS[defect](part, rng, drawn if severity is None else max(severity, _MIN_SEVERITY))
    light = _photograph(part, numpy_generator_for(seed, "belt"))
    tiles = (size_px, SUPERSAMPLING, size_px, SUPERSAMPLING)
    image = _develop(light.reshape(3, *tiles).mean((2, 4)), numpy_generator_for(seed, "sensor"))
    # One sample marks a pixel, so that defects thinner than a pixel stay in the mask.
    mask = samples.reshape(tiles).mean((1, 3)) > 0.2
    return image, mask


def _photograph(part: Part, belt: Rng) -> Array:
    """Compute the linear light, (3, n, n), >= 0, of the part on a conveyor belt, one value per sample.

    Turned metal scatters light far across the turning marks and little along them, which makes the bright sectors of
    a turned face. The reflection is a Gaussian in the tilt of the mirroring facet.

    Source: Ward, Measuring and modeling anisotropic reflection, 1992.
    """
    steep = 1 / np.sqrt(1 + part.slope_x * part.slope_x + part.slope_y * part.slope_y)
    normal_x, normal_y = -part.slope_x * steep, -part.slope_y * steep
    across, along = np.square(part.across), np.square(part.along)
    mirrored = part.reflect * part.occlusion
    lamps = part.scene.lamps
    # Ambient light: brighter from above than from the side, brightest on the side of the first lamp.
    tilt = np.float32(0.85 / np.hypot(lamps[0].x, lamps[0].y))
    room = 1.0 + normal_x * (tilt * lamps[0].x) + normal_y * (tilt * lamps[0].y)
    room *= part.scene.ambient * steep * steep * mirrored
    light: Array = np.stack([room * np.float32(tint) for tint in (0.985, 1.0, 1.03)])
    for lamp in lamps:
        # The lamp is near, so the normal that mirrors it depends on the position.
        gap_x = (lamp.x - 0.055 * part.x) - normal_x
        gap_y = (lamp.y - 0.055 * part.y) - normal_y
        over = gap_x * part.grain_x + gap_y * part.grain_y
        past = gap_y * part.grain_x - gap_x * part.grain_y
        size = np.float32(lamp.size**2)
        lobe: Array = np.exp(-0.5 * (over * over / (across + size) + past * past / (along + size)), dtype=np.float32)
        lobe *= mirrored * np.float32(lamp.strength)
        for channel, tint in enumerate(lamp.colour):
            light[channel] += lobe * np.float32(tint)
    for window, opacity, colour in part.coats:
        # Coatings are matt: they scatter the light of the first lamp evenly.
        facing = part.slope_x[window] * lamps[0].x + part.slope_y[window] * lamps[0].y
        even = np.clip(steep[window] * (1 - 2.4 * facing), 0.1, 2) * part.occlusion[window]
        for channel in range(3):
            light[channel][window] += opacity * (even * colour[..., channel] - light[channel][window])
    ground = _belt(part, belt)
    for channel, tint in enumerate((1.0, 1.02, 1.06)):
        behind = ground * np.float32(tint)
        light[channel] = behind + part.matter * (light[channel] - behind)
    light *= np.float32(part.scene.exposure)
    return light


def _belt(part: Part, rng: Rng) -> Array:
    """Compute the light, (n, n), from the dark, rough conveyor belt below the part."""
    count = part.x.size
    grain = rng.standard_normal((count, count), dtype=np.float32)
    # Differences of neighbouring samples look like bumps lit from the upper left.
    bumps = grain - np.roll(grain, (1, 1), (0, 1))
    bumps = bumps + np.roll(bumps, 1, 1) + np.roll(bumps, 1, 0)
    cloud = smooth_noise(rng, count, count, 7, 5) + smooth_noise(rng, count, count, 97, 83)
    rubber = 0.042 * (1 + 0.05 * cloud + 0.105 * bumps)
    return np.maximum(rubber, np.float32(0.004)) * part.under


def _develop(light: Array, sensor: Rng) -> Array:
    """Convert linear light, (3, h, w), to an image, (h, w, 3): vignette, tone curve, sensor noise."""
    height, width = light.shape[1:]
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    vignette = 1 - 0.09 * (np.square(y)[:, None] + np.square(x)[None, :])
    exposed = (light * vignette).transpose(1, 2, 0) * np.float32(1.75)
    # The tone curve flattens towards white, so that highlights do not clip.
    image = np.sqrt(np.clip(exposed * (1 + 0.12 * exposed) / (1 + 0.75 * exposed), 0, None))
    # Shot noise grows with the square root of the light; after the square root above it is uniform.
    image += np.float32(0.008) * sensor.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image, 0, 1)


def write_product(
    folder: str | os.PathLike[str],
    seed: int,
    n_train: int = 120,
    n_test_good: int = 30,
    n_per_defect: int = 8,
    size_px: int = 256,
    progress: ProgressReporter = SILENT,
) -> Path:
    """Write a data set in the layout of MVTec AD.

    It holds ``train/good``, ``test/good``, ``test/<defect>`` and ``ground_truth/<defect>/<stem>_mask.png``. The folder
    appears only when it is complete. A folder that already holds the same data set is kept.

    Args:
        folder: Folder of the data set; it is made with its parents.
        seed: Seed of all images, >= 0. An image depends on the seed, its split, its defect and its number only.
        n_train: Number of normal training images.
        n_test_good: Number of normal test images.
        n_per_defect: Number of test images of each defect.
        size_px: Side of the images in pixels, >= 32.
        progress: Receives the progress.

    Returns:
        The folder.

    Raises:
        OutputError: The folder holds something else, or cannot be written.
        ConfigError: A number is out of range.

    Example:
        >>> folder = write_product("flange", seed=0, n_train=1, n_test_good=0, n_per_defect=0, size_px=32)
        >>> sorted(path.name for path in folder.iterdir())
        ['product.json', 'test', 'train']
    """
    folder = Path(folder)
    counts = {"n_train": n_train, "n_test_good": n_test_good, "n_per_defect": n_per_defect, "seed": seed}
    for name, count in counts.items():
        if count < 0:
            raise ConfigError("must not be negative", option=name, value=count)
    manifest = {"product": "flange", "version": _VERSION, **counts, "size_px": size_px, "defects": list(DEFECTS)}
    if _holds(folder, manifest):
        return folder
    jobs = list(_jobs(n_train, n_test_good, n_per_defect))
    draft: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        for split in ("train/good", "test/good"):
            (draft / split).mkdir(parents=True)
        for done, (split, defect, index) in enumerate(jobs, 1):
            _write_image(draft, split, defect, index, seed, size_px)
            progress.update(done, len(jobs))
        (draft / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        draft.chmod(0o755)
        if folder.is_dir():
            folder.rmdir()  # it is empty, or _holds() would have raised
        draft.rename(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {explain(error)}") from None
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def _jobs(n_train: int, n_test_good: int, n_per_defect: int) -> Iterator[tuple[str, str | None, int]]:
    """List split, defect and number of every image."""
    yield from (("train", None, index) for index in range(n_train))
    yield from (("test", None, index) for index in range(n_test_good))
    for defect in DEFECTS:
        yield from (("test", defect, index) for index in range(n_per_defect))


def _holds(folder: Path, manifest: dict[str, object]) -> bool:
    """Tell whether the folder holds this data set already; False if it is missing or empty.

    Raises:
        OutputError: The folder holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found != manifest:
        what = "another product data set" if isinstance(found, dict) else "something else"
        raise OutputError(f"{folder}: holds {what}; remove it or choose another folder")
    return True


def _write_image(folder: Path, split: str, defect: str | None, index: int, seed: int, size_px: int) -> None:
    kind = defect or "good"
    image, mask = render(seed_of(seed, split, kind, index), size_px, defect)
    _write_png(folder / split / kind / f"{index:03d}.png", np.rint(image * 255))
    if defect is not None:
        _write_png(folder / "ground_truth" / defect / f"{index:03d}_mask.png", mask * 255.0)


def _write_png(path: Path, values: Array) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path, compress_level=3)
