"""Detectors as files that run without PyTorch, and give the same verdicts: ONNX, and OpenVINO's own form.

:func:`advrad.export` writes them and compares them with the detector; :mod:`advrad.detectors.exported` reads them.
"""

from __future__ import annotations
