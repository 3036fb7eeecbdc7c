"""The closed form on products: fit, AUROC, certified AUROC, time per image. All settings are the defaults.

Each DATA is a product in the layout of MVTec AD; images are scaled to 256 px::

    python performance/closed_form.py DATA [DATA ...] --radii 2/255 --threads 2

With ``--normals 20,100,2000`` the time is measured as normal images grow: each product is fitted to so many copies of
its normal images, every copy with other noise, so that all differ. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import advrad
from advrad.data.images import read_resized
from advrad.data.layouts import find_records
from advrad.detectors.closed_form import ClosedFormDetector


def measure(
    data: Path, radii: tuple[str, ...], l2_radii: tuple[str, ...], limit: int | None, timed: int, size_px: int
) -> dict[str, Any]:
    """Fit, evaluate and certify one product."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        detector = advrad.train(data, Path(folder) / "run", size_px=size_px)
        fitted_s = time.perf_counter() - began
    metrics = advrad.evaluate(detector, data)
    certified: dict[str, float | None] = {}
    norms: tuple[tuple[Literal["linf", "l2"], tuple[str, ...]], ...] = (("linf", radii), ("l2", l2_radii))
    for norm, sizes in norms:
        if sizes:
            proven = advrad.certify(detector, data, norm=norm, radii=sizes, limit=limit)
            certified |= zip((f"{norm} {size}" for size in sizes), proven.certified_auroc.values(), strict=True)
    return {
        "product": data.name,
        "members": detector.config.training.winner,
        "fit_s": round(fitted_s, 3),
        "auroc": metrics.image_auroc,
        "auroc_interval": metrics.image_auroc_ci,
        "certified": certified,
        "found": metrics.tpr,
        "false_alarms": metrics.fpr,
        **_times(detector, data, timed),
    }


def _times(detector: ClosedFormDetector, data: Path, timed: int) -> dict[str, float]:
    """Median milliseconds of a verdict and of a certified one, batch size 1, and megabytes of the model folder."""
    images = [read_resized(record.path, detector.image_size_px)[None] for record in find_records(data).records[-timed:]]

    def median_ms(compute: Callable[[Tensor], object]) -> float:
        times = []
        for image in images:
            began = time.perf_counter()
            compute(image)
            times.append(1000 * (time.perf_counter() - began))
        return round(statistics.median(times), 1)

    with tempfile.TemporaryDirectory() as folder:
        detector.save_pretrained(folder)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    return {
        "image_ms": median_ms(detector.predict_batch),
        "certified_ms": median_ms(lambda image: detector.score_bounds(image, 2 / 255, "linf")),
        "model_mb": round(size / 1e6, 2),
    }


def measure_growth(data: Path, counts: Sequence[int], timed: int, size_px: int) -> list[dict[str, Any]]:
    """Fit one product to more and more normal images, and time verdicts."""
    normals = [record for record in find_records(data).records if record.split == "train"]
    images = torch.stack([read_resized(record.path, size_px) for record in normals])
    draws, rows = np.random.default_rng(0), []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            good = Path(folder) / "data" / "train" / "good"
            good.mkdir(parents=True)
            for index in range(count):
                image = images[index % len(images)]
                if index >= len(images):  # a mixture of two images, because copies would be left out
                    share = draws.uniform(0.3, 0.7)
                    image = share * image + (1 - share) * images[draws.integers(len(images))]
                pixels = image.permute(1, 2, 0).numpy()
                noisy = (255 * pixels + draws.normal(0, 1, pixels.shape)).round().clip(0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(good / f"{index:05}.png")
            began = time.perf_counter()
            detector = advrad.train(good.parent.parent, Path(folder) / "run", size_px=size_px)
            fitted_s = round(time.perf_counter() - began, 3)
        row = {"product": data.name, "normals": count, "members": detector.config.training.winner, "fit_s": fitted_s}
        rows.append(row | _times(detector, data, timed))
        print(rows[-1], flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure each product and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--radii", default="2/255", help="linf radii, separated by commas")
    parser.add_argument("--l2-radii", default="", help="l2 radii, separated by commas")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=None, help="number of test images that are certified")
    parser.add_argument("--timed", type=int, default=15, help="number of images whose time is taken")
    parser.add_argument("--size", type=int, default=256, help="side to which images are scaled, pixels")
    parser.add_argument("--normals", default="", help="numbers of normal images, separated by commas: times only")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    found: list[dict[str, Any]] = []
    counts = [int(part) for part in asked.normals.split(",") if part]
    for data in asked.data:
        if counts:
            found += measure_growth(data, counts, asked.timed, asked.size)
            continue
        radii, l2_radii = (tuple(filter(None, part.split(","))) for part in (asked.radii, asked.l2_radii))
        found.append(measure(data, radii, l2_radii, asked.limit, asked.timed, asked.size))
        print(found[-1], flush=True)
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
