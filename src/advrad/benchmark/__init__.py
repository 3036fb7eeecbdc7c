"""Benchmarks: many detectors on many products, attacked and certified by the same code, with a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

if TYPE_CHECKING:
    from advrad.benchmark.cells import Results as Results
    from advrad.benchmark.cells import read_bench as read_bench
    from advrad.benchmark.grid import Grid as Grid
    from advrad.benchmark.grid import read_grid as read_grid
    from advrad.benchmark.report import bench_report as bench_report
    from advrad.benchmark.run import Outcome as Outcome
    from advrad.benchmark.run import bench as bench

__all__ = [
    "Grid",
    "Outcome",
    "Results",
    "bench",
    "bench_report",
    "read_bench",
    "read_grid",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Grid": "advrad.benchmark.grid",
        "Outcome": "advrad.benchmark.run",
        "Results": "advrad.benchmark.cells",
        "bench": "advrad.benchmark.run",
        "bench_report": "advrad.benchmark.report",
        "read_bench": "advrad.benchmark.cells",
        "read_grid": "advrad.benchmark.grid",
    },
)
