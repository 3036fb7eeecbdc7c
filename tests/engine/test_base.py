"""What every engine does alike. The Ray engine is held to it in `test_ray_engine.py`."""

from __future__ import annotations

import engine_contract
import pytest
from engine_contract import Check

from advrad.engine import Engine, LocalEngine, SerialEngine, everything

ENGINES = (SerialEngine(), LocalEngine(2))


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: type(engine).__name__)
@pytest.mark.parametrize("check", engine_contract.CHECKS, ids=lambda check: check.__name__)
def test_the_engine_keeps_the_contract(check: Check, engine: Engine) -> None:
    check(engine)


@pytest.mark.parametrize("check", engine_contract.OTHER_PROCESS_CHECKS, ids=lambda check: check.__name__)
def test_the_local_engine_brings_errors_from_other_processes(check: Check) -> None:
    check(LocalEngine(2))


def test_local_engines_see_the_files_of_this_process() -> None:
    assert [engine.shares_files for engine in ENGINES] == [True, True]


def test_everything_of_a_task_is_left_by_default() -> None:
    assert everything(3) == 3
