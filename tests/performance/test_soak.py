"""The service under load and under kill -9, for seconds; `performance/soak.py` does the same for minutes."""

from __future__ import annotations

from pathlib import Path

import pytest
import soak
from soak_client import Pictures, Traffic


@pytest.mark.slow
def test_nothing_is_lost_under_load_and_after_a_kill(closed_form_run: Path, widgets: Path) -> None:
    pictures = widgets / "test" / "good"
    short = ["--seconds", "5", "--engine-seconds", "1", "--kill-after", "2", "--threads", "1", "--clients", "8"]
    # More than any machine takes; how fast this one is, is not checked.
    result = soak.main([str(closed_form_run), str(pictures), *short, "--rate", "2000", "--least-of-engine", "0"])
    assert result["broken"] == []
    assert result["accepted_before_kill"] > 0


def test_a_broken_bound_is_named() -> None:
    good = {
        "statuses": {"201": 9, "503": 9},
        "complaints": [],
        "p99_s": 0.5,
        "deadline_s": 10,
        "memory_growth": 0.01,
        "of_engine": 0.9,
        "stop_status": 0,
        "statuses_at_kill": {"0": 3, "201": 9},
        "accepted_before_kill": 9,
        "missing_in_history": 0,
        "not_delivered": 0,
    }
    assert soak.broken(good, 0.8) == []
    bad = {
        "statuses": {"201": 9, "500": 1},
        "p99_s": float("nan"),
        "memory_growth": 0.11,
        "of_engine": 0.7,
        "stop_status": 1,
        "statuses_at_kill": {"500": 1},
        "accepted_before_kill": 0,
        "missing_in_history": 1,
        "not_delivered": 1,
    }
    assert len(soak.broken(good | bad, 0.8)) == 10


def test_all_images_of_the_load_are_different_and_whole(widgets: Path, tmp_path: Path) -> None:
    from advrad.data.images import read_resized

    files = sorted((widgets / "test" / "good").iterdir())
    pictures = Pictures([path.read_bytes() for path in files[:2]])
    made = [pictures.next() for _ in range(4)]
    assert len(set(made)) == 4
    (tmp_path / "one.png").write_bytes(made[2])
    assert (read_resized(tmp_path / "one.png", 64) == read_resized(files[0], 64)).all()


def test_the_rate_is_that_of_accepted_answers() -> None:
    traffic = Traffic(accepted=["a", "b", "c"], began=1.0, ended=2.5)
    assert traffic.rate == 2.0
    assert Traffic().rate == 0.0
