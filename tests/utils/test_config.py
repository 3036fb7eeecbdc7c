"""The base class of configurations: names, aliases and errors."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field

from advrad.errors import ConfigError
from advrad.utils.config import Config


class Inner(Config):
    n_samples: int = Field(10, alias="draws", ge=1)


class Options(Config):
    minutes: float = Field(5.0, gt=0)
    false_alarm_rate: float = Field(0.1, alias="rate", gt=0, lt=1)
    inner: Inner = Inner()
    mode: Literal["fast", "exact"] = "fast"


def test_both_names_are_read_and_the_alias_is_written() -> None:
    by_name = Options.parse({"false_alarm_rate": 0.2, "inner": {"n_samples": 3}}, "file")
    by_alias = Options.parse({"rate": 0.2, "inner": {"draws": 3}}, "file")
    assert by_name == by_alias == Options(false_alarm_rate=0.2, inner=Inner(n_samples=3))
    written = by_name.model_dump(mode="json")
    assert written == {"minutes": 5.0, "rate": 0.2, "inner": {"draws": 3}, "mode": "fast"}
    assert Options.parse(written, "file") == by_name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"minutes": 0}, "plan.json: minutes: must be above 0"),
        ({"inner": {"draws": 0}}, "plan.json: inner.draws: must be at least 1"),
        ({"colour": 1}, "plan.json: colour: "),
    ],
)
def test_an_error_in_a_file_names_the_file_and_the_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Options.parse(values, "plan.json")
    assert str(caught.value).startswith(message) and caught.value.option is None


@pytest.mark.parametrize(
    ("values", "option", "message"),
    [
        ({"minutes": -1.5}, "minutes", "minutes -1.5: must be above 0"),
        ({"rate": 2}, "false_alarm_rate", "false_alarm_rate 2: must be below 1"),
        ({"inner": {"draws": 0}}, "n_samples", "n_samples 0: must be at least 1"),
        ({"colour": 1}, "colour", "colour 1: is unknown"),
        ({"minutes": "soon"}, "minutes", "minutes soon: must be a valid number"),
        ({"mode": "slow"}, "mode", "mode slow: is unknown; choose fast, exact"),
    ],
)
def test_an_error_in_arguments_names_the_option(values: dict[str, Any], option: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Options.parse(values)
    assert caught.value.option == option and str(caught.value).startswith(message)


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Options().minutes = 1.0  # type: ignore[misc]
