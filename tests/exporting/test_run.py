"""Exports of whole model folders: what is written, that it answers as the detector does, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trained_run import Cli

import advrad
from advrad.data.images import read_pixels8
from advrad.detectors import engines
from advrad.detectors.conformal import conformal_threshold
from advrad.detectors.engines import EngineOutput, OpenVinoEngine
from advrad.detectors.exported_folder import check_files, read_export_config
from advrad.errors import CheckpointError, ConfigError, DataError, ExportError, NotCalibratedError, OutputError
from advrad.exporting import run as run_module
from advrad.exporting.run import export
from advrad.utils.progress import SilentReporter


def images_of(product: Path, part: str) -> list[Path]:
    return sorted((product / part).rglob("*.png"))


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


# --- What is written ---


def test_the_export_gives_the_scores_maps_and_verdicts_of_the_detector(
    exported: Path, closed_run: Path, product: Path
) -> None:
    paths = images_of(product, "test")
    expected = list(advrad.load_detector(closed_run).predict(paths))
    found = list(advrad.load_detector(exported).predict(paths))
    assert [one.defective for one in found] == [one.defective for one in expected]
    assert {one.defective for one in found} == {False, True}
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], rel=1e-4)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.anomaly_map, other.anomaly_map, atol=1e-4)


def test_the_threshold_is_that_of_the_exported_scores_and_lies_in_the_graph(exported: Path, product: Path) -> None:
    config = read_export_config(exported)
    engine = engines.open_engine(exported, config)
    held = [path for path in images_of(product, "train") if int(path.stem) % 2 == 0 and path.stem != "000"]
    outputs = [engine.run(read_pixels8(path)) for path in held]
    scores = [output.score for output in outputs]
    assert config.rescored and config.calibration.n == len(held) == 21
    assert config.calibration.threshold == conformal_threshold(scores, 0.05)
    assert config.calibration.scores == tuple(sorted(scores))
    # The graph's own verdicts: the image that set the threshold does not exceed it, a larger score does.
    assert [output.defective for output in outputs] == [score > config.calibration.threshold for score in scores]
    assert config.calibration.threshold in scores


def test_every_file_is_known_by_its_hash_and_names_no_folder_of_this_machine(exported: Path, product: Path) -> None:
    config = read_export_config(exported)
    check_files(exported, config)
    assert set(config.files) == {"README.md", "model.bin", "model.xml"}
    assert {path.name for path in exported.iterdir()} == {*config.files, "detector.json"}
    words = [str(product.parent), str(exported.parent), str(Path(advrad.__file__).parent)]
    for path in exported.iterdir():
        text = path.read_bytes()
        assert not [word for word in words if word.encode() in text], path.name


def test_detector_json_pins_what_the_export_is(exported: Path, closed_run: Path) -> None:
    config = read_export_config(exported)
    assert (config.source_kind, config.engine, config.precision) == ("closed_form", "openvino", "float32")
    assert (config.inference_precision, config.execution_mode) == ("f32", "ACCURACY")
    assert [(port.name, port.type, port.shape) for port in config.inputs] == [("image", "uint8", (1, None, None, 3))]
    assert [port.shape for port in config.outputs] == [(1,), (1, 32, 32), (1,)]
    weights = json.loads((closed_run / "config.json").read_text())["weights_sha256"]
    assert config.provenance.weights_sha256 == weights and config.provenance.data == "widget"
    assert {"openvino", "onnx", "torch", "advrad"} <= config.versions.keys()
    assert config.rounding.bound is not None and config.parity is not None
    assert config.parity.n == 21 and config.parity.flips == 0
    assert 0 < config.parity.score_difference < 1e-4


def test_the_card_says_how_the_export_compares(exported: Path) -> None:
    text = (exported / "README.md").read_text()
    assert "21 calibration images, in openvino" in text
    assert "Largest difference of scores" in text and "scores of the exported graph" in text


def test_the_same_detector_gives_the_same_bytes(exported: Path, closed_run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    export(closed_run, again)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in exported.iterdir()
    }


def test_a_detector_that_holds_its_calibration_images_keeps_its_threshold(
    left_out_run: Path, product: Path, tmp_path: Path
) -> None:
    config = export(left_out_run, tmp_path / "out", to="onnx")
    assert not config.rescored
    before = advrad.load_detector(left_out_run).calibration
    filled = config.calibration.picture_statistics
    assert before.picture_statistics is None and filled is not None and len(filled.brightness) == before.n
    assert config.calibration == before.model_copy(update={"picture_statistics": filled})
    assert set(config.files) == {"README.md", "model.onnx"} and config.engine == "onnxruntime"
    assert "leaves each out" in (tmp_path / "out" / "README.md").read_text()
    paths = images_of(product, "test")
    expected = [one.defective for one in advrad.load_detector(left_out_run).predict(paths)]
    for engine in ("onnxruntime", "openvino"):
        found = advrad.load_detector(tmp_path / "out", engine=engine).predict(paths)
        assert [one.defective for one in found] == expected


def test_an_empty_folder_is_filled_and_one_with_hidden_files_keeps_them(closed_run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".keep").touch()
    export(closed_run, tmp_path / "out", to="onnx")
    assert left_behind(tmp_path) == ["out"]
    assert set(left_behind(tmp_path / "out")) == {".keep", "README.md", "detector.json", "model.onnx"}


# --- What is refused, with nothing left ---


def falsified(change: Callable[[EngineOutput], EngineOutput], patch: pytest.MonkeyPatch) -> None:
    """Make OpenVINO answer something else."""
    original = OpenVinoEngine.run
    patch.setattr(OpenVinoEngine, "run", lambda self, image: change(original(self, image)))


def test_scores_that_differ_are_refused_by_the_names_of_the_images(
    closed_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(output: EngineOutput) -> EngineOutput:
        return EngineOutput(output.score * 1.01, output.anomaly_map, output.defective)

    falsified(change, monkeypatch)
    with pytest.raises(ExportError, match=r"scores differ by up to 0\.01, 0\.001 may be \(train/good/\d+\.png, "):
        export(closed_run, tmp_path / "out")
    assert left_behind(tmp_path) == []


def test_a_graph_that_decides_otherwise_is_refused(
    closed_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    falsified(lambda output: EngineOutput(output.score, output.anomaly_map, True), monkeypatch)
    with pytest.raises(ExportError, match=r"the verdicts of train/good/002\.png, .* differ"):
        export(closed_run, tmp_path / "out")
    assert left_behind(tmp_path) == []


def test_a_score_that_is_no_number_is_refused(
    closed_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    falsified(lambda output: EngineOutput(float("nan"), output.anomaly_map, False), monkeypatch)
    with pytest.raises(ExportError, match=r"no finite score for train/good/002\.png"):
        export(closed_run, tmp_path / "out")
    assert left_behind(tmp_path) == []


def test_an_interrupt_leaves_nothing(closed_run: Path, tmp_path: Path) -> None:
    class Impatient(SilentReporter):
        def stage(self, title: str) -> None:
            if title == "Comparing with the detector":
                assert [path for path in tmp_path.iterdir() if path.name.endswith(".part")], "work is under way"
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(closed_run, tmp_path / "out", progress=Impatient())
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float16"}, "precision float16: is unknown; choose float32, bfloat16, int8"),
        ({"to": "tflite"}, "to tflite: is unknown; choose openvino, onnx"),
        ({"to": "onnx", "precision": "bfloat16"}, "precision bfloat16: needs openvino; export to it"),
        ({"precision": "int8"}, "precision int8: is for trained networks, and this detector has none"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, Any], message: str, closed_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        export(closed_run, tmp_path / "out", **options)
    assert left_behind(tmp_path) == []


def test_a_processor_without_bfloat16_is_one_clear_line(
    closed_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(engines.runtime("openvino"), "Core", Core)
    with pytest.raises(ConfigError, match="precision bfloat16: this processor does not compute in bfloat16"):
        export(closed_run, tmp_path / "out", precision="bfloat16")


def test_without_the_extra_the_error_says_how_to_install_it(
    closed_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(engines, "import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install 'advrad\[export\]'"):
        export(closed_run, tmp_path / "out")
    assert left_behind(tmp_path) == []


def test_folders_that_hold_something_are_refused(closed_run: Path, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds notes\.txt, which advrad did not write"):
        export(closed_run, tmp_path)
    with pytest.raises(OutputError, match="holds an export; remove it, or give another folder"):
        export(closed_run, exported)
    with pytest.raises(OutputError, match="holds a model"):
        export(closed_run, closed_run)


def test_what_is_no_model_folder_is_refused(exported: Path, closed_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is an export already; name the model folder"):
        export(exported, tmp_path / "out")
    with pytest.raises(ConfigError, match="is a detector in a Python file"):
        export("mine.py:detector", tmp_path / "out")
    with pytest.raises(CheckpointError, match="there is no such model folder"):
        export(tmp_path / "missing", tmp_path / "out")
    bare = Path(shutil.copytree(closed_run, tmp_path / "bare"))
    values = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps(values | {"calibration": None}))
    with pytest.raises(NotCalibratedError, match="bare: has no threshold"):
        export(bare, tmp_path / "out")


def test_images_that_are_gone_or_others_are_refused(closed_run: Path, product: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(closed_run, tmp_path / "moved"))
    path = moved / "training" / "plan.json"
    plan = json.loads(path.read_text())
    path.write_text(json.dumps(plan | {"data": str(tmp_path / "gone")}))
    with pytest.raises(
        ConfigError, match=r"data: is needed, because the images of the training are no longer in .*gone"
    ):
        export(moved, tmp_path / "out")
    other = Path(shutil.copytree(product, tmp_path / "widget"))
    (other / "train" / "good" / "000.png").unlink()
    with pytest.raises(DataError, match="the normal images are not those of the fit"):
        export(moved, tmp_path / "out", data=other)
    path.unlink()
    with pytest.raises(ConfigError, match=r"data: is needed, because .*moved does not record where its images are"):
        export(moved, tmp_path / "out")


def test_images_with_other_scores_are_refused(closed_run: Path, product: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(product, tmp_path / "widget"))
    for path in (other / "train" / "good").iterdir():
        pixels = np.asarray(Image.open(path))
        Image.fromarray(np.clip(pixels * 1.2, 0, 255).astype(np.uint8)).save(path)
    with pytest.raises(DataError, match="the normal images are not those that set the threshold"):
        export(closed_run, tmp_path / "out", data=other)
    assert left_behind(tmp_path) == ["widget"]


# --- The command ---


def test_the_command_says_how_the_export_compares_and_what_is_next(cli: Cli, closed_run: Path, tmp_path: Path) -> None:
    done = cli("export", closed_run, "-o", tmp_path / "out")
    assert done.status == 0
    assert "compared   on the 21 normal images that set the threshold, in openvino" in done.out
    assert "verdicts   none of 21 differ" in done.out
    assert f"advrad predict {tmp_path / 'out'}" in done.out
    assert "Making the graph" in done.err


def test_errors_of_the_command_name_its_options(
    cli: Cli, closed_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = cli("export", closed_run, "-o", tmp_path / "out", "--precision", "fp8")
    assert done.status == 2 and "--precision fp8: is unknown; choose float32, bfloat16, int8" in done.err
    monkeypatch.setattr(run_module, "compare", interrupt)
    done = cli("export", closed_run, "-o", tmp_path / "out")
    assert done.status == 130 and "interrupted; nothing was written" in done.err
    assert left_behind(tmp_path) == []


def interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt
