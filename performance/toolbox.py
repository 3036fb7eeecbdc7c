"""The PGD of the Adversarial Robustness Toolbox for our detectors, as a reference in a benchmark and in the tests."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from advrad.attacks.threat import Threat
from advrad.detectors.base import AnomalyDetector

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # warnings about the dependencies of the toolbox
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier


class TwoLogits(nn.Module):
    """A detector as a classifier with the classes normal and anomalous. Every call draws new noise."""

    def __init__(self, target: AnomalyDetector) -> None:
        super().__init__()
        self.target = target
        self.generator = torch.Generator().manual_seed(5)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits, (b, 2): the negative score and the score."""
        scores = self.target.infer(images, self.generator).scores
        return torch.stack([-scores, scores], dim=1)


def toolbox_pgd(
    target: AnomalyDetector, images: Tensor, labels: Tensor, threat: Threat, steps: int
) -> Callable[[], Tensor]:
    """Prepare the toolbox's PGD.

    Args:
        target: Detector to attack.
        images: Images, (b, c, h, w), in [0, 1].
        labels: Labels, (b,): 0 for normal images (the score is raised), 1 for anomalous images (it is lowered).
        threat: Norm and radius.
        steps: Number of gradient evaluations per image.

    Returns:
        Function that runs the attack and returns the adversarial images.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return -(logits * labels).sum()  # the toolbox passes one-hot labels

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
