"""The quick attack lowers the AUROC, within its radius."""

from __future__ import annotations

import numpy as np
import pytest
from toy_models import generator, random_denoiser, stack

import advrad.training.score_selection
import advrad.training.selection_attack
from advrad.attacks.threat import Threat
from advrad.training.score_candidates import ScoreObjective
from advrad.training.score_selection import select_score

SIZE_PX = 32


def test_the_auroc_falls_with_the_radius(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advrad.training.score_selection, "DEFECTS_PER_SELECTION", 48)
    normals = stack(9, SIZE_PX).batch(range(9))

    def left(eps: float) -> float:
        monkeypatch.setattr(advrad.training.selection_attack, "THREAT", Threat(norm="linf", eps=eps))
        objective = ScoreObjective("robust")
        selection = select_score(
            random_denoiser(), normals, normals, [SIZE_PX], generator(0), objective=objective, sigmas=[0.2]
        )
        return float(np.mean([value for _, value in selection.attacked]))

    clean, small, large = (left(eps) for eps in (0.0, 4 / 255, 64 / 255))
    assert clean > small > large
    assert large < 0.2
