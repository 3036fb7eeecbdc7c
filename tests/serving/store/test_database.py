"""Opening a database: what cannot be opened is said in one line."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from postgres_server import PASSWORD, PostgresServer
from sqlalchemy import create_engine
from toy_inspections import stored

from advrad.errors import AdvradError, ConfigError, OutputError
from advrad.serving.errors import StoreUnavailable
from advrad.serving.store import Store
from advrad.serving.store.database import FILE_NAME, database_url


def refusal(db: str | None, data: Path) -> AdvradError:
    """The error of a store that cannot be opened; it is one line without a password."""
    with pytest.raises(AdvradError) as error:
        Store.open(db, data)
    message = str(error.value)
    assert "\n" not in message
    assert PASSWORD not in message
    return error.value


@pytest.mark.parametrize(
    ("db", "message"),
    [
        ("history.sqlite", "db: is no URL of a database; write sqlite:////FOLDER/FILE or postgresql://USER@HOST/NAME"),
        ("", "db: is no URL of a database; "),
        ("postgresql://u:s3cret-word@host:port/x", "db: is no URL of a database; "),
        ("mysql://u:s3cret-word@host/x", "db: 'mysql' is no database that advrad knows; write sqlite:////FOLDER/FILE"),
        ("sqlite://", "db: names no file; write sqlite:////FOLDER/FILE"),
        ("sqlite:///:memory:", "db: names no file; "),
        ("sqlite:///a?mode=ro", "db: names no file; "),
    ],
)
def test_a_wrong_url_is_said(db: str, message: str, tmp_path: Path) -> None:
    error = refusal(db, tmp_path)
    assert isinstance(error, ConfigError)
    assert str(error).startswith(message)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_each_name_of_postgresql_means_one_driver(scheme: str) -> None:
    assert database_url(f"{scheme}://u@h/x", Path()).drivername == "postgresql+psycopg"


def test_the_default_is_a_file_in_the_data_folder(tmp_path: Path) -> None:
    data = tmp_path / "new" / "50% ?#ü"
    with Store.open(None, data) as store:
        stored(store)
        store.ping()
    assert (data / FILE_NAME).read_bytes().startswith(b"SQLite format 3\0")
    assert (data / "pictures").is_dir()
    with Store.open(None, data) as store:
        assert len(store.inspections.find()) == 1


def test_a_store_stays_where_it_is_when_the_program_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Store.open(None, Path("data")) as store:
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
        store._database._engine.dispose()  # so that the next connection is opened from here
        stored(store)
        store.pictures.put(b"image")
    assert list((tmp_path / "other").iterdir()) == []


def test_sqlite_is_set_up_for_several_processes_and_power_cuts(tmp_path: Path) -> None:
    with Store.open(None, tmp_path) as store, store._database.reading() as connection:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names]
    assert values == ["wal", 2, 1, 5000]


def test_a_file_that_is_no_database_is_said_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("my notes")
    assert str(refusal(f"sqlite:///{file}", tmp_path)) == f"{file}: is no SQLite database; name another file"
    assert file.read_text() == "my notes"
    assert str(refusal(f"sqlite:///{tmp_path}", tmp_path)) == f"{tmp_path}: is a folder; name a file for the database"


def test_a_damaged_database_is_said(tmp_path: Path) -> None:
    with Store.open(None, tmp_path) as store:
        stored(store, 50)
    file = tmp_path / FILE_NAME
    content = file.read_bytes()
    file.write_bytes(content[:100] + b"\xff" * 4000 + content[4100:])
    assert "the file is damaged; restore it from a backup" in str(refusal(None, tmp_path))


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    error = refusal(None, tmp_path / "file" / "data")
    assert isinstance(error, OutputError)
    assert "the folder cannot be created" in str(error)
    error = refusal(f"sqlite:///{tmp_path}/file/x.sqlite", tmp_path)
    assert "file is a file; choose another path" in str(error)


TRY = """
import os, sys
from pathlib import Path
from advrad.errors import AdvradError
from advrad.serving.store import Store
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for db, data in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        Store.open(db or None, Path(data))
    except AdvradError as error:
        print(error)
