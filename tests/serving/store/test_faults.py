"""What the store withstands: a killed process, a full disk, a locked database, a server that stops and comes back."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgres_server import PostgresServer
from store_writer import go, start_writer
from toy_inspections import AT, stored, toy_inspection, toy_review

from advrad.serving.errors import StoreUnavailable
from advrad.serving.store import Store
from advrad.serving.store import database as module
from advrad.serving.store.database import FILE_NAME


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for locks for a short time."""
    monkeypatch.setattr(module, "BUSY_S", 0.3)


def kill_in_the_middle(db: str, data: Path, after: int) -> list[str]:
    """Let another process write, kill it after some acknowledgements, and return what it has acknowledged."""
    with start_writer(db, data, "stream") as writer:
        go(writer)
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(after)]
        writer.kill()
        lines += writer.stdout.readlines()
    return [one for line in lines if line.endswith("\n") for one in line.split()]


def check_after_the_kill(db: str, data: Path, acknowledged: list[str]) -> None:
    with Store.open(db, data) as store:
        known = {one.id: one for one in store.inspections.iterate()}
        assert set(acknowledged) <= known.keys()
        assert len(known) % 3 == 0  # groups of three are there as a whole
        waiting = {sink: [row.inspection.id for row in store.outbox.due(sink, AT, 10**6)] for sink in ("mqtt", "hook")}
        assert waiting == {"mqtt": sorted(known), "hook": sorted(known)}
        for one in known.values():
            assert store.pictures.read(one.picture)
        report = store.audit.verify()
        assert report.whole
        reviewed = [one.id for one in known.values() if one.review]
        assert report.rows == len(reviewed)
        assert set(acknowledged[::3]) <= set(reviewed)
        assert store.inspections.new_id() > max(known)
        stored(store)


def test_a_killed_process_loses_nothing_that_it_acknowledged(db: str, tmp_path: Path) -> None:
    acknowledged = kill_in_the_middle(db, tmp_path, 5)
    assert len(acknowledged) >= 15
    check_after_the_kill(db, tmp_path, acknowledged)


@pytest.mark.slow
def test_a_process_that_is_killed_again_and_again_loses_nothing(db: str, tmp_path: Path) -> None:
    acknowledged: list[str] = []
    for run in range(8):
        acknowledged += kill_in_the_middle(db, tmp_path, 1 + 7 * run % 11)
    with Store.open(db, tmp_path) as store:
        known = {one.id for one in store.inspections.iterate()}
        assert set(acknowledged) <= known
        assert store.audit.verify().whole
        assert store.outbox.waiting() == {"mqtt": len(known), "hook": len(known)}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte, which only root can make."""
    if os.getuid() != 0:
        pytest.skip("only root may mount a small disk")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], stderr=subprocess.PIPE, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_said_and_the_store_works_again_after(small_disk: Path) -> None:
    with Store.open(None, small_disk) as store:
        (first,) = stored(store, details={"words": "x" * 1000})
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(StoreUnavailable, match="the disk is full") as error:
            store.pictures.put(os.urandom(50_000))
        assert "\n" not in str(error.value)
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            for _ in range(200):
                store.inspections.add_many([toy_inspection(store, details={"words": "x" * 5000})], ["mqtt"])
        assert list(store.pictures.files()) == []
        known = store.inspections.find(limit=1000)
        assert known[-1] == first
        assert store.outbox.pending("mqtt") == len(known) - 1
        filler.unlink()
        (later,) = stored(store)
        assert store.inspections.get(later.id) == later
        assert store.pictures.read(store.pictures.put(b"image")) == b"image"
        assert store.audit.verify().whole
    with Store.open(None, small_disk) as store:
        assert [one.id for one in store.inspections.find(limit=1000)] == [later.id, *(one.id for one in known)]


LIMITED = """
import resource, sys
from pathlib import Path
from toy_inspections import stored
from advrad.serving.errors import StoreUnavailable
from advrad.serving.store import Store
with Store.open(None, Path(sys.argv[1])) as store:
    stored(store)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, hard))
    failures = []
    for what in (lambda: store.pictures.put(b"x" * 100_000), lambda: stored(store, 60, details={"w": "x" * 3000})):
        try:
            what()
        except StoreUnavailable as error:
            failures.append(str(error))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    stored(store)
    print(len(failures), len(store.inspections.find()), len(list(store.pictures.files())))
    print(*failures, sep="\\n")
