"""Our PGD against that of foolbox and of the Adversarial Robustness Toolbox: never weaker, same steps and radius.

All three follow the same score, and what they find is scored with the same noise.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from broken_detectors import honest, labelled_images
from toolbox import TwoLogits, toolbox_pgd
from torch import Tensor, nn
from toy_models import TWO_VIEWS, detector

from advrad import metrics
from advrad.attacks.evaluation import ImageSet, evaluate_robustness
from advrad.attacks.plan import AttackPlan, AttackSpec
from advrad.attacks.threat import Norm, Threat
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.probing import validated_output
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.utils.seeding import seed_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # theirs, of their own dependencies
    import foolbox

STEPS = 40
SEED = 3

pytestmark = pytest.mark.filterwarnings("ignore")


def with_foolbox(target: AnomalyDetector, given: ImageSet, threat: Threat) -> Tensor:
    def loss(self: Any, model: Any, labels: Any) -> Callable[[Any], Any]:
        def value(inputs: Any) -> Any:
            own = -model(inputs).raw.gather(1, labels.raw[:, None]).sum()
            return foolbox.attacks.base.ep.astensor(own)

        return value

    base = foolbox.attacks.LinfPGD if threat.norm == "linf" else foolbox.attacks.L2PGD
    attack = type("Signed", (base,), {"get_loss_fn": loss})(steps=STEPS, random_start=True)
    model = foolbox.PyTorchModel(TwoLogits(target).eval(), bounds=(0, 1), device="cpu")
    torch.manual_seed(SEED)
    _, clipped, _ = attack(model, given.images, torch.from_numpy(given.labels), epsilons=threat.eps)
    return clipped


def with_toolbox(target: AnomalyDetector, given: ImageSet, threat: Threat) -> Tensor:
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    return toolbox_pgd(target, given.images, torch.from_numpy(given.labels), threat, STEPS)()


def ours() -> tuple[AnomalyDetector, ImageSet]:
    """Our detector, and images that it tells apart."""
    given = labelled_images(24)
    images = nn.functional.interpolate(given.images, size=(32, 32), mode="nearest")
    return WhiteBoxAdvRAD(detector(TWO_VIEWS)), ImageSet(images, given.labels, given.names)


def autoencoder() -> tuple[AnomalyDetector, ImageSet]:
    return honest(), labelled_images(24)


@pytest.mark.parametrize("peer", [with_foolbox, with_toolbox])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.01), ("l2", 0.25)])
@pytest.mark.parametrize("case", [ours, autoencoder])
def test_ours_is_never_weaker(
    case: Callable[[], tuple[AnomalyDetector, ImageSet]],
    norm: Norm,
    eps: float,
    peer: Callable[[AnomalyDetector, ImageSet, Threat], Tensor],
    tmp_path: Path,
) -> None:
    target, given = case()
    threat = Threat(norm=norm, eps=eps)
    plan = AttackPlan(threat=threat, members=(AttackSpec(attack="pgd", steps=STEPS),), seed=1)
    mine = evaluate_robustness(target, given, plan, tmp_path)
    found = peer(target, given, threat)
    assert (threat.distance(given.images, found) <= eps * 1.001).all(), "the peer must not cheat"
    noise = torch.Generator().manual_seed(seed_of(1, "score"))
    scores = validated_output(target, found, noise).scores.numpy()
    clean = np.array([row.clean for row in mine.rows])
    signs = np.where(given.labels == 0, 1, -1)
    assert (signs * (scores - clean)).mean() > 0, "the peer must attack in earnest"
    worst = np.array([row.worst for row in mine.rows])
    assert metrics.auroc(given.labels, scores) >= metrics.auroc(given.labels, worst) - 0.005
    # AUROC is coarse: the scores themselves must not be pushed any less.
    gained, theirs = (signs * (worst - clean)).mean(), (signs * (scores - clean)).mean()
    assert gained >= 0.97 * theirs


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.01), ("l2", 0.25)])
def test_gradients_in_bfloat16_are_not_weaker(norm: Norm, eps: float, tmp_path: Path) -> None:
    target, given = ours()
    assert isinstance(target, WhiteBoxAdvRAD)
    gains, areas = [], []
    for precise in (target, target.with_gradient_precision("bfloat16")):
        attacks = (AttackSpec(attack="pgd", steps=STEPS),)
        threat = Threat(norm=norm, eps=eps)
        plan = AttackPlan(threat=threat, attacks=attacks, gradient_precision=precise.gradient_precision)
        folder = tmp_path / precise.gradient_precision
        found = evaluate_robustness(target, given, plan, folder, gradient_detector=precise)
        gains.append(np.mean([abs(row.worst - row.clean) for row in found.rows]))
        areas.append(metrics.auroc(given.labels, np.array([row.worst for row in found.rows])))
    assert gains[0] > 0
    assert gains[1] >= 0.98 * gains[0]
    assert areas[1] <= areas[0] + 0.005
