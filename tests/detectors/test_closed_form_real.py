"""Bounds of the closed form on real products: no attack and no random sign leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import advrad
from advrad.data.images import read_resized
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.training.closed_form import fit_closed_form
from advrad.training.closed_form_plan import COARSE, FINE, REGISTERED, TEXTURE, MemberPlan

EPS = 2 / 255
SMALL = {"sheets": 12, "patches": 2000}
PRODUCTS = {
    "mvtec_ad/toothbrush": (COARSE, FINE),
    "mvtec_ad/bottle": (COARSE.with_gain(),),
    "mvtec_ad/grid": (TEXTURE,),
    "mvtec_ad/screw": (REGISTERED,),
    "visa/macaroni1": (REGISTERED,),
}


def read(paths: Sequence[Path]) -> Tensor:
    return torch.stack([read_resized(path, 256) for path in paths])


def fitted(folder: Path, plans: Sequence[MemberPlan]) -> ClosedFormDetector:
    paths = sorted((folder / "train" / "good").iterdir())[:32]
    aspect = 1.5 if folder.name == "macaroni1" else 1.0
    small = [plan.model_copy(update=SMALL) for plan in plans]
    return fit_closed_form(read(paths), small, aspect=aspect)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("product", PRODUCTS)
def test_nothing_leaves_the_bounds(shared_data: Path, product: str) -> None:
    folder = shared_data / product
    detector = fitted(folder, PRODUCTS[product])
    normal = sorted((folder / "test" / "good").iterdir())[:1]
    anomalous = [path for path in sorted((folder / "test").glob("*/*")) if path.parent.name != "good"][:1]
    images = read([*normal, *anomalous])
    bounds = detector.score_bounds(images, EPS, "linf")
    assert bool((bounds.lower < bounds.scores).all()) and bool((bounds.scores < bounds.upper).all())
    result = advrad.attack(detector, (images, [0, 1]), norm="linf", eps=EPS, budget="quick")
    half = detector.score_bounds(images, EPS / 3, "linf")
    worst = torch.tensor([row.worst for row in result.rows])
    assert bool((bounds.lower <= worst).all()) and bool((worst <= bounds.upper).all())
    assert bool((half.lower > worst).any()) or bool((worst > half.upper).any()), "a third is too narrow"
    draws = torch.Generator().manual_seed(0)
    for _ in range(5):
        scores = detector.infer(images + EPS * torch.randn(images.shape, generator=draws).sign()).scores
        assert bool((bounds.lower <= scores).all()) and bool((scores <= bounds.upper).all())
