"""The training log: complete rows only, also after a kill, and no row twice after resuming."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from advrad.errors import DataError
from advrad.training.log import LOG_NAME, LogWriter, read_log

FIRST = {"step": 1, "loss": 2.0, "smooth_loss": 2.5, "images_per_s": 41.0, "elapsed_s": 0.5}
SECOND = {"step": 2, "loss": 1.0, "smooth_loss": 1.5, "images_per_s": 42.0, "elapsed_s": 1.0}


def written(folder: Path, text: str) -> Path:
    (folder / LOG_NAME).write_text(text, encoding="utf-8")
    return folder


def test_what_was_written_can_be_read_at_once(tmp_path: Path) -> None:
    log = LogWriter(tmp_path, 0)
    for count, row in enumerate((FIRST, SECOND)):
        log.write(**row)
        assert read_log(tmp_path) == (FIRST, SECOND)[: count + 1]
    log.close()


def test_a_resumed_run_removes_the_rows_it_repeats(tmp_path: Path) -> None:
    written(tmp_path, f'{json.dumps(FIRST)}\n{json.dumps(SECOND)}\n{{"step": 3, "lo')
    log = LogWriter(tmp_path, 1)
    assert read_log(tmp_path) == (FIRST,)
    log.write(**SECOND)
    log.close()
    assert read_log(tmp_path) == (FIRST, SECOND)


def test_only_rows_with_numbers_are_read(tmp_path: Path) -> None:
    odd = [
        '{"step": 0, "loss": NaN}',
        '{"step": 3, "loss": Infinity}',
        '{"loss": 1.0}',
        '{"step": true, "loss": 1}',
        '["step", "loss"]',
        "7",
        '{"step": 4, "loss": 1, "images_per_s": null, "note": "slow"}',
    ]
    assert read_log(written(tmp_path, "\n".join(odd) + "\n")) == ({"step": 4, "loss": 1},)


def test_no_log_is_an_empty_one(tmp_path: Path) -> None:
    assert read_log(tmp_path) == read_log(tmp_path / "nowhere") == read_log(written(tmp_path, "")) == ()


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    written(tmp_path, '{"step": 1\n{"step": 2, "loss": 1.0}\n')
    with pytest.raises(DataError, match=r"log\.jsonl: line 1 is not JSON; delete"):
        read_log(tmp_path)
    (tmp_path / LOG_NAME).unlink()
    (tmp_path / LOG_NAME).mkdir()
    with pytest.raises(DataError, match=r"log\.jsonl: cannot be read"):
        read_log(tmp_path)


def test_tensorboard_events_are_written_if_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogWriter(tmp_path, 0)
    log.write(**FIRST)
    log.close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    (tmp_path / "bare").mkdir()
    log = LogWriter(tmp_path / "bare", 0)
    log.write(**FIRST)
    log.close()
    assert [path.name for path in (tmp_path / "bare").iterdir()] == [LOG_NAME]
