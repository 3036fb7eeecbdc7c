"""Which engine the options name."""

from __future__ import annotations

import sys

import pytest

from advrad.engine import LocalEngine, SerialEngine, open_engine
from advrad.errors import ConfigError


@pytest.mark.parametrize("jobs", [None, 1])
def test_one_process_is_this_one(jobs: int | None) -> None:
    with open_engine("local", jobs) as engine:
        assert isinstance(engine, SerialEngine)


def test_several_processes_are_those_of_this_machine() -> None:
    with open_engine(jobs=3) as engine:
        assert isinstance(engine, LocalEngine)
        assert engine.workers == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "slurm"}, "engine slurm: unknown; use local or ray"),
        ({"jobs": 0}, "jobs 0: must be 1 or more"),
        ({"name": "ray", "jobs": -1}, "jobs -1: must be 1 or more"),
        ({"address": "auto"}, "address: is for the engine ray only; choose that engine too, or no address"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught, open_engine(**options):  # type: ignore[arg-type]
        pass
    assert str(caught.value) == message


def test_without_the_package_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"^engine ray: needs ray: pip install 'advrad\[ray\]'$"), open_engine("ray"):
        pass
