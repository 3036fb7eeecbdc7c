"""New thresholds from reviewed images: whose promise holds, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from toy_inspections import AT, stored, toy_inspection, toy_review

from advrad.detectors.config import Calibration
from advrad.detectors.conformal import conformal_threshold
from advrad.errors import ConfigError
from advrad.serving.store import Store
from advrad.serving.thresholds import Sample, exact_interval, new_threshold, what_if
from advrad.utils.seeding import numpy_generator_for

OLD = Calibration(
    threshold=2.0, false_alarm_rate=0.05, n=40, heat_low=0, heat_high=1, scores=tuple(n / 10 for n in range(40))
)


@dataclass(frozen=True)
class Product:
    name: str = "screw"
    model: str = "m1"
    calibration: Calibration = field(default=OLD)
    guarded: bool = False


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(None, tmp_path / "data") as opened:
        yield opened


def inspected(store: Store, scores: list[float], **changes: object) -> list[str]:
    """Store inspections of different images, and return their identities."""
    made = [
        toy_inspection(store, score=score, picture=f"{place:064x}", **changes) for place, score in enumerate(scores)
    ]
    return [one.id for one in store.inspections.add_many(made)]


def review(store: Store, ids: list[str], label: str = "good") -> None:
    for one in ids:
        store.reviews.put(one, toy_review(label))


def test_a_version_is_the_conformal_quantile_of_the_random_sample(store: Store) -> None:
    scores = numpy_generator_for(0).normal(size=30).tolist()
    review(store, inspected(store, scores))
    made = new_threshold(store, Product(), false_alarm_rate=0.05, by="eve")
    assert made.threshold == conformal_threshold(scores, 0.05)
    assert (made.n, made.false_alarm_rate, made.model, made.made_by, made.active) == (30, 0.05, "m1", "eve", False)
    assert made.source["promise"] is True and made.source["images"] == "drawn"
    assert store.thresholds.list("screw") == [made] and store.thresholds.active("screw", "m1") is None


def test_the_random_sample_ends_at_the_first_image_that_nobody_reviewed(store: Store) -> None:
    ids = inspected(store, [float(n) for n in range(40)])
    order = [one.id for one in store.reviews.queue("screw", 40, order="random")]
    assert sorted(order) == sorted(ids) and order != ids
    review(store, order[:20] + order[21:])
    assert [one.id for one in store.reviews.drawn("screw", "m1")] == order[:20]
    review(store, [order[20]])
    assert [one.id for one in store.reviews.drawn("screw", "m1")] == order
    store.reviews.undo(order[0], "ann")
    assert store.reviews.drawn("screw", "m1") == []


def test_inspections_after_the_last_review_do_not_undo_the_sample(store: Store) -> None:
    review(store, inspected(store, [float(n) for n in range(20)]))
    later = [toy_inspection(store, at=AT + timedelta(seconds=1), picture=f"{n + 100:064x}") for n in range(200)]
    store.inspections.add_many(later)
    assert len(store.reviews.drawn("screw", "m1")) == 20
    store.reviews.put(later[0].id, toy_review(at=AT + timedelta(seconds=2)))
    assert len(store.reviews.drawn("screw", "m1")) < 20, "now they count, and nobody reviewed most of them"


def test_images_reviewed_for_their_closeness_make_another_threshold(store: Store) -> None:
    """What the module says of picked images: their threshold has not the wanted rate; that of the sample has."""
    scores = numpy_generator_for(3).normal(size=150)
    ids = inspected(store, scores.tolist(), threshold=1.645)
    review(store, [one.id for one in store.reviews.queue("screw", 30)])
    picked = new_threshold(store, Product(), false_alarm_rate=0.1, by="eve", images="all")
    assert picked.source["promise"] is False and "not promised" in picked.source["words"]
    assert (scores > picked.threshold).mean() < 0.05, "far from the wanted 0.1"
    review(store, ids)
    drawn = new_threshold(store, Product(), false_alarm_rate=0.1, by="eve")
    assert (scores > drawn.threshold).mean() == pytest.approx(0.1, abs=0.01)
    assert (picked.version, drawn.version) == (1, 2)


def test_thresholds_of_random_samples_keep_their_rate_on_average() -> None:
    generator = numpy_generator_for(4)
    beyond = []
    for _ in range(2000):
        sample = Sample({str(n): float(score) for n, score in enumerate(generator.random(19))}, {})
        beyond.append(1 - sample.threshold(0.05))
    assert np.mean(beyond) == pytest.approx(0.05, abs=0.004)


def test_unsure_images_count_as_good_ones_above_the_threshold(store: Store) -> None:
    ids = inspected(store, [float(n) for n in range(40)])
    review(store, ids[:38])
    review(store, ids[38:], "unsure")
    made = new_threshold(store, Product(), false_alarm_rate=0.1, by="eve")
    assert made.threshold == conformal_threshold([float(n) for n in range(38)] + [1e9, 1e9], 0.1) == 36.0
    with pytest.raises(ConfigError, match=r"there are 38, and 2 unsure ones, .* accept a rate of 0.0732 or more"):
        new_threshold(store, Product(), false_alarm_rate=0.05, by="eve")
    assert new_threshold(store, Product(), false_alarm_rate=0.0732, by="eve").threshold == 37.0


def test_one_image_counts_once(store: Store) -> None:
    for score in (1.0, 2.0):
        review(store, [stored(store, score=score, picture="a" * 64)[0].id])
    review(store, inspected(store, [0.1, 0.2]))
    assert Sample.of(store.reviews.drawn("screw", "m1")).good["a" * 64] == 2.0, "the newest score"
    with pytest.raises(ConfigError, match=r"needs 19 different images that are reviewed as good; there are 3: .* 0.25"):
        new_threshold(store, Product(), false_alarm_rate=0.05, by="eve")
    review(store, [stored(store, score=2.0, picture="a" * 64)[0].id], "defective")
    again = Sample.of(store.reviews.drawn("screw", "m1"))
    assert len(again.good) == 2 and again.unsure == 1, "called good and defective: nobody knows"


@pytest.mark.parametrize("images", ["drawn", "all"])
def test_too_few_images_say_how_many_are_needed(store: Store, images: str) -> None:
    with pytest.raises(ConfigError, match=r"needs 99 .* there are 0: review more$"):
        new_threshold(store, Product(), false_alarm_rate=0.01, by="eve", images=images)  # type: ignore[arg-type]
    assert store.thresholds.list("screw") == []


def test_scores_of_another_model_or_product_do_not_count(store: Store) -> None:
    review(store, inspected(store, [0.0] * 20, model="m0"))
    review(store, inspected(store, [0.0] * 20, product="nut"))
    with pytest.raises(ConfigError, match="there are 0"):
        new_threshold(store, Product(), false_alarm_rate=0.05, by="eve")


def test_inspections_before_a_deleted_image_are_no_random_sample(store: Store) -> None:
    """Retention deletes images that nobody reviewed; those that people picked remain."""
    old = inspected(store, [9.0] * 20)
    review(store, old[:10])
    with store._database.writing() as connection:
        from sqlalchemy import update

        from advrad.serving.store.tables import inspections

        connection.execute(update(inspections).where(inspections.c.id == old[15]).values(picture_deleted=True))
    new = inspected(store, [1.0] * 25)
    review(store, old[10:15] + old[16:] + new)
    assert {one.id for one in store.reviews.drawn("screw", "m1")} == {*old[16:], *new}


def test_guarded_detectors_are_refused_with_the_command_that_works(store: Store) -> None:
    guarded = Product(guarded=True)
    for ask in (
        lambda: new_threshold(store, guarded, false_alarm_rate=0.05, by="eve"),
        lambda: what_if(store, guarded, 1.0),
    ):
        with pytest.raises(ConfigError, match=r"test for each half .* `advrad calibrate RUN DATA -o NEW`"):
            ask()


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 5e-324, float("nan")])
def test_rates_out_of_range_are_refused(store: Store, rate: float) -> None:
    with pytest.raises(ConfigError, match="strictly between 0 and 1"):
        new_threshold(store, Product(), false_alarm_rate=rate, by="eve")


def test_a_rate_of_nearly_1_takes_the_smallest_score(store: Store) -> None:
    with pytest.raises(ConfigError, match="there are 0"):
        new_threshold(store, Product(), false_alarm_rate=0.9999999999999998, by="eve")
    review(store, inspected(store, [3.0, 1.0, 2.0]))
    assert new_threshold(store, Product(), false_alarm_rate=0.9999999999999998, by="eve").threshold == 1.0


def test_what_if_counts_false_alarms_and_misses(store: Store) -> None:
    ids = inspected(store, [0.0, 1.0, 2.0, 3.0, 4.0])
    review(store, ids[:3])
    review(store, ids[3:], "defective")
    found = what_if(store, Product(), 3.0)
    assert found["false_alarms"]["count"] == 9 and found["false_alarms"]["n"] == 40
    assert (found["false_alarms"]["low"], found["false_alarms"]["high"]) == exact_interval(9, 40)
    for kind in ("drawn", "reviewed"):
        assert found[kind]["false_alarms"]["count"] == 0 and found[kind]["false_alarms"]["n"] == 3
        assert found[kind]["misses"]["count"] == 1, "a score at the threshold is missed"
    assert any("picked" in note for note in found["notes"])


def test_what_if_without_scores_or_reviews_says_so(store: Store) -> None:
    bare = Product(calibration=OLD.model_copy(update={"scores": ()}))
    found = what_if(store, bare, 1.0)
    assert found["false_alarms"] is None and found["drawn"] == {"false_alarms": None, "misses": None}
    assert any("keeps no scores" in note for note in found["notes"])
    with pytest.raises(ConfigError, match="finite"):
        what_if(store, bare, float("inf"))


def test_the_interval_covers_the_true_rate() -> None:
    generator = numpy_generator_for(5)
    for rate in (0.02, 0.3):
        counts = generator.binomial(25, rate, size=2000).tolist()
        covered = [low <= rate <= high for low, high in (exact_interval(count, 25) for count in counts)]
        assert np.mean(covered) >= 0.95
    assert exact_interval(25, 25)[1] == 1.0
