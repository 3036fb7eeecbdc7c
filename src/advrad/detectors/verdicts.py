"""The words of a verdict, and what each half of a guarded detector says about an image.

A guarded detector has a memory, whose score can be bounded, and other halves, which an attack may fool. The word of the
verdict says which of them spoke, and what no attack within the radius could have changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Verdict(StrEnum):
    """The verdict on an image in words.

    Attributes:
        PROVEN_DEFECTIVE: The memory calls every image within the radius defective.
        DEFECTIVE: The memory calls the image defective, or a half failed and could not say.
        SUSPECTED: Only halves that an attack may fool call the image defective.
        GOOD: No half calls the image defective.
        PROVEN_GOOD: No half calls the image defective, and no image within the radius would be one for the memory: no
            perturbation hides a defect from it that it sees.

    Example:
        >>> Verdict.SUSPECTED.defective, str(Verdict.PROVEN_GOOD)
        (True, 'good, memory proven')
    """

    PROVEN_DEFECTIVE = "defective, proven"
    DEFECTIVE = "defective"
    SUSPECTED = "suspected"
    GOOD = "good"
    PROVEN_GOOD = "good, memory proven"

    @property
    def defective(self) -> bool:
        """Whether the image is called defective."""
        return self not in (Verdict.GOOD, Verdict.PROVEN_GOOD)


@dataclass(frozen=True, slots=True)
class HalfReport:
    """What one half of a guarded detector says about an image.

    Attributes:
        name: Name of the half; that of the memory is ``memory``.
        score: Its score; NaN if it failed.
        threshold: Its threshold.
        p_value: Share of normal images whose score is at least as large, see :func:`p_value`; 0 if it failed.
        speaks: Whether it calls the image defective: score > threshold, or it failed.
        error: Why it failed; None if it did not.
        lower: Lower bound of the score within the radius; None for a half without bounds, or if none were asked for.
        upper: Upper bound of the score within the radius; None as for ``lower``.

    Example:
        >>> HalfReport("memory", score=2.5, threshold=2.0, p_value=0.01, speaks=True).error is None
        True
    """

    name: str
    score: float
    threshold: float
    p_value: float
    speaks: bool
    error: str | None = None
    lower: float | None = None
    upper: float | None = None


def word_of(
    *,
    memory_speaks: bool,
    others_speak: bool,
    failed: bool = False,
    lower: float | None = None,
    upper: float | None = None,
    threshold: float = 0.0,
) -> Verdict:
    """Find the word for what the halves say about an image.

    Args:
        memory_speaks: Whether the memory's score exceeds its threshold.
        others_speak: Whether another half calls the image defective.
        failed: Whether a half failed.
        lower: Lower bound of the memory's score within the radius; None if there is none, and nothing is proven.
        upper: Upper bound of the memory's score within the radius; None as for ``lower``.
        threshold: Threshold of the memory.

    Example:
        >>> word_of(memory_speaks=True, others_speak=False, lower=1.2, upper=1.9, threshold=1.0)
        <Verdict.PROVEN_DEFECTIVE: 'defective, proven'>
        >>> word_of(memory_speaks=False, others_speak=True, lower=0.1, upper=0.4, threshold=1.0)
        <Verdict.SUSPECTED: 'suspected'>
    """
    if lower is not None and lower > threshold:
        return Verdict.PROVEN_DEFECTIVE
    if memory_speaks or failed:
        return Verdict.DEFECTIVE
    if others_speak:
        return Verdict.SUSPECTED
    return Verdict.PROVEN_GOOD if upper is not None and upper <= threshold else Verdict.GOOD


@dataclass(frozen=True, slots=True)
class ImageVerdict:
    """The verdict of a guarded detector on an image.

    Attributes:
        word: The verdict.
        score: Score of the image.
        halves: What each half says, the memory first.
        anomaly_map: Anomaly map, (size, size).
        half_maps: Map of each half, (size, size), 0 where it starts to glow and 1 where normal images rarely are.
        reason: Why a half failed; None if none did.

    Example:
        >>> import torch
        >>> ImageVerdict(Verdict.GOOD, -1.2, (), torch.zeros(8, 8)).reason is None
        True
    """

    word: Verdict
    score: float
    halves: tuple[HalfReport, ...]
    anomaly_map: Tensor
    half_maps: tuple[Tensor, ...] = ()
    reason: str | None = None
