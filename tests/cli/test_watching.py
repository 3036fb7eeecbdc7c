"""The command that watches a folder: what it prints and refuses, how it ends, and what kill -9 leaves."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import pytest
import trained_run
from trained_run import MAIN, Cli
from webhook_receiver import receiving

from advrad.cli import watching
from advrad.serving.store import Store

QUICK = ("--settle-s", "0.1", "--give-up-s", "0.5", "--poll-s", "0.1")


@pytest.fixture
def folder(tmp_path: Path, widgets: Path) -> Path:
    """A folder with three images, one of them with a defect."""
    made = tmp_path / "in"
    made.mkdir()
    for name, source in (("a", "good/000"), ("b", "good/001"), ("bad", "scratch/000")):
        shutil.copyfile(widgets / "test" / f"{source}.png", made / f"{name}.png")
    return made


def test_watch_inspects_what_is_there_and_ends(cli: Cli, folder: Path, closed_form_run: Path, tmp_path: Path) -> None:
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:-100])
    (tmp_path / "sinks.toml").write_text('[[sink]]\nkind = "csv"\nname = "log"\nfile = "log.csv"\n', encoding="utf-8")
    out = tmp_path / "out"
    given = ("watch", folder, "--model", f"widget={closed_form_run}", "-o", out, *QUICK, "--once")
    done = cli(*given, "--station", "line 3", "--sinks", tmp_path / "sinks.toml")
    assert done.status == 0, done.err
    rows = {Path(row["path"]).name: row for row in map(json.loads, done.out.splitlines())}
    assert set(rows) == {"a.png", "b.png", "bad.png", "broken.png"}
    assert set(rows["a.png"]) == {"path", "score", "threshold", "verdict", "defective", "id"}
    assert rows["bad.png"]["verdict"] == "defective"
    assert rows["broken.png"]["path"] == str(folder / "broken.png")
    assert "truncated" in rows["broken.png"]["error"]
    assert Path(rows["broken.png"]["set_aside"]).is_file()
    defective = sum(row.get("defective", False) for row in rows.values())
    assert done.err == f"advrad: 3 inspected, {defective} defective; 1 set aside\n"
    # The same scores as those of predict.
    predicted = [json.loads(line) for line in cli("predict", closed_form_run, folder / "bad.png").out.splitlines()]
    assert rows["bad.png"]["score"] == pytest.approx(predicted[0]["score"], abs=1e-6)
    with Store.open(None, out) as store:
        kept = store.inspections.find()
        assert {one.file_name for one in kept} == {"a.png", "b.png", "bad.png"}
        assert {(one.product, one.station) for one in kept} == {("widget", "line 3")}
        assert store.outbox.waiting() == {}
    with (tmp_path / "log.csv").open(encoding="utf-8", newline="") as file:
        assert {row["id"] for row in csv.DictReader(file)} == {one.id for one in kept}
    again = cli(*given)
    assert (again.status, again.out) == (0, "")
    assert again.err == "advrad: 0 inspected, 0 defective; 4 known before\n"


@pytest.mark.timeout(60)
def test_a_signal_is_heard_at_every_step_of_a_wait() -> None:
    """A signal comes between any two steps of the main thread, also while that is about to wait."""
    seen = 0
    for step in range(1000):
        count = 0

        def trace(frame: FrameType, event: str, _: object) -> object:
            nonlocal count
            count += 1
            if count == step:  # noqa: B023 - it is called in this turn alone
                os.kill(os.getpid(), signal.SIGTERM)
            return trace

        with watching._stopping() as stop:
            sys.settrace(trace)
            try:
                stop.wait(0.01)
            finally:
                sys.settrace(None)
            if count < step:
                break
            seen += stop.is_set() and stop.wait(60)
    assert seen == step - 1 > 5


def test_what_a_sink_did_not_take_is_kept_for_the_next_start(
    cli: Cli, folder: Path, closed_form_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "one")
    sinks = tmp_path / "sinks.toml"
    text = '[[sink]]\nkind = "webhook"\nname = "mes"\nurl = "{}"\nsecret_env = "SECRET"\nonly_defective = true\n'
    sinks.write_text(text.format("http://127.0.0.1:9/"), encoding="utf-8")
    given = ("watch", folder, "--model", closed_form_run, "-o", tmp_path / "out", *QUICK, "--once", "--sinks", sinks)
    done = cli(*given)
    assert done.status == 0
    defective = [row["id"] for row in map(json.loads, done.out.splitlines()) if row["defective"]]
    assert "advrad: sink mes: ConnectError: " in done.err
    assert re.search(r"advrad: sink mes: [1-3] not delivered yet, and kept for the next start\n", done.err)
    with receiving() as receiver:
        sinks.write_text(text.format(receiver.url), encoding="utf-8")
        again = cli(*given)
        assert (again.status, again.out) == (0, "")
        assert [one["id"] for one in receiver.inspections()] == defective


def test_watch_prints_text_on_a_terminal(
    cli: Cli, folder: Path, closed_form_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
    os.rename(folder / "a.png", folder / "line\nbreak.png")
    (folder / "b.png").write_text("no image", encoding="utf-8")
    done = cli("watch", folder, "--model", closed_form_run, "-o", tmp_path / "out", *QUICK, "--once")
    lines = sorted(done.out.splitlines(), key=lambda line: line.split()[-1])
    assert len(lines) == 2
    assert lines[0].startswith("DEFECTIVE  score ") and lines[0].endswith(f"  {folder}/bad.png")
    assert lines[1].endswith(f"  {folder}/line\\nbreak.png")
    assert f"set aside: {folder}/b.png: holds text, not an image; see " in done.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folder": "no"}, "no: there is no such folder; create it first, or correct the name"),
        ({"folder": "in/a.png"}, "in/a.png: is a file; name the folder in which files land"),
        ({"-o": "in"}, "--output in: must not be the watched folder; name another one"),
        ({"--move-to": "in/../in"}, "--move-to in/../in: must not be the watched folder; name another one"),
        ({"--settle-s": "-1"}, "--settle-s -1: must be at least 0"),
        ({"--sinks": "no.toml"}, "no.toml: cannot be read (No such file or directory); check the path"),
        ({"--model": "x y=run"}, "x y=run: 'x y' cannot be the name of a product"),
        ({"--model": "in"}, "in: "),
    ],
)
def test_wrong_input_is_one_line(
    cli: Cli, folder: Path, closed_form_run: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], message: str
) -> None:
    monkeypatch.chdir(folder.parent)
    values = {"folder": "in", "--model": str(closed_form_run), "-o": "out", **change}
    arguments = [values.pop("folder"), *(part for pair in values.items() for part in pair)]
    done = cli("watch", *arguments)
    assert done.status == 2
    assert done.one_error_line().startswith(f"advrad: error: {message}")


def started(arguments: Sequence[object], **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, "watch", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **options,  # type: ignore[call-overload]
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_ends_it_in_order(folder: Path, closed_form_run: Path, tmp_path: Path, number: int) -> None:
    arguments = (folder, "--model", closed_form_run, "-o", tmp_path / "out", *QUICK)
    with started(arguments) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (0, ""), err
    first, *middle, last = err.splitlines()
    assert first.startswith("advrad: drift: nothing is watched, because the model folder keeps no values")
    assert middle == [f"advrad: watching {folder}", "advrad: finishing what was taken"]
    assert last.startswith("advrad: 3 inspected, ")
    with Store.open(None, tmp_path / "out") as store:
        assert {one.id for one in store.inspections.find()} == {json.loads(line)["id"] for line in lines}


_SEVERAL_TIMES = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(
    ("files", "kills"), [(12, 1), pytest.param(60, 6, marks=_SEVERAL_TIMES)], ids=["once", "several-times"]
)
def test_kill_9_inspects_each_file_once_and_delivers_it(
    closed_form_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int, kills: int
) -> None:
    """Files land while the program is killed at random moments and started again."""
    chance = random.Random(20261127)
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    prepared = [trained_run.image(tmp_path / "ready" / f"part-{number:02d}.png", number) for number in range(files)]
    monkeypatch.setenv("SECRET", "one")
    sinks = tmp_path / "sinks.toml"
    with receiving() as receiver:
        sinks.write_text(
            f'[[sink]]\nkind = "webhook"\nname = "mes"\nurl = "{receiver.url}"\nsecret_env = "SECRET"\n'
            '[[sink]]\nkind = "csv"\nname = "log"\nfile = "log.csv"\n',
            encoding="utf-8",
        )
        arguments = (folder, "--model", f"widget={closed_form_run}", "-o", out, "--sinks", sinks, *QUICK)
        for attempt in range(kills):
            batch = prepared[attempt * files // (kills + 1) : (attempt + 1) * files // (kills + 1)]
            with started(arguments) as process:
                assert process.stdout is not None
                for path in batch:
                    shutil.copyfile(path, folder / path.name)
                    time.sleep(chance.uniform(0, 0.02))
                for _ in range(chance.randrange(1, len(batch))):
                    assert process.stdout.readline()
                time.sleep(chance.uniform(0, 0.05))
                process.kill()
        for path in prepared:
            shutil.copyfile(path, folder / path.name)
        with started((*arguments, "--once")) as process:
            _, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
        with Store.open(None, out) as store:
            history = store.inspections.find(limit=1000)
            assert store.outbox.waiting() == {}
        expected = {path.name: 1 for path in prepared}
        assert Counter(one.file_name for one in history) == expected
        ids = {one.id for one in history}
        assert {one["id"] for one in receiver.inspections()} == ids
        with (tmp_path / "log.csv").open(encoding="utf-8", newline="") as file:
            assert Counter(row["id"] for row in csv.DictReader(file)) == dict.fromkeys(ids, 1)


def test_what_the_parts_log_is_told_as_lines(capsys: pytest.CaptureFixture[str]) -> None:
    import structlog

    from advrad.cli.watching import _logged_as_lines

    before = structlog.get_config()
    with _logged_as_lines():
        log = structlog.get_logger("advrad.inspecting")
        log.warning("drift", product="flange", alarm="brightness is lower than before")
        log.debug("not shown")
        try:
            raise ZeroDivisionError("division by zero")
        except ZeroDivisionError:
            log.exception("a defect of advrad")
    assert structlog.get_config() == before
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert (out, lines[:2]) == (
        "",
        ["advrad: drift: flange, brightness is lower than before", "advrad: a defect of advrad"],
    )
    assert lines[-1] == "ZeroDivisionError: division by zero"


@pytest.mark.slow
def test_two_watchers_of_one_folder_share_the_work(closed_form_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for number in range(12):
        trained_run.image(folder / f"{number:02d}.png", number)
    arguments = (folder, "--model", f"widget={closed_form_run}", "-o", tmp_path / "out", *QUICK, "--once")
    pair = [started(arguments) for _ in range(2)]
    said = [process.communicate(timeout=300) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    printed = [json.loads(line)["path"] for out, _ in said for line in out.splitlines()]
    assert Counter(printed) == {str(path): 1 for path in folder.iterdir()}
    with Store.open(None, tmp_path / "out") as store:
        assert Counter(one.file_name for one in store.inspections.find()) == {path.name: 1 for path in folder.iterdir()}


@pytest.mark.slow
def test_a_database_that_is_locked_is_waited_for(closed_form_run: Path, folder: Path, tmp_path: Path) -> None:
    import sqlite3

    out = tmp_path / "out"
    with Store.open(None, out):
        pass
    arguments = (folder, "--model", f"widget={closed_form_run}", "-o", out, *QUICK)
    with started(arguments) as process:
        assert process.stdout is not None and process.stderr is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert all(lines)
        lock = sqlite3.connect(out / "history.sqlite", isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        trained_run.image(folder / "late.png", 5)
        try:
            said = [process.stderr.readline() for _ in range(2)]
            assert said[1] == f"advrad: watching {folder}\n"
            noted = process.stderr.readline()
            assert "it is tried again" in noted, noted
        finally:
            lock.execute("ROLLBACK")
            lock.close()
        assert json.loads(process.stdout.readline())["path"].endswith("late.png")
        process.terminate()
        _, err = process.communicate(timeout=300)
    assert (process.returncode, "advrad: 4 inspected" in err) == (0, True), err


@pytest.mark.slow
def test_a_database_that_is_gone_and_back_loses_nothing(closed_form_run: Path, tmp_path: Path) -> None:
    """PostgreSQL is stopped in the middle, and started again, while files land."""
    from postgres_server import postgres_server

    folder, out = tmp_path / "in", tmp_path / "out"
    names = [f"{number:02d}.png" for number in range(30)]
    sinks = tmp_path / "sinks.toml"
    sinks.write_text('[[sink]]\nkind = "csv"\nname = "log"\nfile = "log.csv"\n', encoding="utf-8")
    with postgres_server() as server:
        url = server.make_database()
        for number, name in enumerate(names[:10]):
            trained_run.image(folder / name, number)
        arguments = (folder, "--model", f"widget={closed_form_run}", "-o", out, "--db", url, "--sinks", sinks, *QUICK)
        with started(arguments) as process:
            assert process.stdout is not None and process.stderr is not None
            printed = [process.stdout.readline() for _ in range(5)]
            server.stop("immediate")
            for number, name in enumerate(names[10:], 10):
                trained_run.image(folder / name, number)
            while "it is tried again" not in (line := process.stderr.readline()):
                assert line
            time.sleep(1)
            server.start()
            printed += [process.stdout.readline() for _ in range(len(names) - len(printed))]
            process.terminate()
            _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        with Store.open(url, out) as store:
            history = store.inspections.find(limit=1000)
            assert Counter(one.file_name for one in history) == dict.fromkeys(names, 1)
            assert store.outbox.waiting() == {}
        with (tmp_path / "log.csv").open(encoding="utf-8", newline="") as file:
            assert Counter(row["id"] for row in csv.DictReader(file)) == {one.id: 1 for one in history}
