"""The scripts in performance/ run and print what they should; the measured values are not checked."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
import torch
import trained_run
from toy_datasets import make_mvtec

PERFORMANCE = Path(__file__).resolve().parents[2] / "performance"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"performance_{name}", PERFORMANCE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def last_json(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def shrink(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the networks of the script tiny."""
    from advrad.denoisers.lean import LeanConfig, LeanDenoiser

    def tiny(self: LeanDenoiser) -> None:
        LeanDenoiser.__init__(self, LeanConfig(channels=(8, 16), blocks=(1, 1)))

    class Tiny(LeanDenoiser):
        __init__ = tiny

    class TinyAdamOnly(script._AdamOnly):
        __init__ = tiny

    monkeypatch.setattr(script, "LeanDenoiser", Tiny)
    monkeypatch.setattr(script, "_AdamOnly", TinyAdamOnly)


def test_the_reference_networks_have_as_many_parameters() -> None:
    script = load("train")
    for shape in script.PEERS:
        script.matched(shape, 128)


def test_speed(capsys: pytest.CaptureFixture[str]) -> None:
    result = load("train").main(["--rounds", "1", "--batch", "1", "--window", "32"])
    assert last_json(capsys) == result
    assert len(result["images_per_s"]) == 5
    assert result["ratio"] > 0 and result["ratio_as_shipped"] > 0


def test_minutes_to_a_target_that_is_not_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load("train")
    trained_run.shrink(monkeypatch)
    monkeypatch.setattr(script, "matched", lambda shape, size_px: script.build(_tiny_ddpm(size_px)))
    data = make_mvtec(tmp_path, train=48, size=64)
    script.main(["--data", str(data), "--target", "1.1", "--minutes", "0.005", "--first", "0.005", "--size", "64"])
    out = capsys.readouterr().out
    assert "lean: image AUROC 1.1: not reached in 0.005 minutes" in out
    assert json.loads(out.splitlines()[-1])["diffusers deep"]["minutes"] is None


def _tiny_ddpm(size_px: int) -> object:
    from advrad.denoisers.ddpm import PRESETS

    return PRESETS["tiny"].model_copy(update={"size_px": size_px})


def test_optimisers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = load("train")
    shrink(script, monkeypatch)
    result = script.main(["--optimisers", "--steps", "2", "--window", "32", "--batch", "2", "--rates", "1e-3"])
    assert last_json(capsys) == result
    assert [row["steps"] for row in result["rows"]] == [2, 2, 4]
    assert all(math.isfinite(row["error"]) for row in result["rows"])


@pytest.mark.slow
def test_predict_times_every_way_and_says_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import toy_exports

    script = load("predict")
    graphs = [tmp_path / name / "model.onnx" for name in ("ours", "theirs")]
    for graph in graphs:
        graph.parent.mkdir()
        toy_exports.write_onnx(graph)
    missing = {"float32": str(graphs[0]), "int8": "failed: there is no network", "onnx": str(graphs[0])}
    monkeypatch.setattr(script, "write_graphs", lambda *_: missing)
    run = tmp_path / "missing-run"
    asked = ["--run", run, "--patchcore", graphs[1], "--size", 64, "--rounds", 1, "--calls", 3, "--seconds", 0.1]
    result = script.main([*map(str, asked), "--side", "64", "--threads", "2", "--no-compile"])
    assert last_json(capsys) == json.loads(json.dumps(result))
    rows = {(row["detector"], row["name"]): row for row in result["rows"]}
    assert len(rows) == len(result["rows"]) == 6 + 2
    left_out = {name: row["failed"] for (_, name), row in rows.items() if "failed" in row}
    assert left_out["openvino int8"] == "there is no network"
    assert str(run) in left_out["eager float32"], "the model folder is named"
    for row in (rows["missing-run", "openvino float32"], rows["missing-run", "onnxruntime float32"]):
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] and row["calls"] == 3
        assert row["images_per_s"]["1"] > 0 and row["images_per_s"]["2"] > 0 and row["memory_mb"] > 10
        assert row["share_of_limit"] == pytest.approx(
            row["flops_per_image"] / row["p50_ms"] * 1e3 / result["limit_flops_per_s"]["float32"]
        )
    assert rows["PatchCore model", "openvino float32"]["flops_per_image"] > 0


