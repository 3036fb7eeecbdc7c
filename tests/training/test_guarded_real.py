"""A guarded detector of a real product, as the command fits it: as good as its better half, and proofs that hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import advrad
from advrad.data.layouts import find_records
from advrad.detectors.guarded import GuardedDetector
from advrad.metrics import auroc

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_a_real_product_is_judged_as_well_as_by_the_better_half(shared_data: Path, tmp_path: Path) -> None:
    data = shared_data / "mvtec_ad" / "toothbrush"
    made = advrad.train(data, tmp_path / "run", features="patchcore", size_px=128)
    assert isinstance(made, GuardedDetector)
    assert len(made.memory.config.members) == 2 and made.tests[0].n >= 39, "the usual plans, on the usual images"
    records = [record for record in find_records(data).records if record.split == "test"]
    found = list(made.predict([record.path for record in records]))
    labels = np.array([record.label for record in records])
    areas = [auroc(labels, np.array([one.halves[place].score for one in found])) for place in (0, 1)]
    assert auroc(labels, np.array([one.score for one in found])) >= max(areas) - 0.02
    words = {str(one.verdict) for one in found}
    assert "defective, proven" in words and words & {"good", "good, memory proven"}
