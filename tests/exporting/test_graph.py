"""Graphs give what their detectors predict: in PyTorch, in ONNX Runtime and in OpenVINO, for images of any size."""

from __future__ import annotations

import pytest
import torch
import toy_graphs
from toy_graphs import SHAPES, as_tensor, pixels

from advrad.data.images import at_working_size
from advrad.exporting.graph import graph_of


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, as a share of the largest value."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-3))


@pytest.mark.parametrize("kind", toy_graphs.KINDS)
def test_a_graph_gives_what_its_detector_predicts(kind: str) -> None:
    detector = toy_graphs.made(kind)
    graph = graph_of(detector)
    verdicts = []
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
        verdicts.append(bool(defective))
    assert kind.startswith("learned_") or len(set(verdicts)) > 0
