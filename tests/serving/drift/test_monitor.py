"""The monitor on a real store: alarms, words, restarts, and the history that it catches up with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from toy_inspections import AT, toy_inspection

from advrad.data.picture_statistics import PictureReference
from advrad.detectors.config import Calibration
from advrad.errors import ConfigError
from advrad.serving.drift import DriftMonitor, DriftSettings
from advrad.serving.errors import UnknownProduct
from advrad.serving.records import Inspection
from advrad.serving.store import Store
from advrad.utils.seeding import numpy_generator_for

PICTURES = PictureReference(
    brightness=tuple(sorted((0.5 + 0.01 * numpy_generator_for(0, "b").normal(size=60)).tolist())),
    sharpness=tuple(sorted((0.04 + 0.001 * numpy_generator_for(0, "s").normal(size=60)).tolist())),
)
CALIBRATION = Calibration(
    threshold=3.0,
    false_alarm_rate=0.05,
    n=60,
    heat_low=0,
    heat_high=1,
    scores=tuple(sorted((1 + 0.2 * numpy_generator_for(0, "z").normal(size=60)).tolist())),
    picture_statistics=PICTURES,
)
BARE = CALIBRATION.model_copy(update={"scores": (), "picture_statistics": None})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(None, tmp_path / "data") as opened:
        yield opened


def stream(store: Store, n: int, *purpose: object, darker: float = 0.0, **changes: object) -> list[Inspection]:
    """Inspections of normal images, stored; some standard deviations darker."""
    generator, made = numpy_generator_for(1, *purpose), []
    for place in range(n):
        b, s, z = generator.normal(size=3).tolist()
        values = {"brightness": 0.5 + 0.01 * (b - darker), "sharpness": 0.04 + 0.001 * s, "score": 1 + 0.2 * z}
        made.append(toy_inspection(store, at=AT + timedelta(minutes=place), **values | changes))
    return store.inspections.add_many(made)


def watched(store: Store, calibration: Calibration = CALIBRATION, **settings: float) -> DriftMonitor:
    monitor = DriftMonitor(store, DriftSettings.parse(settings))
    monitor.watch("screw", "m1", calibration)
    return monitor


def test_darker_images_raise_one_alarm_in_plain_words(store: Store) -> None:
    monitor = watched(store)
    assert monitor.observe(stream(store, 60, "quiet")) == []
    found = monitor.observe(stream(store, 40, "dark", darker=4))
    assert [(str(alarm.statistic), str(alarm.direction)) for alarm in found] == [("brightness", "lower")]
    words = found[0].words
    assert words.startswith("images are darker than those of the calibration since about 2026-11-27 08:")
    assert "check lamp" in words and found[0].strength > 0.9
    status = monitor.status("screw")
    assert status["alarm"] is True and status["words"] == words
    assert status["statistics"]["brightness"]["evidence"]["lower"] == 1
    assert status["statistics"]["sharpness"]["evidence"]["lower"] < 1
    assert json.loads(json.dumps(status, allow_nan=False)) == status
    assert monitor.observe(stream(store, 10, "dark again", darker=4)) == [], "it stands already"


def test_quiet_images_raise_none_and_the_page_gets_reference_quantiles(store: Store) -> None:
    monitor = watched(store)
    assert monitor.observe(stream(store, 300, "quiet")) == []
    status = monitor.status("screw")
    assert status["words"] == "score, brightness and sharpness look as before"
    brightness = status["statistics"]["brightness"]
    assert (brightness["images"], brightness["reference"], brightness["reference_n"]) == (300, "calibration", 60)
    assert brightness["quantiles"]["0.5"] == pytest.approx(0.5, abs=0.005)


def test_a_monitor_that_is_killed_goes_on_exactly(store: Store) -> None:
    """What was not saved is read from the history."""
    whole, broken = watched(store), DriftMonitor(store)
    parts = [stream(store, 35, part, darker=part) for part in range(4)]
    said = [alarm.to_dict() for part in parts for alarm in whole.observe(part)]
    expected = whole.status("screw")
    assert said, "the last part is three standard deviations darker"
    store.drift.save("screw", "m1", _state_after(store, parts[0]))
    again = broken.watch("screw", "m1", CALIBRATION)
    assert [alarm.to_dict() for alarm in again] == said
    status = broken.status("screw")
    assert status | {"since": ""} == expected | {"since": ""}


def _state_after(store: Store, part: list[Inspection]) -> dict[str, object]:
    from advrad.serving.drift.product_watch import ProductWatch

    watch = ProductWatch("screw", "m1", CALIBRATION, DriftSettings())
    for one in part:
        watch.observe(one)
    return watch.to_dict()


def test_a_closed_monitor_reads_nothing_twice(store: Store) -> None:
    monitor = watched(store)
    monitor.observe(stream(store, 30, "quiet"))
    monitor.close()
    again = watched(store)
    assert again.status("screw") == monitor.status("screw")
    assert again.status("screw")["statistics"]["score"]["images"] == 30


def test_a_new_store_does_not_catch_up_with_what_was_before_the_monitor(store: Store) -> None:
    stream(store, 30, "dark", darker=9)
    assert watched(store).status("screw")["statistics"]["score"]["images"] == 0


def test_acknowledging_begins_anew_and_keeps_the_record(store: Store) -> None:
    monitor = watched(store)
    (alarm,) = monitor.observe(stream(store, 40, "dark", darker=5))
    monitor.acknowledge("screw")
    status = monitor.status("screw")
    assert status["alarm"] is False and status["alarms"] == []
    assert [one["words"] for one in status["past"]] == [alarm.words] and status["past"][0]["acknowledged_at"]
    assert status["statistics"]["brightness"]["images"] == 0
    assert watched(store).status("screw") == status, "and is saved"
    assert monitor.observe(stream(store, 40, "still dark", darker=5)), "the lamp was not repaired"


def test_a_learned_reference_is_the_new_normal(store: Store) -> None:
    monitor = watched(store, learn=40)
    monitor.learn_reference("screw", ["brightness"])
    assert monitor.observe(stream(store, 40, "new lamp", darker=5)) == []
    brightness = monitor.status("screw")["statistics"]["brightness"]
    assert (brightness["reference"], brightness["reference_n"], brightness["learning"]) == ("learned", 40, 0)
    assert brightness["quantiles"]["0.5"] == pytest.approx(0.45, abs=0.01)
    assert monitor.observe(stream(store, 40, "like before the new lamp", darker=5)) == []
    (alarm,) = monitor.observe(stream(store, 60, "old lamp", darker=0))
    assert str(alarm.direction) == "higher" and "the learned reference" in alarm.words


def test_a_folder_without_values_says_so_and_can_learn(store: Store) -> None:
    monitor = watched(store, BARE, learn=30)
    status = monitor.status("screw")
    assert status["watched"] is False and "learn a reference" in status["words"]
    assert monitor.observe(stream(store, 20, "dark", darker=9)) == []
    monitor.learn_reference("screw")
    assert "30 more images until the reference is learned" in monitor.status("screw")["words"]
    monitor.observe(stream(store, 30, "quiet"))
    assert monitor.status("screw")["words"] == "score, brightness and sharpness look as before"
    assert monitor.observe(stream(store, 40, "dark", darker=6))


def test_scores_alone_are_watched_where_the_folder_has_no_more(store: Store) -> None:
    monitor = watched(store, CALIBRATION.model_copy(update={"picture_statistics": None}))
    status = monitor.status("screw")
    assert [name for name, one in status["statistics"].items() if one["watched"]] == ["score"]
    assert "keeps no values" in status["statistics"]["sharpness"]["words"]
    (alarm,) = monitor.observe(stream(store, 40, "high", score=9.0))
    assert "camera, light or product changed" in alarm.words


def test_inspections_of_other_products_and_models_do_not_count(store: Store) -> None:
    monitor = watched(store)
    others = stream(store, 20, "n", product="nut") + stream(store, 20, "m", model="m0")
    assert monitor.observe(others) == []
    assert monitor.status("screw")["statistics"]["score"]["images"] == 0
    with pytest.raises(UnknownProduct, match="'nut': is not watched"):
        monitor.status("nut")


def test_an_inspection_without_a_score_counts_for_the_image_alone(store: Store) -> None:
    monitor = watched(store)
    monitor.observe(stream(store, 5, "none", score=None))
    statistics = monitor.status("screw")["statistics"]
    assert (statistics["score"]["images"], statistics["brightness"]["images"]) == (0, 5)


def test_a_replaced_model_is_watched_anew_and_the_old_one_goes_on_when_it_returns(store: Store) -> None:
    monitor = watched(store)
    monitor.observe(stream(store, 10, "old"))
    monitor.watch("screw", "m2", BARE)
    assert monitor.status("screw")["model"] == "m2" and not monitor.status("screw")["watched"]
    monitor.watch("screw", "m1", CALIBRATION)
    assert monitor.status("screw")["statistics"]["score"]["images"] == 10


def test_other_settings_begin_anew_and_keep_standing_alarms(store: Store) -> None:
    watched(store).observe(stream(store, 40, "dark", darker=5))
    monitor = watched(store, other_share=0.01)
    status = monitor.status("screw")
    assert status["alarm"] is True and status["statistics"]["brightness"]["images"] == 0


def test_draws_depend_on_seed_statistic_and_inspection_alone(store: Store) -> None:
    found = []
    for seed in (0, 0, 1):
        monitor = watched(store, seed=seed)
        monitor.acknowledge("screw")
        equal = stream(store, 30, "same", brightness=0.5)
        monitor.observe([replace(one, id=f"{n:026}") for n, one in enumerate(equal)])
        monitor.close()
        state = store.drift.load("screw", "m1")
        found.append(None if state is None else state["tests"]["brightness"]["among_all"]["log_stake"])
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("names", [[], ["colour"]])
def test_unknown_statistics_are_refused(store: Store, names: list[str]) -> None:
    with pytest.raises(ConfigError, match="must be some of score, brightness, sharpness"):
        watched(store).learn_reference("screw", names)


def test_the_state_is_small(store: Store) -> None:
    monitor = watched(store)
    monitor.observe(stream(store, 1000, "many"))
    monitor.close()
    assert len(json.dumps(store.drift.load("screw", "m1"))) < 40_000
