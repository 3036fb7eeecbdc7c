"""How long images are kept, in both databases."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from toy_inspections import AT, stored, toy_inspection, toy_review

from advrad.serving.records import Inspection
from advrad.serving.store import Store
from advrad.serving.store import retention as module

DAY = timedelta(days=1)


def keep(store: Store, content: bytes, days_ago: float, **changes: Any) -> Inspection:
    """Store an image and its inspection some days ago."""
    digest = store.pictures.put(content)
    os.utime(store.pictures.path(digest), (time.time() - 2 * 3600,) * 2)
    return stored(store, picture=digest, at=AT - days_ago * DAY, **changes)[0]


def kept(store: Store, *inspections: Inspection) -> list[bool]:
    return [store.pictures.has(one.picture) for one in inspections]


def test_old_images_go_and_rows_stay(store: Store) -> None:
    old, edge, new = (keep(store, bytes([n]) * 100, days) for n, days in enumerate((31, 30, 1)))
    report = store.retention.apply(AT, max_age=30 * DAY)
    assert (report.deleted, report.orphans, report.freed, report.kept) == ((old.picture,), 0, 100, 200)
    assert kept(store, old, edge, new) == [False, True, True]
    assert store.inspections.get(old.id) == old
    (row,) = store.audit.rows()
    assert (row.action, row.subject, row.by) == ("delete pictures", "1 images", "advrad")
    assert row.facts == {"bytes": 100, "pictures": [old.picture]}
    assert [one.id for one in store.reviews.queue("screw")] == [new.id, edge.id]
    assert store.retention.apply(AT, max_age=30 * DAY).deleted == ()
    assert len(store.audit.rows()) == 1


def test_the_least_recent_images_go_until_all_fit(store: Store) -> None:
    oldest, middle, newest = (keep(store, bytes([n]) * 100, days) for n, days in enumerate((3, 2, 1)))
    keep(store, bytes([0]) * 100, 2.5)  # the oldest image again, which does not make it newer than the middle one
    assert store.retention.apply(AT, max_bytes=300).deleted == ()
    assert store.retention.apply(AT, max_bytes=299).deleted == (oldest.picture,)
    assert store.retention.apply(AT, max_bytes=150).deleted == (middle.picture,)
    assert kept(store, oldest, middle, newest) == [False, False, True]
    assert store.retention.apply(AT, max_bytes=0).kept == 0


def test_an_image_is_as_old_as_its_newest_inspection(store: Store) -> None:
    old = keep(store, b"image", 40)
    keep(store, b"image", 2)
    assert store.retention.apply(AT, max_age=30 * DAY).deleted == ()
    assert kept(store, old) == [True]


@pytest.mark.parametrize("label", ["good", "defective", "unsure"])
def test_reviewed_images_stay_unless_told(store: Store, label: str) -> None:
    old = keep(store, b"image", 40)
    keep(store, b"image", 50)
    store.reviews.put(old.id, toy_review(label))
    report = store.retention.apply(AT, max_age=30 * DAY, max_bytes=0)
    assert (report.deleted, report.kept) == ((), 5)
    assert store.retention.apply(AT, max_age=30 * DAY, keep_reviewed=False).deleted == (old.picture,)


def test_orphans_go_after_an_hour(store: Store) -> None:
    young, old = store.pictures.put(b"young"), store.pictures.put(b"old")
    folder = store.pictures.path(old).parent
    leftovers = [folder / ".0123456789ab.part", folder / ".0123456789ab.aside"]
    for path in leftovers:
        path.write_bytes(b"half")
    for path, age in ((store.pictures.path(young), 3500), (store.pictures.path(old), 3700), (leftovers[0], 3700)):
        os.utime(path, (time.time() - age,) * 2)
    report = store.retention.apply(AT)
    assert (report.deleted, report.orphans, report.freed) == ((), 2, 7)
    assert (store.pictures.has(young), store.pictures.has(old)) == (True, False)
    assert [path.exists() for path in leftovers] == [False, True]


def test_an_image_that_was_just_sent_stays(store: Store) -> None:
    old = keep(store, b"image", 40)
    store.pictures.put(b"image")  # whose inspection is stored in a moment
    assert store.retention.apply(AT, max_age=30 * DAY, max_bytes=0).deleted == ()
    assert kept(store, old) == [True]


def test_an_image_that_is_sent_while_it_is_chosen_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    old, other = keep(store, b"image", 40), keep(store, b"other", 40)
    remove = store.pictures.remove

    def sent_before(digest: str) -> bool:
        if digest == old.picture:
            store.pictures.put(b"image")
            stored(store, picture=digest)
        return remove(digest)

    monkeypatch.setattr(store.pictures, "remove", sent_before)
    report = store.retention.apply(AT, max_age=30 * DAY)
    assert (report.deleted, report.kept) == ((other.picture,), 5)
    assert kept(store, old, other) == [True, False]
    assert {one.picture for one in store.reviews.queue("screw")} == {old.picture}


def test_what_changes_during_a_long_run_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    again, reviewed, gone = (keep(store, bytes([n]), 40) for n in range(3))
    orphan = store.pictures.put(b"orphan")
    os.utime(store.pictures.path(orphan), (0, 0))
    plan = store.retention._plan

    def slow(*values: Any) -> Any:
        planned = plan(*values)
        # The files look idle by now, as they would after minutes.
        stored(store, picture=again.picture)
        stored(store, picture=orphan)
        store.reviews.put(reviewed.id, toy_review())
        return planned

    monkeypatch.setattr(store.retention, "_plan", slow)
    report = store.retention.apply(AT, max_age=30 * DAY)
    assert (report.deleted, report.orphans, report.kept) == ((gone.picture,), 0, 2)
    assert kept(store, again, reviewed, gone) == [True, True, False]
    assert store.pictures.has(orphan)
    assert store.audit.rows()[-1].facts["pictures"] == [gone.picture]


def test_many_images_are_told_in_rows_of_a_bounded_size(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 4)
    gone = [keep(store, bytes([n]), 40).picture for n in range(10)]
    assert sorted(store.retention.apply(AT, max_age=30 * DAY).deleted) == sorted(gone)
    told = [row.facts["pictures"] for row in store.audit.rows()]
    assert [len(one) for one in told] == [4, 4, 2]
    assert sorted(one for chunk in told for one in chunk) == sorted(gone)


def test_without_limits_nothing_goes(store: Store, tmp_path: Path) -> None:
    old = keep(store, b"image", 4000)
    assert store.retention.apply(AT).deleted == ()
    assert kept(store, old) == [True]
    assert store.audit.rows() == []


def test_an_image_that_comes_back_is_reviewed_again(store: Store) -> None:
    keep(store, b"image", 40)
    store.retention.apply(AT, max_age=30 * DAY)
    assert store.reviews.queue("screw") == []
    again = store.inspections.add_many([toy_inspection(store, picture=store.pictures.put(b"image"))])
    assert store.reviews.queue("screw") == again
