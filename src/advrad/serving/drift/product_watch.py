"""The tests of one product and model: score, brightness and sharpness, each up and down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
from pydantic import Field

from advrad.detectors.config import Calibration
from advrad.serving.drift.alarms import DriftAlarm, Statistic
from advrad.serving.drift.ranks import Bag
from advrad.serving.drift.sequential import ShiftTest
from advrad.serving.records import Inspection, utc_text
from advrad.utils.config import Config

_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
# Alarms that are kept after they were acknowledged.
_KEPT = 50


class DriftSettings(Config):
    """How drift is watched.

    Attributes:
        false_alarm_rate: Largest probability that the monitor of a product ever raises an alarm, from one start or
            acknowledgement to the next, while nothing changes.
        other_share: Largest share of images that may be of another kind, such as defective parts, while nothing
            changes. A smaller share finds smaller changes.
        learn: Number of images from which a new reference is learned.
        seed: Seed of the draws that order equal values.

    Example:
        >>> DriftSettings(other_share=0.01).false_alarm_rate
        0.01
    """

    false_alarm_rate: float = Field(0.01, gt=0, lt=1)
    other_share: float = Field(0.05, ge=0, lt=0.5)
    learn: int = Field(100, ge=20)
    seed: int = Field(0, ge=0)


class ProductWatch:
    """What is known of the drift of one product and model.

    Args:
        product: Name of the product.
        model: Identity of the model.
        calibration: Threshold of the model, with the values that images are compared with.
        settings: How drift is watched.
    """

    def __init__(self, product: str, model: str, calibration: Calibration, settings: DriftSettings) -> None:
        self.product, self.model, self.settings = product, model, settings
        self.references = {name: values for name, values in reference_values(calibration).items() if values}
        self.tests: dict[Statistic, ShiftTest] = {}
        self.learned: set[Statistic] = set()
        self.alarms: list[DriftAlarm] = []
        self.past: list[DriftAlarm] = []
        self.last_id = ""
        self.since = utc_text(datetime.now(UTC))
        for name, values in self.references.items():
            self.tests[name] = self._test(Bag(values))

    def _test(self, reference: Bag, fill: int = 0) -> ShiftTest:
        alpha = self.settings.false_alarm_rate / len(Statistic)
        return ShiftTest(reference, alpha, self.settings.other_share, fill=fill)

    def observe(self, inspection: Inspection) -> list[DriftAlarm]:
        """Take an inspection.

        Args:
            inspection: Inspection of this product and model.

        Returns:
            The alarms that it raises.
        """
        at, found = utc_text(inspection.at), []
        self.last_id = max(self.last_id, inspection.id)
        for name, test in self.tests.items():
            value = getattr(inspection, name.value)
            if value is None:
                continue
            for change in test.observe(float(value), self._tie(name, inspection.id), at):
                learned = name in self.learned
                found.append(DriftAlarm.of(self.product, self.model, name, change, learned=learned))
        self.alarms += found
        return found

    def _tie(self, name: Statistic, inspection_id: str) -> float:
        """A random number in (0, 1) that depends on the seed, the statistic and the inspection alone."""
        text = f"{self.settings.seed}/{name}/{inspection_id}".encode()
        return (int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big") + 0.5) / 2**48

    def acknowledge(self, at: str) -> None:
        """Move the standing alarms to the past, and begin anew with the same references.

        Args:
            at: Time, ISO 8601.
        """
        self.past = (self.past + [alarm.acknowledged(at) for alarm in self.alarms])[-_KEPT:]
        self.alarms, self.since = [], at
        self.tests = {name: test.restarted() for name, test in self.tests.items()}

    def learn(self, names: Collection[Statistic], at: str) -> None:
        """Acknowledge, and take the next images as the reference.

        Args:
            names: What is compared with these images from now on.
            at: Time, ISO 8601.
        """
        self.acknowledge(at)
        for name in names:
            self.tests[name] = self._test(Bag(), fill=self.settings.learn)
            self.learned.add(name)

    def status(self) -> dict[str, Any]:
        """What the monitor sees, as JSON values."""
        statistics = {name.value: self._status_of(name) for name in Statistic}
        return {
            "product": self.product,
            "model": self.model,
            "watched": bool(self.tests),
            "alarm": bool(self.alarms),
            "words": self._words(),
            "false_alarm_rate": self.settings.false_alarm_rate,
            "other_share": self.settings.other_share,
            "since": self.since,
            "statistics": statistics,
            "alarms": [alarm.to_dict() for alarm in self.alarms],
            "past": [alarm.to_dict() for alarm in self.past],
        }

    def _words(self) -> str:
        if self.alarms:
            return "; ".join(alarm.words for alarm in self.alarms)
        if not self.tests:
            return (
                "nothing is watched, because the model folder keeps no values of its calibration images; learn a"
                " reference from images of the line, or train again"
            )
        names = [name for name in Statistic if name in self.tests]
        text = f"{_listed(names)} {'look' if len(names) > 1 else 'looks'} as before"
        learning = max(test.learning for test in self.tests.values())
        if learning:
            text += f"; {learning} more images until the reference is learned"
        return text

    def _status_of(self, name: Statistic) -> dict[str, Any]:
        test = self.tests.get(name)
        if test is None:
            words = "is not watched, because the model folder keeps no values of its calibration images"
            if name is Statistic.SCORE:
                words += "; a guarded detector, which decides by a test for each half, never does"
            return {
                "watched": False,
                "words": f"{words}; learn a reference from images of the line",
                "reference": "none",
                "reference_n": 0,
                "images": 0,
                "learning": 0,
                "evidence": {"higher": 0.0, "lower": 0.0},
                "quantiles": {},
            }
        learned = name in self.learned
        words = "is compared with " + ("the learned reference" if learned else "the calibration")
        return {
            "watched": True,
            "words": words,
            "reference": "learned" if learned else "calibration",
            "reference_n": len(test.reference),
            "images": test.seen,
            "learning": test.learning,
            "evidence": {str(direction): value for direction, value in test.evidence().items()},
            "quantiles": self._quantiles(name),
        }

    def _quantiles(self, name: Statistic) -> dict[str, float]:
        values: Sequence[float] = self.references.get(name, ())
        if name in self.learned:
            values = self.tests[name].reference.values()
        if not values:
            return {}
        found = np.quantile(np.asarray(values), _QUANTILES)
        return {f"{q:g}": float(value) for q, value in zip(_QUANTILES, found, strict=True)}

    def _identity(self) -> str:
        """A digest of the values of the calibration."""
        text = json.dumps({str(name): values for name, values in self.references.items()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON values, exact."""
        return {
            "settings": self.settings.model_dump(mode="json"),
            "references": self._identity(),
            "tests": {str(name): test.to_dict() for name, test in self.tests.items()},
            "learned": sorted(str(name) for name in self.learned),
            "alarms": [alarm.to_dict() for alarm in self.alarms],
            "past": [alarm.to_dict() for alarm in self.past],
            "last_id": self.last_id,
            "since": self.since,
        }

    def resume(self, state: dict[str, Any]) -> bool:
        """Go on from a state, as if the run had never stopped.

        Args:
            state: What :meth:`to_dict` wrote.

        Returns:
            Whether it fits. If the settings or the values of the calibration are others, the promise of the old run
            means nothing, and this one begins anew; alarms are kept.
        """
        self.past = [DriftAlarm.from_dict(one) for one in state["past"]]
        self.alarms = [DriftAlarm.from_dict(one) for one in state["alarms"]]
        self.last_id = state["last_id"]
        if (state["settings"], state["references"]) != (self.settings.model_dump(mode="json"), self._identity()):
            return False
        self.tests = {Statistic(name): ShiftTest.from_dict(test) for name, test in state["tests"].items()}
        self.learned = {Statistic(name) for name in state["learned"]}
        self.since = state["since"]
        return True

    @classmethod
    def resumed(
        cls, product: str, model: str, calibration: Calibration, settings: DriftSettings, state: dict[str, Any] | None
    ) -> Self:
        """Begin, or go on from a state.

        Args:
            product: Name of the product.
            model: Identity of the model.
            calibration: Threshold of the model.
            settings: How drift is watched.
            state: State of an earlier run; None if there was none.
        """
        watch = cls(product, model, calibration, settings)
        if state is not None:
            watch.resume(state)
        return watch


def reference_values(calibration: Calibration) -> dict[Statistic, tuple[float, ...]]:
    """The values of a calibration that images are compared with; empty where they are not recorded.

    Args:
        calibration: Threshold of a model.
    """
    pictures = calibration.picture_statistics
    return {
        Statistic.SCORE: calibration.scores,
        Statistic.BRIGHTNESS: pictures.brightness if pictures else (),
        Statistic.SHARPNESS: pictures.sharpness if pictures else (),
    }


def _listed(names: Iterable[Statistic]) -> str:
    words = [str(name) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
