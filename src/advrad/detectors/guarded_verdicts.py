"""The verdicts of a guarded detector in words, and the bounds that prove some of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from advrad.detectors.base import ScoreBounds
from advrad.detectors.guarded_config import HalfTest
from advrad.detectors.guarded_output import GuardedOutput, in_units, resized
from advrad.detectors.guarded_tests import p_value, surprise
from advrad.detectors.verdicts import HalfReport, ImageVerdict, Verdict, word_of
from advrad.errors import DetectorError


@dataclass(frozen=True, slots=True)
class GuardedBounds(ScoreBounds):
    """Scores of b images, bounds that no perturbation within a radius can leave, and what they prove.

    Attributes:
        words: The verdicts at that radius, b.
    """

    words: tuple[Verdict, ...] = ()


def guarded_bounds(
    output: GuardedOutput, memory: ScoreBounds, test: HalfTest, ceiling: float, size_px: int
) -> GuardedBounds:
    """Bound the scores of a guarded detector, whatever its other halves say.

    Args:
        output: What it gives for b images.
        memory: Bounds of the memory's scores.
        test: Test of the memory.
        ceiling: Largest surprise of the other halves that counts in the score.
        size_px: Side of the maps.
    """
    speaks = _given(output.speaks)
    words = []
    for row, failed in enumerate(_failed(output)):
        words.append(
            word_of(
                memory_speaks=bool(speaks[row, 0]),
                others_speak=bool(speaks[row, 1:].any()),
                failed=failed,
                lower=float(memory.lower[row]),
                upper=float(memory.upper[row]),
                threshold=test.threshold,
            )
        )
    return GuardedBounds(
        scores=output.scores,
        lower=surprise(memory.lower, test),
        upper=surprise(memory.upper, test).clamp_min(ceiling),
        lower_map=resized(in_units(memory.lower_map, test), size_px),
        words=tuple(words),
    )


def image_verdict(
    output: GuardedOutput, row: int, names: Sequence[str], tests: Sequence[HalfTest], bounds: ScoreBounds | None
) -> ImageVerdict:
    """The verdict on one image.

    Args:
        output: What the detector gives for b images.
        row: Position of the image.
        names: Names of the halves, the memory first.
        tests: Their tests.
        bounds: Bounds of the memory's score of this image; None to prove nothing.
    """
    reports = [_report(output, row, place, name, tests[place]) for place, name in enumerate(names)]
    failed = [report for report in reports if report.error is not None]
    if bounds is not None:
        reports[0] = replace(reports[0], lower=float(bounds.lower), upper=float(bounds.upper))
    memory, *others = reports
    word = word_of(
        memory_speaks=memory.speaks,
        others_speak=any(report.speaks for report in others),
        failed=bool(failed),
        lower=memory.lower,
        upper=memory.upper,
        threshold=memory.threshold,
    )
    return ImageVerdict(
        word=word,
        score=float(output.scores[row]),
        halves=tuple(reports),
        anomaly_map=_given(output.anomaly_maps)[row, 0],
        half_maps=tuple(maps[row, 0] for maps in output.half_maps),
        reason="; ".join(f"{report.name} failed: {report.error}" for report in failed) or None,
    )


def _report(output: GuardedOutput, row: int, place: int, name: str, test: HalfTest) -> HalfReport:
    """What a half says about an image, without bounds."""
    error = output.errors[place][row]
    if error is not None:
        return HalfReport(name, math.nan, test.threshold, 0.0, True, error)
    score = float(_given(output.half_scores)[row, place])
    return HalfReport(name, score, test.threshold, p_value(test, score), score > test.threshold)


def _failed(output: GuardedOutput) -> list[bool]:
    """Whether a half failed, by image."""
    return [any(error is not None for error in errors) for errors in zip(*output.errors, strict=True)]


def _given(part: Tensor | None) -> Tensor:
    if part is None:
        raise DetectorError("the output of a guarded detector must be complete; use that of GuardedDetector")
    return part
