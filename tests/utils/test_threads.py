"""The number of threads: what was asked for, or what this process may use and nobody else uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from advrad.data.loading import map_ahead
from advrad.errors import ConfigError
from advrad.utils import threads


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def machine(
    patch: pytest.MonkeyPatch,
    *,
    processors: int,
    load: float = 0.0,
    bound: int | None = None,
    quota: str = "max 100000",
) -> None:
    """Pretend to be on another machine."""
    patch.setattr(os, "cpu_count", lambda: processors)
    patch.setattr(os, "sched_getaffinity", lambda pid: set(range(bound or processors)), raising=False)
    patch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    patch.setattr(threads, "busy_processors", lambda: round(load))
    patch.setattr(threads, "_limit", lambda group: _of(quota))


def _of(quota: str) -> float | None:
    allowed, period = quota.split()
    return None if allowed == "max" else int(allowed) / int(period)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"processors": 2}, 2),
        ({"processors": 64}, threads.MOST),
        ({"processors": 64, "load": 62.0}, 2),
        ({"processors": 4, "load": 90.0}, 1),
        ({"processors": 64, "bound": 3}, 3),
        ({"processors": 64, "quota": "250000 100000"}, 2),
        ({"processors": 64, "quota": "50000 100000"}, 1),
    ],
)
def test_by_default_the_free_processors_count(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, object], expected: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    machine(monkeypatch, **given)  # type: ignore[arg-type]
    assert threads.use_threads() == expected
    assert torch.get_num_threads() == expected
    assert os.environ["OMP_NUM_THREADS"] == str(expected)  # for programs that are started


@pytest.mark.parametrize(("text", "expected"), [("3", 3), ("2,1", 2), (" 4 ", 4), ("none", 2), ("0", 2), ("", 2)])
def test_the_environment_is_respected_where_it_names_a_number(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    machine(monkeypatch, processors=2)
    assert threads.use_threads() == expected


def test_what_is_asked_for_counts_most() -> None:
    assert threads.use_threads(2) == torch.get_num_threads() == 2
    with pytest.raises(ConfigError, match="threads 0: must be 1 or more"):
        threads.use_threads(0)


def test_images_are_read_with_as_many_threads_as_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, processors=8)
    import threading

    for count in (1, 3):
        torch.set_num_threads(count)
        names = set(map_ahead(lambda _: threading.current_thread().name, range(40)))
        assert 1 <= len(names) <= count


def test_limits_of_control_groups(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n", encoding="ascii")
    assert threads._limit(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n", encoding="ascii")
    assert threads._limit(tmp_path) is None
    (tmp_path / "cpu.max").unlink()
    assert threads._limit(tmp_path) is None
    (tmp_path / "cpu.cfs_quota_us").write_text("400000\n", encoding="ascii")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n", encoding="ascii")
    assert threads._limit(tmp_path) == 4.0
    (tmp_path / "cpu.cfs_quota_us").write_text("-1\n", encoding="ascii")
    assert threads._limit(tmp_path) is None


def test_a_quiet_machine_has_no_busy_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.2, 0.0, 0.0))
    assert threads.busy_processors() == 0


def test_the_words_say_how_many_threads_there_are_and_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, processors=8, load=6.0)
    torch.set_num_threads(4)
    assert threads.threads_in_words() == (
        "computing with 4 threads, though only 2 of 8 processors are free; fewer threads may be faster"
    )
    torch.set_num_threads(1)
    assert threads.threads_in_words() == "computing with 1 thread on 8 processors"
    machine(monkeypatch, processors=1)
    assert threads.threads_in_words() == "computing with 1 thread"
