"""Options of commands that come from the fields of an options model."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from advrad.cli.options import add_command
from advrad.data.options import WithDataOptions
from advrad.errors import ConfigError


class Options(WithDataOptions):
    """Options of a made-up command."""

    n_samples: int = Field(7, alias="draws", ge=1, description="Noise samples.")
    size_px: int | None = Field(None, description="Side in pixels.", json_schema_extra={"when_none": "as before"})
    mode: Literal["fast", "exact"] = Field("fast", description="How to compute.")
    dry: bool = Field(False, description="Do nothing.")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    return []


def run(runs: list[Options], *words: str, **decoration: object) -> tuple[int, str, BaseException | None]:
    app = typer.Typer(rich_markup_mode=None)

    @add_command(app, **decoration)  # type: ignore[arg-type]
    def paint(options: Options, colour: Annotated[str, typer.Option(help="Colour.")] = "red") -> None:
        """Paint."""
        if colour == "none":
            raise ConfigError("is no colour", option="colour", value=colour)
        runs.append(options)

    done = CliRunner().invoke(app, words)
    return done.exit_code, done.output, done.exception


def test_options_that_are_not_given_are_not_set(runs: list[Options]) -> None:
    run(runs)
    assert runs[0] == Options() and not runs[0].model_fields_set


def test_given_options_reach_the_model(runs: list[Options]) -> None:
    run(runs, "--draws", "9", "--size", "64", "--mode", "exact", "--dry", "--layout", "visa", "--skip-bad")
    expected = {"draws": 9, "size_px": 64, "mode": "exact", "dry": True, "layout": "visa", "skip_bad": True}
    assert runs == [Options.parse(expected)]


def test_the_help_shows_each_default_once() -> None:
    _, text, _ = run([], "--help", defaults={"mode": "exact"}, shown_defaults={"max_pixels": "many"})
    text = " ".join(text.split())
    for words in (
        "--draws INTEGER Noise samples. [default: 7]",
        "--size INTEGER Side in pixels. [default: as before]",
        "--mode fast|exact How to compute. [default: exact]",
        "(width times height). [default: many]",
        "--dry Do nothing. --",
    ):
        assert words in text, words


def test_a_command_can_have_other_defaults(runs: list[Options]) -> None:
    run(runs, defaults={"mode": "exact"}, shown_defaults={"n_samples": 5})
    run(runs, "--mode", "fast", defaults={"mode": "exact"})
    assert [(options.mode, options.n_samples) for options in runs] == [("exact", 7), ("fast", 7)]


def test_a_command_can_offer_some_of_the_fields(runs: list[Options]) -> None:
    status, text, _ = run(runs, "--dry", only=("size_px",))
    assert status == 2 and "No such option" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--draws", "0"), "--draws 0: must be at least 1"),
        (("--size", "wide"), "--size wide: must be a valid integer"),
        (("--mode", "slow"), "--mode slow: is unknown; choose fast, exact"),
        (("--max-pixels", "-1"), "--max-pixels -1: must be"),
        (("--colour", "none"), "--colour none: is no colour"),
    ],
)
def test_errors_name_the_option_that_was_given(words: tuple[str, ...], message: str) -> None:
    _, _, error = run([], *words)
    assert isinstance(error, ConfigError) and str(error).startswith(message)


def test_every_command_that_computes_takes_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    try:
        assert run([], "--threads", "2")[0] == 0
        assert torch.get_num_threads() == 2
        assert "--threads" in run([], "--help")[1]
        assert "--threads" not in run([], "--help", computes=False)[1]
        status, _, error = run([], "--threads", "0")
        assert status != 0 and "--threads 0: must be 1 or more" in str(error)
    finally:
        torch.set_num_threads(before)
