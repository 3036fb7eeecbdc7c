"""Exports, loaded and run: hashes, formats, engines, pixels, halves, threads."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_exports
from PIL import Image

import advrad
from advrad.detectors import engines
from advrad.detectors.exported import ExportedDetector, ExportedGuardedDetector, to_pixels
from advrad.detectors.exported_folder import read_export_config, write_export_config
from advrad.detectors.loading import load_config, load_target, save_figures, to_loaded
from advrad.detectors.verdicts import Verdict
from advrad.errors import CheckpointError, ConfigError, DataError, ImageError


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_exports.write(tmp_path_factory.mktemp("exports") / "onnx")


@pytest.fixture(scope="module")
def openvino_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_exports.write(tmp_path_factory.mktemp("exports") / "openvino", openvino=True)


@pytest.fixture(scope="module")
def guarded_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_exports.write(tmp_path_factory.mktemp("exports") / "guarded", guarded=True)


def pixels(value: int, height: int = 40, width: int = 50) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full((height, width, 3), value, dtype=np.uint8)


# --- Scores and verdicts ---


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_both_engines_give_score_map_and_verdict_of_images_of_any_size(export: Path, engine: str) -> None:
    detector = advrad.load_detector(export, engine=engine)
    assert isinstance(detector, ExportedDetector)
    output = detector.predict_batch([pixels(51, 20, 90), pixels(204, 200, 33)])
    assert output.scores.tolist() == pytest.approx([0.2, 0.8], abs=1e-4)
    assert output.anomaly_maps is not None and output.anomaly_maps.shape == (2, 1, 32, 32)
    assert [found.verdict for found in detector.predict([pixels(51), pixels(204)])] == ["good", "defective"]


def test_an_openvino_export_runs_as_the_onnx_one_does(export: Path, openvino_export: Path) -> None:
    given = [pixels(77)]
    one, other = (advrad.load_detector(folder).predict_batch(given) for folder in (export, openvino_export))  # type: ignore[arg-type]
    assert float(one.scores) == pytest.approx(float(other.scores), abs=1e-5)


def test_files_and_arrays_of_8_bits_reach_the_graph_unchanged(export: Path, tmp_path: Path) -> None:
    class Spy:
        seen: list[Any] = []  # noqa: RUF012

        def run(self, image: Any) -> engines.EngineOutput:
            self.seen.append(image.copy())
            return engines.EngineOutput(0.1, np.zeros((32, 32), np.float32), False)

    spy = Spy()
    detector = ExportedDetector(read_export_config(export), spy)
    frame = np.random.default_rng(0).integers(0, 256, (41, 57, 3), dtype=np.uint8)
    Image.fromarray(frame).save(tmp_path / "a.png")
    grey = frame[:, :, 0]
    wide = grey.astype(np.uint16) * 257
    flipped = frame[:, :, ::-1]
    list(detector.predict([tmp_path / "a.png", frame, Image.fromarray(frame), grey, flipped, torch.from_numpy(frame)]))
    list(detector.predict(frame.astype(np.float32) / 255))
    list(detector.predict([wide, np.repeat(wide[:, :, None], 3, axis=2)]))
    as_colour = np.repeat(grey[:, :, None], 3, axis=2)
    wanted = [frame, frame, frame, as_colour, flipped, frame, frame, as_colour, as_colour]
    assert all(np.array_equal(found, image) for found, image in zip(spy.seen, wanted, strict=True))


def test_images_of_more_bits_are_rounded_to_8(export: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((40, 40), 32896 + 120, dtype=np.uint16)).save(path)  # 128.47 in 8 bits
    [found] = advrad.load_detector(export).predict(path)
    assert found.score == pytest.approx(128 / 255, abs=1e-5)
    assert to_pixels(torch.full((1, 3, 2, 2), 128.47 / 255))[0].max() == 128


def test_a_batch_and_single_images_give_the_same(export: Path) -> None:
    detector = advrad.load_detector(export)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    together = detector.predict_batch(images)
    alone = [detector.predict_batch(image[None]).scores for image in images]
    assert torch.equal(together.scores, torch.cat(alone))
    assert detector.predict_batch(images[:0]).scores.shape == (0,)


def test_images_outside_0_to_1_are_refused(export: Path) -> None:
    with pytest.raises(DataError, match="values from"):
        advrad.load_detector(export).predict_batch(2 * torch.ones(1, 3, 32, 32))


def test_several_threads_share_one_graph(openvino_export: Path) -> None:
    detector = ExportedDetector.from_pretrained(openvino_export, threads=2, streams=2)
    images = [pixels(value, 30 + value, 40) for value in range(20, 60)]
    alone = [detector.engine.run(image).score for image in images]
    assert [found.score for found in detector.run(images)] == alone
    with ThreadPoolExecutor(4) as pool:
        assert [found.score for found in pool.map(detector.engine.run, images)] == alone


def test_the_precision_is_pinned(openvino_export: Path) -> None:
    detector = ExportedDetector.from_pretrained(openvino_export, threads=1)
    assert isinstance(detector.engine, engines.OpenVinoEngine)
    compiled = detector.engine._model
    assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert compiled.get_property("EXECUTION_MODE_HINT").name == "ACCURACY"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_a_verdict_that_contradicts_the_threshold_is_refused(tmp_path: Path) -> None:
    folder = toy_exports.write(tmp_path / "export")
    config = read_export_config(folder)
    other = config.calibration.model_copy(update={"threshold": 0.3})
    write_export_config(folder, config.model_copy(update={"calibration": other}))
    with pytest.raises(CheckpointError, match=r"says good at a score of 0\.39999.*contradicts the threshold 0\.3"):
        list(advrad.load_detector(folder).predict(pixels(102)))


def test_a_score_that_is_no_number_is_refused(export: Path) -> None:
    class Damaged:
        def run(self, image: Any) -> engines.EngineOutput:
            return engines.EngineOutput(np.nan, np.zeros((32, 32), np.float32), True)

    with pytest.raises(CheckpointError, match="gives a score of nan; the export is damaged"):
        ExportedDetector(read_export_config(export), Damaged()).predict_batch([pixels(60)])


# --- Guarded detectors ---


def test_a_guarded_export_says_which_half_spoke_and_proves_nothing(guarded_export: Path) -> None:
    detector = advrad.load_detector(guarded_export)
    assert isinstance(detector, ExportedGuardedDetector)
    spot = pixels(60)
    spot[5:9, 5:9] = 250
    found = list(detector.predict([pixels(204), spot, pixels(60)]))
    assert [one.verdict_words for one in found] == [Verdict.DEFECTIVE, Verdict.SUSPECTED, Verdict.GOOD]
    assert [half.name for half in found[1].halves] == ["memory", "contrast"]
    assert [half.speaks for half in found[1].halves] == [False, True]
    assert found[1].halves[1].score == pytest.approx(250 / 255, abs=1e-5)
    assert all(half.lower is None and half.upper is None for one in found for half in one.halves)
    assert found[1].score > 0 > found[2].score


def test_a_half_whose_score_is_no_number_has_failed(guarded_export: Path) -> None:
    class Failing:
        def run(self, image: Any) -> engines.EngineOutput:
            halves = np.array([0.1, np.nan], np.float32)
            return engines.EngineOutput(0.3, np.zeros((32, 32), np.float32), True, halves)

    detector = ExportedGuardedDetector(read_export_config(guarded_export), Failing())
    [found] = detector.verdicts([pixels(60)])
    assert found.word is Verdict.DEFECTIVE and found.reason == "contrast failed: its score is nan"


def test_a_guarded_verdict_that_contradicts_its_halves_is_refused(guarded_export: Path) -> None:
    class Wrong:
        def run(self, image: Any) -> engines.EngineOutput:
            return engines.EngineOutput(-0.3, np.zeros((32, 32), np.float32), False, np.array([0.6, 0.1], np.float32))

    with pytest.raises(CheckpointError, match="contradicts the scores of its halves"):
        ExportedGuardedDetector(read_export_config(guarded_export), Wrong()).verdicts([pixels(60)])


# --- The folder ---


@pytest.mark.parametrize("name", ["README.md", "model.bin", "model.xml", "detector.json"])
def test_a_changed_byte_in_any_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = toy_exports.write(tmp_path / "export", openvino=True)
    path = folder / name
    text = path.read_bytes()
    place = text.index(b"0.55") if name == "detector.json" else len(text) // 2
    path.write_bytes(text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :])
    with pytest.raises(CheckpointError, match=rf"{name}: was changed after the export \(its hash differs\)"):
        advrad.load_detector(folder)


def test_a_removed_file_is_named(tmp_path: Path) -> None:
    folder = toy_exports.write(tmp_path / "export")
    (folder / "model.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"model\.onnx: is missing; copy the folder again, or export again"):
        advrad.load_detector(folder)


def test_an_export_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    folder = toy_exports.write(tmp_path / "export")
    path = folder / "detector.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 2, "more": 1}))
    with pytest.raises(CheckpointError, match="has format 2, this advrad reads up to 1; install a newer advrad"):
        advrad.load_detector(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": "other"}', "\xff"])
def test_a_damaged_description_is_one_line(tmp_path: Path, text: str) -> None:
    folder = toy_exports.write(tmp_path / "export")
    (folder / "detector.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"^[^\n]*detector\.json[^\n]*$"):
        advrad.load_detector(folder)


def test_a_file_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = toy_exports.write(tmp_path / "export")
    config = read_export_config(folder)
    write_export_config(folder, config.model_copy(update={"files": config.files | {"../other": "0"}}))
    with pytest.raises(CheckpointError, match="outside of the folder"):
        advrad.load_detector(folder)


def test_a_damaged_graph_with_its_own_hash_is_one_line(tmp_path: Path) -> None:
    folder = toy_exports.write(tmp_path / "export")
    (folder / "model.onnx").write_bytes(b"nothing")
    from advrad.detectors.exported_folder import file_digest

    config = read_export_config(folder)
    files = config.files | {"model.onnx": file_digest(folder / "model.onnx")}
    write_export_config(folder, config.model_copy(update={"files": files}))
    for engine in ("openvino", "onnxruntime"):
        with pytest.raises(CheckpointError, match=r"^[^\n]*model\.onnx: O[^\n]* cannot load it[^\n]*$"):
            advrad.load_detector(folder, engine=engine)


# --- Engines ---


def test_the_wrong_engine_is_one_line(openvino_export: Path, tmp_path: Path, closed_form_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"onnxruntime: cannot read this export, which holds model\.xml"):
        advrad.load_detector(openvino_export, engine="onnxruntime")
    with pytest.raises(ConfigError, match="is an export and holds no PyTorch model; give the model folder"):
        advrad.load_detector(openvino_export, engine="torch")
    with pytest.raises(ConfigError, match="is unknown; choose torch, openvino, onnxruntime"):
        advrad.load_detector(openvino_export, engine="tensorrt")
    with pytest.raises(ConfigError, match="is no export; make one with 'advrad export"):
        advrad.load_detector(closed_form_run, engine="openvino")
    with pytest.raises(ConfigError, match="computes exports only"):
        load_target(f"{tmp_path}/mine.py:score", engine="openvino")
    with pytest.raises(ConfigError, match="cannot be used by an exported detector, which computes on the CPU"):
        advrad.load_detector(openvino_export, device="meta")


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_missing_runtime_names_the_extra(export: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(wanted: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{wanted}'", name=wanted)

    monkeypatch.setattr(engines, "import_module", missing)
    with pytest.raises(ConfigError, match=rf"^an export needs {name}: pip install 'advrad\[export\]'$"):
        advrad.load_detector(export, engine=name)


def test_openvino_reports_to_nobody_that_it_is_used(openvino_export: Path) -> None:
    code = (
        "import sys, numpy, advrad\n"
        f"list(advrad.load_detector({str(openvino_export)!r}).predict(numpy.zeros((40, 40, 3), 'uint8')))\n"
        "assert 'openvino' in sys.modules\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_bfloat16_without_the_processor_is_one_line(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32", "INT8"]

    config = read_export_config(export).model_copy(update={"precision": "bfloat16", "inference_precision": "bf16"})
    with pytest.raises(ConfigError, match="cannot be computed by ONNX Runtime"):
        engines.open_engine(export, config, "onnxruntime")
    monkeypatch.setattr(engines, "runtime", lambda name: type("Runtime", (), {"Core": Core}))
    with pytest.raises(ConfigError, match="this processor does not compute in bfloat16; export with float32"):
        engines.open_engine(export, config, "openvino")


def test_threads_below_1_are_refused(export: Path) -> None:
    with pytest.raises(ConfigError, match="threads 0: must be 1 or more"):
        ExportedDetector.from_pretrained(export, threads=0)


def test_the_description_alone_needs_no_runtime(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] in ("openvino", "onnxruntime", "onnx"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert load_config(export).kind == "exported"


# --- Beside other detectors ---


def test_advrad_from_pretrained_gives_the_export(export: Path) -> None:
    detector: Any = advrad.AdvRAD.from_pretrained(export)
    assert isinstance(detector, ExportedDetector)
    [found] = detector.predict(pixels(204))
    assert found.defective and found.threshold == toy_exports.THRESHOLD


def test_an_export_keeps_its_threshold(export: Path, tmp_path: Path) -> None:
    detector = advrad.load_detector(export)
    with pytest.raises(ConfigError, match="calibrate the model folder with 'advrad calibrate', and export it again"):
        detector.calibrate([torch.rand(40, 3, 32, 32)])
    with pytest.raises(ConfigError, match="copy its folder"):
        detector.save_pretrained(tmp_path / "copy")


def test_figures_are_kept_in_card_and_description(tmp_path: Path, export: Path) -> None:
    folder = toy_exports.write(tmp_path / "export")
    before = load_target(str(folder)).identity
    from advrad.detectors.config import RecordedFigures

    save_figures(folder, RecordedFigures(image_auroc=0.875, tpr=0.5, fpr=0.1))
    assert load_config(folder).figures.image_auroc == 0.875
    assert "0.8750" in (folder / "README.md").read_text()
    assert load_target(str(folder)).identity == before  # with a check of the card's new hash
    assert to_loaded(advrad.load_detector(folder)).identity == to_loaded(advrad.load_detector(export)).identity


def test_images_of_another_shape_or_range_are_refused_as_for_other_detectors(tmp_path: Path) -> None:
    from advrad.data.shapes import ShapeRecord
    from advrad.data.value_range import ImageLevels, RangeRecord
    from advrad.detectors.config import TrainingRecord

    training = TrainingRecord(shapes=ShapeRecord.of([(40, 40)]), value_range=RangeRecord.of([ImageLevels(255, 0, 255)]))
    detector = advrad.load_detector(toy_exports.write(tmp_path / "export", training=training))
    with pytest.raises(DataError, match="images"):
        list(detector.predict(pixels(80, 40, 200)))
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((40, 40), 30000, dtype=np.uint16)).save(deep)
    with pytest.raises(ImageError, match=r"has 16 bits \(white is 65535\)"):
        list(detector.predict(deep))
    [found] = detector.predict(deep, value_range=65535)
    assert found.score == pytest.approx(117 / 255, abs=1e-5)
