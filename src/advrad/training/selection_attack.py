"""A quick attack on a score, to rank candidate scores. It is much weaker than the attacks of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from advrad.attacks.auto_pgd import apgd
from advrad.attacks.base import AttackInput
from advrad.attacks.threat import Threat
from advrad.denoisers.base import Denoiser
from advrad.detectors.score_config import ScoreConfig
from advrad.detectors.scoring import MapStatistics, standardise, view_error_maps
from advrad.metrics import auroc
from advrad.utils.seeding import generator_for

THREAT = Threat(norm="linf", eps=2 / 255)
STEPS = 2
#: Largest number of normal and of anomalous images that are attacked.
IMAGES = (10, 20)
_BATCH_SIZE = 8


def auroc_under_attack(
    denoiser: Denoiser,
    normals: Tensor,
    anomalous: Tensor,
    config: ScoreConfig,
    statistics: Sequence[MapStatistics],
    noise_seed: int,
) -> float:
    """Measure the AUROC of a few normal and anomalous images under a quick attack.

    The attacked images are scored with other noise than the attack used.

    Args:
        denoiser: Trained denoiser, in evaluation mode; its parameters are frozen during the attack.
        normals: Normal images, (n, 3, s, s) float in [0, 1]; the first few are attacked.
        anomalous: Anomalous images, (m, 3, s, s) float in [0, 1]; the first few are attacked.
        config: Score.
        statistics: Statistics of each error map of the score.
        noise_seed: Seed of the noise.

    Returns:
        The AUROC under attack.
    """
    images = torch.cat([normals[: IMAGES[0]], anomalous[: IMAGES[1]]])
    labels = np.repeat([0, 1], [min(len(normals), IMAGES[0]), min(len(anomalous), IMAGES[1])])
    # The attack raises the scores of normal images and lowers those of anomalous ones.
    signs = torch.from_numpy(1.0 - 2.0 * labels).float()
    device = denoiser.device

    def score(images: Tensor, generator: torch.Generator) -> Tensor:
        maps = [
            raw
            for view in config.views
            for raw in view_error_maps(denoiser, images.to(device), view, config, generator)[0]
        ]
        parts = [standardise(raw, normal, config)[0] for raw, normal in zip(maps, statistics, strict=True)]
        return torch.stack(parts).mean(0).cpu()

    scores = []
    with _frozen(denoiser):
        for start in range(0, len(images), _BATCH_SIZE):
            part, sign = images[start : start + _BATCH_SIZE], signs[start : start + _BATCH_SIZE]
            noise = generator_for(noise_seed, "attack noise")
            own = [generator_for(noise_seed, "attack", start + row) for row in range(len(part))]

            def objective(images: Tensor, sign: Tensor = sign, noise: torch.Generator = noise) -> Tensor:
                return sign * score(images, noise)

            attacked = apgd(AttackInput(objective, part, THREAT, own, STEPS)).images
            with torch.no_grad():
                scores.append(score(attacked, torch.Generator().manual_seed(noise_seed)))
    return auroc(labels, torch.cat(scores).double().numpy())


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Compute no gradients of the parameters meanwhile; they would take a third of the time."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