@pytest.mark.slow
def test_the_graphs_of_a_detector_give_its_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ways

    from advrad.denoisers.lean import LeanConfig

    script = load("predict")
    whole, tiny = ways.fresh_detector, LeanConfig(channels=(8, 16), blocks=(1, 1))
    for module in (script, ways):
        monkeypatch.setattr(module, "fresh_detector", lambda size: whole(size, tiny))
    graphs = script.write_graphs(tmp_path, "", 64)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    detector = script.fresh_detector(64)
    [[score]] = [detector.predict_batch(torch.from_numpy(image).permute(2, 0, 1)[None] / 255).scores.tolist()]
    for engine, name, most in (("openvino", "float32", 1e-4), ("openvino", "int8", 0.5), ("onnxruntime", "onnx", 1e-4)):
        found = ways.LOADERS[engine](ways.Way(engine, "tiny", engine, "float32", graphs[name], 64, 1))(image)
        first = found[0] if engine == "onnxruntime" else found["score"]
        assert float(first[0]) == pytest.approx(score, rel=most), name
    eager = ways.torch_way(ways.Way("eager", "tiny", "eager", "float32", "", 64, torch.get_num_threads()))
    assert eager(image).tolist() == [score > detector.calibration.threshold]
    assert script.flops_of(graphs["float32"], 64) > 1e6


def test_arithmetic_is_counted_by_its_products(tmp_path: Path) -> None:
    import toy_exports

    toy_exports.write_onnx(tmp_path / "model.onnx")
    pixels = 3 * 64 * 64
    # A division, two means that read all pixels, and a resize.
    found = load("predict").flops_of(str(tmp_path / "model.onnx"), 64)
    assert abs(found - (3 * pixels + 32 * 32)) <= 2  # and what is left of constants


