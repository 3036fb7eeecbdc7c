"""A detector's graph as the two files of OpenVINO, in float32 or with a network in int8."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from advrad.detectors.engines import OPENVINO_NAME, runtime
from advrad.errors import ConfigError
from advrad.exporting.onnx_file import OnnxGraph

Pixels = npt.NDArray[np.uint8]


class OpenVinoGraph:
    """A graph in the form of OpenVINO.

    Args:
        graph: The graph in the form of ONNX.

    Raises:
        ConfigError: OpenVINO is not installed.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        self._networks = graph.networks
        self._named = graph.names()
        self._model = _read(graph)

    def quantise(self, images: Sequence[Pixels]) -> None:
        """Compute the trained networks of the graph in int8, with the ranges of values that images give.

        Everything else stays in float32: differences of patches, distances and scores lose more than networks do.

        Args:
            images: Normal images, (h, w, 3) uint8.

        Raises:
            ConfigError: The graph has no trained network, or NNCF is not installed.
        """
        others = [
            node.get_friendly_name() for node in self._model.get_ops() if node.get_friendly_name() not in self._networks
        ]
        if len(others) == len(self._model.get_ops()):
            raise ConfigError("the graph has no trained network to quantise; choose float32 or bfloat16")
        with _silent():
            nncf = runtime("nncf")
            self._model = nncf.quantize(
                self._model,
                nncf.Dataset([image[None] for image in images]),
                subset_size=len(images),
                ignored_scope=nncf.IgnoredScope(names=others, validate=False),
            )

    def write(self, folder: Path) -> None:
        """Write ``model.xml`` and ``model.bin``.

        Args:
            folder: Folder that exists.
        """
        for number, node in enumerate(self._model.get_ordered_ops()):
            # OpenVINO counts the others over the life of the process: the same graph would give other bytes.
            if node.get_friendly_name() not in self._named and node.get_type_name() not in ("Parameter", "Result"):
                node.set_friendly_name(f"{node.get_type_name()}.{number}")
        runtime("openvino").save_model(self._model, folder / OPENVINO_NAME, compress_to_fp16=False)


def _read(graph: OnnxGraph) -> Any:
    """The graph as a model of OpenVINO."""
    core = runtime("openvino").Core()
    with tempfile.TemporaryDirectory(prefix="advrad-") as folder:
        path = Path(folder, "model.onnx")
        graph.write(path)
        return core.read_model(path)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep progress bars and notes of NNCF from the screen."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
