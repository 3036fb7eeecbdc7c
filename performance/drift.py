"""How soon the service notices a change, and how often it raises an alarm without one.

First streams of numbers: a change of so many standard deviations, from the first number on or after a quiet run. Then
rendered images of the demonstration's product, one in thirty with a defect, whose light or focus changes::

    python performance/drift.py

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from advrad.serving.drift.product_watch import DriftSettings
from advrad.serving.drift.ranks import Bag
from advrad.serving.drift.sequential import ShiftTest
from advrad.utils.seeding import numpy_generator_for

Floats = npt.NDArray[np.float64]

REFERENCES = (20, 60, 200, 1000)
MOST = 1000
QUIET = 2000
#: Standard deviations by number of images since the change.
STEPS = {"1 sd": 1.0, "2 sd": 2.0, "every image wrong (5 sd)": 5.0}
RAMP = "ramp, 1 sd in 500 images"
NOTHING = "no change"
IMAGES, REFERENCE_IMAGES = 160, 60


@dataclass(frozen=True)
class Delay:
    """How soon a change was found.

    Attributes:
        median: Median number of images from the change to the alarm, of the streams that found it; None if none did.
        slowest: The 90 % quantile of it.
        found: Share of the streams that found it within ``MOST`` images.
    """

    median: float | None
    slowest: float | None
    found: float

    @classmethod
    def of(cls, delays: Sequence[int | None]) -> Delay:
        """Summarise the delays of some streams; None stands for a change that was not found."""
        found = [delay for delay in delays if delay is not None]
        if not found:
            return cls(None, None, 0.0)
        return cls(float(np.median(found)), float(np.quantile(found, 0.9)), len(found) / len(delays))

    def __str__(self) -> str:
        if self.median is None:
            return "-"
        rest = "" if self.found == 1 else f", {self.found:.0%} found"
        return f"{self.median:.0f} ({self.slowest:.0f}{rest})"


def shift_after(change: str, count: int) -> Floats:
    """The shift of each of the images since a change, in standard deviations."""
    if change == RAMP:
        return np.arange(1, count + 1) / 500
    return np.full(count, STEPS.get(change, 0.0))


def delay_of(change: str, reference: int, quiet: int, settings: DriftSettings, stream: int) -> int | None:
    """Number of images from a change to the alarm of a statistic; None if there was none, or one before the change."""
    generator = numpy_generator_for(settings.seed, "drift", change, reference, quiet, stream)
    test = ShiftTest(Bag(10 + generator.normal(size=reference)), settings.false_alarm_rate / 3, settings.other_share)
    shifts = np.concatenate([np.zeros(quiet), shift_after(change, MOST)])
    values = 10 + generator.normal(size=len(shifts)) + shifts
    for place, (value, tie) in enumerate(zip(values.tolist(), generator.random(len(shifts)).tolist(), strict=True)):
        if test.observe(value, tie, ""):
            return place - quiet + 1 if place >= quiet else None
    return None


def table_of_streams(settings: DriftSettings, streams: int) -> dict[str, dict[str, Delay]]:
    """Delays by change, and by size of the reference and quiet run."""
    rows: dict[str, dict[str, Delay]] = {}
    for change in (*STEPS, RAMP, NOTHING):
        row = {}
        for reference, quiet in [(size, 0) for size in REFERENCES] + [(REFERENCES[1], QUIET)]:
            delays = [delay_of(change, reference, quiet, settings, stream) for stream in range(streams)]
            row[f"{reference}, then {quiet} quiet" if quiet else str(reference)] = Delay.of(delays)
        rows[change] = row
        print(f"{change:28}" + "".join(f"{delay!s:>26}" for delay in row.values()), flush=True)
    return rows


def rendered_images(count: int, size_px: int) -> Floats:
    """Images of the demonstration's product, one in thirty of the later ones with a defect, (count, 3, s, s)."""
    from advrad.demo.flange.render import DEFECTS, render

    kinds, images = sorted(DEFECTS), []
    for seed in range(count):
        defective = seed >= REFERENCE_IMAGES and seed % 30 == 0
        image, _ = render(7000 + seed, size_px, kinds[seed % len(kinds)] if defective else None)
        images.append(image.transpose(2, 0, 1))
    return np.stack(images).astype(np.float32)


def changed(images: Floats, change: str) -> Floats:
    """The images with other light or focus."""
    import torch

    if change.startswith("lamp"):
        return np.asarray(images * (1 + float(change.split()[1]) / 100), dtype=np.float32).clip(0, 1)
    sigma = float(change.split()[1])
    taps = np.exp(-0.5 * (np.arange(-4, 5) / sigma) ** 2)
    kernel = torch.tensor(np.outer(taps, taps) / taps.sum() ** 2, dtype=torch.float32).repeat(3, 1, 1, 1)
    padded = torch.nn.functional.pad(torch.from_numpy(images), (4, 4, 4, 4), mode="replicate")
    return torch.nn.functional.conv2d(padded, kernel, groups=3).numpy()


def table_of_images(settings: DriftSettings, size_px: int) -> dict[str, dict[str, int | None]]:
    """Images until the alarm of brightness and of sharpness, by change of the camera; None if there was none."""
    import torch

    from advrad.data.picture_statistics import picture_statistics

    images = rendered_images(REFERENCE_IMAGES + IMAGES, size_px)
    rows: dict[str, dict[str, int | None]] = {}
    for change in ("lamp 0 %", "lamp -5 %", "lamp -10 %", "lamp -20 %", "blur 0.4 px", "blur 0.6 px", "blur 1 px"):
        later = changed(images[REFERENCE_IMAGES:], change)
        all_of = [picture_statistics(torch.from_numpy(one)) for one in (*images[:REFERENCE_IMAGES], *later)]
        rows[change] = {}
        for name in ("brightness", "sharpness"):
            values = [getattr(one, name) for one in all_of]
            test = ShiftTest(Bag(values[:REFERENCE_IMAGES]), settings.false_alarm_rate / 3, settings.other_share)
            ties = numpy_generator_for(settings.seed, change, name).random(IMAGES).tolist()
            stream = enumerate(zip(values[REFERENCE_IMAGES:], ties, strict=True), start=1)
            rows[change][name] = next((place for place, (v, tie) in stream if test.observe(v, tie, "")), None)
        print(f"{change:28}" + "".join(f"{'-' if k is None else k:>14}" for k in rows[change].values()), flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print tables and a line of JSON, and return the values of that line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=20, help="streams of each kind")
    parser.add_argument("--other-share", type=float, default=0.05, help="largest share of other images")
    parser.add_argument("--size", type=int, default=128, help="side of the rendered images, pixels")
    given = parser.parse_args(arguments)
    settings = DriftSettings(other_share=given.other_share)
    print("Images until the alarm: median (90 % quantile), by size of the reference\n")
    columns = [*map(str, REFERENCES), f"{REFERENCES[1]}, then {QUIET} quiet"]
    print(f"{'':28}" + "".join(f"{name:>26}" for name in columns))
    streams = table_of_streams(settings, given.streams)
    print(f"\nRendered images, {REFERENCE_IMAGES} of the calibration, until the alarm of\n")
    print(f"{'':28}{'brightness':>14}{'sharpness':>14}")
    images = table_of_images(settings, given.size)
    delays = {
        change: {name: [delay.median, delay.slowest, delay.found] for name, delay in row.items()}
        for change, row in streams.items()
    }
    result = {"benchmark": "drift", "other_share": given.other_share, "delays": delays, "images": images}
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
