from __future__ import annotations

import pytest

from advrad.serving import guesses as module
from advrad.serving.guesses import WINDOW_S, Guesses, network_of


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_address_waits_until_its_window_ends_and_no_longer() -> None:
    clock = Clock()
    guesses = Guesses(2, clock)
    assert [guesses.weigh("192.0.2.1", None) for _ in range(2)] == [0, 0]
    clock.now += 20.5
    assert guesses.weigh("192.0.2.1", None) == 40
    assert guesses.weigh("192.0.2.1", "new and right") == 40
    # Guesses while it waits do not make the wait longer.
    clock.now += WINDOW_S - 20.6
    assert guesses.weigh("192.0.2.1", None) == 1
    clock.now += 0.1
    assert guesses.weigh("192.0.2.1", "new and right") == 0
    assert [guesses.weigh("192.0.2.1", None) for _ in range(3)] == [0, 0, 60]
    assert guesses.weigh("192.0.2.1", "new and right") == 0


def test_a_key_is_known_where_it_came_from_alone() -> None:
    guesses = Guesses(1, Clock())
    assert guesses.weigh("192.0.2.1", "right") == 0
    for address in ("192.0.2.1", "192.0.2.2"):
        assert guesses.weigh(address, None) == 0
    assert guesses.weigh("192.0.2.1", "right") == 0
    assert guesses.weigh("192.0.2.2", "right") == 60


def test_one_network_of_ipv6_is_one_address() -> None:
    guesses = Guesses(2, Clock())
    assert [guesses.weigh(f"2001:db8::{n}", None) for n in range(3)] == [0, 0, 60]
    assert guesses.weigh("2001:db8:0:1::1", None) == 0
    assert guesses.weigh("fe80::1%eth0", None) == 0


@pytest.mark.parametrize("address", ["", "testclient", "x" * 500])
def test_any_other_name_is_an_address(address: str) -> None:
    assert network_of(address) == address[:64]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_ADDRESSES", 3)
    guesses = Guesses(1, Clock())
    for n in range(4):
        assert guesses.weigh(f"192.0.2.{n}", None) == 0
    assert guesses.weigh("192.0.2.3", None) == 60
    assert guesses.weigh("192.0.2.0", None) == 0  # forgotten
    assert len(guesses._wrong) == 3
    for n in range(9):
        guesses.weigh("198.51.100.1", f"right {n}")
    assert len(guesses._right) == 3
