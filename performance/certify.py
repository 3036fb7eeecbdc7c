"""Noise samples per second of the two-path certificate, for several batch sizes.

All batch sizes are measured in alternation::

    python performance/certify.py [--run RUN] [--rounds 5] [--draws 64]

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from predict import fresh_detector

from advrad.certificates.smoothing import batch_size_on
from advrad.certificates.two_path import TwoPath
from advrad.detectors.advrad import AdvRAD

AT_ONCE = (1, 2, 4, 8, 16, 32, 64)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, and return the values of the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="model folder; an untrained detector by default")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each batch size")
    parser.add_argument("--draws", type=int, default=64, help="noise samples per measurement")
    parser.add_argument("--device", default="cpu", help="device of the detector")
    parser.add_argument("--size", type=int, default=256, help="input size of the untrained detector, pixels")
    options = parser.parse_args(arguments)
    detector = fresh_detector(options.size) if options.run is None else AdvRAD.from_pretrained(options.run)
    detector = detector.to(options.device)
    side = detector.size_px
    image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(1))
    candidates = [count for count in AT_ONCE if count <= options.draws]
    times: dict[int, list[float]] = {count: [] for count in candidates}
    for round_ in range(options.rounds + 1):
        for count in candidates:
            sampler = TwoPath(detector, batch_size=count)
            start = time.perf_counter()
            sampler.sample(image, (0.2,), options.draws, torch.Generator().manual_seed(0))
            if round_:  # the first is a warm-up
                times[count].append(time.perf_counter() - start)
    rates = {count: options.draws / statistics.median(values) for count, values in times.items()}
    chosen = batch_size_on(detector.device)
    best = max(rates, key=lambda count: rates[count])
    result = {
        "draws_per_s": {str(count): round(rate, 2) for count, rate in rates.items()},
        "best": best,
        "ratio_to_best": round(rates.get(chosen, rates[best]) / rates[best], 2),
        "size_px": side,
    }
    for count, rate in rates.items():
        print(f"{count:3} at once {rate:8.2f} draws/s" + ("  default" if count == chosen else ""))
    print(f"speed of the default, relative to the best {result['ratio_to_best']:8.2f}")
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
