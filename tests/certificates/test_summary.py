"""The figures of a certification."""

from __future__ import annotations

import numpy as np
import pytest

from advrad.certificates.evaluation import CertifyPlan, ImageCertificate
from advrad.certificates.summary import certified_auroc, summarize


def row(
    label: int, lower: float | None, upper: float | None, verdict: str, radius: float, draws: int = 16
) -> ImageCertificate:
    """A row whose bounds and verdict are the same at every radius."""
    radii = len(CertifyPlan(radii=(0.1,)).radius_grid)
    return ImageCertificate(
        name=f"{label}-{lower}-{upper}",
        label=label,
        score=lower or 0.0,
        lower=(lower,) * radii,
        upper=(upper,) * radii,
        verdicts=(verdict,) * radii,
        early=(verdict,),
        early_n_samples=(draws,),
        radius=radius,
        seconds=0.5,
    )


def test_a_tie_and_a_missing_bound_certify_nothing() -> None:
    good = [row(0, 0, 1.0, "abstain", 0), row(0, 0, 2.0, "abstain", 0), row(0, 0, None, "abstain", 0)]
    bad = [row(1, 1.0, 9, "abstain", 0), row(1, 3.0, 9, "abstain", 0), row(1, None, 9, "abstain", 0)]
    # Of nine pairs only 3 > 1 and 3 > 2.
    assert certified_auroc((*good, *bad), 0) == pytest.approx(2 / 9)
    assert certified_auroc(tuple(good), 0) is None


def test_shares_draws_and_radii() -> None:
    plan = CertifyPlan(radii=(0.1,), n_samples=64, threshold=0.0)
    rows = (
        row(1, 1, 2, "certified anomalous", 0.4),
        row(0, 1, 2, "certified anomalous", 0.9),  # certified, and wrong
        row(0, -2, -1, "certified normal", 0.2),
        row(1, -1, 1, "abstain", 0.0, draws=64),
    )
    found = summarize(rows, plan)
    assert found.verdicts is not None and found.curve.certified_right is not None
    shares = found.verdicts[0.1]
    assert (shares.right, shares.wrong, shares.abstained) == (0.5, 0.25, 0.25)
    assert shares.certified == shares.early_certified == 0.75
    assert shares.samples_saved == 1 - (16 + 16 + 16 + 64) / 4 / 64
    assert found.median_radius == np.median([0.4, 0, 0.2, 0])
    assert found.seconds == 2.0 and found.clean_auroc is not None
    assert len(found.curve.certified_right) == len(found.curve.radii)
