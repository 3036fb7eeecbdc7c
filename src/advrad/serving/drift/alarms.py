"""What an alarm of drift says, in plain words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from advrad.serving.drift.sequential import Change, Direction
from advrad.utils.formatting import percent


class Statistic(StrEnum):
    """What is watched; each is an attribute of an inspection."""

    SCORE = "score"
    BRIGHTNESS = "brightness"
    SHARPNESS = "sharpness"


_CHANGED = {
    (Statistic.SCORE, Direction.HIGHER): ("scores are higher", "many verdicts may be false alarms"),
    (Statistic.SCORE, Direction.LOWER): ("scores are lower", "defects may be missed"),
    (Statistic.BRIGHTNESS, Direction.HIGHER): ("images are brighter", "check lamp, exposure and stray light"),
    (Statistic.BRIGHTNESS, Direction.LOWER): ("images are darker", "check lamp, exposure and lens"),
    (Statistic.SHARPNESS, Direction.HIGHER): ("images are sharper or noisier", "check focus, gain and the product"),
    (Statistic.SHARPNESS, Direction.LOWER): ("images are less sharp", "check focus, lens, vibration and dust"),
}


@dataclass(frozen=True, slots=True)
class DriftAlarm:
    """Camera, light or product changed.

    Attributes:
        product: Name of the product.
        model: Identity of the model.
        statistic: What changed.
        direction: Where it went.
        since: Time about which the change began.
        at: Time of the inspection that made the alarm sound.
        count: Images from the first that counts as changed to the one that made the alarm sound.
        strength: Mean share of earlier images that each of these lies beyond; 0.5 without a change.
        learned: Whether images are compared with those of a learned reference, not with those of the calibration.
        acknowledged_at: Time at which a person looked into it; None if nobody did.

    Example:
        >>> times = {"since": "2026-11-27T14:05:00+00:00", "at": "2026-11-27T14:09:30+00:00"}
        >>> change = {"statistic": Statistic.BRIGHTNESS, "direction": Direction.LOWER, "count": 12, "strength": 0.97}
        >>> DriftAlarm(product="screw", model="1f", **times, **change).words.partition(": ")[0]
        'images are darker than those of the calibration since about 2026-11-27 14:05 UTC'
    """

    product: str
    model: str
    statistic: Statistic
    direction: Direction
    since: str
    at: str
    count: int
    strength: float
    learned: bool = False
    acknowledged_at: str | None = None

    @classmethod
    def of(cls, product: str, model: str, statistic: Statistic, change: Change, *, learned: bool) -> Self:
        """Make the alarm of a change.

        Args:
            product: Name of the product.
            model: Identity of the model.
            statistic: What changed.
            change: The change.
            learned: Whether the reference was learned.
        """
        return cls(product, model, statistic, learned=learned, **asdict(change))

    @property
    def words(self) -> str:
        """The alarm in a sentence: what changed, since when, how strongly, and what to check."""
        changed, advice = _CHANGED[self.statistic, self.direction]
        before = "the learned reference" if self.learned else "the calibration"
        since = datetime.fromisoformat(self.since).strftime("%Y-%m-%d %H:%M UTC")
        measure = {Direction.HIGHER: "above", Direction.LOWER: "below"}[self.direction]
        if self.statistic is Statistic.SCORE:
            advice = f"camera, light or product changed, and {advice}"
        return (
            f"{changed} than those of {before} since about {since}: {advice} (on average, {self.count} images lie"
            f" {measure} {percent(self.strength)} of those before)"
        )

    def acknowledged(self, at: str) -> DriftAlarm:
        """The same alarm, looked into.

        Args:
            at: Time, ISO 8601.
        """
        return replace(self, acknowledged_at=at)

    def to_dict(self) -> dict[str, Any]:
        """The alarm as JSON values."""
        values = asdict(self) | {"statistic": str(self.statistic), "direction": str(self.direction)}
        return values | {"words": self.words}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote.

        Args:
            values: JSON values.
        """
        kinds = {"statistic": Statistic(values["statistic"]), "direction": Direction(values["direction"])}
        return cls(**{name: value for name, value in values.items() if name != "words"} | kinds)
