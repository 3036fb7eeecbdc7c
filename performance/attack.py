"""Gradient evaluations per second of our PGD and of the Adversarial Robustness Toolbox's PGD on the same detector.

Both attack the same score with the same number of steps on the same images, in alternation::

    python performance/attack.py [--run RUN] [--rounds 3] [--steps 5] [--batch 4]

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from predict import fresh_detector
from toolbox import toolbox_pgd

from advrad.attacks.base import AttackInput
from advrad.attacks.objectives import available_objectives, make_objective
from advrad.attacks.projected_gradient import pgd
from advrad.attacks.threat import Threat
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.utils.precision import takes_bfloat16

THREAT = Threat(norm="linf", eps=2 / 255)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, and return the values of the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="model folder; an untrained detector by default")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each attack")
    parser.add_argument("--steps", type=int, default=5, help="attack steps")
    parser.add_argument("--batch", type=int, default=4, help="images per batch")
    parser.add_argument("--size", type=int, default=256, help="input size of the untrained detector, pixels")
    options = parser.parse_args(arguments)
    detector = fresh_detector(options.size) if options.run is None else AdvRAD.from_pretrained(options.run)
    target = WhiteBoxAdvRAD(detector)
    side = target.size_px
    images = torch.rand(options.batch, 3, side, side, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(options.batch) % 2
    signs = 1.0 - 2.0 * labels

    def ours(surrogate: str, target: WhiteBoxAdvRAD = target) -> Callable[[], object]:
        objective = make_objective(target, signs, surrogate, torch.Generator().manual_seed(0))
        own = [torch.Generator().manual_seed(row) for row in range(options.batch)]
        return lambda: pgd(AttackInput(objective, images, THREAT, own, options.steps))

    theirs = toolbox_pgd(target, images, labels, THREAT, options.steps)
    contestants: dict[str, Callable[[], object]] = {"ours": ours("score"), "toolbox": theirs}
    if "in turn" in available_objectives(target):
        contestants["ours, parts in turn"] = ours("in turn")
    if takes_bfloat16("auto", torch.device("cpu")):  # the default of advrad attack on such processors
        contestants["ours, bfloat16"] = ours("score", target.with_gradient_precision("bfloat16"))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(options.rounds + 1):
        for name, attack in contestants.items():
            start = time.perf_counter()
            attack()
            if round_:  # the first is a warm-up
                times[name].append(time.perf_counter() - start)
    work = options.steps * options.batch
    rates = {name: work / statistics.median(values) for name, values in times.items()}
    result = {
        "gradients_per_s": {name: round(rate, 2) for name, rate in rates.items()},
        "ratio": round(rates["ours"] / rates["toolbox"], 2),
        "size_px": side,
        "batch": options.batch,
        "steps": options.steps,
    }
    for name, rate in rates.items():
        print(f"{name:24} {rate:8.2f} gradients/s")
    print(f"ratio to the toolbox     {result['ratio']:8.2f}")
    if "ours, bfloat16" in rates:
        result["ratio_bfloat16"] = round(rates["ours, bfloat16"] / rates["toolbox"], 2)
        print(f"with bfloat16            {result['ratio_bfloat16']:8.2f}")
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
