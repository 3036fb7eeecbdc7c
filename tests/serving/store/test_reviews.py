"""Reviews and the queue, in both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import pytest
from toy_inspections import AT, stored, toy_inspection, toy_review

from advrad.errors import ConfigError
from advrad.serving.errors import ReviewChanged, UnknownInspection
from advrad.serving.store import Store
from advrad.serving.store import reviews as module


def test_a_review_is_stored_with_its_inspection_and_told(store: Store) -> None:
    (one,) = stored(store)
    review = toy_review("unsure", "<b>'; --\nsecond line", "ann", chosen="random")
    assert store.reviews.put(one.id, review) == replace(one, review=review)
    assert store.inspections.get(one.id).review == review
    (row,) = store.audit.rows()
    assert (row.action, row.subject, row.by) == ("review", one.id, "ann")
    assert row.facts == {"label": "unsure", "note": review.note, "chosen": "random", "before": None}


def test_undo_brings_the_review_before_back(store: Store) -> None:
    (one,) = stored(store)
    first, second, third = (toy_review(label, note=label) for label in ("good", "defective", "unsure"))
    for review in (first, second, third):
        store.reviews.put(one.id, review)
    assert [store.reviews.undo(one.id, "bob").review for _ in range(4)] == [second, first, None, None]
    assert [row.action for row in store.audit.rows()] == ["review"] * 3 + ["undo review"] * 3
    assert store.audit.rows()[-1].facts == {"before": "good", "label": None}
    store.reviews.put(one.id, third)
    assert store.reviews.undo(one.id, "bob").review is None


def test_the_same_review_again_changes_nothing(store: Store) -> None:
    (one,) = stored(store)
    store.reviews.put(one.id, toy_review("good"))
    again = store.reviews.put(one.id, toy_review("good", at=AT + timedelta(seconds=5)))
    assert again.review == toy_review("good")
    assert len(store.audit.rows()) == 1
    assert store.reviews.undo(one.id, "ann").review is None


def test_a_review_of_something_seen_before_it_changed_is_refused(store: Store) -> None:
    (one,) = stored(store)
    store.reviews.put(one.id, toy_review("good"), seen=None)
    later = toy_review("defective", by="bob", at=AT + timedelta(seconds=5))
    with pytest.raises(ReviewChanged, match="somebody has reviewed it since it was shown"):
        store.reviews.put(one.id, later, seen=None)
    assert store.inspections.get(one.id).review == toy_review("good")
    assert store.reviews.put(one.id, later, seen=AT).review == later
    # A repeated request is not taken for a conflict with itself.
    assert store.reviews.put(one.id, later, seen=AT).review == later
    with pytest.raises(ReviewChanged):
        store.reviews.put(one.id, toy_review("unsure"), seen=AT)


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ("a\0", r"note: character 2 is '\x00', which cannot be stored; remove it"),
        ("\ud83d", r"note: character 1 is '\ud83d', which cannot be stored; remove it"),
        ("n" * 10_000, "note: has 10000 characters; use at most 4000"),
    ],
)
def test_a_note_that_cannot_be_stored_is_refused(store: Store, note: str, message: str) -> None:
    (one,) = stored(store)
    with pytest.raises(ConfigError) as error:
        store.reviews.put(one.id, toy_review("good", note))
    assert str(error.value) == message
    assert store.inspections.get(one.id).review is None
    with pytest.raises(ConfigError, match=r"^chosen"):
        store.reviews.put(one.id, toy_review(chosen="guessed"))
    longest = store.reviews.put(one.id, toy_review(note="🔩" * 4000)).review
    assert longest == toy_review(note="🔩" * 4000)


def test_an_unknown_inspection_cannot_be_reviewed(store: Store) -> None:
    for wrong in ("x", store.inspections.new_id()):
        with pytest.raises(UnknownInspection):
            store.reviews.put(wrong, toy_review())
        with pytest.raises(UnknownInspection):
            store.reviews.undo(wrong, "ann")
    assert store.audit.rows() == []


def test_the_queue_begins_at_the_threshold_with_what_nobody_has_reviewed(store: Store) -> None:
    far, close, none, exact, unsure, good = (
        toy_inspection(store, score=score) for score in (3.0, 1.4, None, 1.5, 1.5, 1.5)
    )
    # Scores of another size, of which these are far and close.
    wide, narrow = (toy_inspection(store, model="m2", score=score, threshold=1000.0) for score in (1300.0, 1001.0))
    elsewhere = toy_inspection(store, product="nut", score=1.5)
    store.inspections.add_many([far, close, none, exact, unsure, good, wide, narrow, elsewhere])
    store.reviews.put(unsure.id, toy_review("unsure"))
    store.reviews.put(good.id, toy_review("good"))
    expected = [none, exact, narrow, close, wide, far, unsure]
    assert [one.id for one in store.reviews.queue("screw")] == [one.id for one in expected]
    assert [one.id for one in store.reviews.queue("screw", 3)] == [one.id for one in expected[:3]]
    assert [one.id for one in store.reviews.queue("screw", model="m2")] == [narrow.id, wide.id]
    assert [one.id for one in store.reviews.queue("nut")] == [elsewhere.id]
    assert store.reviews.queue("bolt") == []


def test_the_queue_searches_the_newest_inspections(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUEUE_DEPTH", 2)
    _, close, far = store.inspections.add_many([toy_inspection(store, score=score) for score in (1.5, 1.4, 1.0)])
    assert [one.id for one in store.reviews.queue("screw")] == [close.id, far.id]


def test_the_random_queue_is_the_same_for_everyone(store: Store) -> None:
    known = stored(store, 20)
    drawn = sorted((sha256(one.id.encode()).hexdigest(), one.id) for one in known)
    assert [one.id for one in store.reviews.queue("screw", order="random")] == [identity for _, identity in drawn]
    store.reviews.put(drawn[0][1], toy_review("unsure"))
    assert [one.id for one in store.reviews.queue("screw", 2, "random")] == [drawn[1][1], drawn[2][1]]


def test_scores_of_reviewed_images_count_each_image_once(store: Store) -> None:
    first, again, other, none, bad = store.inspections.add_many(
        [
            toy_inspection(store, picture="a" * 64, score=1.0),
            toy_inspection(store, picture="a" * 64, score=1.25),
            toy_inspection(store, picture="b" * 64, score=2.0),
            toy_inspection(store, picture="c" * 64, score=None),
            toy_inspection(store, picture="d" * 64, score=3.0),
        ]
    )
    for one in (first, again, none):
        store.reviews.put(one.id, toy_review("good"))
    store.reviews.put(other.id, toy_review("good", chosen="random"))
    store.reviews.put(bad.id, toy_review("defective"))
    good, defective = toy_review("good").label, toy_review("defective").label
    assert store.reviews.scores("screw", "m1", good) == {"a" * 64: 1.25, "b" * 64: 2.0}
    assert store.reviews.scores("screw", "m1", good, "random") == {"b" * 64: 2.0}
    assert store.reviews.scores("screw", "m1", defective) == {"d" * 64: 3.0}
    assert store.reviews.scores("screw", "m2", good) == store.reviews.scores("nut", "m1", good) == {}
