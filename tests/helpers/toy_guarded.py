"""A guarded detector of a small product: a closed form that sees dents, and an attackable half that also sees haze."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advrad.denoisers.memory_config import MemoryConfig
from advrad.denoisers.patch_memory import PatchMemory
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.closed_form_config import ClosedFormConfig, MemberConfig
from advrad.detectors.closed_form_member import ClosedFormMember
from advrad.detectors.config import Calibration
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.guarded_config import AttackableConfig, GuardedConfig
from advrad.detectors.guarded_tests import divide_slots, make_tests
from advrad.detectors.views import WholeConfig, WholeView
from advrad.detectors.wrappers import wrap

SIZE_PX, CELL_PX = 32, 4
EPS = 2 / 255
RATE = 0.1
#: Number of normal images that set the thresholds.
N = 59


def normals(count: int, seed: int) -> Tensor:
    """Normal images, (count, 3, 32, 32): a fixed shape, light that differs a little, noise of the sensor."""
    draws = torch.Generator().manual_seed(seed)
    rows = torch.linspace(0.3, 0.6, SIZE_PX)
    light = 0.01 * torch.randn(count, 1, 1, 1, generator=draws)
    noise = 0.004 * torch.randn(count, 3, SIZE_PX, SIZE_PX, generator=draws)
    return (rows[None, None, :, None] + light + noise).clamp(0, 1)


def dents(count: int, seed: int, depth: float = 0.3) -> Tensor:
    """Images with a bright square, which both halves see."""
    images = normals(count, seed)
    images[:, :, 8:16, 12:20] += depth
    return images.clamp(0, 1)


def haze(count: int, seed: int) -> Tensor:
    """Images with a faint chequered area, which averages out in the cells of the memory."""
    images = normals(count, seed)
    chequered = 1 - 2 * ((torch.arange(16)[:, None] + torch.arange(16)) % 2)
    images[:, :, 8:24, 8:24] += 2.5 / 255 * chequered
    return images


class Contrast(nn.Module):
    """Score and map: how much pixels differ from those around them. Two levels in every pixel move it at will."""

    def maps(self, images: Tensor) -> Tensor:
        around = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
        return F.avg_pool2d((images - around).square().mean(1, keepdim=True), 9, stride=1, padding=4)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = 1e3 * self.maps(images)
        return maps.flatten(1).amax(1), maps


class NoisyContrast(Contrast):
    """The same with strong noise of its own, so that single draws mislead."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(images + 0.3 * torch.randn(images.shape[1:]))


def closed_form(images: Tensor) -> ClosedFormDetector:
    """A memory of normal images, without a threshold."""
    side = SIZE_PX // CELL_PX
    view = WholeView(WholeConfig(size_px=SIZE_PX, cell_px=CELL_PX))
    shape = MemoryConfig(height_cells=side, width_cells=side, patch_cells=3, window_cells=(1, 1))
    member = MemberConfig(view=view.config, memory=shape)
    zero = torch.zeros(1, 1, side - 2, side - 2)
    memory = PatchMemory(shape, PatchMemory.quantised(view.sheets(images)[:, 0]), torch.arange(len(images)))
    config = ClosedFormConfig(members=(member,), image_size_px=SIZE_PX)
    return ClosedFormDetector(config, [ClosedFormMember(member, view, memory, zero, zero.clone())]).eval()


def guarded(
    *others: AnomalyDetector, ceiling: float = -0.5, rate: float = RATE, beyond: tuple[float, ...] | None = None
) -> GuardedDetector:
    """A guarded detector of these halves, :class:`Contrast` if there are none, with its tests.

    Args:
        others: Attackable halves; their names are ``half``, ``half 2`` and so on.
        ceiling: Ceiling of their surprise in the score.
        rate: Rate of false alarms of all halves together.
        beyond: What each half gets of the slots beyond one, see ``divide_slots``; None for the same.
    """
    parts = others or (wrap(Contrast(), deterministic=True),)
    names = ["half" if place == 0 else f"half {place + 1}" for place in range(len(parts))]
    memory, held = closed_form(normals(16, 0)), normals(N, 1)
    slots = divide_slots(N, rate, beyond or (1,) * (1 + len(parts)))
    scores, maxima = [], []
    for part in (memory, *parts):
        output = part.infer(held, torch.Generator().manual_seed(0))
        assert output.anomaly_maps is not None
        scores.append(output.scores.detach().double().numpy())
        maxima.append(output.anomaly_maps.detach().amax((1, 2, 3)).double().numpy())
    config = GuardedConfig(
        memory=memory.config,
        others=tuple(AttackableConfig(name=name) for name in names),
        tests=make_tests(scores, maxima, slots, leaves_one_out=False),
        ceiling=ceiling,
        joint=True,
        calibration=Calibration(threshold=0.0, false_alarm_rate=rate, n=N, heat_low=0.0, heat_high=1.0),
    )
    return GuardedDetector(config, memory, dict(zip(names, parts, strict=True))).eval()
