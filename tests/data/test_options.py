"""Data options: nested in Python, flat in JSON."""

from __future__ import annotations

import pytest
from pydantic import Field

from advrad.data.options import DataOptions, WithDataOptions
from advrad.errors import ConfigError


class Options(WithDataOptions):
    seed: int = 0
    n_samples: int = Field(5, alias="draws")


def test_json_is_flat_and_read_back() -> None:
    options = Options(seed=3, data=DataOptions(category="nut", skip_bad=True))
    values = options.model_dump(mode="json")
    assert values == {
        "seed": 3,
        "draws": 5,
        "layout": "auto",
        "category": "nut",
        "skip_bad": True,
        "max_pixels": 200_000_000,
    }
    assert Options.parse(values) == options
    assert Options.parse({"data": {"category": "nut", "skip_bad": True}, "seed": 3}) == options


def test_what_was_set_is_known() -> None:
    options = Options.parse({"category": "nut"})
    assert options.data.model_fields_set == {"category"}
    assert Options.parse({"seed": 1}).data.model_fields_set == set()


@pytest.mark.parametrize("name", ["seed", "layout", "category", "skip_bad", "max_pixels", "n_samples"])
def test_all_fields_are_listed_flat(name: str) -> None:
    assert name in Options.flat_fields()
    assert "data" not in Options.flat_fields()


def test_bad_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_pixels 0: must be at least 1"):
        Options.parse({"max_pixels": 0})
    with pytest.raises(ConfigError, match="give either data or layout"):
        Options.parse({"layout": "visa", "data": {}})
    with pytest.raises(ConfigError, match="colour"):
        Options.parse({"colour": 1})
