"""The history of inspections, in both databases."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from toy_inspections import AT, stored, toy_inspection, toy_review

from advrad.errors import ConfigError
from advrad.serving.errors import UnknownInspection
from advrad.serving.store import InspectionFilter, Store, source_key
from advrad.serving.store import inspections as module
from advrad.serving.store.inspections import InspectionPage

HARMLESS = (
    "Robert'); DROP TABLE inspections;--",
    "<script>alert(1)</script>",
    "%_\\",
    "ünïcødé 🔩",
    "' OR 1=1",
    " ",
    "",
)


def test_what_is_stored_is_read_as_it_was(store: Store) -> None:
    details = {"certificate": {"radius": 0.1, "words": "a\0b\udcff"}, "halves": [None, True, 1e-300, "é"]}
    one = toy_inspection(
        store, part_id="7/3", station="press 2", score=None, details=details, source=source_key("a"), defective=True
    )
    other = toy_inspection(store, score=1 / 3, threshold=5e-324, height_px=65_000)
    assert store.inspections.add_many([one, other]) == [one, other]
    assert store.inspections.get(one.id) == one
    assert store.inspections.find() == [other, one]
    assert store.inspections.by_source(source_key("a")) == one
    assert store.inspections.by_source(source_key("b")) is None


def test_times_are_in_utc_to_the_microsecond(store: Store) -> None:
    elsewhere = AT.astimezone(timezone(timedelta(hours=-7)))
    (one,) = stored(store, at=elsewhere)
    read = store.inspections.get(one.id).at
    assert (read, read.tzinfo) == (AT, UTC)
    with pytest.raises(ConfigError, match=r"^at: has no time zone"):
        stored(store, at=datetime(2026, 1, 1))


@pytest.mark.parametrize("text", HARMLESS)
def test_sql_and_html_are_ordinary_text(store: Store, text: str) -> None:
    (one,) = stored(store, part_id=text, station=text, file_name=text)
    stored(store, part_id="other")
    found = store.inspections.find(InspectionFilter(part_id=text))
    assert [(each.id, each.part_id, each.station, each.file_name) for each in found] == [(one.id, text, text, text)]
    if text.strip():
        assert [each.id for each in store.inspections.find(InspectionFilter(text=text))] == [one.id]


@pytest.mark.parametrize(
    "bad",
    [
        {"part_id": "a\0"},
        {"station": "\ud800"},
        {"part_id": "x" * 201},
        {"product": ""},
        {"model": "m" * 101},
        {"score": float("nan")},
        {"threshold": float("nan")},
        {"picture": "../x"},
        {"source": "path"},
        {"details": {"a": float("inf")}},
        {"details": {"a": b"bytes"}},
        {"id": "1"},
        {"review": toy_review()},
    ],
    ids=str,
)
def test_a_bad_inspection_is_refused_with_all_of_its_group(store: Store, bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        store.inspections.add_many([toy_inspection(store), replace(toy_inspection(store), **bad)], ["mqtt"])
    assert store.inspections.find() == []
    assert store.outbox.waiting() == {}


def test_a_name_of_a_file_is_made_storable(store: Store) -> None:
    (one,) = stored(store, file_name="a\0\udcff" + "n" * 300 + ".png")
    assert one.file_name == "n" * 251 + ".png"
    assert store.inspections.get(one.id).file_name == one.file_name
    (one,) = stored(store, file_name="a\0\udcff.png")
    assert one.file_name == "a��.png"


def test_a_group_is_stored_as_a_whole_or_not_at_all(store: Store) -> None:
    one = toy_inspection(store)
    with pytest.raises(Exception, match=r"UNIQUE|unique"):
        store.inspections.add_many([toy_inspection(store), one, one], ["mqtt"])
    assert store.inspections.find() == []
    assert store.outbox.waiting() == {}
    assert store.inspections.add_many([]) == []


def test_a_source_counts_once(store: Store) -> None:
    key = source_key("line/a.png", "5" * 64)
    first = toy_inspection(store, source=key)
    again, twice, free = (toy_inspection(store, source=source) for source in (key, key, None))
    assert store.inspections.add_many([first, again], ["mqtt"]) == [first, first]
    assert store.inspections.add_many([twice, free], ["mqtt"]) == [first, free]
    assert [one.id for one in store.inspections.find()] == [free.id, first.id]
    assert store.outbox.waiting() == {"mqtt": 2}
    store.inspections.delete(first.id, "ann")
    assert store.inspections.add_many([again]) == [again]


def test_a_source_counts_once_for_many_that_store_it_at_once(store: Store, db: str, tmp_path: Path) -> None:
    key, answers = source_key("a"), []
    with Store.open(db, tmp_path) as other:
        ready = threading.Barrier(8)

        def store_it(place: Store) -> None:
            mine = toy_inspection(place, source=key)
            ready.wait()
            answers.append(place.inspections.add_many([mine], ["mqtt"])[0].id)

        threads = [threading.Thread(target=store_it, args=(place,)) for place in (store, other) * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(answers) == 8
    assert {one.id for one in store.inspections.find()} == set(answers)
    assert len(set(answers)) == 1
    assert store.outbox.pending("mqtt") == 1


def test_new_identities_go_on_after_those_of_the_process_before(store: Store, db: str, tmp_path: Path) -> None:
    ahead = "7" + store.inspections.new_id()[1:]
    stored(store, id=ahead)
    with Store.open(db, tmp_path) as later:
        assert later.inspections.new_id() > ahead


def test_filters(store: Store) -> None:
    old, bad, other = store.inspections.add_many(
        [
            toy_inspection(store, at=AT - timedelta(days=1), station="press"),
            toy_inspection(store, defective=True, verdict="defective", part_id="A-1", file_name="Bolt.png"),
            toy_inspection(store, product="nut", model="m2", part_id="a-1"),
        ]
    )
    bad = store.reviews.put(bad.id, toy_review("unsure", note="Scratch 100%"))

    def find(**wanted: Any) -> list[str]:
        found = store.inspections.find(InspectionFilter(**wanted))
        assert store.inspections.counts(InspectionFilter(**wanted)).n == len(found)
        assert list(store.inspections.iterate(InspectionFilter(**wanted))) == found
        return [one.id for one in found]

    assert find() == [other.id, bad.id, old.id]
    assert find(product="screw") == [bad.id, old.id]
    assert find(model="m2") == find(product="nut") == [other.id]
    assert find(defective=True) == find(verdict="defective") == [bad.id]
    assert find(defective=False, product="screw") == find(station="press") == [old.id]
    assert find(part_id="A-1") == [bad.id]
    assert find(since=AT) == [other.id, bad.id]
    assert find(until=AT) == [old.id]
    assert find(since=AT.astimezone(timezone(timedelta(hours=9))), product="nut") == [other.id]
    assert find(review="any") == find(review="unsure") == [bad.id]
    assert find(review="none") == [other.id, old.id]
    assert find(review="good") == find(text="x\0y") == find(part_id="\ud800") == find(text="\udfff") == []
    assert find(text="a-1") == [other.id, bad.id]
    assert find(text="BOLT") == find(text="h 100%") == [bad.id]
    assert find(text="1_0") == []
    assert store.inspections.counts().reviews == {"good": 0, "defective": 0, "unsure": 1}
    counts = store.inspections.counts(InspectionFilter(product="screw"))
    assert (counts.n, counts.n_defective, counts.n_unreviewed) == (2, 1, 1)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"review": "maybe"}, "review 'maybe': is unknown; choose none, any, good, defective, unsure"),
        ({"since": datetime(2026, 1, 1)}, "since 2026-01-01T00:00:00: has no time zone; end it with Z for UTC"),
    ],
)
def test_a_wrong_filter_is_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        InspectionFilter(**bad)
    assert str(error.value) == message


def test_pages_hold_each_inspection_once_while_new_ones_come(store: Store) -> None:
    known = [one.id for one in stored(store, 7)][::-1]
    pages, after = [], None
    while page := store.inspections.find(limit=3, after=after):
        pages += [one.id for one in page]
        after = page[-1].id
        stored(store)
    assert pages == known
    for wrong in ("", "1", "../etc", "'; --", "\0"):
        with pytest.raises(ConfigError, match=r"^after: is no identity"):
            store.inspections.find(after=wrong)


@pytest.mark.parametrize("n", [0, 1, 3, 7, 8, 9])
def test_a_search_reads_so_many_texts_for_a_page_and_goes_on(
    store: Store, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEARCHED", 4)
    (rare,) = stored(store, 1, part_id="needle")
    stored(store, n, part_id="hay")
    wanted = InspectionFilter(text="EEDL")
    pages = [store.inspections.page(wanted)]
    while pages[-1].next is not None:
        pages.append(store.inspections.page(wanted, after=pages[-1].next))
    # A last page is empty where the one before ends with the oldest inspection.
    assert len(pages) == 1 + (n + 1) // 4
    assert [one for page in pages for one in page.inspections] == [rare] == list(store.inspections.iterate(wanted))
    # Other filters have one page.
    assert store.inspections.page(InspectionFilter(part_id="needle")) == InspectionPage([rare], None)


@pytest.mark.parametrize(
    "wrong", ["", "x", "../../etc/passwd", "\0", "\ud800", "7ZZZZZZZZZZZZZZZZZZZZZZZZZ", "1" * 9999]
)
def test_an_unknown_inspection_is_said(store: Store, wrong: str) -> None:
    for ask in (store.inspections.get, lambda one: store.inspections.delete(one, "ann")):
        with pytest.raises(UnknownInspection, match="is not in the history") as error:
            ask(wrong)
        assert len(str(error.value)) < 300
    assert store.audit.rows() == []


def test_deleting_removes_what_belongs_to_it_and_is_told(store: Store) -> None:
    picture = store.pictures.put(b"image")
    one, other = stored(store, 2, picture=picture)
    store.reviews.put(one.id, toy_review("good"))
    store.reviews.put(one.id, toy_review("defective"))
    store.inspections.delete(one.id, "ann")
    assert store.inspections.find() == [other]
    row = store.audit.rows()[-1]
    assert (row.action, row.subject, row.by) == ("delete inspection", one.id, "ann")
    assert (row.facts["picture"], row.facts["picture_deleted"]) == (picture, False)
    assert store.pictures.has(picture)
    store.inspections.delete(other.id, "ann")
    assert store.audit.rows()[-1].facts["picture_deleted"] is True
    assert store.audit.verify().whole
