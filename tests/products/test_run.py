"""Models of many products: what is made, kept, refused and told."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trained_run
from filelock import FileLock
from html_page import Page
from toy_datasets import make_folder, make_mvtec, write_good

from advrad.detectors.exported_folder import read_export_config
from advrad.detectors.identity import identity_of
from advrad.engine import LocalEngine, SerialEngine
from advrad.errors import ConfigError, DataError, OutputError
from advrad.products import Product, ProductRecord, ProductsOutcome, read_table, train_products, work
from advrad.products.record import Places
from advrad.products.table import TableError
from advrad.utils.progress import SilentReporter
from advrad.utils.run_lock import exclusive

SIZE = 32


class Told(SilentReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class LosingEngine(SerialEngine):
    """Says for some products that their process died, a number of times, before it carries them out."""

    def __init__(self, deaths: dict[str, int]) -> None:
        self.deaths = deaths

    def run(
        self, work: Callable[[Any], Iterable[Any]], tasks: Iterable[Any], *, left: Any = None, resources: Any = None
    ) -> Iterator[Any]:  # type: ignore[override]
        for task in tasks:
            for _ in range(self.deaths.get(task.name, 0)):
                task = task and left(task)
            yield from () if task is None else work(task)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    trained_run.shrink(monkeypatch)
    make_mvtec(tmp_path, "nut", train=20, good=6, defects={"scratch": 5}, size=SIZE)
    make_folder(tmp_path / "bolt", good=20, size=SIZE)
    make_folder(tmp_path / "few", good=5, size=SIZE)
    path = tmp_path / "table.csv"
    path.write_text("name,folder,seed,report\nnut,nut,,yes\nfew,few,,\nbolt,bolt,3,yes\n", encoding="utf-8")
    return path


def trained(table: Path, told: Told | None = None) -> ProductsOutcome:
    return train_products(read_table(table), table.parent / "models", table=table, progress=told or Told())


def written(folder: Path) -> dict[str, int]:
    return {path.as_posix(): path.stat().st_mtime_ns for path in (folder / "models").rglob("*") if path.is_file()}


def test_each_product_gets_a_model_and_one_that_fails_is_named(table: Path) -> None:
    told = Told()
    outcome = trained(table, told)
    assert [one.name for one in outcome.finished] == ["nut", "bolt"]
    (few,) = outcome.failed
    assert "needs 19 different normal images, but there are 5" in few.error
    assert told.notes[0].startswith("computing with 1 thread")
    assert [note.split(":")[0] for note in told.notes[1:]] == ["1 of 3  nut", "2 of 3  few", "3 of 3  bolt"]
    nut, bolt = outcome.finished
    assert nut.figures is not None and nut.figures.image_auroc is not None
    assert (nut.figures.n_normal, nut.figures.n_anomalous, nut.n_normal) == (6, 5, 20)
    assert bolt.figures is None and bolt.settings["seed"] == 3 and bolt.threshold is not None
    places = Places(table.parent / "models")
    config = json.loads((places.model("nut") / "config.json").read_text(encoding="utf-8"))
    assert config["calibration"]["threshold"] == nut.threshold
    assert config["figures"]["image_auroc"] == nut.figures.image_auroc
    assert places.report("nut").is_file() and not places.report("bolt").exists()
    assert not places.model("few").exists() and places.read("few") == few


def test_what_is_finished_is_kept_and_what_failed_is_tried_again(table: Path) -> None:
    first = trained(table)
    before = written(table.parent / "models")
    assert before
    for number in range(20):
        write_good(table.parent / "few" / f"more{number:02}.png", SIZE, 100 + number)
    again = trained(table)
    assert [one.name for one in again.finished] == ["nut", "few", "bolt"]
    after = written(table.parent / "models")
    assert {path: after[path] for path in before} == before
    assert again.records["nut"] == first.records["nut"]


def test_changed_options_are_refused_before_anything_starts(table: Path) -> None:
    trained(table)
    before = written(table.parent / "models")
    table.write_text("name,folder,seed\nnew,bolt,\nnut,nut,5\nbolt,bolt,3\n", encoding="utf-8")
    with pytest.raises(TableError) as caught:
        trained(table)
    (problem,) = caught.value.problems
    assert problem.startswith("line 3, product nut: its model was made with other options (seed was 0); delete ")
    assert written(table.parent / "models") == before
    shutil.rmtree(table.parent / "models" / "models" / "nut")
    assert [one.settings["seed"] for one in trained(table).finished] == [0, 5, 3]


def test_options_are_called_as_their_columns(table: Path) -> None:
    """The command line has other names for options than Python."""
    columns = {"alarms": "false_alarm_rate"}
    table.write_text("name,folder,alarms\nbolt,bolt,0.1\nnut,nut,0.01\n", encoding="utf-8")
    outcome = train_products(read_table(table, columns), table.parent / "models", table=table, engine=SerialEngine())
    assert outcome.records["bolt"].finished
    assert str(outcome.records["nut"].error).startswith("alarms 0.01: needs ")
    table.write_text("name,folder,alarms\nbolt,bolt,0.2\n", encoding="utf-8")
    with pytest.raises(TableError, match=r"other options \(alarms was 0\.1\)"):
        train_products(read_table(table, columns), table.parent / "models", table=table, engine=SerialEngine())


def test_a_report_that_is_asked_for_later_is_written_without_another_training(table: Path) -> None:
    table.write_text("name,folder\nnut,nut\n", encoding="utf-8")
    trained(table)
    places, weights = Places(table.parent / "models"), written(table.parent / "models")
    assert not places.report("nut").exists()
    table.write_text("name,folder,report\nnut,nut,yes\n", encoding="utf-8")
    assert [one.name for one in trained(table).finished] == ["nut"]
    assert places.report("nut").is_file()
    name = (places.model("nut") / "model.safetensors").as_posix()
    assert written(table.parent / "models")[name] == weights[name]


def test_a_model_of_other_images_is_kept_and_named(table: Path) -> None:
    first = trained(table)
    before = written(table.parent / "models")
    write_good(table.parent / "bolt" / "another.png", SIZE, 99)
    changed = trained(table)
    record = changed.records["bolt"]
    assert record is not None and record.state == "failed"
    assert "the normal images are not those from which the model was made; delete " in record.error
    assert written(table.parent / "models") == before
    assert Places(table.parent / "models").read("bolt") == first.records["bolt"]
    (table.parent / "bolt" / "another.png").unlink()
    assert trained(table).records["bolt"] == first.records["bolt"]


@contextmanager
def without_images(folder: Path) -> Iterator[None]:
    """The folder is empty meanwhile, as that of a disk which is not mounted."""
    away = folder.rename(folder.with_name("away"))
    folder.mkdir()
    yield
    folder.rmdir()
    away.rename(folder)


def linked(folder: Path, kind: str) -> bool:
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    return any(str(one.get("href")).startswith(f"{kind}/") for one in page.all("a"))


def test_an_export_of_an_earlier_model_is_made_anew(table: Path) -> None:
    folder, stale = table.parent / "models", table.parent / "stale"
    places = Places(folder)
    model, export = places.model("bolt"), places.export("bolt")

    def made(size_px: int, form: str) -> ProductRecord:
        table.write_text(f"name,folder,size_px,export\nbolt,bolt,{size_px},{form}\n", encoding="utf-8")
        record = trained(table).records["bolt"]
        assert record is not None
        return record

    first = made(32, "onnx")
    before = read_export_config(export)
    written_at = (export / "detector.json").stat().st_mtime_ns
    assert made(32, "onnx") == first and linked(folder, "exports")
    assert (export / "detector.json").stat().st_mtime_ns == written_at

    shutil.copytree(export, stale)
    shutil.rmtree(model)
    again = made(48, "onnx")
    after = read_export_config(export)
    assert again.finished and again.export_bytes is not None
    assert (before.image_size_px, after.image_size_px) == (32, 48)
    assert after.provenance.config_sha256 == identity_of(model) and linked(folder, "exports")

    # The record says that all is done, but the export is of another model, and something of a person is in its folder.
    shutil.rmtree(export)
    stale.rename(export)
    (export / "mine.txt").write_text("of a person", encoding="utf-8")
    refused = made(48, "onnx")
    assert "exports/bolt: holds mine.txt beside the export of an earlier model; move it away" in refused.error
    assert read_export_config(export) == before and (export / "mine.txt").is_file()
    assert not linked(folder, "exports") and linked(folder, "models")
    without = made(48, "")
    assert without.finished and "exports/bolt holds an export of another model; delete it." in without.warnings
    (export / "detector.json").write_text('{"format": "advrad export", "format_version": 1}', encoding="utf-8")
    assert "detector.json: was changed after the export" in made(48, "onnx").error
    assert made(48, "").warnings == without.warnings
    assert not linked(folder, "exports")


def test_a_report_of_an_earlier_model_or_of_other_test_images_is_removed(table: Path) -> None:
    table.write_text("name,folder,seed,report\nnut,nut,0,yes\n", encoding="utf-8")
    trained(table)
    places, tests = Places(table.parent / "models"), table.parent / "nut" / "test"
    report = places.report("nut").read_bytes()
    table.write_text("name,folder,seed\nnut,nut,0\n", encoding="utf-8")
    with without_images(table.parent / "nut"):
        assert [one.name for one in trained(table).failed] == ["nut"]
    assert [one.name for one in trained(table).finished] == ["nut"]
    assert places.report("nut").read_bytes() == report  # it is still that of the model
    write_good(tests / "good" / "another.png", SIZE, 999)
    trained(table)
    assert not places.report("nut").exists()

    places.report("nut").write_bytes(report)
    shutil.rmtree(places.model("nut"))
    with without_images(table.parent / "nut"):
        assert [one.name for one in trained(table).failed] == ["nut"]
        assert not linked(table.parent / "models", "reports")
    shutil.rmtree(tests)
    table.write_text("name,folder,seed,report\nnut,nut,1,yes\n", encoding="utf-8")
    (made,) = trained(table).finished
    assert made.figures is None and not places.report("nut").exists()
    assert not linked(table.parent / "models", "reports")


@pytest.mark.parametrize("earlier", (False, True))
def test_a_passing_fault_does_not_touch_what_is_known_of_a_finished_product(table: Path, earlier: bool) -> None:
    first = trained(table).records["nut"]
    assert first is not None and first.figures is not None
    weights = written(table.parent / "models")
    places = Places(table.parent / "models")
    with without_images(table.parent / "nut"):
        told = trained(table).records["nut"]
    assert told is not None and told.state == "failed" and "no normal image" in told.error
    kept = {"images", "trained_on", "figures", "threshold", "n_normal", "warnings", "notes", "seconds"}
    assert told.model_dump(include=kept) == first.model_dump(include=kept)
    if earlier:  # such records were written by earlier versions
        places.write(ProductRecord(name="nut", state="failed", settings=first.settings))
    again = trained(table).records["nut"]
    assert again is not None and again.finished, again
    assert again.figures == first.figures and again.error == ""
    assert (again.images, again.trained_on) == (first.images, first.trained_on)
    name = (places.model("nut") / "model.safetensors").as_posix()
    assert written(table.parent / "models")[name] == weights[name]


def test_a_record_without_images_is_believed_only_if_the_model_says_the_same(table: Path) -> None:
    outcome = trained(table)
    places, bolt = Places(table.parent / "models"), outcome.records["bolt"]
    assert bolt is not None
    for change in ("one more", "one less"):
        places.write(bolt.model_copy(update={"state": "failed", "images": "", "trained_on": ""}))
        part = table.parent / "bolt" / "part000.png"
        if change == "one more":
            part = write_good(table.parent / "bolt" / "another.png", SIZE, 99)
            trained_on = trained(table).records["bolt"]
            part.unlink()
        else:
            content = part.read_bytes()
            part.unlink()
            trained_on = trained(table).records["bolt"]
            part.write_bytes(content)
        assert trained_on is not None and "it is not recorded what this model was made from" in trained_on.error
        assert (places.read("bolt") or bolt).trained_on == ""


def test_one_that_another_process_still_makes_is_left_to_it(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_WAIT_S", 0.05)
    places = Places(table.parent / "models")
    places.lock("bolt").parent.mkdir(parents=True)
    (table.parent / "models" / ".advrad-output").write_text("products\n", encoding="utf-8")
    with FileLock(places.lock("bolt")):
        outcome = trained(table)
    assert (
        "another process makes this product; wait until it has ended"
        in {one.name: one.error for one in outcome.failed}["bolt"]
    )
    assert not places.holds_model("bolt") and places.read("bolt") is None
    assert [one.name for one in trained(table).finished] == ["nut", "bolt"]


def test_a_name_that_no_file_can_have_is_refused(table: Path) -> None:
    with pytest.raises(ConfigError, match=r"product '検+': its name is the name of a folder, too, and takes 243 bytes"):
        train_products([Product("検" * 81, table.parent / "bolt")], table.parent / "models")
    assert not (table.parent / "models").exists()


def test_a_record_that_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    places = Places(tmp_path)
    places.record("bolt").mkdir(parents=True)
    with pytest.raises(DataError, match=r"bolt\.json: cannot be read \(Is a directory\); check"):
        places.read("bolt")
    assert places.read("ö" * 200) is None and not places.holds_model("ö" * 200)


def test_changed_test_images_are_evaluated_again_by_the_same_model(table: Path) -> None:
    first = trained(table).records["nut"]
    weights = written(table.parent / "models")
    write_good(table.parent / "nut" / "test" / "good" / "another.png", SIZE, 999)
    second = trained(table).records["nut"]
    assert first is not None and first.figures is not None and second is not None and second.figures is not None
    assert (first.figures.n_normal, second.figures.n_normal) == (6, 7)
    assert first.threshold == second.threshold
    name = (table.parent / "models" / "models" / "nut" / "model.safetensors").as_posix()
    assert written(table.parent / "models")[name] == weights[name]


def test_a_model_without_a_record_or_with_a_damaged_one_is_not_believed(table: Path) -> None:
    trained(table)
    places = Places(table.parent / "models")
    places.record("nut").unlink()
    places.record("bolt").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"bolt\.json: is damaged"):
        trained(table)
    places.record("bolt").unlink()
    errors = {one.name: one.error for one in trained(table).failed}
    assert "it is not recorded what this model was made from" in errors["nut"]
    assert "it is not recorded what this model was made from" in errors["bolt"]


def test_a_broken_test_image_fails_after_the_training_which_is_not_repeated(table: Path) -> None:
    folder = table.parent / "nut" / "test" / "scratch"
    whole = (folder / "000.png").read_bytes()
    broken = (folder / "000.png").rename(folder / os.fsdecode(b"\xff.png"))
    broken.write_bytes(whole[:80])
    failed = trained(table).records["nut"]
    assert failed is not None and failed.state == "failed" and r"\udcff.png: " in failed.error
    before = written(table.parent / "models")
    broken.write_bytes(whole)
    mended = trained(table).records["nut"]
    assert mended is not None and mended.finished
    name = (table.parent / "models" / "models" / "nut" / "model.safetensors").as_posix()
    assert written(table.parent / "models")[name] == before[name]


def test_one_whose_process_dies_again_and_again_fails_alone(table: Path) -> None:
    engine = LosingEngine({"nut": 1, "bolt": 2})
    outcome = train_products(read_table(table), table.parent / "models", engine=engine)
    errors = {one.name: one.error for one in outcome.failed}
    assert [one.name for one in outcome.finished] == ["nut"]
    assert errors["bolt"].startswith("its process was killed each time, probably for lack of memory")
    assert trained(table).records["bolt"] != outcome.records["bolt"]


def test_an_interruption_keeps_what_is_finished_and_shows_it(table: Path) -> None:
    class Impatient(Told):
        def note(self, text: str) -> None:
            if text.startswith("1 of 3"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(table, Impatient())
    page = Page((table.parent / "models" / "index.html").read_text(encoding="utf-8"))
    assert "not begun" in page.text and "nut" in page.text
    assert [one.name for one in trained(table).finished] == ["nut", "bolt"]


def test_the_overview_tells_figures_warnings_and_failures(table: Path) -> None:
    outcome = trained(table)
    folder = table.parent / "models"
    page = Page(outcome.overview.read_text(encoding="utf-8"))
    assert "Failed" in page.text and "needs 19 different normal images" in page.text
    assert "There are only 20 normal images, which all set the threshold" in page.text
    links = [one["href"] for one in page.all("a") if one.get("href") and not str(one["href"]).startswith("#")]
    assert links == ["models/nut/README.md", "reports/nut.html", "models/bolt/README.md"]
    assert all((folder / str(link)).is_file() for link in links)
    assert {str(one["href"])[1:] for one in page.all("a") if str(one.get("href")).startswith("#")} <= {
        str(attributes["id"]) for _, attributes in page.tags if "id" in attributes
    }
    with (folder / "overview.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["nut", "few", "bolt"]
    figures = outcome.finished[0].figures
    assert figures is not None and float(rows["nut"]["image_auroc"]) == figures.image_auroc
    low, high = float(rows["nut"]["defects_found_low"]), float(rows["nut"]["defects_found_high"])
    assert low < float(rows["nut"]["defects_found"]) <= high
    assert rows["bolt"]["image_auroc"] == "" and rows["few"]["state"] == "failed"
    values = json.loads((folder / "overview.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in values["products"]] == ["nut", "few", "bolt"]


def test_a_second_run_and_a_folder_of_others_are_refused(table: Path) -> None:
    folder = table.parent / "models"
    trained(table)
    with exclusive(folder, "training of products"), pytest.raises(OutputError, match="another training of products"):
        trained(table)
    with pytest.raises(OutputError, match="which advrad did not write"):
        train_products(read_table(table), table.parent / "nut")


def test_a_folder_that_a_machine_does_not_see_ends_the_run(tmp_path: Path) -> None:
    from advrad.products.work import ProductWork

    with pytest.raises(DataError, match="name a folder that all machines share"):
        next(ProductWork(tmp_path)(Product("a", tmp_path)))


@pytest.mark.slow
def test_two_processes_give_the_same_as_one_and_a_killed_one_is_made_up_for(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        make_folder(tmp_path / name, good=20, size=SIZE)
    table = tmp_path / "table.csv"
    table.write_text("name,folder\na,a\nb,b\nc,c\n", encoding="utf-8")
    products = read_table(table)
    alone = train_products(products, tmp_path / "alone")
    command = [sys.executable, "-c", trained_run.MAIN, "train", "--products", str(table), "--jobs", "2"]
    paths = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path / "both")], env=os.environ | {"PYTHONPATH": paths}, start_new_session=True
    )
    records = tmp_path / "both" / "records"
    while not list(records.glob("[!.]*.json")) and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)  # the workers end with it
    process.wait()
    both = train_products(products, tmp_path / "both", engine=LocalEngine(2))
    kept = {"state", "threshold", "false_alarm_rate", "n_normal", "images", "settings", "warnings", "kind"}

    def shown(record: ProductRecord | None) -> dict[str, Any]:
        assert record is not None and record.finished
        return record.model_dump(include=kept)

    for name in ("a", "b", "c"):
        assert shown(both.records[name]) == shown(alone.records[name])
        weights = [tmp_path / run / "models" / name / "model.safetensors" for run in ("alone", "both")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
