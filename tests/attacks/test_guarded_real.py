"""A real product on a proven floor: attacks on features stay inside the bounds, and leave proven defects defective."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import advrad
from advrad.data.images import read_resized
from advrad.data.labelled import load_labelled
from advrad.training.closed_form import fit_closed_form
from advrad.training.closed_form_plan import COARSE
from advrad.training.feature_fit import fit_features

EPS = 2 / 255
SIZE_PX = 128

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_attacks_on_real_features_break_no_proof(shared_data: Path) -> None:
    data = shared_data / "mvtec_ad" / "toothbrush"
    paths = sorted((data / "train" / "good").iterdir())
    normals = torch.stack([read_resized(path, SIZE_PX) for path in paths])
    small = COARSE.model_copy(update={"sheets": 16, "size_px": SIZE_PX})
    memory = fit_closed_form(normals, [small], false_alarm_rate=0.1)
    features = fit_features(normals[:20], network="lite0", layers=(2,))
    detector = advrad.guard(features, memory, normals[20:], false_alarm_rate=0.2, ceiling=-1.0)
    found = load_labelled(data, SIZE_PX, limit=6)
    given, labels = (found.images, found.labels.tolist()), torch.from_numpy(found.labels)
    certain = detector.score_bounds(found.images, EPS, "linf").lower > 0
    assert certain[labels == 1].any()
    for surrogate in ("score", "features", "memory", "verdict"):
        result = advrad.attack(detector, given, attack="pgd", surrogate=surrogate, steps=4)
        assert result.bounds is not None and result.bounds.violations == ()
        for row, held in zip(result.rows, certain, strict=True):
            assert row.defective or not (row.label and held), (surrogate, row.name)
    alone = advrad.attack(features, given, attack="pgd", steps=40)
    assert alone.robust_auroc == 0, "the attack works where there is no floor"
