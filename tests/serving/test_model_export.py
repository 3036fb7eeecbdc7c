"""A product's detector as a file: what comes out is an export that judges as the product does."""

from __future__ import annotations

import io
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import exportable_runs
import pytest
import toy_exports

import advrad
from advrad.serving import model_export as module
from advrad.serving.errors import ExportUnavailable, Stopping
from advrad.serving.model_export import ModelExports
from advrad.serving.products import Product


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exportable_runs.product(tmp_path_factory.mktemp("product"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exportable_runs.closed_form(data, tmp_path_factory.mktemp("run") / "screw")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of temporary files, which must be empty at the end."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def slow_export(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts another program in the place of the export."""

    def put(program: str) -> None:
        monkeypatch.setattr(module, "_WORK", program)

    return put


def test_a_model_becomes_an_export_that_judges_alike(run: Path, data: Path, scratch: Path, tmp_path: Path) -> None:
    product = Product.load("screw", run)
    packed = ModelExports().pack(product, "onnx")
    with packed.file:
        content = packed.file.read()
    assert (packed.name, packed.size) == ("screw-onnx.zip", len(content))
    assert list(scratch.iterdir()) == []
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert all(name.startswith("screw-onnx/") for name in archive.namelist())
        archive.extractall(tmp_path)
    images = sorted((data / "test").rglob("*.png"))
    taken, model = (
        [one.defective for one in advrad.load_detector(str(folder)).predict(images)]
        for folder in (tmp_path / "screw-onnx", run)
    )
    assert taken == model


def test_an_export_is_taken_as_it_is(tmp_path: Path, scratch: Path) -> None:
    folder = toy_exports.write(tmp_path / "toy")
    product = Product.load("toy", folder)
    with ModelExports().pack(product).file as file, zipfile.ZipFile(file) as archive:
        held = {name.removeprefix("toy-onnx/"): archive.read(name) for name in archive.namelist()}
    assert held == {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ExportUnavailable, match="toy is an export for onnx already; take it as onnx"):
        ModelExports().pack(product, "openvino")
    assert list(scratch.iterdir()) == []


def test_images_that_are_elsewhere_are_told_at_once(
    closed_form_run: Path, scratch: Path, slow_export: Callable[[str], None]
) -> None:
    slow_export("this is never run")
    with pytest.raises(ExportUnavailable, match="which are not on this machine; make it by 'advrad export' where"):
        ModelExports().pack(Product.load("widget", closed_form_run))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("print('loading'); print('three images differ'); raise SystemExit(1)", "not made: three images differ; see"),
        ("import os; os.kill(os.getpid(), 9)", "not made: its process ended with -9; see"),
    ],
)
def test_an_export_that_fails_says_why(
    run: Path, scratch: Path, slow_export: Callable[[str], None], program: str, message: str
) -> None:
    slow_export(program)
    exports, product = ModelExports(), Product.load("screw", run)
    for _ in range(2):  # a failure holds up nobody
        with pytest.raises(ExportUnavailable, match=message):
            exports.pack(product)
    assert list(scratch.iterdir()) == []


def test_one_at_a_time_and_none_after_a_stop(
    run: Path, scratch: Path, tmp_path: Path, slow_export: Callable[[str], None]
) -> None:
    started, stop = tmp_path / "started", threading.Event()
    slow_export(f"import pathlib, time; pathlib.Path({str(started)!r}).touch(); time.sleep(600)")
    exports, product = ModelExports(stop.is_set), Product.load("screw", run)
    failures: list[BaseException] = []

    def take() -> None:
        try:
            exports.pack(product)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    try:
        while not started.exists():
            assert thread.is_alive(), failures
            thread.join(0.05)
        with pytest.raises(ExportUnavailable, match="another export is being made; try again in a minute"):
            exports.pack(product)
    finally:
        stop.set()
        thread.join(60)
    assert [type(error) for error in failures] == [Stopping]
    assert list(scratch.iterdir()) == []


def test_a_model_that_is_replaced_meanwhile_is_not_taken(tmp_path: Path, scratch: Path) -> None:
    folder = toy_exports.write(tmp_path / "toy")
    product = Product.load("toy", folder)
    shutil.rmtree(folder)
    toy_exports.write(folder, guarded=True)
    with pytest.raises(ExportUnavailable, match="the model of toy was replaced meanwhile; ask again"):
        ModelExports().pack(product)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    product = Product.load("toy", toy_exports.write(tmp_path / "toy"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(ExportUnavailable, match=r"the export cannot be written: .*; free some space"):
        ModelExports().pack(product)


def test_the_work_prints_its_reason_in_the_last_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert module.work(str(tmp_path / "none"), str(tmp_path / "out"), "onnx") == 1
    assert str(tmp_path / "none") in capsys.readouterr().out.strip().splitlines()[-1]
