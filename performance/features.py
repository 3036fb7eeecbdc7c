"""How settings of the detector on features compare, on held-out normal images with synthetic defects; and its speed.

    python performance/features.py DATA

No test image is used. Half of the normal images are described; the other half are scored as they are and with pasted
defects, of families that no training uses. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advrad.data.images import read_resized
from advrad.data.layouts import find_records
from advrad.detectors.feature_memory import FeatureDetector
from advrad.metrics import auroc
from advrad.training.feature_fit import fit_features
from advrad.training.score_selection import with_defects
from advrad.utils.seeding import generator_for

#: Settings by name: arguments of the fit, and what is changed in the configuration afterwards.
SETTINGS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": ({}, {}),
    "no smoothing": ({}, {"smoothing": 1}),
    "smoothing over 5 x 5": ({}, {"smoothing": 5}),
    "3 neighbours": ({}, {"neighbours": 3}),
    "layers 2 and 4": ({"layers": (2, 4)}, {}),
    "layers 1, 2 and 3": ({"layers": (1, 2, 3)}, {}),
    "lite0": ({"network": "lite0"}, {}),
    "fixed positions": ({"leave_one_out": True}, {}),
    "fixed positions, no smoothing": ({"leave_one_out": True}, {"smoothing": 1}),
}


def read(data: Path, size_px: int, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normal images for the fit and others, (n, 3, s, s) each; at most ``most`` in all, drawn at random."""
    paths = [record.path for record in find_records(data).records if record.split == "train" and not record.label]
    drawn = torch.randperm(len(paths), generator=generator_for(0, "features"))[:most].tolist()
    images = torch.stack([read_resized(paths[place], size_px) for place in drawn])
    return images[::2], images[1::2]


def median_ms(detector: FeatureDetector, image: torch.Tensor, rounds: int) -> float:
    """Median duration of the score of one image, in milliseconds."""
    taken = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        detector.predict_batch(image)
        taken.append(1000 * (time.perf_counter() - start))
    return float(np.median(taken[1:]))


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Compare the settings on one product and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of images")
    parser.add_argument("--size", type=int, default=256, help="side of the images, pixels")
    parser.add_argument("--images", type=int, default=80, help="normal images, at most")
    parser.add_argument("--rounds", type=int, default=5, help="timed scores of one image")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    asked = parser.parse_args(arguments)
    known, normals = read(asked.data, asked.size, asked.images)
    anomalous, _ = with_defects(normals, generator_for(0, "defects"))
    labels = [0] * len(normals) + [1] * len(anomalous)
    found: dict[str, Any] = {"images": len(known), "normal": len(normals), "anomalous": len(anomalous), "settings": {}}
    for name in asked.settings:
        fitting, changes = SETTINGS[name]
        start = time.perf_counter()
        detector = fit_features(known, **fitting)
        fitted_s = time.perf_counter() - start
        detector.update_config(**changes)
        scores = detector.predict_batch(torch.cat([normals, anomalous])).scores
        figures = {
            "auroc": round(auroc(labels, scores.numpy()), 4),
            "fit_s": round(fitted_s, 2),
            "score_ms": round(median_ms(detector, normals[:1], asked.rounds), 1),
            "vectors": len(detector.bank),
        }
        found["settings"][name] = figures
        print(f"{name:30} AUROC {figures['auroc']:.3f}, fit {fitted_s:.1f} s, score {figures['score_ms']:.0f} ms")
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
