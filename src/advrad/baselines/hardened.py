"""Adversarially trained detectors: CFA and FastFlow that learn from attacked normal images.

Each batch of normal images is first made as anomalous as the radius allows, by projected gradient ascent of the model's
own loss, which says over all positions how unlike the good ones they are; then the model learns that these are normal.
As in the models' own papers the ImageNet network is frozen: what is trained stands behind it. A radius of 0 trains
plainly, the control.

Source: the adversarially trained baselines of Cao, Lin, Chen, "Adversarially Robust Industrial Anomaly Detection
Through Diffusion Model"; training as in Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial
Attacks".
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from advrad.baselines.base import FitContext, descend
from advrad.baselines.cfa import Cfa
from advrad.baselines.fastflow import FastFlow
from advrad.baselines.features import Radius, frozen, imagenet, worst
from advrad.utils.config import Config


class HardenedOptions(Config):
    """Options of adversarial training.

    Attributes:
        model: what is trained.
        attack_eps: radius of the ``linf`` ball while training, in [0, 1] pixel units; 0 trains plainly.
        attack_steps: gradient steps of the attack on each batch.
        layers: of the network (:func:`advrad.baselines.features.imagenet`).
        steps: of training. The models' papers take 30 (CFA) and 500 (FastFlow) epochs.
        batch_size: images in each.
        learning_rate: at the beginning.
    """

    model: Literal["cfa", "fastflow"] = "cfa"
    attack_eps: Radius = 2 / 255
    attack_steps: int = Field(3, ge=1)
    layers: tuple[int, ...] = Field((2, 3), min_length=1)
    steps: int = Field(100, ge=1)
    batch_size: int = Field(4, ge=1)
    learning_rate: float = Field(1e-3, gt=0)


def fit_hardened(lesson: FitContext, options: HardenedOptions, network: nn.Module | None = None) -> Cfa | FastFlow:
    """Train.

    Args:
        lesson: what to learn from.
        options: see there.
        network: see :mod:`advrad.baselines.features`; by default :func:`imagenet`.
    """
    network = frozen(imagenet(options.layers) if network is None else network)
    first = lesson.generator("hardened", options.model)
    system: Cfa | FastFlow
    with torch.random.fork_rng(devices=[]):  # what PyTorch draws for new layers is drawn anew from `first`
        if options.model == "cfa":
            system = Cfa(lesson.size_px, network, lesson.images(), first)
        else:
            system = FastFlow(lesson.size_px, network, first)

    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        attacked = worst(system.losses, images, options.attack_eps, options.attack_steps, generator)
        return system.losses(attacked).mean()

    descend(
        loss,
        system.trained(),
        lesson,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
    )
    return system.eval().requires_grad_(False)
