"""Gradient evaluations per second of our PGD, beside the Adversarial Robustness Toolbox's, on the same detector.

Both follow the same score with the same number of steps on the same pictures, by turns in one run::

    python benchmarks/attack.py [--run RUN] [--rounds 3] [--steps 5] [--batch 4]

ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from predict import fresh_detector
from torch import Tensor, nn

from advrad.attacks import pgd
from advrad.detector import AdvRAD
from advrad.exposed import Exposed
from advrad.objectives import climbable, objective
from advrad.threat import Threat

THREAT = Threat(norm="linf", eps=2 / 255)


class _TwoLogits(nn.Module):
    """The detector as the toolbox takes it: a classifier of good and defective."""

    def __init__(self, target: Exposed) -> None:
        super().__init__()
        self.target = target
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, images: Tensor) -> Tensor:
        scores = self.target.judge(images, self.generator).scores
        return torch.stack([-scores, scores], dim=1)


def toolbox(target: Exposed, images: Tensor, steps: int) -> Any:
    """Its PGD, ready to be called."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.attacks.evasion import ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return -(logits * labels).sum()

    shape = tuple(images.shape[1:])
    classifier = PyTorchClassifier(_TwoLogits(target).eval(), loss, shape, 2, clip_values=(0, 1), device_type="cpu")
    attack = ProjectedGradientDescentPyTorch(
        classifier,
        norm=np.inf,
        eps=THREAT.eps,
        eps_step=THREAT.eps / 4,
        max_iter=steps,
        num_random_init=1,
        batch_size=len(images),
        verbose=False,
    )
    labels = np.eye(2, dtype=np.float32)[np.arange(len(images)) % 2]
    return lambda: attack.generate(images.numpy(), labels)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, and return what was printed as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a model folder; without it an untrained detector")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=256, help="of the untrained detector")
    options = parser.parse_args(arguments)
    detector = fresh_detector(options.size) if options.run is None else AdvRAD.from_pretrained(options.run)
    target = Exposed(detector)
    side = target.size_px
    images = torch.rand(options.batch, 3, side, side, generator=torch.Generator().manual_seed(1))
    signs = 1.0 - 2.0 * (torch.arange(options.batch) % 2)

    def ours(surrogate: str) -> Any:
        climbed = objective(target, signs, surrogate, torch.Generator().manual_seed(0))
        own = [torch.Generator().manual_seed(row) for row in range(options.batch)]
        return lambda: pgd(climbed, images, THREAT, own, options.steps)

    contestants = {"ours": ours("score"), "toolbox": toolbox(target, images, options.steps)}
    if "in turn" in climbable(target):
        contestants["ours, parts in turn"] = ours("in turn")
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
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
