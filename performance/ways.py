"""The ways to run a detector that ``performance/predict.py`` times, each in a process of its own.

Such a process answers orders from its standard input, one in a line. It loads PyTorch only where the way needs it, so
that its memory is what a program of this way takes.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Infer = Callable[[Pixels], object]

SIGMAS = (0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True)
class Way:
    """A way to run a detector.

    Attributes:
        name: Its name in the table.
        detector: Name of the detector, or of the network of PatchCore.
        engine: ``eager`` or ``compiled`` of PyTorch, ``openvino`` or ``onnxruntime``.
        precision: Arithmetic.
        path: Model folder, or graph; empty for an untrained detector.
        size_px: Side of the images, pixels.
        threads: Threads that compute.
        streams: Images that are computed side by side.
    """

    name: str
    detector: str
    engine: str
    precision: str
    path: str
    size_px: int
    threads: int
    streams: int = 1


def fresh_detector(size_px: int, denoiser: Any = None) -> Any:
    """Make an untrained lean detector with the score of a short training: half resolution, four noise levels."""
    import torch

    from advrad.denoisers.lean import LeanConfig, LeanDenoiser
    from advrad.detectors.advrad import AdvRAD
    from advrad.detectors.config import Calibration, DetectorConfig
    from advrad.detectors.score_config import NoiseView, ScoreConfig
    from advrad.detectors.scoring import MapStatistics

    torch.manual_seed(0)
    views = tuple(NoiseView(view_px=size_px // 2, sigma=sigma) for sigma in SIGMAS)
    score = ScoreConfig(
        views=views, scales="separate", normalise_by_image_mean=True, normalisation="spread", pooling=0.002, draws=2
    )
    shapes = [(1, 1, side, side) for side in score.map_sizes]
    normal = [MapStatistics(torch.zeros(shape), torch.ones(shape)) for shape in shapes]
    config = denoiser or LeanConfig()
    network = LeanDenoiser(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    calibration = Calibration(threshold=1.0, false_alarm_rate=0.05, n=39, heat_low=0.0, heat_high=1.0)
    settings = DetectorConfig(denoiser=config, size_px=size_px, score=score, calibration=calibration)
    return AdvRAD(network, settings, normal).eval()


def load(way: Way) -> Any:
    """The detector of a way, with its precision if it has one."""
    import advrad

    detector: Any = advrad.load_detector(way.path) if way.path else fresh_detector(way.size_px)
    if hasattr(detector.config, "precision"):
        detector.update_config(precision=way.precision)
    elif way.precision != "float32":
        raise ValueError(f"this detector computes in float32 only, not in {way.precision}")
    return detector


def torch_way(way: Way) -> Infer:
    """PyTorch, as `advrad predict` uses it; compiled or not."""
    import torch

    torch.set_num_threads(way.threads // way.streams)
    detector = load(way)
    if way.engine == "compiled":
        if hasattr(detector, "denoiser"):
            detector.denoiser.network = torch.compile(detector.denoiser.network, dynamic=False)
        else:
            detector.infer = torch.compile(detector.infer, dynamic=False)
    framing = detector.config.framing

    def infer(image: Pixels) -> object:
        working = framing.apply(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
        output = detector.predict_batch(working)
        return output.scores > detector.calibration.threshold

    return infer


def openvino_way(way: Way) -> Infer:
    """OpenVINO, with the settings of an export."""
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": openvino.Type.bf16 if way.precision == "bfloat16" else openvino.Type.f32,
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": way.streams,
        "INFERENCE_NUM_THREADS": way.threads,
        "ENABLE_CPU_PINNING": False,
    }
    core = openvino.Core()
    if way.precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ValueError("this processor does not compute in bfloat16")
    model = core.compile_model(way.path, "CPU", settings)
    floats = model.input(0).get_element_type() != openvino.Type.u8  # PatchCore takes planes of floats

    own = threading.local()

    def infer(image: Pixels) -> object:
        if not hasattr(own, "request"):
            own.request = model.create_infer_request()
        values = image.transpose(2, 0, 1)[None] / np.float32(255) if floats else image[None]
        return own.request.infer([np.ascontiguousarray(values)], share_inputs=True)

    return infer


def onnxruntime_way(way: Way) -> Infer:
    """ONNX Runtime, with the settings of an export."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = way.threads // way.streams, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(way.path, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image[None]})


LOADERS = {"eager": torch_way, "compiled": torch_way, "openvino": openvino_way, "onnxruntime": onnxruntime_way}


def answer(infer: Infer, images: Sequence[Pixels], order: dict[str, Any]) -> Any:
    """Do what the other process asks: time some images, or count images per second in some threads."""
    if "calls" in order:
        times: list[float] = []
        end = time.perf_counter() + order["seconds"]
        while len(times) < order["calls"] and (len(times) < 2 or time.perf_counter() < end):
            start = time.perf_counter()
            infer(images[len(times) % len(images)])
            times.append(time.perf_counter() - start)
        return times
    if "streams" in order:
        end = time.perf_counter() + order["seconds"]

        def work(first: int) -> int:
            # No two streams are near the same image: a closed form keeps what it found for the last one.
            begin, count = first * (len(images) // order["streams"]), 0
            while count == 0 or time.perf_counter() < end:
                infer(images[(begin + count) % len(images)])
                count += 1
            return count

        start = time.perf_counter()
        with ThreadPoolExecutor(order["streams"]) as pool:
            done = sum(pool.map(work, range(order["streams"])))
        return done / (time.perf_counter() - start)
    return _most_megabytes()


def _most_megabytes() -> float:
    """Most memory that this process has held, MB; on Linux ``ru_maxrss`` would count the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        [peak] = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")]
        return int(peak.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def serve(way: Way) -> None:
    """Load a way, then answer one order in each line of standard input."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no reply
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (way.size_px, way.size_px, 3), dtype=np.uint8) for _ in range(4)]
    try:
        start = time.perf_counter()
        infer = LOADERS[way.engine](way)
        infer(images[0])
        print(json.dumps({"first_s": time.perf_counter() - start}), file=replies, flush=True)
        for _ in range(2):
            infer(images[1])
        for line in sys.stdin:
            print(json.dumps(answer(infer, images, json.loads(line))), file=replies, flush=True)
    except Exception as error:  # such as a missing package or compiler: the reason becomes a row of the table
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        print(json.dumps({"failed": reason}), file=replies, flush=True)


if __name__ == "__main__":
    serve(Way(**json.loads(sys.argv[1])))
