"""Leases: one owner at a time, void when the owner is dead or silent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from advrad.errors import OutputError
from advrad.utils import locks as claims
from advrad.utils.locks import lease, live


def test_only_one_holds_a_lease_at_a_time(tmp_path: Path) -> None:
    with lease(tmp_path, "a") as first, lease(tmp_path, "a") as second, lease(tmp_path, "b") as other:
        assert (first, second, other) == (True, False, True)
        assert live(tmp_path) == ("a", "b")
    assert live(tmp_path) == ()
    assert list(tmp_path.iterdir()) == []


def test_a_lease_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lease(tmp_path, "a"):
        _ = 1 / 0
    with lease(tmp_path, "a") as mine:
        assert mine


def test_a_lease_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    with lease(tmp_path, "a"):
        with lease(tmp_path, "a") as mine:
            assert not mine
        assert live(tmp_path) == ("a",)


def test_the_lease_of_a_killed_process_is_void(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from advrad.utils.locks import lease\n"
        "with lease(Path(sys.argv[1]), 'a') as mine:\n"
        "    assert mine; os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    assert (tmp_path / "a.claim").is_file()
    assert live(tmp_path) == ()
    with lease(tmp_path, "a") as mine:
        assert mine


def test_a_lease_from_elsewhere_is_void_only_after_silence(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    path.write_text(json.dumps({"home": "another machine", "process": os.getpid()}), encoding="utf-8")
    with lease(tmp_path, "a") as mine:
        assert not mine
    past = path.stat().st_mtime - claims.VOID_S - 1
    os.utime(path, (past, past))
    with lease(tmp_path, "a") as mine:
        assert mine


def test_an_unreadable_lease_is_void_only_after_silence(tmp_path: Path) -> None:
    path = tmp_path / "a.claim"
    path.write_text("", encoding="utf-8")
    with lease(tmp_path, "a") as mine:
        assert not mine
    past = path.stat().st_mtime - claims.VOID_S - 1
    os.utime(path, (past, past))
    with lease(tmp_path, "a") as mine:
        assert mine


def test_an_owner_at_work_keeps_its_lease_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_S", 0.02)
    with lease(tmp_path, "a"):
        path = tmp_path / "a.claim"
        past = path.stat().st_mtime - 1000
        os.utime(path, (past, past))
        for _ in range(200):
            if path.stat().st_mtime > past + 500:
                break
            claims.threading.Event().wait(0.02)
        assert path.stat().st_mtime > past + 500


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="file"), lease(tmp_path / "file" / "claims", "a"):
        pass
