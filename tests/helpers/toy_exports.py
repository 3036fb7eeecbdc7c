"""A small export, written by hand: its score is the mean of all pixel values, its map the image in grey."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from advrad.detectors.config import Calibration, RecordedFigures, TrainingRecord
from advrad.detectors.engines import runtime
from advrad.detectors.exported_config import (
    ExportedConfig,
    FramingRecord,
    GuardedRecord,
    ParityRecord,
    PortRecord,
    ProvenanceRecord,
    RoundingRecord,
)
from advrad.detectors.exported_folder import file_digest, write_export_config
from advrad.detectors.guarded_config import HalfTest
from advrad.detectors.model_card import render
from advrad.utils.output_folders import claim_folder, unmark_folder

SIZE_PX = 32
THRESHOLD = 0.55
#: Thresholds of the halves of a guarded export: of the mean, and of the largest value.
HALVES = (0.55, 0.9)


def write_onnx(path: Path, *, guarded: bool = False) -> None:
    """Write the graph."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, values: Any, kind: Any) -> Any:
        return numpy_helper.from_array(np.asarray(values, dtype=kind), name)

    floats, node = TensorProto.FLOAT, helper.make_node
    limits = HALVES if guarded else (THRESHOLD,)
    constants = [
        constant("white", 255.0, np.float32),
        constant("all", [1, 2, 3], np.int64),
        constant("colour", [1], np.int64),
        constant("sizes", [1, 1, SIZE_PX, SIZE_PX], np.int64),
        # Rounded down, so that a float32 score exceeds it where it exceeds the threshold.
        constant("threshold", [_down(limit) for limit in limits], np.float32),
    ]
    nodes = [
        node("Cast", ["image"], ["whole"], to=floats),
        node("Div", ["whole", "white"], ["pixels"]),
        node("ReduceMean", ["pixels", "all"], ["mean"], keepdims=0),
        node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        node("ReduceMean", ["planes", "colour"], ["grey"], keepdims=1),
        node("Resize", ["grey", "", "", "sizes"], ["scaled"], mode="linear"),
        node("Squeeze", ["scaled", "colour"], ["anomaly_map"]),
    ]
    outputs = [
        ("score", floats, [1]),
        ("anomaly_map", floats, [1, SIZE_PX, SIZE_PX]),
        ("defective", TensorProto.BOOL, [1]),
    ]
    if guarded:
        outputs.append(("half_scores", floats, [1, 2]))
        nodes += [
            node("ReduceMax", ["pixels", "all"], ["largest"], keepdims=0),
            node("Unsqueeze", ["mean", "colour"], ["first"]),
            node("Unsqueeze", ["largest", "colour"], ["second"]),
            node("Concat", ["first", "second"], ["half_scores"], axis=1),
            node("Sub", ["half_scores", "threshold"], ["surprises"]),
            node("ReduceMax", ["surprises", "colour"], ["score"], keepdims=0),
            node("Greater", ["half_scores", "threshold"], ["speaks"]),
            node("Cast", ["speaks"], ["spoken"], to=floats),
            node("ReduceMax", ["spoken", "colour"], ["any"], keepdims=0),
            node("Cast", ["any"], ["defective"], to=TensorProto.BOOL),
        ]
    else:
        nodes += [node("Identity", ["mean"], ["score"]), node("Greater", ["score", "threshold"], ["defective"])]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "height", "width", 3])
    found = [helper.make_tensor_value_info(*output) for output in outputs]
    model = helper.make_model(
        helper.make_graph(nodes, "toy", [image], found, constants), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 10
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _down(limit: float) -> np.float32:
    rounded = np.float32(limit)
    return rounded if float(rounded) <= limit else np.nextafter(rounded, np.float32(-np.inf))


def config_of(
    *, guarded: bool = False, engine: Literal["openvino", "onnxruntime"] = "onnxruntime", **changes: Any
) -> ExportedConfig:
    """What the export says."""
    tests = tuple(
        HalfTest(threshold=limit, false_alarm_rate=0.05, n=39, slope=1.0, scores=(0.1, 0.2)) for limit in HALVES
    )
    threshold = 0.0 if guarded else THRESHOLD
    values: dict[str, Any] = {
        "source_kind": "guarded" if guarded else "closed_form",
        "description": ("the mean of all pixels",),
        "engine": engine,
        "precision": "float32",
        "image_size_px": SIZE_PX,
        "framing_record": FramingRecord(height_px=SIZE_PX, width_px=SIZE_PX),
        "calibration": Calibration(threshold=threshold, false_alarm_rate=0.05, n=39, heat_low=0.0, heat_high=1.0),
        "guarded": GuardedRecord(names=("memory", "contrast"), tests=tests) if guarded else None,
        "inputs": (PortRecord(name="image", type="uint8", shape=(1, None, None, 3)),),
        "outputs": (PortRecord(name="score", type="float32", shape=(1,)),),
        "parity": ParityRecord(
            n=39,
            score_difference=2e-7,
            score_tolerance=1e-3,
            map_difference=3e-7,
            map_tolerance=1e-3,
            flips=0,
            worst="train/good/007.png",
        ),
        "rounding": RoundingRecord(bound=None, words="nothing is proven about a toy"),
        "provenance": ProvenanceRecord(config_sha256="0123456789abcdef" * 4, data="widgets", fitted_on="2026-11-27"),
        "versions": {"advrad": "0.1.0", "onnx": "1.23.2"},
        "training": TrainingRecord(seen=("0" * 64,)),
        "figures": RecordedFigures(),
    }
    return ExportedConfig(**values | changes)


def write(folder: Path, *, guarded: bool = False, openvino: bool = False, **changes: Any) -> Path:
    """Write the export, in the form of one runtime or the other; return its folder."""
    place = claim_folder(folder, "export")
    graph = place / "model.onnx"
    write_onnx(graph, guarded=guarded)
    if openvino:
        openvino_ = runtime("openvino")
        openvino_.save_model(openvino_.Core().read_model(graph), place / "model.xml", compress_to_fp16=False)
        graph.unlink()
    config = config_of(guarded=guarded, engine="openvino" if openvino else "onnxruntime", **changes)
    (place / "README.md").write_text(render(config), encoding="utf-8")
    names = sorted(path.name for path in place.iterdir() if not path.name.startswith("."))
    config = config.model_copy(update={"files": {name: file_digest(place / name) for name in names}})
    write_export_config(place, config)
    unmark_folder(place, "export")
    return place
