"""Runtimes that compute an export: OpenVINO and ONNX Runtime.

An engine holds one compiled graph. Several threads may call it at once: they share the graph and its weights. The
arithmetic is pinned to what ``detector.json`` says, so that no runtime lowers it by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol, get_args

import numpy as np
import numpy.typing as npt

from advrad.detectors.exported_config import INPUT, OUTPUTS, EngineName, ExportedConfig, ExportPrecision
from advrad.errors import CheckpointError, ConfigError
from advrad.utils.threads import thread_count

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

#: Names of the files that hold the graph.
OPENVINO_NAME, WEIGHTS_NAME, ONNX_NAME = "model.xml", "model.bin", "model.onnx"


@dataclass(frozen=True, slots=True, eq=False)
class EngineOutput:
    """What a graph gives for one image.

    Attributes:
        score: Anomaly score; larger is more anomalous.
        anomaly_map: Anomaly map at the working size, (h, w) float32.
        defective: Verdict of the graph.
        half_scores: Scores of the halves of a guarded detector, (halves,); None for another.
    """

    score: float
    anomaly_map: Floats
    defective: bool
    half_scores: Floats | None = None


class Engine(Protocol):
    """A compiled graph."""

    def run(self, image: Pixels) -> EngineOutput:
        """Score one image. Several threads may call it at once.

        Args:
            image: Image, (h, w, 3) uint8, of any size.

        Raises:
            CheckpointError: The runtime fails.
        """


def open_engine(
    folder: Path,
    config: ExportedConfig,
    engine: EngineName | None = None,
    threads: int | None = None,
    streams: int = 1,
) -> Engine:
    """Compile the graph of an export.

    Args:
        folder: Folder of the export.
        config: What its ``detector.json`` says.
        engine: Runtime; None for the one that the export was made for.
        threads: Number of threads that compute, >= 1; None for as many as :func:`advrad.utils.threads.thread_count`.
        streams: Number of images that OpenVINO computes side by side, each with its share of the threads, >= 1.

    Raises:
        ConfigError: The runtime is not installed, does not read these files, or the processor lacks the precision.
        CheckpointError: The runtime cannot load the graph.
    """
    name = engine or config.engine
    if name not in get_args(EngineName):
        raise ConfigError(f"is unknown; choose {', '.join(get_args(EngineName))}", option="engine", value=name)
    count = thread_count() if threads is None else threads
    if count < 1:
        raise ConfigError("must be 1 or more", option="threads", value=threads)
    if name == "onnxruntime":
        return OnnxRuntimeEngine(folder, config, count)
    return OpenVinoEngine(folder, config, count, streams)


def runtime(name: str) -> Any:
    """Import a runtime, which sends nothing over the network.

    Args:
        name: Name of its package, such as ``openvino``.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        with _without_reports():
            return import_module(name)
    except ImportError as error:
        reason = "" if isinstance(error, ModuleNotFoundError) and error.name == name else f" ({_first_line(error)})"
        raise ConfigError(f"an export needs {name}{reason}: pip install 'advrad[export]'") from None


@contextmanager
def _without_reports() -> Iterator[None]:
    """Hide the package with which OpenVINO and NNCF report over the network that they are used.

    They do so on import, from a process of their own, and write files in the user's folder. Without the package they do
    not; it is optional.
    """
    name = "openvino_telemetry"
    if name in sys.modules:  # the user's program has it already
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def check_precision(precision: ExportPrecision, engine: EngineName) -> None:
    """Refuse a precision that the processor or the runtime does not compute in.

    Args:
        precision: Precision.
        engine: Runtime.

    Raises:
        ConfigError: It cannot be used here.
    """
    if precision != "bfloat16":
        return
    if engine == "onnxruntime":
        raise ConfigError(
            "cannot be computed by ONNX Runtime on a processor; use openvino, or float32",
            option="precision",
            value=precision,
        )
    if "BF16" not in runtime("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ConfigError(
            "this processor does not compute in bfloat16; export with float32", option="precision", value=precision
        )


