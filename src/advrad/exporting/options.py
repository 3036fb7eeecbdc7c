"""Options of an export."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from advrad.utils.config import Config


class ExportOptions(Config):
    """Options of :func:`advrad.export`; each field's description says what it is.

    Example:
        >>> ExportOptions(precision="bfloat16").to
        'openvino'
    """

    to: Literal["openvino", "onnx"] = Field(
        "openvino", description="Form of the graph: for OpenVINO, or ONNX, which OpenVINO and ONNX Runtime read."
    )
    precision: Literal["float32", "bfloat16", "int8"] = Field(
        "float32",
        description="Arithmetic of the graph: float32; bfloat16, on processors that have it; or int8 for the network of"
        " a detector that has one. The last two need OpenVINO.",
    )
