"""Versions of thresholds, in both databases."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from toy_inspections import AT

from advrad.errors import ConfigError
from advrad.serving.errors import UnknownThreshold
from advrad.serving.records import ThresholdVersion
from advrad.serving.store import Store


def add(store: Store, product: str = "screw", model: str = "m1", **changes: Any) -> ThresholdVersion:
    values: dict[str, Any] = {"threshold": 1.5, "false_alarm_rate": 0.01, "n": 120, "by": "ann", "at": AT}
    values |= {"source": {"reviewed": 120, "note": "a\0"}}
    return store.thresholds.add(product=product, model=model, **(values | changes))


def test_a_new_version_decides_nothing_until_it_is_activated(store: Store) -> None:
    made = add(store)
    assert (made.version, made.active, made.made_by, made.made_at) == (1, False, "ann", AT)
    assert store.thresholds.list("screw") == [made]
    assert store.thresholds.active("screw", "m1") is None
    active = store.thresholds.activate("screw", "m1", 1, "bob")
    assert active is not None
    assert active.active
    assert store.thresholds.active("screw", "m1") == active == store.thresholds.list("screw")[0]
    row = store.audit.rows()[-1]
    assert (row.action, row.subject, row.by) == ("activate threshold", "screw", "bob")
    assert row.facts == {"version": 1, "before": 0, "model": "m1"}
    assert store.audit.rows()[0].facts["source"] == {"reviewed": 120, "note": "a\0"}


def test_one_version_of_a_product_and_model_is_active(store: Store) -> None:
    assert [add(store).version, add(store, model="m2").version, add(store).version] == [1, 2, 3]
    assert add(store, "nut").version == 1
    for model, version in (("m1", 1), ("m2", 2), ("m1", 3)):
        store.thresholds.activate("screw", model, version, "bob")
    assert [(one.version, one.active) for one in store.thresholds.list("screw")] == [(3, True), (2, True), (1, False)]
    assert [one.version for one in store.thresholds.list("screw", "m1")] == [3, 1]
    assert store.thresholds.activate("screw", "m1", 0, "bob") is None
    assert store.thresholds.active("screw", "m1") is None
    assert store.thresholds.active("screw", "m2") is not None
    assert store.thresholds.active("nut", "m1") is None
    assert store.audit.rows()[-1].facts == {"version": 0, "before": 3, "model": "m1"}


@pytest.mark.parametrize(("product", "model", "version"), [("screw", "m1", 2), ("screw", "m2", 1), ("nut", "m1", 1)])
def test_a_version_of_another_product_or_model_cannot_be_activated(
    store: Store, product: str, model: str, version: int
) -> None:
    add(store)
    store.thresholds.activate("screw", "m1", 1, "bob")
    told = len(store.audit.rows())
    with pytest.raises(UnknownThreshold, match=f"has no version {version} of the threshold for the model in use"):
        store.thresholds.activate(product, model, version, "bob")
    assert len(store.audit.rows()) == told
    assert store.thresholds.active("screw", "m1") is not None


@pytest.mark.parametrize(
    "bad", [{"threshold": float("nan")}, {"threshold": float("inf")}, {"by": "\0"}, {"model": "m" * 101}]
)
def test_a_version_that_cannot_be_stored_is_refused(store: Store, bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(bad))}"):
        add(store, **bad)
    with pytest.raises(ConfigError, match=r"^facts: cannot be written as JSON"):
        add(store, source={"share": float("nan")})
    assert store.thresholds.list("screw") == []
    assert store.audit.rows() == []


def test_two_processes_that_add_at_once_take_different_numbers(store: Store, db: str, tmp_path: Path) -> None:
    with Store.open(db, tmp_path) as other:
        threads = [
            threading.Thread(target=lambda place=place: [add(place) for _ in range(4)]) for place in (store, other)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(one.version for one in store.thresholds.list("screw")) == list(range(1, 9))
    assert store.audit.verify().whole