class OpenVinoEngine:
    """A graph that OpenVINO has compiled for the processor.

    Args:
        folder: Folder of the export.
        config: What its ``detector.json`` says.
        threads: Number of threads that compute.
        streams: Number of images that are computed side by side.
    """

    def __init__(self, folder: Path, config: ExportedConfig, threads: int, streams: int = 1) -> None:
        openvino = runtime("openvino")
        check_precision(config.precision, "openvino")
        path = _first_of(folder, (OPENVINO_NAME, ONNX_NAME), "openvino")
        settings = {
            "INFERENCE_PRECISION_HINT": {"f32": openvino.Type.f32, "bf16": openvino.Type.bf16}[
                config.inference_precision
            ],
            "EXECUTION_MODE_HINT": config.execution_mode,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": max(threads, streams),
            "ENABLE_CPU_PINNING": False,  # two programs would pin their threads to the same processors
        }
        core = openvino.Core()
        core.set_property({"ENABLE_MMAP": False})  # another file written over this one would change the loaded graph
        try:
            self._model = core.compile_model(path, "CPU", settings)
        except RuntimeError as error:
            raise CheckpointError(f"{path}: OpenVINO cannot load it ({_first_line(error)}); export again") from None
        self._path = path
        self._idle: SimpleQueue[Any] = SimpleQueue()

    def run(self, image: Pixels) -> EngineOutput:
        """Score one image, see :meth:`Engine.run`."""
        request = self._request()
        try:
            request.infer({INPUT: np.ascontiguousarray(image[None])}, share_inputs=True)
            found = {name: request.get_tensor(name).data.copy() for name in OUTPUTS if name in self._names}
        except RuntimeError as error:
            raise CheckpointError(f"{self._path}: OpenVINO fails ({_first_line(error)}); export again") from None
        finally:
            self._idle.put(request)
        return _output(found, self._path)

    @property
    def _names(self) -> set[str]:
        return {name for port in self._model.outputs for name in port.get_names()}

    def _request(self) -> Any:
        """A request that no other thread uses; requests share the weights."""
        try:
            return self._idle.get_nowait()
        except Empty:
            return self._model.create_infer_request()


class OnnxRuntimeEngine:
    """A graph that ONNX Runtime has loaded.

    Args:
        folder: Folder of the export.
        config: What its ``detector.json`` says.
        threads: Number of threads that compute.
    """

    def __init__(self, folder: Path, config: ExportedConfig, threads: int) -> None:
        path = _first_of(folder, (ONNX_NAME,), "onnxruntime")
        runtimes = runtime("onnxruntime")
        check_precision(config.precision, "onnxruntime")
        options = runtimes.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave the processor
        try:
            self._session = runtimes.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime raises classes of its own, which have no common base
            raise CheckpointError(f"{path}: ONNX Runtime cannot load it ({_first_line(error)}); export again") from None
        self._path = path
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, image: Pixels) -> EngineOutput:
        """Score one image, see :meth:`Engine.run`."""
        try:
            values = self._session.run(self._names, {INPUT: np.ascontiguousarray(image[None])})
        except Exception as error:  # as above
            raise CheckpointError(f"{self._path}: ONNX Runtime fails ({_first_line(error)}); export again") from None
        return _output(dict(zip(self._names, values, strict=True)), self._path)


def _first_of(folder: Path, names: tuple[str, ...], engine: str) -> Path:
    """The first file that is there.

    Raises:
        ConfigError: There is none that the runtime reads.
    """
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is not None:
        return path
    held = next((name for name in (OPENVINO_NAME, ONNX_NAME) if (folder / name).is_file()), "no graph")
    raise ConfigError(
        f"cannot read this export, which holds {held}; leave it out, or export again to ONNX, which all read",
        option="engine",
        value=engine,
    )


def _output(found: dict[str, Any], path: Path) -> EngineOutput:
    """What a graph gives, by name, as numbers of Python."""
    missing = [name for name in OUTPUTS[:3] if name not in found]
    if missing:
        raise CheckpointError(f"{path}: has no output {missing[0]!r}; export again with this advrad")
    anomaly_map = np.asarray(found["anomaly_map"], dtype=np.float32)
    halves = found.get("half_scores")
    return EngineOutput(
        score=float(np.asarray(found["score"]).reshape(-1)[0]),
        anomaly_map=anomaly_map.reshape(anomaly_map.shape[-2:]),
        defective=bool(np.asarray(found["defective"]).reshape(-1)[0]),
        half_scores=None if halves is None else np.asarray(halves, dtype=np.float32).reshape(-1),
    )


def _first_line(error: BaseException) -> str:
    """What an error says, in one short line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
