"""The local engine: what it does when processes die, are interrupted, or lose their parent."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import engine_work
import pytest
from engine_work import Squares, is_running, left_of, wait_for_end

import advrad.engine.local as local
from advrad.engine import MOST_LOSSES, LocalEngine, Resources
from advrad.errors import ConfigError, EngineError

#: A program that prints the process numbers of its two workers, and waits for them.
PROGRAM = """
    import sys
    from pathlib import Path
    import advrad.engine.local
    import engine_work
    from advrad.engine import LocalEngine

    if __name__ == "__main__":
        advrad.engine.local.GRACE_S = 60  # on a busy machine, too, processes tidy up before they are killed
        for pid in LocalEngine(2).run(engine_work.stay, [Path(sys.argv[1])] * 2):
            print(pid, flush=True)
"""


#: Work whose process forks a child, which lives on and keeps the pipe of the process open.
FORKING = """
    import os
    import signal
    import time
    from pathlib import Path


    def forked(folder):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        (folder / f"{child}.child").touch()


    def die_once(folder):
        if not list(folder.glob("*.child")):
            forked(folder)
            os.kill(os.getpid(), signal.SIGKILL)
        yield os.getpid()


    def pid_then_big(folder):
        if not list(folder.glob("*.child")):
            forked(folder)
        yield os.getpid()
        yield b"x" * 5_000_000
