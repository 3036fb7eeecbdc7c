"""Time per verdict of every way to run a detector, and the share of the processor's peak speed that each reaches.

One image at a time, from its 8-bit pixels in memory to its score, anomaly map and verdict. Every way runs in a process
of its own, and the ways take turns, so that all figures are of one run::

    python performance/predict.py --run CLOSED_FORM LEARNED [--patchcore GRAPH.xml ...]

Without --run, an untrained learned detector is timed. ``performance/patchcore.py`` makes the graphs of PatchCore. The
graphs of int8 get their ranges from random images, and no graph is compared with its detector: `advrad export` does
that, and may refuse a precision. What cannot be measured is a row with the reason.

The arithmetic of a detector is counted in its float32 graph, and is the same for each of its rows. The limit is the
speed of a large matrix product of PyTorch in the precision of the row. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from ways import Way, fresh_detector

WAYS = Path(__file__).with_name("ways.py")


class Worker:
    """The process of a way.

    Args:
        way: The way.
        patience: Seconds after which a way that is not ready is left out.
    """

    def __init__(self, way: Way, patience: float) -> None:
        self.way, self.failed, self.first_s = way, "", math.nan
        if way.path.startswith(_FAILED):
            self.failed = way.path.removeprefix(_FAILED)
            return
        print(f"preparing: {way.detector}, {way.name}, {way.streams} at once", file=sys.stderr, flush=True)
        environment = os.environ | {"OMP_NUM_THREADS": str(max(1, way.threads // way.streams))}
        self.process = subprocess.Popen(
            [sys.executable, str(WAYS), json.dumps(asdict(way))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        timer = threading.Timer(patience, self.process.kill)
        timer.start()
        found = self._reply()
        timer.cancel()
        if found is not None:
            self.first_s = found["first_s"]
        elif self.process.poll() == -signal.SIGKILL:
            self.failed = f"was not ready within {patience:g} s"

    def ask(self, **order: Any) -> Any:
        """Send an order and return the reply; None once the way has failed."""
        if self.failed or self.process.stdin is None:
            return None  # nobody answers
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._reply()

    def _reply(self) -> Any:
        line = self.process.stdout.readline() if self.process.stdout is not None else ""
        found = json.loads(line) if line else {"failed": f"the process ended with status {self.process.wait()}"}
        if isinstance(found, dict) and "failed" in found:
            self.failed = found["failed"]
            return None
        return found

    def close(self) -> None:
        """End the process."""
        if not self.way.path.startswith(_FAILED):
            with self.process:
                pass  # its standard input ends, so it does


def write_graphs(folder: Path, path: str, size_px: int) -> dict[str, str]:
    """Write the graphs of a detector; what cannot be made is left out, with the reason in place of the path."""
    import advrad
    from advrad.exporting.graph import graph_of
    from advrad.exporting.onnx_file import to_onnx
    from advrad.exporting.openvino_files import OpenVinoGraph

    detector: Any = advrad.load_detector(path) if path else fresh_detector(size_px)
    if hasattr(detector.config, "precision"):
        detector.update_config(precision="float32")
    graph = to_onnx(graph_of(detector))
    found = {"onnx": str(folder / "model.onnx")}
    graph.write(folder / "model.onnx")
    for precision in ("float32", "int8"):
        place = folder / precision
        place.mkdir()
        found[precision] = str(place / "model.xml")
        try:
            plain = OpenVinoGraph(graph)
            if precision == "int8":
                generator = np.random.default_rng(1)
                plain.quantise([generator.integers(0, 256, (size_px, size_px, 3), dtype=np.uint8) for _ in range(8)])
            plain.write(place)
        except advrad.AdvradError as error:
            found[precision] = f"{_FAILED}{error}"
    return found


def ways_of(path: str, graphs: dict[str, str], size_px: int, threads: int, compile_too: bool) -> list[Way]:
    """List the ways to run a detector.

    Args:
        path: Model folder; empty for the untrained detector.
        graphs: Its graphs, as of :func:`write_graphs`.
        size_px: Side of the images, pixels.
        threads: Threads that compute.
        compile_too: Whether to list ``torch.compile`` too.
    """
    detector = Path(path).name or "untrained"
    rows = [("eager", "float32", path), ("eager", "bfloat16", path)]
    rows += [("compiled", "float32", path), ("compiled", "bfloat16", path)] if compile_too else []
    rows += [("openvino", name, graphs["int8" if name == "int8" else "float32"]) for name in PRECISIONS]
    rows += [("onnxruntime", "float32", graphs["onnx"])]
    return [
        Way(f"{engine} {precision}", detector, engine, precision, place, size_px, threads)
        for engine, precision, place in rows
    ]


def flops_of(path: str, size_px: int) -> float:
    """Count the floating-point operations of a graph for one image: products, sums and other functions of values."""
    import openvino

    model = openvino.Core().read_model(path)
    pixels = model.input(0).get_element_type() == openvino.Type.u8
    model.reshape([1, size_px, size_px, 3] if pixels else [1, 3, size_px, size_px])
    total = 0.0
    for node in model.get_ops():
        kind = node.get_type_name()
        if kind in _MOVES or not node.get_output_size() or node.output(0).get_partial_shape().is_dynamic:
            continue
        size = math.prod(node.output(0).get_shape())
        if kind == "MatMul":
            sides = list(node.input(0).get_shape())
            total += 2 * size * (sides[-2] if node.get_attributes()["transpose_a"] else sides[-1])
        elif kind in ("Convolution", "GroupConvolution"):
            total += 2 * size * math.prod(list(node.input(1).get_shape())[2 if kind == "GroupConvolution" else 1 :])
        elif kind.startswith("Reduce"):
            total += math.prod(node.input(0).get_shape())
        elif node.output(0).get_element_type().is_real():
            total += size
    return total


#: What stands before the reason in place of a path.
_FAILED = "failed: "
#: Operations that compute nothing.
_MOVES = (
    "Constant", "Parameter", "Result", "Reshape", "Transpose", "Gather", "Concat", "Squeeze", "Unsqueeze", "Slice",
    "StridedSlice", "Convert", "Broadcast", "Split", "VariadicSplit", "Pad", "ShapeOf", "Tile",
)  # fmt: skip
PRECISIONS = ("float32", "bfloat16", "int8")


def peak(precision: str, side: int, threads: int) -> float:
    """Measure operations per second of a square matrix product of PyTorch; the best of six."""
    import torch

    torch.set_num_threads(threads)
    left, right = torch.randn(2, side, side).to(getattr(torch, precision))
    times = []
    for _ in range(6):
        start = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times)


def limits_of(side: int, threads: int) -> dict[str, float]:
    """Peak speeds; without bfloat16 instructions, bfloat16 is emulated, and is left out."""
    import torch

    from advrad.utils.precision import bfloat16_is_native

    names = PRECISIONS[: 2 if bfloat16_is_native(torch.device("cpu")) else 1]
    return {name: peak(name, side, threads) for name in names}


def processor() -> str:
    """The processor in words."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not on Linux
        return platform.processor() or platform.machine()