"""


def test_what_may_not_be_written_is_said(tmp_path: Path) -> None:
    data, readable, other = tmp_path / "data", tmp_path / "readable", tmp_path / "open"
    Store.open(None, data).close()
    Store.open(None, readable).close()
    other.mkdir()
    other.chmod(0o777)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    for path in (data, data / "pictures", data / FILE_NAME, readable):
        path.chmod(0o555)
    (readable / FILE_NAME).chmod(0o666)
    # Without the rights of root, who may write everywhere.
    tries = [("", data), ("", data / "new"), *((f"sqlite:///{one / FILE_NAME}", other) for one in (data, readable))]
    command = [sys.executable, "-c", TRY, *(str(value) for pair in tries for value in pair)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    for folder in (data, readable):
        folder.chmod(0o755)
    assert done.stdout.splitlines() == [
        f"{data}/pictures: may not be written to; change its permissions",
        f"{data}/new: the folder cannot be created: permission denied; choose a folder that may be written to",
        f"{data}/{FILE_NAME}: may not be read and written; change its permissions",
        f"{readable}: may not be read and written; change its permissions",
    ]


def test_a_database_that_is_deleted_while_open_takes_nothing(tmp_path: Path) -> None:
    with Store.open(None, tmp_path) as store:
        stored(store)
        (tmp_path / FILE_NAME).rename(tmp_path / "moved")
        with pytest.raises(StoreUnavailable, match="was deleted or replaced while it was open"):
            stored(store)
        with sqlite3.connect(tmp_path / "copy") as copy:
            copy.execute("CREATE TABLE x (y)")
        copy.close()
        shutil.copy(tmp_path / "copy", tmp_path / FILE_NAME)
        with pytest.raises(StoreUnavailable, match="was deleted or replaced while it was open"):
            stored(store)
        (tmp_path / "moved").replace(tmp_path / FILE_NAME)
        stored(store)
        assert len(store.inspections.find()) == 2


def test_a_server_that_refuses_is_said(postgres: PostgresServer, tmp_path: Path) -> None:
    wrong = postgres.url().replace(PASSWORD, "wrong-word")
    error = refusal(wrong, tmp_path)
    assert isinstance(error, StoreUnavailable)
    assert "password authentication failed" in str(error)
    assert "wrong-word" not in str(error)
    assert 'database "nowhere" does not exist' in str(refusal(postgres.url("nowhere"), tmp_path))
    assert "Connection refused" in str(refusal(f"postgresql://u:{PASSWORD}@127.0.0.1:1/x", tmp_path))


def test_a_server_with_another_encoding_is_refused(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.make_database("ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    assert "its encoding is not UTF8; create the database with ENCODING 'UTF8'" in str(refusal(url, tmp_path))


def test_a_user_who_may_not_make_tables_is_said(postgres: PostgresServer, tmp_path: Path) -> None:
    postgres.execute(f"CREATE USER guest PASSWORD '{PASSWORD}'")
    url = postgres.url().replace("//advrad:", "//guest:")
    error = refusal(url, tmp_path)
    assert isinstance(error, StoreUnavailable)
    assert "permission denied" in str(error)


def test_a_missing_driver_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    error = refusal("postgresql://u@127.0.0.1:1/x", tmp_path)
    assert str(error) == "db: PostgreSQL needs its driver: pip install 'advrad[serve]'"


def test_the_options_of_a_url_are_kept(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.make_schema()
    with Store.open(url, tmp_path) as store:
        stored(store)
        with store._database.reading() as connection:
            shown = [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in ("lock_timeout", "timezone")]
    assert shown == ["5s", "UTC"]
    name = url.rpartition("%3D")[2]
    engine = create_engine(database_url(postgres.url(), tmp_path))
    with engine.connect() as connection:
        assert connection.exec_driver_sql(f"SELECT count(*) FROM {name}.inspections").scalar_one() == 1
    engine.dispose()


def test_others_on_the_machine_cannot_look_into_a_data_folder_that_is_made(tmp_path: Path) -> None:
    made, mine = tmp_path / "made", tmp_path / "mine"
    mine.mkdir(mode=0o750)
    for data in (made, mine):
        Store.open(None, data).close()
        assert (data / "pictures").stat().st_mode & 0o777 == 0o700
    assert made.stat().st_mode & 0o777 == 0o700
    assert mine.stat().st_mode & 0o777 == 0o750
