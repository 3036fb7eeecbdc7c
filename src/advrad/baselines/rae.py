"""RAE, a robust autoencoder: one that learns to encode and restore attacked images as if they were not.

Each batch is attacked so that its latents move as far as the radius allows. The autoencoder then learns to restore the
clean image from the attacked one and to keep the latents together:
``mean |x - dec(enc(x*))|^2 + weight * mean |enc(x*) - enc(x)|^2``.

Two published methods may go by this name. This is ARAE, which is meant to withstand attacks. The robust deep
autoencoder of Zhou and Paffenroth 2017 ("Anomaly Detection with Robust Deep Autoencoders") splits a training set into
what can be compressed and a sparse rest. It is robust to spoilt training data, not to attacks on what is judged; here
all training images are good, so it would be a plain autoencoder (:mod:`advrad.baselines.autoencoder`). Which of them
the table of the AdvRAD paper means could not be looked up.

What differs from ARAE: its latent passes through a sigmoid, so that distances cannot be made small by shrinking all
latents. Ours is unbounded, and the distance is relative to the variance of the latents in the batch, which serves the
same end. And the network is a convolutional one for larger images.

Source: Salehi et al. 2021, "ARAE: Adversarially robust training of autoencoders improves novelty detection" (Neural
Networks 144).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from advrad.baselines.autoencoder import Autoencoder, AutoencoderOptions, begun, finished, learn
from advrad.baselines.base import FitContext
from advrad.baselines.features import Radius, worst


class RaeOptions(AutoencoderOptions):
    """Options of ARAE; see :class:`AutoencoderOptions`.

    Attributes:
        attack_eps: radius of the ``linf`` ball while training, in [0, 1] pixel units; the paper's 0.05 to 0.2. 0 trains
            plainly.
        attack_steps: gradient steps of the attack on each batch; the paper's 20 to 40.
        latent_weight: of the distance of the latents; the paper's 0.1.
    """

    attack_eps: Radius = 2 / 255
    attack_steps: int = Field(3, ge=1)
    latent_weight: float = Field(0.1, ge=0)
    steps: int = Field(500, ge=1)


def moved(latents: Tensor, others: Tensor) -> Tensor:
    """Mean squared distance of each pair of latents, relative to the variance between the rows of ``others``.

    Args:
        latents: (b, c, h, w).
        others: same shape.

    Returns:
        (b,). Scaling both leaves it as it is.
    """
    spread = others.var(0, correction=0).mean().clamp_min(1e-12)
    return (latents - others).square().mean((1, 2, 3)) / spread


def fit_rae(lesson: FitContext, options: RaeOptions) -> Autoencoder:
    """Train on normal images and attacks on them."""
    system = begun(lesson, "rae", lambda: Autoencoder(lesson.size_px, options))

    def loss(view: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            place = system.encode(view)
        attacked = worst(
            lambda x: (system.encode(x) - place).square().mean((1, 2, 3)),
            view,
            options.attack_eps,
            options.attack_steps,
            generator,
        )
        latents = system.encode(attacked)
        error = (system.decode(latents) - view).square().mean()
        return error + options.latent_weight * moved(latents, system.encode(view)).mean()

    learn(system, lesson, loss)
    return finished(system)