def measure(ways: Sequence[Way], rounds: int, calls: int, seconds: float, patience: float) -> list[dict[str, Any]]:
    """Time every way in turn, then its images per second with one and two images at once, and its memory.

    Args:
        ways: Ways.
        rounds: Number of turns.
        calls: Images in each turn of a way.
        seconds: Most seconds of a turn, and seconds for which images are counted.
        patience: Seconds after which a way that is not ready is left out.

    Returns:
        A row for each way, in their order, with ``failed`` in place of the figures where it cannot run.
    """
    workers = [Worker(way, patience) for way in ways]
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for worker, found in zip(workers, times, strict=True):
            found += worker.ask(calls=calls, seconds=seconds) or []
    rows = []
    for worker, found in zip(workers, times, strict=True):
        row: dict[str, Any] = asdict(worker.way) | {"first_s": worker.first_s}
        speed = worker.ask(streams=1, seconds=seconds)
        memory = worker.ask(memory=True)
        worker.close()
        if worker.failed or not found:
            rows.append(asdict(worker.way) | {"failed": worker.failed})
            continue
        milliseconds = 1e3 * np.percentile(found, [50, 95, 99])
        row |= dict(zip(("p50_ms", "p95_ms", "p99_ms"), milliseconds.tolist(), strict=True)) | {"calls": len(found)}
        rows.append(row | {"images_per_s": {"1": speed}, "memory_mb": memory})
    for row, way in zip(rows, ways, strict=True):
        if "failed" in row or way.engine == "compiled" or way.threads < 2:
            continue  # compiling again takes minutes
        second = Worker(replace(way, streams=2), patience)
        row["images_per_s"]["2"] = second.ask(streams=2, seconds=seconds)
        second.close()
    return rows


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    limits = ", ".join(f"{name} {value / 1e9:.0f}" for name, value in result["limit_flops_per_s"].items())
    print(f"{result['processor']}, {result['threads']} threads, images of {result['size_px']} px")
    print(f"matrix product, GFLOP/s: {limits}; a share is of the one in the same precision")
    head = ("detector", "way", "p50", "p95", "p99 ms", "images/s", "two at once", "MB", "GFLOP", "of limit")
    print("{:20}{:22}{:>9}{:>9}{:>9}{:>10}{:>13}{:>8}{:>8}{:>10}".format(*head))
    for row in result["rows"]:
        start = f"{row['detector'][:19]:20}{row['name']:22}"
        if "failed" in row:
            print(f"{start}  left out: {row['failed']}")
            continue
        speed, share = row["images_per_s"], row["share_of_limit"]
        part = "-" if share is None else f"{share:.0%}"
        two = "-" if speed.get("2") is None else f"{speed['2']:.1f}"
        print(
            f"{start}{row['p50_ms']:>9.1f}{row['p95_ms']:>9.1f}{row['p99_ms']:>9.1f}{speed['1']:>10.1f}{two:>13}"
            f"{row['memory_mb']:>8.0f}{row['flops_per_image'] / 1e9:>8.2f}{part:>10}"
        )


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print a table and a line of JSON, and return the values of that line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="+", default=[""], help="model folders; an untrained detector by default")
    parser.add_argument("--patchcore", nargs="+", default=[], help="graphs that performance/patchcore.py wrote")
    parser.add_argument("--size", type=int, default=256, help="side of the images, pixels")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads that compute")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each way")
    parser.add_argument("--calls", type=int, default=25, help="images in a turn")
    parser.add_argument("--seconds", type=float, default=1.0, help="most seconds of a turn")
    parser.add_argument("--patience", type=float, default=90.0, help="seconds to wait for a way to be ready")
    parser.add_argument("--side", type=int, default=4096, help="side of the matrices that give the peak speed")
    parser.add_argument("--no-compile", action="store_true", help="do not measure torch.compile")
    given = parser.parse_args(arguments)
    limits = limits_of(given.side, given.threads)
    ways: list[Way] = []
    with tempfile.TemporaryDirectory(prefix="advrad-") as folder:
        for number, path in enumerate(given.run):
            place = Path(folder, str(number))
            place.mkdir()
            graphs = write_graphs(place, path, given.size)
            ways += ways_of(path, graphs, given.size, given.threads, not given.no_compile)
        for path in given.patchcore:
            detector = f"PatchCore {Path(path).stem}"
            ways += [
                Way(f"openvino {precision}", detector, "openvino", precision, path, given.size, given.threads)
                for precision in PRECISIONS[:2]
            ]
        work = {way.path: flops_of(way.path, given.size) for way in ways if way.name == "openvino float32"}
        of_detector = {way.detector: work[way.path] for way in ways if way.path in work}
        rows = measure(ways, given.rounds, given.calls, given.seconds, given.patience)
    for row in rows:
        if "failed" not in row:
            row["flops_per_image"] = of_detector[row["detector"]]
            limit = limits.get(row["precision"])
            row["share_of_limit"] = None if limit is None else row["flops_per_image"] / row["p50_ms"] * 1e3 / limit
    result = {
        "benchmark": "predict",
        "processor": processor(),
        "size_px": given.size,
        "threads": given.threads,
        "limit_flops_per_s": limits,
        "rows": rows,
    }
    show(result)
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
