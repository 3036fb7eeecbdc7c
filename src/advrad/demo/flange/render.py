"""A made-up product: photographs of a machined flange, good ones and defective ones.

It gives the detector something to learn where no data set is at hand. The images are drawn, not recorded:
a shape with turning marks, holes and an engraving, lit by three area lights. Good parts differ in pose,
light, finish, belt and sensor noise; a defective part differs from its good twin only by its defect.

The same seed gives the same image on the same kind of machine; on another one the last bit of a pixel may
differ.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from advrad.demo.flange.defects import DEFECTS
from advrad.demo.flange.fields import Array, Mask, Rng, smooth_noise
from advrad.demo.flange.surface import SUPERSAMPLING, Part, Setting
from advrad.errors import ConfigError, OutputError
from advrad.utils.progress import SILENT, ProgressReporter

__all__ = ["DEFECTS", "render", "write_product"]

# Raise it with every change that alters pixels: a folder written by another version is not reused.
_VERSION = 1
_MANIFEST = "product.json"
# Independent streams of chance, so that a defect does not disturb what the good twin draws.
_SETTING, _FINISH, _BELT, _SENSOR, _DEFECT = range(5)
# No defect is milder than this: even the mildest can be seen at 128 px.
_MILDEST = 0.12


def render(
    seed: int | np.random.SeedSequence,
    size_px: int = 256,
    defect: str | None = None,
    severity: float | None = None,
) -> tuple[Array, Mask]:
    """Photograph one part.

    Args:
        seed: the part, its pose and its light; with and without defect it is the same part.
        size_px: side of the square image, at least 32.
        defect: a key of ``DEFECTS``, or None for a good part.
        severity: from 0, subtle but visible, to 1, plain; None draws it from the seed.

    Returns:
        The image (size_px, size_px, 3) in [0, 1], and the mask (size_px, size_px), True on the defect.

    Raises:
        ConfigError: an argument is unknown or out of range.
    """
    if size_px < 32:
        raise ConfigError(f"size_px: {size_px} is too small for the product; use at least 32")
    if defect is not None and defect not in DEFECTS:
        raise ConfigError(f"defect: {defect!r} is unknown; choose one of {', '.join(DEFECTS)}")
    if severity is not None and not 0 <= severity <= 1:
        raise ConfigError(f"severity: {severity} is not between 0 and 1")
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    part = Part(Setting.draw(_stream(root, _SETTING)), _stream(root, _FINISH), size_px)
    samples = np.zeros(part.radius.shape, np.bool_)
    if defect is not None:
        rng = _stream(root, _DEFECT, zlib.crc32(defect.encode()))
        drawn = rng.uniform(_MILDEST, 1.0)
        samples = DEFECTS[defect](part, rng, drawn if severity is None else max(severity, _MILDEST))
    light = _photograph(part, _stream(root, _BELT))
    tiles = (size_px, SUPERSAMPLING, size_px, SUPERSAMPLING)
    image = _develop(light.reshape(3, *tiles).mean((2, 4)), _stream(root, _SENSOR))
    # One sample is enough: a defect thinner than a pixel must not lose its pixels.
    mask = samples.reshape(tiles).mean((1, 3)) > 0.2
    return image, mask


def _stream(root: np.random.SeedSequence, *key: int) -> Rng:
    child = np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, *key))
    return np.random.Generator(np.random.PCG64(child))


def _photograph(part: Part, belt: Rng) -> Array:
    """Linear light (3, n, n), >= 0, of the part on its belt, one value for every sample.

    Turned metal scatters a lamp far across the marks and little along them, which makes the bright sectors
    of a lathe-turned face. The lobe is a Gaussian in the tilt of the mirroring facet (Ward 1992).
    """
    steep = 1 / np.sqrt(1 + part.slope_x * part.slope_x + part.slope_y * part.slope_y)
    normal_x, normal_y = -part.slope_x * steep, -part.slope_y * steep
    across, along = np.square(part.across), np.square(part.along)
    mirrored = part.reflect * part.occlusion
    lamps = part.setting.lamps
    # Everything but the lamps: brighter overhead than at the horizon, brightest on the first lamp's side.
    tilt = np.float32(0.85 / np.hypot(lamps[0].x, lamps[0].y))
    room = 1.0 + normal_x * (tilt * lamps[0].x) + normal_y * (tilt * lamps[0].y)
    room *= part.setting.ambient * steep * steep * mirrored
    light: Array = np.stack([room * np.float32(tint) for tint in (0.985, 1.0, 1.03)])
    for lamp in lamps:
        # The lamp is near: the normal that mirrors it depends on the place.
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
        # What lies on the metal is matt: it scatters the first lamp's light evenly.
        facing = part.slope_x[window] * lamps[0].x + part.slope_y[window] * lamps[0].y
        even = np.clip(steep[window] * (1 - 2.4 * facing), 0.1, 2) * part.occlusion[window]
        for channel in range(3):
            light[channel][window] += opacity * (even * colour[..., channel] - light[channel][window])
    ground = _belt(part, belt)
    for channel, tint in enumerate((1.0, 1.02, 1.06)):
        behind = ground * np.float32(tint)
        light[channel] = behind + part.matter * (light[channel] - behind)
    light *= np.float32(part.setting.exposure)
    return light


def _belt(part: Part, rng: Rng) -> Array:
    """Light (n, n) from the dark, rough rubber below the part."""
    count = part.x.size
    grain = rng.standard_normal((count, count), dtype=np.float32)
    # Differences of neighbours: bumps lit from the upper left.
    bumps = grain - np.roll(grain, (1, 1), (0, 1))
    bumps = bumps + np.roll(bumps, 1, 1) + np.roll(bumps, 1, 0)
    cloud = smooth_noise(rng, count, count, 7, 5) + smooth_noise(rng, count, count, 97, 83)
    rubber = 0.042 * (1 + 0.05 * cloud + 0.105 * bumps)
    return np.maximum(rubber, np.float32(0.004)) * part.under


def _develop(light: Array, sensor: Rng) -> Array:
    """From linear light (3, h, w) to an image (h, w, 3): vignette, tone curve, noise."""
    height, width = light.shape[1:]
    x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    vignette = 1 - 0.09 * (np.square(y)[:, None] + np.square(x)[None, :])
    exposed = (light * vignette).transpose(1, 2, 0) * np.float32(1.75)
    # The shoulder keeps highlights from clipping.
    image = np.sqrt(np.clip(exposed * (1 + 0.12 * exposed) / (1 + 0.75 * exposed), 0, None))
    # Shot noise grows with the light; after the square root it is even.
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

    ``train/good``, ``test/good``, ``test/<defect>`` and ``ground_truth/<defect>/<stem>_mask.png``. The folder
    appears as a whole or not at all. One that already holds this very data set is kept as it is.

    Args:
        folder: the data set's own folder, made with its parents.
        seed: >= 0; every image follows from it, its split, its defect and its number alone.
        n_train: normal images to train on.
        n_test_good: normal images to test on.
        n_per_defect: images of each defect.
        size_px: side of the images.
        progress: Receives the progress.

    Returns:
        The folder.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
        ConfigError: a number is out of range.
    """
    folder = Path(folder)
    counts = {"n_train": n_train, "n_test_good": n_test_good, "n_per_defect": n_per_defect, "seed": seed}
    for name, count in counts.items():
        if count < 0:
            raise ConfigError(f"{name}: {count} is negative")
    manifest = {
        "product": "flange",
        "version": _VERSION,
        **counts,
        "size_px": size_px,
        "defects": list(DEFECTS),
    }
    if _holds(folder, manifest):
        return folder
    jobs = list(_jobs(n_train, n_test_good, n_per_defect))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
    try:
        for split in ("train/good", "test/good"):
            (draft / split).mkdir(parents=True)
        for done, (split, defect, index) in enumerate(jobs, 1):
            key = (zlib.crc32(split.encode()), zlib.crc32((defect or "good").encode()), index)
            image, mask = render(np.random.SeedSequence(seed, spawn_key=key), size_px, defect)
            stem = f"{index:03d}"
            _write_png(draft / split / (defect or "good") / f"{stem}.png", np.rint(image * 255))
            if defect is not None:
                _write_png(draft / "ground_truth" / defect / f"{stem}_mask.png", mask * 255.0)
            progress.update(done, len(jobs))
        (draft / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        draft.chmod(0o755)
        if folder.is_dir():
            folder.rmdir()  # empty, or _holds() had raised
        draft.rename(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _jobs(n_train: int, n_test_good: int, n_per_defect: int) -> Iterator[tuple[str, str | None, int]]:
    """Split, defect and number of every image."""
    yield from (("train", None, index) for index in range(n_train))
    yield from (("test", None, index) for index in range(n_test_good))
    for defect in DEFECTS:
        yield from (("test", defect, index) for index in range(n_per_defect))


def _holds(folder: Path, manifest: dict[str, object]) -> bool:
    """Whether the folder already holds this data set; False where it is missing or empty."""
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


def _write_png(path: Path, values: Array) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path, compress_level=3)
