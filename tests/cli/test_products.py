"""The command that makes the models of a table of products."""

from __future__ import annotations

from pathlib import Path

import pytest
import trained_run
from toy_datasets import make_folder
from trained_run import Cli

from advrad.cli.products import columns


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    trained_run.shrink(monkeypatch)
    make_folder(tmp_path / "bolt", good=20, size=32)
    path = tmp_path / "table.csv"
    path.write_text("name,folder,false-alarm-rate\nbolt,bolt,0.1\n", encoding="utf-8")
    return path


def test_the_columns_are_the_options_of_train(cli: Cli) -> None:
    shown = cli("train", "--help").out
    assert len(columns()) > 15
    assert [name for name in columns() if f"--{name} " not in shown] == []


def test_models_are_made_and_the_overview_is_named(cli: Cli, table: Path) -> None:
    models = table.parent / "models"
    done = cli("train", "--products", table, "-o", models)
    assert done.status == 0, done.err
    assert done.out.splitlines()[0] == "done      1 of 1 products"
    assert f"overview  {models / 'index.html'}" in done.out
    assert "1 of 1  bolt: " in done.err
    assert cli("predict", models / "models" / "bolt", table.parent / "bolt" / "part000.png").status == 0


def test_a_product_that_fails_makes_the_status_1(cli: Cli, table: Path) -> None:
    make_folder(table.parent / "few", good=3, size=32)
    table.write_text("name,folder\nfew,few\nbolt,bolt\n", encoding="utf-8")
    done = cli("train", "--products", table, "-o", table.parent / "models")
    assert done.status == 1
    assert "done      1 of 2 products" in done.out
    assert "advrad: warning: few: failed: " in done.err


def test_wrong_entries_are_named_line_by_line(cli: Cli, table: Path) -> None:
    table.write_text("name,folder,false-alarm-rate\nbolt,bolt,2\nnut,none,\n", encoding="utf-8")
    done = cli("train", "--products", table, "-o", table.parent / "models")
    assert done.status == 2 and done.out == ""
    assert done.err.splitlines() == [
        f"advrad: error: {table}: line 2, column false-alarm-rate 2: must lie strictly between 0 and 1",
        f"advrad: error: {table}: line 3, column folder none: there is no such folder ({table.parent / 'none'}); name"
        " the folder of the images, from the table's folder on",
    ]
    assert not (table.parent / "models").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{bolt}"], "cannot be combined with DATA"),
        (["--resume"], "--resume: is not needed with --products"),
        (["--size", "64"], "--size: is a column of the table with --products"),
        (["--category", "a"], "--category: is a column of the table"),
        (["--jobs", "0"], "--jobs 0: must be 1 or more"),
        (["--engine", "spark"], "--engine spark: unknown"),
    ],
)
def test_what_does_not_go_with_a_table_is_refused(cli: Cli, table: Path, arguments: list[str], words: str) -> None:
    given = [one.format(bolt=table.parent / "bolt") for one in arguments]
    done = cli("train", "--products", table, "-o", table.parent / "models", *given)
    assert done.status == 2 and words in done.one_error_line()


@pytest.mark.parametrize("arguments", (["--jobs", "2"], ["--engine", "ray"], ["--address", "auto"]))
def test_engines_are_for_many_products(cli: Cli, table: Path, arguments: list[str]) -> None:
    done = cli("train", table.parent / "bolt", "-o", table.parent / "run", *arguments)
    assert done.status == 2 and f"{arguments[0]}: is for many products" in done.one_error_line()
    assert "name DATA, the folder of images, or a table" in cli("train", "-o", "run").one_error_line()