def test_startup(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("startup")
    calls: list[list[str]] = []
    monkeypatch.setattr(script, "seconds", lambda command: float(len(calls.append(command) or calls)))
    result = script.main(["--rounds", "2", "--cold"])
    assert len(calls) == 2 * len(script.COMMANDS)
    assert last_json(capsys) == result
    # The difference of the fourth and the second command of each round.
    assert result["added_to_torch_s"] == 2.0


def test_startup_times_a_process() -> None:
    assert load("startup").seconds(["-c", "pass"]) > 0


def test_attack_speed_beside_the_toolbox() -> None:
    # In a process of its own: the toolbox closes the output that pytest captures after tests of exports.
    script = Path(__file__).parents[2] / "performance" / "attack.py"
    options = ["--rounds", "1", "--steps", "1", "--batch", "2", "--size", "64"]
    command = [sys.executable, "-W", "ignore", str(script), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result["gradients_per_s"]) >= {"ours", "toolbox", "ours, parts in turn"} and result["ratio"] > 0
    assert ("ours, bfloat16" in result["gradients_per_s"]) == ("ratio_bfloat16" in result)


def test_certification_speed_by_batch_size(capsys: pytest.CaptureFixture[str]) -> None:
    result = load("certify").main(["--rounds", "1", "--draws", "8", "--size", "64"])
    assert last_json(capsys) == result
    assert list(result["draws_per_s"]) == ["1", "2", "4", "8"]
    assert 0 < result["ratio_to_best"] <= 1


def test_closed_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trained_run.shrink(monkeypatch)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    data = make_mvtec(tmp_path / "data", train=24)
    found = load("closed_form").main([str(data), "--limit", "4", "--timed", "2", "--size", "32"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == json.loads(json.dumps(found))
    (row,) = found
    assert 0 <= row["certified"]["linf 2/255"] <= 1 and 0 <= row["auroc"] <= 1 and row["fit_s"] > 0
    grown = load("closed_form").main([str(data), "--normals", "20,24", "--timed", "1", "--size", "32"])
    assert [row["normals"] for row in grown] == [20, 24]
    assert all(row["image_ms"] > 0 and row["certified_ms"] > 0 and 0 < row["model_mb"] < 20 for row in grown)


def test_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import advrad
    from advrad.inference.heatmaps import GREEN
    from advrad.report.content import Gallery
    from advrad.report.proofs import ImageProofs

    trained_run.shrink(monkeypatch)
    data, run, script = make_mvtec(tmp_path / "data", train=24), tmp_path / "run", load("failures")
    detector = advrad.train(data, run, size_px=32)
    picture = tmp_path / "failures.jpg"
    found = script.main([str(run), str(data), "-o", str(picture)])
    assert json.loads(capsys.readouterr().out) == found
    assert (found["missed"], found["bytes"], picture.exists()) == (0, 0, False), "every defect of the toy is found"
    # With the threshold at the second largest score, all but one defect are missed.
    evaluation = advrad.evaluate(detector, data)
    second = sorted(evaluation.scores)[-2]
    move_threshold(run, float(second))
    found = script.main([str(run), str(data), "-o", str(picture), "--limit", "2"])
    assert (found["missed"], found["false_alarms"]) == (found["anomalous"] - 1, 0)
    assert 0 < found["bytes"] == picture.stat().st_size < 200_000
    # With a threshold below all scores, every normal image is a false alarm, and its proven area is drawn.
    move_threshold(run, -1000.0)
    found = script.main([str(run), str(data), "-o", str(tmp_path / "failures.png")])
    assert (found["missed"], found["false_alarms"]) == (0, found["normal"])
    loaded = advrad.load_detector(run)
    evaluation = advrad.evaluate(loaded, data)
    alarms = script.failures(evaluation)[1]
    assert list(evaluation.scores[alarms]) == sorted(evaluation.scores[evaluation.labels == 0], reverse=True)
    defect = int((evaluation.labels == 1).argmax())
    (item,) = Gallery(evaluation, loaded, ImageProofs(loaded)).items([defect])
    image, heat = script.pair(item, loaded)
    assert (image != item.image).any(), "the true defect is outlined"
    assert item.proof.startswith("proven defective") and has_colour(heat, GREEN)


def test_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, script = make_mvtec(tmp_path / "data", train=10, size=32), load("features")
    asked = ["--size", "32", "--images", "8", "--rounds", "1", "--settings", "defaults", "fixed positions"]
    found = script.main([str(data), *asked])
    assert last_json(capsys) == found
    assert (found["images"], found["normal"]) == (4, 4) and found["anomalous"] >= 32
    assert list(found["settings"]) == ["defaults", "fixed positions"]
    for figures in found["settings"].values():
        assert 0 <= figures["auroc"] <= 1 and figures["fit_s"] > 0 and figures["score_ms"] > 0
        assert figures["vectors"] == 4 * 16


def test_guarded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import guarded_run

    run = guarded_run.write(tmp_path / "run", tmp_path / "half.py")
    data = guarded_run.write_product(tmp_path / "product")
    load("guarded").main([str(run), str(data), "--images", "5", "--threads", "1"])
    found = last_json(capsys)
    assert found["images"] == 5
    score, proof, memory = (
        found[name]["median_ms"] for name in ("score, map and word", "with the proof", "memory alone")
    )  # type: ignore[index]
    assert min(score, proof, memory) > 0


def move_threshold(run: Path, threshold: float) -> None:
    """Change the threshold of a model folder, and the level above which its maps are outlined."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    config["calibration"] |= {"threshold": threshold, "heat_low": threshold - 1}
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")


def has_colour(image: npt.NDArray[np.float32], colour: tuple[float, float, float]) -> bool:
    return bool((np.abs(image - np.float32(colour)).max(-1) < 1e-6).any())


def test_exports_beside_their_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import exportable_runs

    data = exportable_runs.product(tmp_path)
    run = exportable_runs.closed_form(data, tmp_path / "run")
    result = load("export").main([str(run), str(data), "--kinds", "onnx-float32,openvino-int8"])
    assert last_json(capsys) == result
    assert result["images"] == 8 and result["torch"]["auroc"] == 1.0
    assert result["onnx-float32"]["flips"] == 0 and result["onnx-float32"]["score_difference"] < 1e-3
    assert "has none" in result["openvino-int8"]["refused"]
