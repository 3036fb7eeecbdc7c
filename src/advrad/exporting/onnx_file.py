"""A detector's graph as an ONNX file, the same bytes for the same detector."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from advrad.data.opening import MIN_SIDE_PX
from advrad.data.records import MAX_PIXELS
from advrad.detectors.engines import runtime
from advrad.utils.files import atomic_path

if TYPE_CHECKING:
    from advrad.exporting.graph import DetectorGraph

Arrays = Mapping[str, npt.NDArray[Any]]

#: Names of the modules of a detector that are trained networks.
_NETWORKS = frozenset({"network", "denoiser"})
#: Sides of the image with which the graph is traced; the graph takes any others.
_TRACED = (48, 80)


@dataclass(frozen=True, eq=False)
class OnnxGraph:
    """A graph in the form of ONNX.

    Attributes:
        proto: The ``onnx.ModelProto``.
        networks: Names of the nodes that belong to trained networks.
    """

    proto: Any
    networks: frozenset[str]

    def constants(self) -> set[str]:
        """Names of the stored tensors."""
        return {tensor.name for tensor in self.proto.graph.initializer}

    def names(self) -> set[str]:
        """Names of the nodes and of the stored tensors."""
        return self.constants() | {node.name for node in self.proto.graph.node}

    def with_constants(self, values: Arrays) -> OnnxGraph:
        """The graph with other values of stored tensors.

        Args:
            values: New values by name, of the same shape and type.
        """
        proto = type(self.proto)()
        proto.CopyFrom(self.proto)
        to_tensor = runtime("onnx").numpy_helper.from_array
        for tensor in proto.graph.initializer:
            if tensor.name in values:
                tensor.CopyFrom(to_tensor(np.ascontiguousarray(values[tensor.name]), tensor.name))
        return OnnxGraph(proto, self.networks)

    def serialized(self) -> bytes:
        """The bytes of the file, the same for the same graph."""
        found: bytes = self.proto.SerializeToString(deterministic=True)
        return found

    def write(self, path: Path) -> None:
        """Write the file, completely or not at all.

        Args:
            path: File to write; its folder exists.

        Raises:
            OutputError: The file cannot be written.
        """
        with atomic_path(path) as temporary:
            temporary.write_bytes(self.serialized())


def to_onnx(graph: DetectorGraph) -> OnnxGraph:
    """Bring a detector's graph into the form of ONNX, with any height and width of the image.

    Args:
        graph: Graph of a detector.

    Raises:
        ConfigError: The extra ``export`` is missing.
    """
    for name in ("onnx", "onnxscript"):
        runtime(name)
    height, width = _TRACED
    image = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    longest = MAX_PIXELS // MIN_SIDE_PX
    sides = {
        place: torch.export.Dim(name, min=MIN_SIDE_PX, max=longest) for place, name in ((1, "height"), (2, "width"))
    }
    with torch.no_grad(), _quiet(), _distinct(graph) as values:
        program = torch.onnx.export(
            graph,
            (image,),
            dynamo=True,
            input_names=list(graph.input_names),
            output_names=list(graph.output_names),
            dynamic_shapes=(sides,),
            verbose=False,
        )
    if program is None:  # PyTorch gives none where it writes a file by itself
        raise RuntimeError("PyTorch gave no ONNX graph")
    return _cleaned(program.model_proto).with_constants(values)


@contextmanager
def _distinct(graph: DetectorGraph) -> Iterator[Arrays]:
    """Give what a calibration sets values that no other tensor has, and give their own values back at the end.

    PyTorch stores equal tensors once. Replacing a threshold would replace another number that happens to equal it.
    """
    buffers = {name: graph.get_buffer(name) for name in graph.calibrated}
    values = {name: buffer.numpy().copy() for name, buffer in buffers.items()}
    try:
        for place, buffer in enumerate(buffers.values()):
            steps = torch.arange(buffer.numel()).reshape(buffer.shape)
            buffer.copy_(0.7390851 + 0.0618034 * place + 0.0027182 * steps)
        yield values
    finally:
        for name, buffer in buffers.items():
            buffer.copy_(torch.from_numpy(values[name]))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what PyTorch says of packages and forms that this export does not use."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _cleaned(proto: Any) -> OnnxGraph:
    """The graph without what depends on this machine, such as places in source files."""
    networks = set()
    for node in proto.graph.node:
        if _is_of_network({entry.key: entry.value for entry in node.metadata_props}):
            networks.add(node.name)
        del node.metadata_props[:]
        node.ClearField("doc_string")
    for part in (proto, proto.graph, *proto.functions, *proto.graph.value_info):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    for part in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    proto.producer_name, proto.producer_version = "advrad", version("advrad")
    proto.graph.name = "detector"
    return OnnxGraph(proto, frozenset(networks))


def _is_of_network(notes: Mapping[str, str]) -> bool:
    """Whether PyTorch notes of a node that it lies inside a trained network."""
    scopes = notes.get("pkg.torch.onnx.name_scopes", "")
    return any(part in _NETWORKS for scope in scopes.strip("[]").split(", ") for part in scope.strip("'\"").split("."))
