"""How long a guarded detector takes for one image: its score, map and word, and the word with its proof.

    python performance/guarded.py RUN DATA [--threads 2] [--images 24]

Test images are read first, and taken one after the other. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advrad.data.images import read_resized
from advrad.data.layouts import find_records
from advrad.detectors.guarded import GuardedDetector


def milliseconds(compute: Callable[[Tensor], object], images: Sequence[Tensor]) -> dict[str, float]:
    """Median and largest time of one image."""
    times = []
    for image in images:
        began = time.perf_counter()
        compute(image)
        times.append(1000 * (time.perf_counter() - began))
    return {"median_ms": round(float(np.median(times)), 1), "largest_ms": round(max(times), 1)}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Time one detector and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="model folder of a guarded detector")
    parser.add_argument("data", type=Path, help="folder of images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=24, help="test images whose time is taken, at least 2")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    detector = GuardedDetector.from_pretrained(asked.run)
    records = [record for record in find_records(asked.data).records if record.split == "test"]
    if min(asked.images, len(records)) < 2:  # the memory keeps what it found for the last image
        parser.error("two test images at least are needed: one alone would be searched for only once")
    drawn = sorted(set(np.linspace(0, len(records) - 1, asked.images).astype(int).tolist()))
    images = [read_resized(records[place].path, detector.image_size_px)[None] for place in drawn]
    detector.verdicts(images[-1])  # the first search prepares the memory
    ways: dict[str, Callable[[Tensor], object]] = {
        "score, map and word": detector.predict_batch,
        "with the proof": detector.verdicts,
        "memory alone": detector.memory.predict_batch,
    }
    for name, half in detector.others.items():
        if hasattr(half, "predict_batch"):
            ways[f"{name} alone"] = half.predict_batch
    found: dict[str, Any] = {"run": asked.run.name, "images": len(images), "threads": asked.threads}
    for name, compute in ways.items():
        found[name] = milliseconds(compute, images)
        print(f"{name:20} median {found[name]['median_ms']:.0f} ms, largest {found[name]['largest_ms']:.0f} ms")
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