"""


@pytest.fixture
def forking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module `FORKING`; its children are ended at the end."""
    (tmp_path / "forking_work.py").write_text(textwrap.dedent(FORKING), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("forking_work")
    del sys.modules["forking_work"]
    for child in children_in(tmp_path):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def children_in(folder: Path) -> list[int]:
    return [int(path.stem) for path in folder.glob("*.child")]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, too, processes tidy up before they are killed."""
    monkeypatch.setattr(local, "GRACE_S", 60)


def written(folder: Path, text: str) -> Path:
    path = folder / "program.py"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def started(program: Path, *arguments: Path) -> subprocess.Popen[str]:
    """A program in a process group of its own, as a shell starts it."""
    paths = os.pathsep.join(sys.path)
    return subprocess.Popen(
        [sys.executable, program, *arguments],
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def first_lines(process: subprocess.Popen[str], count: int) -> list[int]:
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(count)]


def test_a_killed_process_loses_only_what_it_had_not_given(tmp_path: Path) -> None:
    tasks = [Squares(0, 5, 3, tmp_path), Squares(10, 14), Squares(20, 22, 20, tmp_path)]
    given: list[tuple[int, int]] = []
    asked: list[Squares] = []

    def left(task: Squares) -> Squares | None:
        asked.append(task)
        return left_of(task, given)

    for item in LocalEngine(2).run(engine_work.squares, tasks, left=left):
        given.append(item)
    numbers = [*range(5), *range(10, 14), *range(20, 22)]
    assert sorted(given) == [(number, number**2) for number in numbers]
    assert sorted(asked, key=lambda task: task.first) == [tasks[0], tasks[2]]


def test_a_task_of_which_nothing_is_left_is_not_done_again(tmp_path: Path) -> None:
    given = list(LocalEngine(2).run(engine_work.squares, [Squares(0, 3, 2, tmp_path)], left=lambda task: None))
    assert given == [(0, 0), (1, 1)]


def test_a_process_killed_while_it_sends_an_item_gives_it_again() -> None:
    running = LocalEngine(2).run(engine_work.pid_then_big, [5_000_000])
    pid = next(running)
    time.sleep(1)  # the item is on its way then, and no pipe takes it at once
    os.kill(pid, signal.SIGKILL)
    again, item = running
    assert again != pid
    assert len(item) == 5_000_000


def test_a_process_that_dies_is_not_waited_for_while_its_child_keeps_the_pipe_open(
    tmp_path: Path, forking: Any
) -> None:
    (worker,) = LocalEngine(2).run(forking.die_once, [tmp_path])
    (child,) = children_in(tmp_path)
    assert is_running(child), "the next item came only when nobody had the pipe open any more"
    assert worker != child


def test_the_rest_of_an_item_is_not_waited_for_while_a_child_keeps_the_pipe_open(tmp_path: Path, forking: Any) -> None:
    running = LocalEngine(2).run(forking.pid_then_big, [tmp_path])
    pid = next(running)
    time.sleep(1)  # the item is on its way then, and no pipe takes it at once
    os.kill(pid, signal.SIGKILL)
    again, item = running
    (child,) = children_in(tmp_path)
    assert is_running(child), "the next item came only when nobody had the pipe open any more"
    assert again != pid
    assert len(item) == 5_000_000


def test_a_task_that_kills_every_process_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"{MOST_LOSSES} processes died over one task, the last one by SIGKILL: Sq"):
        list(LocalEngine(2).run(engine_work.squares, [Squares(0, 3, 0, tmp_path, always=True)]))


def test_losses_count_only_while_there_is_no_progress(tmp_path: Path) -> None:
    given: list[int] = []
    deadly = MOST_LOSSES + 2

    def left(count: int) -> int | None:
        return count - 1 or None

    for pid in LocalEngine(2).run(engine_work.one_then_death, [deadly], left=left):
        given.append(pid)
    assert len(set(given)) == deadly


def test_processes_are_started_only_for_tasks_and_work_on_several() -> None:
    assert len(set(LocalEngine(4).run(engine_work.pids, [3]))) == 1
    assert len(set(LocalEngine(1).run(engine_work.pids, [1] * 5))) == 1


def test_a_closed_generator_ends_the_processes_and_what_they_have_open_is_tidied_up(
    tmp_path: Path, patient: None
) -> None:
    running = LocalEngine(2).run(engine_work.stay, [tmp_path] * 2)
    workers = [next(running), next(running)]
    assert all(map(is_running, workers))
    assert len(list(tmp_path.iterdir())) == 2
    running.close()
    assert not any(map(is_running, workers))
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_cannot_hand_on_its_item_tidies_up_too(tmp_path: Path, patient: None) -> None:
    running = LocalEngine(2).run(engine_work.stay_with_big_items, [tmp_path])
    assert len(next(running)) == 5_000_000
    time.sleep(1)  # the second item is on its way then, and no pipe takes it at once
    assert len(list(tmp_path.iterdir())) == 1
    running.close()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_does_not_end_when_told_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "GRACE_S", 0.2)
    running = LocalEngine(2).run(engine_work.hold_on, [tmp_path])
    worker = next(running)
    running.close()
    assert not is_running(worker)


def test_an_exception_of_the_tasks_ends_the_processes(tmp_path: Path, patient: None) -> None:
    def tasks() -> Iterator[Path]:
        yield tmp_path
        raise ValueError("no more tasks")

    workers = []
    with pytest.raises(ValueError, match="no more tasks"):
        for worker in LocalEngine(2).run(engine_work.stay, tasks()):
            workers.append(worker)
    assert list(tmp_path.iterdir()) == []


def test_the_processes_end_with_their_parent_whatever_kills_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with started(written(tmp_path, PROGRAM), data) as program:
        workers = first_lines(program, 2)
        assert all(map(is_running, workers))
        program.kill()
    assert all(map(wait_for_end, workers))


def test_an_interruption_ends_all_and_only_the_parent_speaks(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with started(written(tmp_path, PROGRAM), data) as program:
        workers = first_lines(program, 2)
        os.killpg(program.pid, signal.SIGINT)
        _, errors = program.communicate(timeout=60)
    assert program.returncode == -signal.SIGINT
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == 1
    assert not any(map(is_running, workers))
    assert list(data.iterdir()) == []


def test_a_generator_that_nobody_closes_does_not_keep_python_from_ending(tmp_path: Path) -> None:
    program = """
        from pathlib import Path
        import sys
        import engine_work
        from advrad.engine import LocalEngine

        if __name__ == "__main__":
            running = LocalEngine(2).run(engine_work.stay, [Path(sys.argv[1])] * 2)
            print(next(running), flush=True)
            kept = [running]
            kept.append(kept)
    """
    data = tmp_path / "data"
    data.mkdir()
    with started(written(tmp_path, program), data) as process:
        (worker,) = first_lines(process, 1)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert not is_running(worker)


def test_a_script_that_starts_processes_when_it_is_imported_is_told_so(tmp_path: Path) -> None:
    program = """
        import engine_work
        from advrad.engine import LocalEngine

        list(LocalEngine(2).run(engine_work.pids, [1]))
    """
    with started(written(tmp_path, program)) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "a process ended with exit status 1 before it began to work" in errors.splitlines()[-1]
    assert "if __name__ == '__main__'" in errors.splitlines()[-1]


def test_what_a_process_prints_goes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(LocalEngine(2).run(engine_work.talk, ["hello"])) == ["hello"]
    assert capfd.readouterr() == ("", "hello\n")


def test_threads_and_processes_together_do_not_exceed_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "usable_processors", lambda: 8)
    monkeypatch.setattr(local, "thread_count", lambda: 8)
    assert [LocalEngine(jobs).threads for jobs in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]
    monkeypatch.setattr(local, "thread_count", lambda: 3)
    assert [LocalEngine(jobs).threads for jobs in (1, 2, 3)] == [3, 3, 2]
    assert list(LocalEngine(4).run(engine_work.threads, [0])) == [(2, 2)]
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_more_processes_than_processors_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "usable_processors", lambda: 4)
    monkeypatch.setattr(local, "thread_count", lambda: 4)
    assert LocalEngine(2).in_words() == "computing with 2 processes of 2 threads each on 4 processors"
    assert LocalEngine(1).in_words() == "computing with 1 process of 4 threads each on 4 processors"
    assert LocalEngine(5).in_words() == (
        "computing with 5 processes of 1 thread each, though there are only 4 processors; fewer jobs may be faster"
    )


def test_processes_take_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    name = "CUDA_VISIBLE_DEVICES"
    shared = dict(LocalEngine(2).run(engine_work.environment, [name] * 2))
    assert sorted(shared.values()) == ["3,5", "3,5"]
    own = dict(LocalEngine(2).run(engine_work.environment, [name] * 2, resources=Resources(gpus=1)))
    assert sorted(own.values()) == ["3", "5"]


def test_an_impossible_number_of_processes_is_refused() -> None:
    with pytest.raises(ConfigError, match="jobs 0: must be 1 or more"):
        LocalEngine(0)
