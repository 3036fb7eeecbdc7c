"""A quick attack on a score, so that scores can be ranked by what it leaves of them.

It is weak, for it must be quick; what a detector withstands is for an audit to say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from advrad.attacks.auto_pgd import apgd
from advrad.attacks.base import AttackInput
from advrad.attacks.threat import Threat
from advrad.denoisers.base import Denoiser
from advrad.detectors.scoring import MapStatistics, ScoreConfig, look_maps, standardise
from advrad.metrics import auroc

THREAT = Threat(norm="linf", eps=2 / 255)
STEPS = 2
#: At most so many are attacked, of the normal ones and of the defective ones.
IMAGES = (10, 20)


def auroc_under_attack(
    denoiser: Denoiser,
    normals: Tensor,
    defective: Tensor,
    config: ScoreConfig,
    statistics: Sequence[MapStatistics],
    noise_seed: int,
) -> float:
    """AUROC of a few normal and anomalous images under attack, judged on noise that the attack has not seen.

    Args:
        denoiser: trained, in evaluation mode; its parameters are frozen meanwhile.
        normals: (n, 3, s, s) in [0, 1]; the first few are attacked.
        defective: (m, 3, s, s) in [0, 1]; the first few are attacked.
        config: the score.
        statistics: one per error map of the score.
        noise_seed: of the noise, the attack's and the judge's.
    """
    images = torch.cat([normals[: IMAGES[0]], defective[: IMAGES[1]]])
    labels = np.repeat([0, 1], [min(len(normals), IMAGES[0]), min(len(defective), IMAGES[1])])
    signs = torch.from_numpy(1.0 - 2.0 * labels).float()
    device = next(denoiser.parameters()).device

    def scores(images: Tensor, generator: torch.Generator) -> Tensor:
        parts, index = [], 0
        for look in config.looks:
            maps, _ = look_maps(denoiser, images.to(device), look, config, generator)
            for raw in maps:
                parts.append(standardise(raw, statistics[index], config)[0])
                index += 1
        return torch.stack(parts).mean(0).cpu()

    frozen = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    found = []
    try:
        for parameter in frozen:  # their gradients would cost a third of the time
            parameter.requires_grad_(False)
        for part, sign, row in zip(
            torch.split(images, 8), torch.split(signs, 8), range(0, len(images), 8), strict=True
        ):
            noise = torch.Generator().manual_seed(noise_seed + 1)
            own = [torch.Generator().manual_seed(noise_seed + 2 + row + i) for i in range(len(part))]

            def climbed(images: Tensor, sign: Tensor = sign, noise: torch.Generator = noise) -> Tensor:
                return sign * scores(images, noise)

            worst = apgd(AttackInput(climbed, part, THREAT, own, STEPS)).images
            with torch.no_grad():
                found.append(scores(worst, torch.Generator().manual_seed(noise_seed)))
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return auroc(labels, torch.cat(found).double().numpy())
