"""The PGD of the Adversarial Robustness Toolbox on our detectors: a peer, for a benchmark and for the tests."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from advrad.attacks.threat import Threat
from advrad.detectors.base import AnomalyDetector

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # theirs, of their own dependencies
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier


class TwoLogits(nn.Module):
    """A detector as a classifier: good, defective. Every call has new noise."""

    def __init__(self, target: AnomalyDetector) -> None:
        super().__init__()
        self.target = target
        self.generator = torch.Generator().manual_seed(5)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, 2), the score and its negative."""
        scores = self.target.infer(images, self.generator).scores
        return torch.stack([-scores, scores], dim=1)


def toolbox_pgd(
    target: AnomalyDetector, images: Tensor, labels: Tensor, threat: Threat, steps: int
) -> Callable[[], Tensor]:
    """The toolbox's PGD, ready to be called: it gives back the attacked images.

    Args:
        target: to be misled.
        images: (b, c, h, w) in [0, 1].
        labels: (b,) 0 for normal images, whose score is to rise, and 1 for defective ones.
        threat: what is allowed.
        steps: gradient evaluations per image.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return -(logits * labels).sum()  # they come one-hot

    classifier = PyTorchClassifier(
        TwoLogits(target).eval(), loss, tuple(images.shape[1:]), 2, clip_values=(0, 1), device_type="cpu"
    )
    attack = ProjectedGradientDescentPyTorch(
        classifier,
        norm=np.inf if threat.norm == "linf" else 2,
        eps=threat.eps,
        eps_step=2.5 * threat.eps / steps,
        max_iter=steps,
        num_random_init=1,
        batch_size=len(images),
        verbose=False,
    )
    one_hot = np.eye(2, dtype=np.float32)[labels.numpy()]
    return lambda: torch.from_numpy(attack.generate(images.numpy(), one_hot))
