"""What to do where a threshold finds far fewer defects than the scores allow, or raises more alarms than promised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advrad.data.splits import normals_needed, rate_in_reach
from advrad.detectors.config import Calibration
from advrad.detectors.conformal import conformal_threshold
from advrad.inference.half_scores import HalfScores
from advrad.utils.formatting import percent

Floats = npt.NDArray[np.float64]

#: Rates that are proposed.
RATES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
# Fewest normal test images that say something about a threshold.
_LEAST_NORMAL = 10
# Least difference in the share of defects found that is worth another threshold.
_WORTH = 0.1
# Largest probability with which chance alone may explain a difference.
_CHANCE = 0.05

_DIFFERENT = (
    " The normal test images differ from those of the calibration, for example in light, camera or framing;"
    " `advrad data inspect DATA` compares them. Where new images will be like these, add some of them to the"
    " normal images and train again."
)


@dataclass(frozen=True, slots=True)
class ThresholdAdvice:
    """A reason to set the threshold again, in words, and the rate to set it with.

    Attributes:
        text: What was found, what to do, and what to expect of it.
        rate: False-alarm rate to calibrate with; None if no rate helps.
    """

    text: str
    rate: float | None


@dataclass(frozen=True, slots=True)
class _Trade:
    """What a threshold does on the test images."""

    threshold: float
    found: int
    anomalous: int
    alarms: int
    normal: int

    @classmethod
    def at(cls, threshold: float, normal: Floats, anomalous: Floats) -> _Trade:
        above = [int((scores > threshold).sum()) for scores in (anomalous, normal)]
        return cls(threshold, above[0], anomalous.size, above[1], normal.size)

    @property
    def tpr(self) -> float:
        """Share of the defects that are found."""
        return self.found / self.anomalous if self.anomalous else 0.0

    @property
    def fpr(self) -> float:
        """Share of the normal images that are false alarms."""
        return self.alarms / self.normal

    @property
    def words(self) -> str:
        """Both shares in words."""
        alarms = f"{percent(self.fpr)} false alarms ({self.alarms} of {self.normal}{self._interval()})"
        if not self.anomalous:
            return alarms
        return f"{percent(self.tpr)} of the defects found ({self.found} of {self.anomalous}) and {alarms}"

    def _interval(self) -> str:
        """The interval of Clopper and Pearson, in words."""
        from scipy.special import betaincinv

        alarms, others = self.alarms, self.normal - self.alarms
        low = float(betaincinv(alarms, others + 1, 0.025)) if alarms else 0.0
        high = float(betaincinv(alarms + 1, others, 0.975)) if others else 1.0
        return f"; 95 % interval {percent(low)} to {percent(high)}"


def advise_on_threshold(
    labels: npt.ArrayLike, scores: npt.ArrayLike, calibration: Calibration
) -> ThresholdAdvice | None:
    """Say whether the threshold should be set again, judged by test images.

    There is advice in two cases, both by an exact binomial test: more false alarms than the threshold promises, or far
    fewer defects found than by another threshold with no more false alarms than promised.

    Args:
        labels: Labels, (n,): 0 for normal, 1 for anomalous.
        scores: Scores, (n,), finite.
        calibration: Threshold, its rate, and where they are recorded the scores that it comes from.

    Returns:
        The advice; None where there is nothing to say, or too few normal images to say it.

    Example:
        >>> scores = [0.1 * value for value in range(20)] + [3.0] * 8
        >>> old = Calibration(threshold=5.0, false_alarm_rate=0.05, n=39, heat_low=0.5, heat_high=5.0)
        >>> advise_on_threshold([0] * 20 + [1] * 8, scores, old).rate
        0.1
    """
    anomalous, values = np.asarray(labels).astype(bool), np.asarray(scores, dtype=np.float64)
    normal, defects = values[~anomalous], values[anomalous]
    if normal.size < _LEAST_NORMAL:
        return None
    now = _Trade.at(calibration.threshold, normal, defects)
    if _chance_of_more(now.alarms, now.normal, calibration.false_alarm_rate) <= _CHANCE:
        return _too_many_alarms(now, normal, defects, calibration)
    if defects.size:
        return _too_few_found(now, normal, defects, calibration)
    return None


def advise_on_halves(labels: npt.ArrayLike, halves: HalfScores) -> ThresholdAdvice | None:
    """Say whether a guarded detector raises more false alarms than its tests promise, judged by test images.

    Args:
        labels: Labels, (n,): 0 for normal, 1 for anomalous.
        halves: Scores of the halves.

    Returns:
        The advice, without a rate, because the tests of the halves are set together; None where there is nothing to
        say, or too few normal images to say it.

    Example:
        >>> one = np.ones(2)
        >>> halves = HalfScores(("memory", "features"), np.ones((20, 2)), np.array([2.0, 0.0]), 0.025 * one, one)
        >>> advise_on_halves([0] * 20, halves).text.split(";")[0]
        '20 of 20 normal test images (100 %) are false alarms'
    """
    normal = ~np.asarray(labels).astype(bool)
    count = int(normal.sum())
    if count < _LEAST_NORMAL:
        return None
    alarms, promised = int(halves.defective[normal].sum()), float(halves.rates.sum())
    speaks = halves.counted[normal].sum(0).tolist()
    # One question for the whole and one for each half, so each is asked more strictly.
    limit = _CHANCE / (1 + len(halves.names))
    chances = [_chance_of_more(number, count, rate) for number, rate in zip(speaks, halves.rates.tolist(), strict=True)]
    chance = min(_chance_of_more(alarms, count, promised), *chances)
    if chance > limit:
        return None
    parts = [
        f"{name} raises {number}, and its test promises at most {percent(rate)}"
        for name, number, rate in zip(halves.names, speaks, halves.rates.tolist(), strict=True)
    ]
    return ThresholdAdvice(
        f"{alarms} of {count} normal test images ({percent(alarms / count)}) are false alarms; the tests of the halves"
        f" promise at most {percent(promised)} together: {'; '.join(parts)}. That is more than chance explains (exact"
        f" binomial test, p = {chance:.2g}).{_DIFFERENT}",
        None,
    )


def _chance_of_more(alarms: int, normal: int, rate: float) -> float:
    """Probability of so many false alarms, or more, at a rate: the exact binomial test."""
    from scipy.special import betainc  # scipy.stats has it too, but takes a second to load

    return float(betainc(alarms, normal - alarms + 1, rate)) if alarms else 1.0


def _chance_of_more_at_drawn_rate(alarms: int, normal: int, above: int, below: int) -> float:
    """The same where the rate is itself drawn from a beta distribution with these two parameters."""
    from scipy.special import betaln, gammaln

    many = np.arange(alarms, normal + 1)
    ways = gammaln(normal + 1) - gammaln(many + 1) - gammaln(normal - many + 1)
    return float(np.exp(ways + betaln(many + above, normal - many + below) - betaln(above, below)).sum())


def _too_many_alarms(now: _Trade, normal: Floats, defects: Floats, calibration: Calibration) -> ThresholdAdvice:
    promised, n = calibration.false_alarm_rate, calibration.n
    chance = _chance_of_more(now.alarms, now.normal, promised)
    text = (
        f"{now.alarms} of {now.normal} normal test images ({percent(now.fpr)}) are false alarms; the threshold promises"
        f" at most {percent(promised)}. That is more than chance explains (exact binomial test, p = {chance:.2g})."
    )
    # The rate of a threshold from n images is itself a draw, whose mean is the promised rate.
    above = max(1, math.floor((n + 1) * promised + 1e-9))
    if _chance_of_more_at_drawn_rate(now.alarms, now.normal, above, n + 1 - above) > _CHANCE:
        text += (
            f" The threshold comes from {n} images only, which can explain it: the rate holds on average over such sets"
            " of images. More normal images give a steadier threshold."
        )
    else:
        text += _DIFFERENT
    lower = [rate for rate in reversed(RATES) if rate < promised]
    trades = _trades([rate for rate in lower if rate >= rate_in_reach(n)], normal, defects, calibration)
    kept = [rate for rate, trade in trades.items() if trade.fpr <= promised]
    chosen = kept[0] if kept else next((rate for rate in reversed(trades) if trades[rate].alarms < now.alarms), None)
    if chosen is not None:
        return ThresholdAdvice(f"{text} {_proposal(chosen, trades[chosen])}", chosen)
    if lower and not trades and calibration.scores:
        text += f" A lower rate needs more calibration images: {lower[0]:g} needs {normals_needed(lower[0])}."
    return ThresholdAdvice(text, None)


def _too_few_found(now: _Trade, normal: Floats, defects: Floats, calibration: Calibration) -> ThresholdAdvice | None:
    promised = calibration.false_alarm_rate
    allowed = max(math.floor(promised * normal.size + 1e-9), now.alarms)
    offered = _Trade.at(float(np.sort(normal)[-1 - allowed]), normal, defects) if allowed < normal.size else now
    if not _finds_more(offered, now):
        return None
    text = (
        f"the threshold finds {now.found} of {now.anomalous} defects ({percent(now.tpr)}), and {now.alarms} of"
        f" {now.normal} normal test images are false alarms. A lower threshold, which calls {offered.alarms} of them"
        f" defective, finds {offered.found} ({percent(offered.tpr)}). That is more than chance explains (exact binomial"
        f" test, p = {_chance_of_gain(offered, now):.2g})."
    )
    higher = [rate for rate in RATES if rate > promised and rate >= rate_in_reach(calibration.n)]
    if not calibration.scores:
        if not higher:
            return None
        text += (
            " The model does not record which false-alarm rate leads there; try the next one:"
            f" `{_command(higher[0])}`, and evaluate it. {_NO_PROMISE}"
        )
        return ThresholdAdvice(text, higher[0])
    trades = {rate: one for rate, one in _trades(higher, normal, defects, calibration).items() if _finds_more(one, now)}
    worth = {rate: trade.tpr - trade.fpr for rate, trade in trades.items() if trade.tpr - trade.fpr > now.tpr - now.fpr}
    if not worth:
        return None
    # The lowest rate that is nearly as good as the best one.
    chosen = next(rate for rate in trades if worth.get(rate, -1.0) >= max(worth.values()) - 0.02)
    return ThresholdAdvice(f"{text} {_proposal(chosen, trades[chosen])}", chosen)


def _finds_more(other: _Trade, now: _Trade) -> bool:
    """Whether a lower threshold finds more defects by far, and not by chance."""
    more = other.found - now.found
    return more >= max(1.0, _WORTH * now.anomalous) and _chance_of_gain(other, now) <= _CHANCE


def _chance_of_gain(other: _Trade, now: _Trade) -> float:
    """Probability that all verdicts that differ favour one of two equal thresholds: the exact test of McNemar."""
    return float(0.5 ** (other.found - now.found))


def _trades(rates: Sequence[float], normal: Floats, defects: Floats, calibration: Calibration) -> dict[float, _Trade]:
    """What the thresholds of other rates do; none where the calibration scores are not recorded."""
    scores = calibration.scores
    return {rate: _Trade.at(conformal_threshold(scores, rate), normal, defects) for rate in rates if scores}


#: What figures on test images are worth.
_NO_PROMISE = (
    "These figures are measured on the test images and promise nothing; if you choose the rate by them, measure the new"
    " model on images that took no part in the choice."
)


def _command(rate: float) -> str:
    return f"advrad calibrate RUN DATA -o NEW --false-alarm-rate {rate:g}"


def _proposal(rate: float, trade: _Trade) -> str:
    return (
        f"`{_command(rate)}` would set the threshold {trade.threshold:.4g},"
        f" with {trade.words} on these test images; it promises at most {percent(rate)} false alarms. {_NO_PROMISE}"
    )
