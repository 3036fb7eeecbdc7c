"""The chain of hashes: whatever is done to the rows shows, and where."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given, settings
from hypothesis import strategies as st

from advrad.serving.store.chain import START, AuditRow, canonical_json, check_chain, row_hash

TEXTS = st.text(max_size=20)
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
FACTS = st.dictionaries(TEXTS, st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS)
ROWS = st.lists(st.tuples(TIMES, TEXTS, TEXTS, TEXTS, FACTS.map(canonical_json)), min_size=1, max_size=8)
Content = tuple[datetime, str, str, str, str]


def chained(contents: list[Content]) -> list[AuditRow]:
    """Rows as the log writes them."""
    rows: list[AuditRow] = []
    for n, content in enumerate(contents, 1):
        previous = rows[-1].hash if rows else START
        rows.append(AuditRow(n, *content, previous, row_hash(previous, n, *content)))
    return rows


def end_of(rows: list[AuditRow]) -> tuple[int, str]:
    return (rows[-1].n, rows[-1].hash) if rows else (0, START)


@settings(max_examples=40)
@given(ROWS)
def test_a_log_as_it_was_written_is_whole(contents: list[Content]) -> None:
    rows = chained(contents)
    for head in (None, START, *(row.hash for row in rows)):
        report = check_chain(rows, end_of(rows), head)
        assert (report.whole, report.rows, report.head, report.broken) == (True, len(rows), rows[-1].hash, None)


@settings(max_examples=40)
@given(ROWS, st.data())
def test_a_changed_row_is_named(contents: list[Content], data: st.DataObject) -> None:
    rows = chained(contents)
    place = data.draw(st.integers(0, len(rows) - 1))
    field, value = data.draw(
        st.sampled_from(
            [
                ("at", rows[place].at + timedelta(microseconds=1)),
                ("action", rows[place].action + " "),
                ("subject", rows[place].subject + "x"),
                ("by", "x" + rows[place].by),
                ("facts_json", rows[place].facts_json.replace("{", "{ ", 1)),
                ("hash", rows[place].hash[:-1] + ("0" if rows[place].hash[-1] != "0" else "1")),
                ("previous", "f" * 64),
            ]
        )
    )
    changed = [*rows[:place], replace(rows[place], **{field: value}), *rows[place + 1 :]]
    report = check_chain(changed, end_of(rows))
    assert report.broken == place + 1
    assert str(place + 1) in report.problem


@settings(max_examples=40)
@given(ROWS, st.data())
def test_a_changed_row_with_a_hash_that_fits_breaks_the_next_one(contents: list[Content], data: st.DataObject) -> None:
    rows = chained([*contents, contents[0]])
    place = data.draw(st.integers(0, len(rows) - 2))
    old = rows[place]
    new = replace(old, by="x" + old.by)
    content = (new.at, new.action, new.subject, new.by, new.facts_json)
    new = replace(new, hash=row_hash(new.previous, new.n, *content))
    report = check_chain([*rows[:place], new, *rows[place + 1 :]], end_of(rows))
    assert report.broken == place + 2


@settings(max_examples=40)
@given(ROWS, st.data())
def test_a_deleted_row_is_named(contents: list[Content], data: st.DataObject) -> None:
    rows = chained(contents)
    place = data.draw(st.integers(0, len(rows) - 1))
    report = check_chain(rows[:place] + rows[place + 1 :], end_of(rows))
    assert report.broken == place + 1
    renumbered = [replace(row, n=n) for n, row in enumerate(rows[:place] + rows[place + 1 :], 1)]
    assert check_chain(renumbered, end_of(rows)).broken == place + 1


@settings(max_examples=40)
@given(ROWS, st.data())
def test_an_inserted_row_is_named(contents: list[Content], data: st.DataObject) -> None:
    rows = chained(contents)
    place = data.draw(st.integers(0, len(rows)))
    previous = rows[place - 1].hash if place else START
    later = [replace(row, n=row.n + 1) for row in rows[place:]]
    content: Content = (datetime(2026, 1, 1, tzinfo=UTC), "fake", "", "", "{}")
    fitting = AuditRow(place + 1, *content, previous, row_hash(previous, place + 1, *content))
    assert check_chain([*rows[:place], replace(fitting, hash=START), *later], end_of(rows)).broken == place + 1
    # One with a hash that fits shows at the next row; behind the end, it is one more than the end's note says.
    assert check_chain([*rows[:place], fitting, *later], end_of(rows)).broken == place + 1 + bool(later)


@settings(max_examples=40)
@given(ROWS, st.data())
def test_moved_rows_are_named(contents: list[Content], data: st.DataObject) -> None:
    rows = chained([*contents, contents[0]])
    first = data.draw(st.integers(0, len(rows) - 2))
    second = data.draw(st.integers(first + 1, len(rows) - 1))
    moved = list(rows)
    moved[first], moved[second] = replace(rows[second], n=first + 1), replace(rows[first], n=second + 1)
    assert check_chain(moved, end_of(rows)).broken == first + 1


@settings(max_examples=40)
@given(ROWS, st.data())
def test_an_end_that_is_cut_off_is_named(contents: list[Content], data: st.DataObject) -> None:
    rows = chained(contents)
    left = data.draw(st.integers(0, len(rows) - 1))
    assert check_chain(rows[:left], end_of(rows)).broken == left + 1
    assert check_chain(rows[:left], None).broken == left + 1
    # Whoever changes the note of the end too is found only by a head that was written down elsewhere.
    quiet = end_of(rows[:left])
    assert check_chain(rows[:left], quiet).whole
    assert not check_chain(rows[:left], quiet, rows[-1].hash).whole


@settings(max_examples=40)
@given(ROWS, st.data())
def test_a_log_that_was_written_anew_is_found_by_a_noted_head(contents: list[Content], data: st.DataObject) -> None:
    rows = chained(contents)
    place = data.draw(st.integers(0, len(rows) - 1))
    at, action, subject, by, facts = contents[place]
    anew = chained([*contents[:place], (at, action, subject, by + "x", facts), *contents[place + 1 :]])
    assert check_chain(anew, end_of(anew)).whole
    report = check_chain(anew, end_of(anew), rows[-1].hash)
    assert "no row has the given head" in report.problem


def test_an_empty_log_is_whole() -> None:
    report = check_chain([], (0, START), START)
    assert (report.whole, report.rows, report.head) == (True, 0, START)


def test_the_hash_does_not_depend_on_the_time_zone_and_is_what_it_was() -> None:
    at = datetime(2026, 11, 27, 8, tzinfo=UTC)
    elsewhere = at.astimezone(timezone(timedelta(hours=5)))
    ours = row_hash(START, 1, at, "review", "é", "ann", "{}")
    assert ours == row_hash(START, 1, elsewhere, "review", "é", "ann", "{}")
    assert ours == "b0161d2769155e6827452ded9a9bf09c340b5a85fd97f284c2ff7c9c73c8aec0"
