"""Detectors as files that run without PyTorch, and give the same verdicts: ONNX, and OpenVINO's own form.

:func:`advrad.export` writes them and compares them with the detector; :mod:`advrad.detectors.exported` reads them.

Example:
    >>> from advrad import exporting
    >>> exporting.TOLERANCES["float32"].flips
    0
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

if TYPE_CHECKING:
    from advrad.exporting.graph import DetectorGraph as DetectorGraph
    from advrad.exporting.graph import graph_of as graph_of
    from advrad.exporting.options import ExportOptions as ExportOptions
    from advrad.exporting.parity import TOLERANCES as TOLERANCES
    from advrad.exporting.parity import Tolerance as Tolerance
    from advrad.exporting.run import export as export

__all__ = [
    "TOLERANCES",
    "DetectorGraph",
    "ExportOptions",
    "Tolerance",
    "export",
    "graph_of",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "DetectorGraph": "advrad.exporting.graph",
        "ExportOptions": "advrad.exporting.options",
        "TOLERANCES": "advrad.exporting.parity",
        "Tolerance": "advrad.exporting.parity",
        "export": "advrad.exporting.run",
        "graph_of": "advrad.exporting.graph",
    },
)
