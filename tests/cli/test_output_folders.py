"""Commands never write into folders that hold files of others, and say so before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import trained_run
from trained_run import Cli

import advrad
from advrad.detectors.loading import load_detector
from advrad.detectors.model_folder import CARD_NAME, OTHER_CARD_NAME
from advrad.errors import OutputError
from advrad.utils.output_folders import MARKER, contents_of


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def shift(tmp_path: Path) -> Path:
    """A folder with files of a user."""
    folder = tmp_path / "shift"
    folder.mkdir()
    (folder / "README.md").write_text("notes of the night shift")
    (folder / "config.json").write_text('{"line": 3}')
    trained_run.image(folder / "good" / "part.png", 1)
    return folder


@pytest.fixture
def no_work(widget_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the beginning of all work an error, once the trained run is there."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("work has begun")

    for name in ("load_target", "load_detector"):
        monkeypatch.setattr(f"advrad.detectors.loading.{name}", refuse)
    monkeypatch.setattr("advrad.training.run.find_records", refuse)
    monkeypatch.setattr("advrad.demo.run.write_product", refuse)
    monkeypatch.setattr("advrad.benchmark.run.jobs_of", refuse)
    monkeypatch.setattr("advrad.training.recalibrate.load_detector", refuse)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    "command",
    [
        ["train", "DATA"],
        ["train", "DATA", "--resume"],
        ["train", "DATA", "--minutes", "5"],
        ["calibrate", "RUN", "DATA"],
        ["demo"],
        ["attack", "RUN", "DATA"],
        ["checks", "RUN", "DATA"],
        ["curve", "RUN", "DATA"],
        ["certify", "RUN", "DATA"],
        ["predict", "RUN", "DATA"],
        ["bench", "GRID"],
        ["report", "GRID"],
    ],
    ids=" ".join,
)
def test_files_of_a_user_are_kept(cli: Cli, shift: Path, widgets: Path, widget_run: Path, command: list[str]) -> None:
    grid = shift.parent / "grid.toml"
    grid.write_text('categories.nut = "nut"\ndetectors.plain.kind = "autoencoder"\n')
    names = {"DATA": widgets, "RUN": widget_run, "GRID": grid}
    before = contents(shift)
    done = cli(*(names.get(word, word) for word in command), "-o", shift)
    line = done.one_error_line()
    assert done.status == 2 and contents(shift) == before
    assert f"{shift}: holds " in line and ("README.md" in line or command[0] == "predict")
    assert "advrad did not write; name a new or empty folder, such as" in line
    assert [path.name for path in shift.iterdir()].count(MARKER) == 0


@pytest.mark.usefixtures("no_work")
def test_the_data_are_no_place_for_results(cli: Cli, widgets: Path, widget_run: Path) -> None:
    before = contents(widgets)
    for command in (["train", widgets], ["attack", widget_run, widgets], ["predict", widget_run, widgets]):
        for place in (widgets, widgets / "test" / "good"):
            done = cli(*command, "-o", place)
            assert done.status == 2 and "advrad did not write" in done.one_error_line()
    assert contents(widgets) == before


@pytest.mark.usefixtures("no_work")
def test_a_model_folder_is_no_place_for_other_results(cli: Cli, widgets: Path, widget_run: Path) -> None:
    before = contents(widget_run)
    for command in ("attack", "certify", "predict"):
        done = cli(command, widget_run, widgets, "-o", widget_run)
        assert done.status == 2 and "holds a model; name a new or empty folder" in done.one_error_line()
    assert contents(widget_run) == before


def test_a_detector_is_saved_into_new_empty_or_own_folders_only(run: Path, shift: Path, tmp_path: Path) -> None:
    detector, before = load_detector(run, "cpu"), contents(shift)
    with pytest.raises(OutputError, match="advrad did not write"):
        detector.save_pretrained(shift)
    assert contents(shift) == before
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "new", tmp_path / "empty", run):
        detector.save_pretrained(place)
        assert contents_of(place) == "model"


def test_a_card_that_a_user_changed_is_kept(cli: Cli, widgets: Path, run: Path) -> None:
    card = run / CARD_NAME
    assert cli("evaluate", run, widgets, "--save", "--json").status == 0
    assert "Image AUROC" in card.read_text() and not (run / OTHER_CARD_NAME).exists()
    changed = card.read_text() + "\nOur line 3 uses this one.\n"
    card.write_text(changed)
    load_detector(run, "cpu").save_pretrained(run)
    assert card.read_text() == changed
    assert (run / OTHER_CARD_NAME).read_text().startswith("---\nlibrary_name: advrad")


def test_the_card_of_an_earlier_version_is_put_aside(run: Path) -> None:
    card = run / CARD_NAME
    old = card.read_text().rpartition("<!--")[0]
    card.write_text(old)
    load_detector(run, "cpu").save_pretrained(run)
    assert (run / "README.old.md").read_text() == old
    assert "<!-- Written by advrad" in card.read_text()


def test_results_of_an_evaluation_replace_no_files_of_others(shift: Path, tmp_path: Path) -> None:
    detector = advrad.wrap(lambda images: images.mean((1, 2, 3)), deterministic=True)
    result = advrad.evaluate(detector, (torch.rand(4, 3, 16, 16), [0, 0, 1, 1]))
    with pytest.raises(OutputError, match="advrad did not write"):
        result.save(shift)
    for _ in range(2):
        result.save(tmp_path / "figures")
    assert (tmp_path / "figures" / "evaluation.json").is_file()


def test_scores_and_reports_replace_no_images_and_no_model(cli: Cli, widgets: Path, run: Path, tmp_path: Path) -> None:
    image = trained_run.image(tmp_path / "part.png", 1)
    before, of_run = image.read_bytes(), contents(run)
    for command in (
        ["evaluate", run, widgets, "--scores", image],
        ["report", run, widgets, "-o", image],
        ["predict", run, image, "--csv", image],
        ["predict", run, image, "--csv", run / "config.json"],
        ["report", run, widgets, "-o", run / "README.md"],
    ):
        done = cli(*command)
        assert done.status == 2 and "name another file" in done.one_error_line(), command
    assert image.read_bytes() == before and contents(run) == of_run


def test_heat_maps_may_lie_beside_texts(cli: Cli, run: Path, tmp_path: Path) -> None:
    """As with ``mkdir out; advrad predict ... -o out > out/verdicts.jsonl``."""
    image = trained_run.image(tmp_path / "part.png", 1)
    out = tmp_path / "out"
    out.mkdir()
    (out / "verdicts.jsonl").write_text("{}")
    for _ in range(2):
        assert cli("predict", run, image, "-o", out).status == 0
    assert (out / "verdicts.jsonl").read_text() == "{}" and contents_of(out) == "heat maps"


def test_heat_maps_inside_the_data_are_no_defects(cli: Cli, run: Path, widgets: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(widgets, data)
    image = data / "test" / "good" / "000.png"
    assert cli("predict", run, image, "-o", data / "test" / "heat").status == 0
    counts = json.loads(cli("data", "inspect", data, "--json", "--size", 32).out)["counts"]
    assert set(counts["test"]) == {"good", "dent", "scratch"}
    assert len(cli("predict", run, data / "test").out.splitlines()) == 11
