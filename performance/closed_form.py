"""The closed form on products: fit, AUROC, certified AUROC, time per image. All settings are the defaults.

Each DATA is a product in the layout of MVTec AD; images are scaled to 256 px::

    python performance/closed_form.py DATA [DATA ...] --radii 2/255 --threads 2

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import advrad
from advrad.data.images import read_resized
from advrad.data.layouts import find_records


def measure(data: Path, radii: tuple[str, ...], limit: int | None, timed: int, size_px: int) -> dict[str, Any]:
    """Fit, evaluate and certify one product."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        detector = advrad.train(data, Path(folder) / "run", size_px=size_px)
        fitted_s = time.perf_counter() - began
    metrics = advrad.evaluate(detector, data)
    proven = advrad.certify(detector, data, norm="linf", radii=radii, limit=limit)
    times = []
    for record in find_records(data).records[-timed:]:
        image = read_resized(record.path, detector.image_size_px)[None]
        began = time.perf_counter()
        detector.predict_batch(image)
        times.append(1000 * (time.perf_counter() - began))
    return {
        "product": data.name,
        "members": detector.config.training.winner,
        "fit_s": round(fitted_s, 3),
        "auroc": metrics.image_auroc,
        "auroc_interval": metrics.image_auroc_ci,
        "certified": dict(zip(radii, proven.certified_auroc.values(), strict=True)),
        "found": metrics.tpr,
        "false_alarms": metrics.fpr,
        "image_ms": round(statistics.median(times), 1),
    }


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure each product and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--radii", default="2/255", help="linf radii, separated by commas")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=None, help="number of test images that are certified")
    parser.add_argument("--timed", type=int, default=15, help="number of images whose time is taken")
    parser.add_argument("--size", type=int, default=256, help="side to which images are scaled, pixels")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    found = []
    for data in asked.data:
        found.append(measure(data, tuple(asked.radii.split(",")), asked.limit, asked.timed, asked.size))
        print(found[-1], flush=True)
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
