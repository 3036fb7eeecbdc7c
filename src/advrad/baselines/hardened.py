"""Adversarially trained detectors: CFA and FastFlow that are trained on attacked normal images.

In every step projected gradient ascent first maximises the model's own loss over the batch of normal images; the model
then learns that these images are normal. As in the papers of both models the ImageNet network is frozen; only the parts
behind it are trained. With a radius of 0 the training is ordinary, which serves as the control.

Source: the adversarially trained baselines of Cao, Lin, Chen, "Adversarially Robust Industrial Anomaly Detection
Through Diffusion Model"; training as in Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial
Attacks".
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from advrad.baselines.base import FitContext, freeze, train_network
from advrad.baselines.cfa import Cfa
from advrad.baselines.fastflow import FastFlow
from advrad.baselines.features import Radius, adversarial_examples, imagenet_network
from advrad.utils.config import Config


class HardenedOptions(Config):
    """Options of adversarial training.

    Attributes:
        model: Model to train.
        attack_eps: Radius of the ``linf`` ball during training, in [0, 1] pixel units; 0 trains without attack.
        attack_steps: Gradient steps of the attack on each batch.
        layers: Feature maps of the network, see :func:`advrad.baselines.features.imagenet_network`.
        steps: Number of training steps. The papers train for 30 (CFA) and 500 (FastFlow) epochs.
        batch_size: Number of images per step.
        learning_rate: Initial learning rate.
    """

    model: Literal["cfa", "fastflow"] = "cfa"
    attack_eps: Radius = 2 / 255
    attack_steps: int = Field(3, ge=1)
    layers: tuple[int, ...] = Field((2, 3), min_length=1)
    steps: int = Field(100, ge=1)
    batch_size: int = Field(4, ge=1)
    learning_rate: float = Field(1e-3, gt=0)


def fit_hardened(context: FitContext, options: HardenedOptions, network: nn.Module | None = None) -> Cfa | FastFlow:
    """Train the model on attacked normal images.

    Args:
        context: Training images.
        options: Options of the training.
        network: Feature network, see :mod:`advrad.baselines.features`; None for :func:`imagenet_network`.
    """
    network = freeze(imagenet_network(options.layers) if network is None else network)
    first = context.generator("hardened", options.model)
    system: Cfa | FastFlow
    with torch.random.fork_rng(devices=[]):  # `first` draws all initial weights; PyTorch's own draws are discarded
        if options.model == "cfa":
            system = Cfa(context.size_px, network, context.images(), first)
        else:
            system = FastFlow(context.size_px, network, first)

    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        attacked = adversarial_examples(system.losses, images, options.attack_eps, options.attack_steps, generator)
        return system.losses(attacked).mean()

    train_network(
        loss,
        system.trainable_parameters(),
        context,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
    )
    return freeze(system)
