"""Graphs give what their detectors predict: in PyTorch, in ONNX Runtime and in OpenVINO, for images of any size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import toy_graphs
import toy_guarded
from toy_graphs import SHAPES, Pixels, as_tensor, pixels
from turned_parts import SIZE, four_bars

from advrad.data.images import at_working_size
from advrad.detectors.closed_form_member import ClosedFormMember
from advrad.errors import ConfigError, NotCalibratedError
from advrad.exporting.graph import graph_of, rounded_down
from advrad.exporting.onnx_file import OnnxGraph, to_onnx
from advrad.training.closed_form import fit_closed_form
from advrad.training.closed_form_plan import MemberPlan


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, as a share of the largest value."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-3))


@pytest.mark.parametrize("kind", toy_graphs.KINDS)
def test_a_graph_gives_what_its_detector_predicts(kind: str) -> None:
    detector = toy_graphs.made(kind)
    graph = graph_of(detector)
    for seed, (height, width) in enumerate(SHAPES):
        image = pixels(height, width, seed)
        working = at_working_size(image, 255.0, detector.config.framing)
        expected = detector.predict_batch(working[None])
        assert expected.anomaly_maps is not None
        with torch.no_grad():
            score, anomaly_map, defective, *halves = graph(as_tensor(image))
        assert score.shape == defective.shape == (1,) and defective.dtype == torch.bool
        assert relative(score, expected.scores) < 1e-5
        assert relative(anomaly_map, expected.anomaly_maps[:, 0]) < 2e-5
        if halves:
            assert relative(halves[0], expected.half_scores) < 1e-5
            assert bool(defective) == bool(expected.defective)
        else:
            assert bool(defective) == (float(expected.scores) > detector.calibration.threshold)


def test_noise_is_stored_and_the_same_for_every_image_and_every_graph() -> None:
    detector = toy_graphs.learned()
    first, again = graph_of(detector), graph_of(detector)
    noise = {name: value for name, value in first.named_buffers() if name.startswith("scores.noise_")}
    assert {value.shape for value in noise.values()} == {(1, 4, 3, 16, 16), (1, 2, 3, 32, 32)}
    assert all(torch.equal(value, again.get_buffer(name)) for name, value in noise.items())
    detector.update_config(noise_seed=detector.detector_config.noise_seed + 1)
    other = graph_of(detector)
    assert not any(torch.equal(value, other.get_buffer(name)) for name, value in noise.items())
    with torch.no_grad():
        image = as_tensor(pixels(32, 32))
        assert torch.equal(first(image)[0], again(image)[0])
        assert not torch.equal(first(image)[0], other(image)[0])


def test_thresholds_decide_as_in_double_precision() -> None:
    values = [0.1, 0.3, 2 / 3, -0.1, 4.656894683837891, 0.0]
    rounded = rounded_down(values)
    for value, found in zip(values, rounded, strict=True):
        above = torch.nextafter(found, torch.tensor(torch.inf))
        assert float(found) <= value < float(above)


def test_a_score_that_is_no_number_is_defective() -> None:
    graph = graph_of(toy_graphs.closed_form())
    graph.get_buffer("threshold").fill_(1e9)
    image = as_tensor(pixels(32, 32))
    with torch.no_grad():
        assert not bool(graph(image)[2])
        for buffer in graph.buffers():
            if buffer.is_floating_point() and buffer.ndim == 4:
                buffer.fill_(torch.nan)  # mean and spread of the sites
        assert bool(graph(image)[2])


@pytest.mark.parametrize("speaking", [0, 1, 2])
def test_either_half_speaks(speaking: int) -> None:
    detector = toy_graphs.guarded()
    graph = graph_of(detector)
    with torch.no_grad():
        scores = graph(as_tensor(pixels(32, 32)))[3][0]
        for place in range(3):
            graph.get_buffer("threshold")[place] = scores[place] + (-0.01 if place == speaking else 0.01)
        score, _, defective, _ = graph(as_tensor(pixels(32, 32)))
    assert bool(defective) and float(score) > 0
    assert speaking == 0 or float(score) < detector.config.ceiling


def test_what_cannot_be_exported_is_named() -> None:
    with pytest.raises(ConfigError, match="half 'half' is a detector of a Python file"):
        graph_of(toy_guarded.guarded())
    detector = toy_graphs.learned(calibrated=False)
    with pytest.raises(NotCalibratedError):
        graph_of(detector)
    with pytest.raises(ConfigError, match="of the type NotADetector cannot be exported"):
        graph_of(NotADetector())  # type: ignore[arg-type]


class NotADetector(str):
    """Has what a detector has, and is none."""

    calibration = toy_graphs._threshold(0.0)
    config = toy_graphs.closed_form().config


Outputs = list[npt.NDArray[np.float32]]


def in_onnx(kind: str) -> OnnxGraph:
    """The graph of a detector in the form of ONNX; what a calibration sets is stored under its name."""
    graph = graph_of(toy_graphs.made(kind))
    exported = to_onnx(graph)
    assert set(graph.calibrated) <= exported.constants()
    return exported


@pytest.fixture(scope="module")
def guarded_in_onnx() -> OnnxGraph:
    return in_onnx("guarded")


def in_onnxruntime(graph: OnnxGraph, image: Pixels) -> Outputs:
    import onnxruntime

    outputs: Outputs = onnxruntime.InferenceSession(graph.serialized()).run(None, {"image": image[None]})
    return outputs


def runtimes(graph: OnnxGraph, folder: Path) -> dict[str, Callable[[Pixels], Outputs]]:
    """Functions that run a graph in each runtime."""
    import onnxruntime
    import openvino

    path = folder / "model.onnx"
    graph.write(path)
    session = onnxruntime.InferenceSession(path)
    compiled = openvino.Core().compile_model(
        openvino.convert_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    )
    return {
        "onnxruntime": lambda image: session.run(None, {"image": image[None]}),
        "openvino": lambda image: list(compiled(image[None]).values()),
    }


@pytest.mark.slow
def test_what_a_calibration_sets_is_replaced_by_name(guarded_in_onnx: OnnxGraph) -> None:
    detector = toy_graphs.guarded()
    tests = tuple(
        test.model_copy(
            update={
                "threshold": test.threshold * (1.1 + place),
                "slope": test.slope * 0.5,
                "heat_low": test.heat_low - 0.3,
                "heat_high": test.heat_high + 0.2,
            }
        )
        for place, test in enumerate(detector.tests)
    )
    detector.update_config(tests=tests, ceiling=0.3)
    graph, image = graph_of(detector), pixels(32, 32)
    values = {name: graph.get_buffer(name).numpy() for name in graph.calibrated}
    found = in_onnxruntime(guarded_in_onnx.with_constants(values), image)
    before = in_onnxruntime(guarded_in_onnx, image)
    with torch.no_grad():
        expected = graph(as_tensor(image))
    for place in (0, 1, 3):
        assert relative(torch.as_tensor(found[place]), expected[place]) < 1e-5
    assert bool(found[2]) == bool(expected[2])
    assert abs(before[0] - found[0]) > 0.01 and abs(before[1] - found[1]).max() > 0.01


@pytest.mark.parametrize(
    "kind", [name if name == "closed_form" else pytest.param(name, marks=pytest.mark.slow) for name in toy_graphs.KINDS]
)
def test_runtimes_give_what_the_detector_predicts(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    detector = toy_graphs.made(kind)
    exported = request.getfixturevalue("guarded_in_onnx") if kind == "guarded" else in_onnx(kind)
    for name, run in runtimes(exported, tmp_path).items():
        for seed, (height, width) in enumerate(SHAPES):
            image = pixels(height, width, seed)
            expected = detector.predict_batch(at_working_size(image, 255.0, detector.config.framing)[None])
            assert expected.anomaly_maps is not None
            score, anomaly_map, defective, *halves = map(torch.as_tensor, run(image))
            assert relative(score, expected.scores) < 1e-5, name
            assert relative(anomaly_map, expected.anomaly_maps[:, 0]) < 2e-5, name
            spoken = expected.defective if halves else expected.scores > detector.calibration.threshold
            assert spoken is not None and bool(defective) == bool(spoken), name
            if halves:
                assert relative(halves[0], expected.half_scores) < 1e-5, name


@pytest.mark.slow
def test_runtimes_place_parts_and_see_strays_as_the_detector_does(tmp_path: Path) -> None:
    plan = MemberPlan(name="small", view="registered", size_px=SIZE, cell_px=4 / 3, patch_cells=5, window_cells=(1, 1))
    detector = fit_closed_form(four_bars(48).float(), [plan])
    detector.update_config(calibration=toy_graphs._threshold(1.0))
    (member,) = detector.members
    assert isinstance(member, ClosedFormMember) and member.strays is not None
    clean = (four_bars(2, seed=5) * 255).round().to(torch.uint8)
    crumb = clean.clone()
    crumb[:, :, 27:33, 28:34] = 255
    for name, run in runtimes(to_onnx(graph_of(detector)), tmp_path).items():
        for image in torch.cat([clean, crumb]).permute(0, 2, 3, 1).numpy():
            expected = detector.predict_batch(at_working_size(image, 255.0, detector.config.framing)[None])
            assert expected.anomaly_maps is not None
            score, anomaly_map, defective = map(torch.as_tensor, run(np.ascontiguousarray(image)))
            # In spreads of the scores of normal images.
            assert float((score - expected.scores).abs()) < 1e-4, name
            assert float((anomaly_map - expected.anomaly_maps[:, 0]).abs().max()) < 1e-3, name
            assert bool(defective) == bool(expected.scores > 1.0), name
