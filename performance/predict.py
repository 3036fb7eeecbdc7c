"""Time per verdict, and the share of the processor's peak speed that it reaches.

The whole detector is timed, from an image in memory to its score and anomaly maps. The peak is the speed of a large
matrix product, measured in the same run, in every precision that the processor supports::

    python performance/predict.py [--run RUN]

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from advrad.denoisers.lean import LeanConfig, LeanDenoiser
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.config import DetectorConfig
from advrad.detectors.score_config import NoiseView, ScoreConfig
from advrad.detectors.scoring import MapStatistics
from advrad.utils.precision import bfloat16_is_native

SIGMAS = (0.05, 0.1, 0.2, 0.4)


def fresh_detector(size_px: int = 256, denoiser: LeanConfig | None = None) -> AdvRAD:
    """Make an untrained lean detector with the score of a short training: half resolution, four noise levels."""
    views = tuple(NoiseView(view_px=size_px // 2, sigma=sigma) for sigma in SIGMAS)
    score = ScoreConfig(
        views=views, scales="separate", normalise_by_image_mean=True, normalisation="spread", pooling=0.002, draws=2
    )
    shapes = [(1, 1, side, side) for side in score.map_sizes]
    normal = [MapStatistics(torch.zeros(shape), torch.ones(shape)) for shape in shapes]
    config = denoiser or LeanConfig()
    network = LeanDenoiser(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return AdvRAD(network, DetectorConfig(denoiser=config, size_px=size_px, score=score), normal).eval()


def peak(dtype: torch.dtype, side: int) -> float:
    """Measure floating-point operations per second of a square matrix product; the best of six."""
    left, right = torch.randn(2, side, side).to(dtype)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times)


def in_precision(detector: AdvRAD, precision: str, compiled: bool) -> AdvRAD:
    """Copy a detector and set its precision, compiled or not."""
    detector = copy.deepcopy(detector)
    detector.update_config(precision=precision)
    if compiled:
        detector.denoiser.network = torch.compile(detector.denoiser.network, dynamic=False)  # type: ignore[arg-type]
    return detector


def timed(work: Callable[[], object]) -> float:
    """Measure the seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def precisions() -> tuple[str, ...]:
    """List the precisions of the processor; without bfloat16 instructions, bfloat16 is 100 times slower."""
    return ("float32", "bfloat16") if bfloat16_is_native(torch.device("cpu")) else ("float32",)


def measure(detector: AdvRAD, batches: Sequence[int], rounds: int, side: int, compile_too: bool) -> dict[str, Any]:
    """Measure milliseconds per image of every way to run a detector, in alternation.

    Args:
        detector: Detector on the CPU.
        batches: Batch sizes.
        rounds: Number of measurements of each way.
        side: Side of the matrices whose product gives the peak speed.
        compile_too: Whether to measure ``torch.compile`` too.

    Returns:
        Plain JSON values. Where compiling fails, a row holds the reason in place of the times.
    """
    ways = {
        f"{'compiled' if compiled else 'eager'} {precision}": (precision, compiled)
        for compiled in ((False, True) if compile_too else (False,))
        for precision in precisions()
    }
    limits = {precision: peak(getattr(torch, precision), side) for precision in precisions()}
    limit = max(limits.values())
    rows: list[dict[str, Any]] = []
    for batch in batches:
        images = torch.rand(batch, 3, detector.size_px, detector.size_px)
        with FlopCounterMode(display=False) as counter:
            detector.predict_batch(images)
        work = counter.get_total_flops() / batch
        ready: dict[str, AdvRAD] = {}
        first: dict[str, float] = {}
        for name, (precision, compiled) in ways.items():
            row: dict[str, Any] = {"way": name, "batch": batch, "flops_per_image": work}
            rows.append(row)
            print(f"preparing: {name}, batch {batch}", file=sys.stderr, flush=True)
            try:
                ready[name] = in_precision(detector, precision, compiled)
                first[name] = timed(partial(ready[name].predict_batch, images))
            except Exception as error:  # such as a missing compiler or an unknown operation
                ready.pop(name, None)
                row["failed"] = " ".join(str(error).split())[:200] or type(error).__name__
        times: dict[str, list[float]] = {name: [] for name in ready}
        for _ in range(rounds):
            for name, way in ready.items():
                times[name].append(timed(partial(way.predict_batch, images)))
        for row in rows:
            if row["batch"] == batch and row["way"] in times:
                seconds = statistics.median(times[row["way"]]) / batch
                row |= {"ms_per_image": 1e3 * seconds, "share_of_limit": work / seconds / limit}
                row["first_call_s"] = first[row["way"]]
        torch.compiler.reset()
    return {
        "benchmark": "predict",
        "size_px": detector.size_px,
        "views": len(detector.detector_config.score.views),
        "threads": torch.get_num_threads(),
        "limit_flops_per_s": limits,
        "rows": rows,
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print a table and a line of JSON, and return the values of that line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="model folder; an untrained lean detector by default")
    parser.add_argument("--size", type=int, default=256, help="input size of the untrained detector, pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="batch sizes")
    parser.add_argument("--rounds", type=int, default=10, help="measurements of each way")
    parser.add_argument("--side", type=int, default=4096, help="side of the matrices that give the peak speed")
    parser.add_argument("--no-compile", action="store_true", help="do not measure torch.compile")
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    detector = AdvRAD.from_pretrained(given.run) if given.run else fresh_detector(given.size)
    result = measure(detector, given.batches, given.rounds, given.side, not given.no_compile)
    limits = ", ".join(f"{name} {value / 1e9:.0f}" for name, value in result["limit_flops_per_s"].items())
    print(f"{result['size_px']} px, {result['views']} views, {result['threads']} threads, {given.rounds} rounds")
    print(f"matrix product, GFLOP/s: {limits}; shares are of the larger")
    print(f"{'':20}{'batch':>6}{'ms/image':>12}{'GFLOP':>8}{'of limit':>10}{'first call':>12}")
    for row in result["rows"]:
        start = f"{row['way']:20}{row['batch']:>6}"
        if "failed" in row:
            print(f"{start}  failed: {row['failed']}")
            continue
        print(
            f"{start}{row['ms_per_image']:>12.1f}{row['flops_per_image'] / 1e9:>8.2f}"
            f"{row['share_of_limit']:>10.1%}{row['first_call_s']:>10.1f} s"
        )
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
