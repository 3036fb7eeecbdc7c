"""Fixtures of the tests of exports. A graph is traced once for each detector, because that takes seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import exportable_runs
import pytest
import torch

from advrad.exporting import onnx_file, run
from advrad.exporting.graph import DetectorGraph


@pytest.fixture(autouse=True, scope="session")
def _traced_once() -> Iterator[None]:
    """Keep the ONNX form of graphs with the same tensors; the threshold is written into it later."""
    made: dict[str, onnx_file.OnnxGraph] = {}

    def to_onnx(graph: DetectorGraph) -> onnx_file.OnnxGraph:
        digest = hashlib.sha256()
        for name, tensor in graph.state_dict().items():
            digest.update(name.encode() + tensor.flatten().contiguous().view(torch.uint8).numpy().tobytes())
        key = digest.hexdigest()
        if key not in made:
            made[key] = onnx_file.to_onnx(graph)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "to_onnx", to_onnx)
        yield


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of a small product; tests must not change them."""
    return exportable_runs.product(tmp_path_factory.mktemp("product"))


@pytest.fixture(scope="session")
def closed_run(tmp_path_factory: pytest.TempPathFactory, product: Path) -> Path:
    """A closed form whose threshold images it does not hold; tests must not change it."""
    return exportable_runs.closed_form(product, tmp_path_factory.mktemp("runs") / "closed")


@pytest.fixture(scope="session")
def left_out_run(tmp_path_factory: pytest.TempPathFactory, product: Path) -> Path:
    """A closed form that holds the images of its threshold; tests must not change it."""
    return exportable_runs.closed_form(product, tmp_path_factory.mktemp("runs") / "left", left_out=True)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, closed_run: Path) -> Path:
    """The closed form for OpenVINO in float32; tests must not change it."""
    folder = tmp_path_factory.mktemp("exports") / "openvino"
    run.export(closed_run, folder)
    return folder
