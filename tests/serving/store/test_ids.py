"""Identities of inspections."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from advrad.serving.store.ids import IdMaker, is_id

CLOCKS = st.lists(st.floats(0, 4e9), min_size=2, max_size=50)


@settings(max_examples=40)
@given(CLOCKS)
def test_they_grow_whatever_the_clock_does(times: list[float]) -> None:
    clock = iter(times)
    make = IdMaker(None, lambda: next(clock))
    made = [make() for _ in times]
    assert made == sorted(set(made))
    assert all(map(is_id, made))


@settings(max_examples=40)
@given(CLOCKS)
def test_they_sort_by_time_where_the_clock_runs_forward(times: list[float]) -> None:
    milliseconds = sorted({int(time * 1000) for time in times})
    made = [IdMaker(None, lambda ms=ms: (ms + 0.5) / 1000)() for ms in milliseconds]
    assert made == sorted(made)


def test_they_go_on_after_the_newest_one_after_a_restart_with_the_clock_set_back() -> None:
    newest = IdMaker(None, lambda: 4e9)()
    assert IdMaker(newest, lambda: 1e9)() > newest


def test_two_processes_that_start_from_one_identity_make_different_ones() -> None:
    newest = IdMaker(None, lambda: 4e9)()
    first, second = (IdMaker(newest, lambda: 1e9) for _ in range(2))
    made = [make() for _ in range(2000) for make in (first, second)]
    assert len(set(made)) == len(made)


def test_only_the_form_of_an_identity_is_taken() -> None:
    good = IdMaker(None)()
    bad = ("", good[:-1], good + "0", good.lower(), "8" + good[1:], good[:-1] + "U", good[:-1] + "\n", "../" + good)
    assert [is_id(one) for one in (good, *bad)] == [True] + [False] * len(bad)