"""


def test_a_file_that_may_not_grow_is_said_and_the_store_works_again_after(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "helpers")}
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    counts, *failures = done.stdout.splitlines()
    assert counts == "2 2 0"
    assert "File too large" in failures[0]
    assert "the disk is full" in failures[1] or "the disk cannot be read or written" in failures[1]


@pytest.mark.usefixtures("impatient")
def test_a_locked_sqlite_file_is_said_and_the_store_works_again_after(tmp_path: Path) -> None:
    with Store.open(None, tmp_path) as store:
        (one,) = stored(store)
        other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable, match="another program has kept it locked") as error:
            stored(store)
        assert 0.2 < time.monotonic() - begun < 60
        assert error.value.fix == "end that program, or try again"
        with pytest.raises(StoreUnavailable):
            store.reviews.put(one.id, toy_review())
        # Reading goes on while another program writes.
        assert store.inspections.find() == [one]
        other.execute("ROLLBACK")
        other.close()
        store.reviews.put(one.id, toy_review())
        stored(store)
        assert store.audit.verify().rows == 1


@pytest.mark.usefixtures("impatient")
def test_a_locked_table_of_postgresql_is_said_and_the_store_works_again_after(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    import psycopg

    url = postgres.make_schema()
    with Store.open(url, tmp_path) as store:
        (one,) = stored(store)
        with psycopg.connect(url) as other:
            other.execute("LOCK TABLE inspections")
            for ask in (lambda: stored(store), store.inspections.find, lambda: store.reviews.put(one.id, toy_review())):
                with pytest.raises(StoreUnavailable, match="another program has kept it locked"):
                    ask()
        stored(store)
        store.reviews.put(one.id, toy_review())
        assert store.audit.verify().rows == 1


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_stops_and_comes_back_is_met_again(postgres: PostgresServer, tmp_path: Path, mode: str) -> None:
    with Store.open(postgres.make_schema(), tmp_path) as store:
        answers: list[str] = []
        failures: list[BaseException] = []
        done = threading.Event()

        def write() -> None:
            while not done.is_set():
                try:
                    answers.extend(one.id for one in store.inspections.add_many([toy_inspection(store)], ["mqtt"]))
                    store.audit.append("test", "x", "ann")
                except BaseException as error:
                    failures.append(error)
                    time.sleep(0.02)

        writers = [threading.Thread(target=write) for _ in range(2)]
        for writer in writers:
            writer.start()
        _wait(lambda: len(answers) > 10)
        postgres.stop(mode)
        try:
            _wait(lambda: len(failures) > 4)
            with pytest.raises(StoreUnavailable) as error:
                store.ping()
            assert "\n" not in str(error.value)
        finally:
            postgres.start()
        before = len(answers)
        _wait(lambda: len(answers) > before + 10)
        done.set()
        for writer in writers:
            writer.join()
        store.ping()
        assert {type(one) for one in failures} == {StoreUnavailable}
        known = {one.id for one in store.inspections.iterate()}
        assert set(answers) <= known
        # An answer that was lost with the connection may have been stored: at most one for each writer.
        assert len(known) <= len(answers) + len(writers)
        assert store.outbox.pending("mqtt") == len(known)
        assert store.audit.verify().whole


def _wait(reached: Callable[[], bool], limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.01)


def test_many_threads_write_and_read_at_once(store: Store) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                (one,) = stored(store)
                store.reviews.put(one.id, toy_review())
                assert one.id in {each.id for each in store.inspections.find(limit=100)}
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.inspections.counts().reviews["good"] == 60
    report = store.audit.verify()
    assert (report.whole, report.rows) == (True, 60)
