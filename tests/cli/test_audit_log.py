"""The commands `advrad audit-log verify` and `advrad audit-log show`."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

import pytest
from trained_run import Cli

from advrad.serving.store import Store
from advrad.serving.store.database import FILE_NAME


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder whose audit log has three rows."""
    with Store.open(None, tmp_path / "data") as store:
        for n in range(3):
            store.audit.append("sign in", f"[red]{n}[/red]", "ann", {"note": "é <b>"})
    return tmp_path / "data"


def change(data: Path, statement: str) -> None:
    connection = sqlite3.connect(data / FILE_NAME)
    with connection:
        connection.execute(statement)
    connection.close()


def test_a_whole_log(cli: Cli, data: Path) -> None:
    done = cli("audit-log", "verify", data)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("the audit log is whole: 3 rows, head ")
    head = done.out.split()[-1]
    for place in (data / FILE_NAME, f"sqlite:///{data / FILE_NAME}"):
        assert cli("audit-log", "verify", place, "--head", head).status == 0
    found = json.loads(cli("audit-log", "verify", data, "--json").out)
    assert found == {"whole": True, "rows": 3, "head": head, "broken": None, "problem": ""}


def test_a_changed_log_exits_with_status_1(cli: Cli, data: Path) -> None:
    head = json.loads(cli("audit-log", "verify", data, "--json").out)["head"]
    change(data, "UPDATE audit SET by = 'bob' WHERE n = 2")
    done = cli("audit-log", "verify", data)
    assert done.status == 1
    words = "the audit log is NOT as it was written: row 2 was changed: its hash does not fit its content\n"
    assert done.out == words
    done = cli("audit-log", "verify", data, "--json", "--head", head)
    assert (done.status, json.loads(done.out)["broken"]) == (1, 2)


def test_a_head_that_the_log_does_not_hold(cli: Cli, data: Path) -> None:
    done = cli("audit-log", "verify", data, "--head", "0" * 63 + "1")
    assert done.status == 1
    assert "no row has the given head" in done.out
    done = cli("audit-log", "verify", data, "--head", "abc")
    assert (done.status, done.err) == (2, "advrad: error: --head: is no SHA-256 of 64 hexadecimal digits\n")


def test_show_lists_the_newest_rows(cli: Cli, data: Path) -> None:
    shown = cli("audit-log", "show", data, "--limit", 2).out
    assert "[red]1[/red]" in shown
    assert "[red]2[/red]" in shown
    assert "[red]0[/red]" not in shown
    rows = json.loads(cli("audit-log", "show", data, "--json").out)["rows"]
    assert [(row["n"], row["subject"]) for row in rows] == [(n + 1, f"[red]{n}[/red]") for n in range(3)]
    assert {row["by"] for row in rows} == {"ann"}
    assert json.loads(rows[0]["facts_json"]) == {"note": "é <b>"}


def test_what_is_no_history_is_said_and_nothing_is_made(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    sqlite3.connect(tmp_path / "new.sqlite").close()
    tries = {
        tmp_path / "none": "none: there is no database; name the data folder of 'advrad serve'",
        tmp_path / "empty": f"{FILE_NAME}: there is no database; name the data folder of 'advrad serve'",
        tmp_path / "notes.txt": "notes.txt: is no SQLite database; name another file",
        "mysql://h/x": "DB: 'mysql' is no database that advrad knows; write sqlite:////FOLDER/FILE or",
    }
    for place, words in tries.items():
        done = cli("audit-log", "verify", place)
        assert done.status == 2
        assert words in done.err
        assert done.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new.sqlite", "notes.txt"]
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_database_without_tables_is_said(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "new.sqlite").touch()
    done = cli("audit-log", "show", tmp_path / "new.sqlite")
    assert done.status == 2
    assert "holds no history of advrad; name the database of 'advrad serve'" in done.err


def test_a_server_that_is_gone_is_said(cli: Cli) -> None:
    done = cli("audit-log", "verify", "postgresql://u:secret@127.0.0.1:1/x")
    assert done.status == 1
    assert "Connection refused" in done.err
    assert "secret" not in done.err


def test_a_missing_package_is_said(cli: Cli, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("advrad.serving.store")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    done = cli("audit-log", "verify", data)
    assert done.status == 2
    assert done.err == "advrad: error: the audit log needs sqlalchemy: pip install 'advrad[serve]'\n"


def test_help_without_a_command(cli: Cli) -> None:
    done = cli("audit-log")
    assert done.status == 2
    assert "verify" in done.err
