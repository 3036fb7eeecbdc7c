"""The Ray engine on a cluster of two nodes for tasks, which the tests start and stop."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine_contract
import engine_work
import pytest
from engine_contract import Check
from engine_work import Squares, left_of, wait_for_end
from ray_nodes import ray_nodes

import advrad.engine.ray_engine as ray_engine
from advrad.engine import MOST_LOSSES, Engine, Resources, open_engine
from advrad.errors import ConfigError, EngineError

#: A program that prints the process numbers of its two tasks, and waits for them.
PROGRAM = """
    import sys
    from pathlib import Path
    import engine_work
    from advrad.engine import open_engine

    with open_engine("ray", address=sys.argv[2]) as engine:
        for pid in engine.run(engine_work.stay, [Path(sys.argv[1])] * 2):
            print(pid, flush=True)
"""


#: Work that waits after each item until the file `lost` is there.
HELD = """
    import time

    import engine_work


    def held_squares(task):
        for item in engine_work.slow_squares(task):
            yield item
            while not (task.deaths / "lost").exists():
                time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_nodes(2) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def engine(cluster: Any) -> Iterator[Engine]:
    with open_engine("ray", address=cluster.address) as opened:
        yield opened


@pytest.mark.parametrize(
    "check",
    [*engine_contract.CHECKS, *engine_contract.OTHER_PROCESS_CHECKS],
    ids=lambda check: check.__name__,
)
def test_the_engine_keeps_the_contract(check: Check, engine: Engine) -> None:
    check(engine)


def test_the_engine_says_what_computes(engine: Engine, cluster: Any) -> None:
    assert engine.in_words() == f"computing with the Ray cluster at {cluster.address}: 3 machines, 2 processors"
    assert (engine.workers, engine.shares_files) == (2, False)


def test_the_number_of_tasks_at_once_may_be_bounded(cluster: Any, engine: Engine) -> None:
    assert ray_engine.RayEngine(cluster.address, 1).workers == 1
    assert ray_engine.RayEngine(cluster.address, 9).workers == 2


def test_tasks_run_on_both_nodes_and_load_their_work_once(engine: Engine, tmp_path: Path) -> None:
    given = list(engine.run(engine_work.Meeting(tmp_path), range(8)))
    assert sorted(task for task, _, _ in given) == list(range(8))
    counts = {node: [count for _, where, count in given if where == node] for _, node, _ in given}
    assert len(counts) == 2
    assert all(list(range(1, len(numbers) + 1)) == numbers for numbers in counts.values())


def test_a_killed_process_loses_only_what_it_had_not_given(engine: Engine, tmp_path: Path) -> None:
    given: list[tuple[int, int]] = []
    tasks = [Squares(0, 5, 3, tmp_path), Squares(10, 14)]
    for item in engine.run(engine_work.squares, tasks, left=lambda task: left_of(task, given)):
        given.append(item)
    assert sorted(given) == [(number, number**2) for number in [*range(5), *range(10, 14)]]


def test_a_task_that_kills_every_process_ends_the_run(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"{MOST_LOSSES} processes died over one task, the last one by WorkerCrash"):
        list(engine.run(engine_work.squares, [Squares(0, 3, 0, tmp_path, always=True)]))


def test_tasks_compute_with_the_processors_that_they_get(engine: Engine) -> None:
    name = "OMP_NUM_THREADS"
    assert {threads for _, threads in engine.run(engine_work.environment, [name])} == {"1"}


@pytest.mark.parametrize(
    ("resources", "wanted"),
    [
        (Resources(cpus=2), "CPU 2"),
        (Resources(gpus=1), "CPU 1, GPU 1"),
        (Resources(memory_mb=2**24), "CPU 1, memory 1.75922e+13"),
    ],
    ids=str,
)
def test_a_task_that_fits_on_no_machine_is_refused(engine: Engine, resources: Resources, wanted: str) -> None:
    with pytest.raises(EngineError) as caught:
        list(engine.run(engine_work.pids, [1], resources=resources))
    assert str(caught.value) == f"no machine of the Ray cluster has what one task needs ({wanted}); add one that has it"


def test_machines_with_other_code_are_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "code_of_this_machine", lambda: "0.0.9 (0123456789ab)")
    with pytest.raises(EngineError, match=r" has advrad 0.*, and this machine has 0.0.9 \(0123456789ab\); install the"):
        list(engine.run(engine_work.pids, [1]))


def test_a_closed_generator_ends_the_tasks(engine: Engine, tmp_path: Path) -> None:
    running = engine.run(engine_work.stay, [tmp_path] * 2)
    workers = [next(running), next(running)]
    running.close()
    assert all(map(wait_for_end, workers))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_the_tasks_end_with_their_driver(cluster: Any, tmp_path: Path, number: signal.Signals) -> None:
    data = tmp_path / "data"
    data.mkdir()
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, program, data, cluster.address],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as driver:
        assert driver.stdout is not None
        workers = [int(driver.stdout.readline()) for _ in range(2)]
        os.killpg(driver.pid, number)
        _, errors = driver.communicate(timeout=60)
    assert all(map(wait_for_end, workers))
    assert driver.returncode == -number
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == (number is signal.SIGINT)


def test_a_lost_machine_costs_only_what_it_had_not_given(
    cluster: Any,
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "held_work.py").write_text(textwrap.dedent(HELD), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    work = importlib.import_module("held_work").held_squares
    doomed = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    given: list[tuple[int, int]] = []
    begun: dict[str, int] = {}
    asked: list[Squares] = []

    def left(task: Squares) -> Squares | None:
        asked.append(task)
        return left_of(task, given)

    tasks = [Squares(10 * number, 10 * number + 8, deaths=tmp_path) for number in range(3)]
    for number, square, node in engine.run(work, tasks, left=left):
        given.append((number, square))
        begun.setdefault(node, number // 10)
        if len(begun) == 3 and doomed is not None:
            cluster.remove_node(doomed, allow_graceful=False)
            lost, doomed = doomed.node_id, None
            (tmp_path / "lost").touch()
    assert sorted(given) == [(number, number**2) for task in tasks for number in range(task.first, task.end)]
    assert asked == [tasks[begun[lost]]]
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_cluster_on_this_machine_alone_is_quiet_and_ends_with_the_run(tmp_path: Path) -> None:
    program = """
        import engine_work
        from advrad.engine import open_engine

        with open_engine("ray", jobs=1) as engine:
            print(engine.in_words().partition(", ")[0])
            print(*engine.run(engine_work.parents, [1]))
    """
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(program), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, path],
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    words, pids = done.stdout.splitlines()
    assert words == "computing with Ray on this machine alone: 1 machine"
    assert all(wait_for_end(int(pid)) for pid in pids.split())


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(EngineError) as caught, open_engine("ray", address=address):
            pass
    assert str(caught.value).startswith(f"no Ray cluster answers at {address} (")
    assert str(caught.value).endswith("); give the one that 'ray start' printed on its first machine")


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["silence", "another protocol"])
def test_a_server_of_another_kind_is_refused(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "ANSWER_S", 60.0 if said else 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(64)
                connection.sendall(said)
                ended.wait(120)

        ended = threading.Event()
        thread = threading.Thread(target=answer)
        thread.start()
        reason = "what listens there is something else" if said else "timed out"
        with pytest.raises(EngineError) as caught, open_engine("ray", address=address):
            pass
        ended.set()
        thread.join()
    assert str(caught.value).startswith(f"no Ray cluster answers at {address} ({reason}); give the one that")


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "http://head:8265", ""])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"address .*: must be HOST:PORT of a Ray cluster"):
        ray_engine.RayEngine(address)
