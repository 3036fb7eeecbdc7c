"""RAE, a robust autoencoder, trained to encode and reconstruct attacked images like clean ones.

Each batch is attacked so that its latents move as far as the radius allows. The autoencoder then learns to reconstruct
the clean image from the attacked one and to keep their latents together: ``mean |x - dec(enc(x*))|^2 + weight * mean
|enc(x*) - enc(x)|^2``.

Two published methods may be meant by this name. This one is ARAE, which is designed against attacks. The robust deep
autoencoder of Zhou and Paffenroth 2017 ("Anomaly Detection with Robust Deep Autoencoders") splits a training set into a
compressible and a sparse part; it is robust against contaminated training data, not against attacks. With clean
training data it would be a plain autoencoder (:mod:`advrad.baselines.autoencoder`). Which of the two the AdvRAD paper
compares with could not be determined.

Differences from the paper: ARAE's latent passes through a sigmoid, which prevents small distances by shrinking all
latents. Here the latent is unbounded, and the distance is relative to the variance of the latents in the batch. The
network is convolutional, for larger images.

Source: Salehi et al. 2021, "ARAE: Adversarially robust training of autoencoders improves novelty detection" (Neural
Networks 144).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from advrad.baselines.autoencoder import Autoencoder, AutoencoderOptions, train_autoencoder
from advrad.baselines.base import FitContext, build_seeded, freeze
from advrad.baselines.features import Radius, adversarial_examples


class RaeOptions(AutoencoderOptions):
    """Options of ARAE; see :class:`AutoencoderOptions`.

    Attributes:
        attack_eps: Radius of the ``linf`` ball during training, in [0, 1] pixel units; 0.05 to 0.2 in the paper; 0
            trains without attack.
        attack_steps: Gradient steps of the attack on each batch; 20 to 40 in the paper.
        latent_weight: Weight of the distance between the latents; 0.1 in the paper.
    """

    attack_eps: Radius = 2 / 255
    attack_steps: int = Field(3, ge=1)
    latent_weight: float = Field(0.1, ge=0)
    steps: int = Field(500, ge=1)


def relative_distance(latents: Tensor, others: Tensor) -> Tensor:
    """Mean squared distance of latents, relative to the variance of ``others`` over the batch.

    Args:
        latents: Latents, (b, c, h, w).
        others: Latents to compare with, of the same shape.

    Returns:
        Distances, (b,). Scaling both inputs does not change them.
    """
    spread = others.var(0, correction=0).mean().clamp_min(1e-12)
    return (latents - others).square().mean((1, 2, 3)) / spread


def fit_rae(context: FitContext, options: RaeOptions) -> Autoencoder:
    """Train RAE on normal images and attacks on them."""
    system = build_seeded(context, "rae", lambda: Autoencoder(context.size_px, options))

    def loss(view: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            place = system.encode(view)
        attacked = adversarial_examples(
            lambda x: (system.encode(x) - place).square().mean((1, 2, 3)),
            view,
            options.attack_eps,
            options.attack_steps,
            generator,
        )
        latents = system.encode(attacked)
        error = (system.decode(latents) - view).square().mean()
        return error + options.latent_weight * relative_distance(latents, system.encode(view)).mean()

    train_autoencoder(system, context, loss)
    return freeze(system)
