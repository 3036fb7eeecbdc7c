"""Products: loaded wholly or not at all, also while their folder is replaced."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import guarded_run
import pytest
import toy_export_product
import toy_exports
from toy_service import WAIT_S, picture

from advrad.detectors.identity import identity_of
from advrad.detectors.loading import load_detector
from advrad.errors import CheckpointError, ConfigError, NotCalibratedError, UserError
from advrad.serving.errors import CertificateUnavailable, UnknownProduct
from advrad.serving.judging import decide_all, read_picture
from advrad.serving.products import Product, ProductTable


def score(product: Product) -> float:
    """The score of a fixed image."""
    image = read_picture(product.judge, picture(180, size=64))
    [judged] = decide_all(product.judge, [image], None)
    return judged.prediction.score  # type: ignore[union-attr]


@pytest.fixture
def run(closed_form_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(closed_form_run, tmp_path / "widget"))


def calibrated(run: Path, threshold: float) -> None:
    """Replace the threshold in place, as `advrad calibrate` into the same folder does."""
    config = json.loads((run / "config.json").read_text())
    config["calibration"]["threshold"] = threshold
    (run / "config.json").write_text(json.dumps(config))


# --- Loading ---


@pytest.mark.parametrize("kind", ["closed form", "guarded onnxruntime", "onnxruntime", "openvino"])
def test_any_kind_of_folder_is_a_product(kind: str, run: Path, tmp_path: Path) -> None:
    if kind == "closed form":
        product = Product.load("widget", run)
    else:
        product = toy_export_product.load(tmp_path, openvino=kind == "openvino", guarded="guarded" in kind)
    assert product.model == identity_of(product.folder)
    assert product.calibration.threshold == product.judge.detector.threshold
    facts = json.loads(json.dumps(product.facts(), allow_nan=False))
    assert str(tmp_path) not in json.dumps(facts), "no paths are told"
    assert (facts["guarded"], facts["exported"]) == ("guarded" in kind, kind != "closed form")
    assert facts["certifies"] is not facts["exported"]
    assert facts["calibration"]["threshold"] == product.calibration.threshold
    if facts["exported"]:
        assert facts["engine"] in kind and facts["provenance"]["data"] == "widgets"
        with pytest.raises(CertificateUnavailable, match="export computes no bounds"):
            product.certifier()


def test_what_cannot_inspect_is_refused_in_one_line(run: Path, tmp_path: Path) -> None:
    def refusal(folder: Path, name: str = "widget") -> UserError:
        with pytest.raises(UserError) as caught:
            ProductTable({name: folder})
        assert "\n" not in str(caught.value)
        return caught.value

    with pytest.raises(ConfigError, match="no product"):
        ProductTable({})
    for name in ("", "../widget", "a/b", "a b", "<b>", ".hidden", "x" * 65):
        assert isinstance(refusal(run, name), ConfigError)
    assert "no such model folder" in str(refusal(tmp_path / "missing"))
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"calibration": None}))
    error = refusal(run)
    assert isinstance(error, NotCalibratedError) and str(run) in str(error)
    (run / "config.json").write_text(json.dumps(config))
    weights = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(weights[:-1])
    assert isinstance(refusal(run), CheckpointError)


def test_no_code_of_a_model_folder_is_run(tmp_path: Path) -> None:
    folder = guarded_run.write(tmp_path / "guarded", tmp_path / "half.py")
    with pytest.raises(ConfigError, match=r"half\.py: is a part of the model and would be run"):
        Product.load("toy", folder)
    assert load_detector(folder).threshold == 0.0, "advrad predict runs it"


def test_a_model_that_gives_no_score_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from advrad.detectors.closed_form import ClosedFormDetector

    def broken(*_: object) -> object:
        raise CheckpointError("the graph gives a score of nan")

    monkeypatch.setattr(ClosedFormDetector, "predict_batch", broken)
    with pytest.raises(CheckpointError, match="no score for a test image"):
        Product.load("widget", run)


def test_a_folder_that_changes_while_it_is_loaded_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from advrad.serving import products

    load = products.load_detector

    def slow(folder: Path, device: str) -> object:
        found = load(folder, device)
        calibrated(run, 9.0)
        return found

    monkeypatch.setattr(products, "load_detector", slow)
    with pytest.raises(CheckpointError, match="was replaced while it was loaded"):
        Product.load("widget", run)


def test_names_lead_to_products(run: Path, tmp_path: Path) -> None:
    export = toy_exports.write(tmp_path / "export")
    table = ProductTable({"widget": run, "toy": export})
    assert table.names() == [one.name for one in table] == ["widget", "toy"] and len(table) == 2
    assert table.get("toy").exported
    with pytest.raises(UnknownProduct, match="widget, toy"):
        table.get("nut")


# --- Replacing ---


def test_a_replaced_folder_is_loaded_anew(run: Path) -> None:
    seen: list[str] = []
    table = ProductTable({"widget": run}, on_load=lambda product: seen.append(product.model))
    before = table.get("widget")
    table.refresh()
    assert table.get("widget") is before, "nothing has changed"
    calibrated(run, 7.5)
    table.refresh()
    after = table.get("widget")
    assert (after.calibration.threshold, before.calibration.threshold != 7.5) == (7.5, True)
    assert seen == [before.model, after.model] and before.model != after.model
    assert table.status()[0].problem is None and score(before) == score(after)


def test_the_old_model_inspects_on_where_the_new_one_is_broken(run: Path) -> None:
    table = ProductTable({"widget": run})
    old = table.get("widget")
    wanted = score(old)
    whole = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    calibrated(run, 7.5)
    (run / "model.safetensors").write_bytes(whole["model.safetensors"][:100])
    table.refresh()
    assert table.get("widget") is old and score(old) == wanted
    [status] = table.status()
    assert status.model == old.model
    assert status.problem is not None and "model.safetensors" in status.problem and "\n" not in status.problem
    (run / "config.json").unlink()
    table.refresh()
    assert table.status()[0].problem is not None and table.get("widget") is old
    for name, content in whole.items():
        (run / name).write_bytes(content)
    table.refresh()
    assert table.status()[0].problem is None and table.get("widget") is old, "it is the same model again"


def test_a_product_that_nobody_can_take_is_not_taken(run: Path) -> None:
    refuse = False

    def on_load(product: Product) -> None:
        if refuse:
            raise ConfigError("the drift monitor cannot be started")

    table = ProductTable({"widget": run}, on_load=on_load)
    old, refuse = table.get("widget"), True
    calibrated(run, 7.5)
    table.refresh()
    assert table.get("widget") is old and table.status()[0].problem == "the drift monitor cannot be started"


@pytest.mark.parametrize("kind", ["closed form", "openvino", "onnxruntime"])
def test_files_written_over_those_of_a_loaded_model_do_not_change_it(kind: str, run: Path, tmp_path: Path) -> None:
    """Weights that are mapped into memory would change, or end the process where the new file is shorter."""
    if kind == "closed form":
        product = Product.load("widget", run)
    else:
        product = toy_export_product.load(tmp_path, openvino=kind == "openvino")
    wanted = score(product)
    for path in product.folder.iterdir():
        if path.is_file():
            with path.open("r+b") as file:
                file.write(b"\xff" * path.stat().st_size)
                file.truncate(10)
    assert score(product) == wanted
    maps = Path("/proc/self/maps")
    if maps.is_file():
        assert str(product.folder) not in maps.read_text()


def test_a_thread_looks_at_the_folders(run: Path) -> None:
    table = ProductTable({"widget": run}, poll_s=0.01)
    table.start()
    try:
        calibrated(run, 7.5)
        end = time.monotonic() + WAIT_S
        while table.get("widget").calibration.threshold != 7.5:
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        table.stop()
    calibrated(run, 8.5)
    time.sleep(0.05)
    assert table.get("widget").calibration.threshold == 7.5, "a stopped table looks no more"


def test_an_export_computes_the_images_of_a_batch_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def judged(product: Product) -> list[float]:
        images = [read_picture(product.judge, picture(level, size=64)) for level in range(40, 240, 20)]
        return [one.prediction.score for one in decide_all(product.judge, images, None)]  # type: ignore[union-attr]

    folders = tmp_path / "one", tmp_path / "two"
    monkeypatch.setattr("advrad.serving.products.thread_count", lambda: 1)
    one = toy_export_product.load(folders[0], openvino=True)
    monkeypatch.setattr("advrad.serving.products.thread_count", lambda: 2)
    two = toy_export_product.load(folders[1], openvino=True)
    assert [product.judge.detector.streams for product in (one, two)] == [1, 2]  # type: ignore[attr-defined]
    expected = judged(one)
    assert len(set(expected)) == len(expected)
    assert judged(two) == pytest.approx(expected, abs=1e-6)
