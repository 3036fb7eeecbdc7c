"""Tensors of the Open Inference Protocol v2, in JSON and as binary data behind it."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from advrad.serving.api.failures import Refusal

INPUT, OUTPUTS = "image", ("score", "threshold", "defective", "anomaly_map")
"""Names of the input and of the outputs. ``anomaly_map`` is made on request alone."""

BINARY_HEADER = "Inference-Header-Content-Length"
"""Header that tells how much of a body is JSON, where binary data follows."""

_FIX = "send one input 'image': UINT8 [h, w, 3] or [n, h, w, 3], or BYTES [n] with image files in base64"


class Tensor(BaseModel):
    """An input of a request."""

    model_config = ConfigDict(extra="forbid")

    name: str
    shape: list[int] = Field(min_length=1, max_length=4)
    datatype: str
    data: Any = None
    parameters: dict[str, Any] = {}


class Wanted(BaseModel):
    """An output that a request asks for."""

    model_config = ConfigDict(extra="forbid")

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(BaseModel):
    """A request for inference."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = Field(default=None, max_length=200)
    parameters: dict[str, Any] = {}
    inputs: list[Tensor] = Field(min_length=1, max_length=1)
    outputs: list[Wanted] = Field(default=[], max_length=len(OUTPUTS))


@dataclass(frozen=True, slots=True)
class Inference:
    """A request that was read.

    Attributes:
        request: The request.
        pictures: Image files.
        outputs: Names of the outputs, in order, and whether each is wanted as binary data.
    """

    request: InferRequest
    pictures: list[bytes]
    outputs: dict[str, bool]


def bad(message: str) -> Refusal:
    """A refusal of tensors.

    Args:
        message: What is wrong.
    """
    return Refusal(422, "bad_tensor", message, _FIX)


def read_request(body: bytes, json_length: str | None, most: int, max_pixels: int) -> Inference:
    """Read a request.

    Args:
        body: The body.
        json_length: Value of the header that tells how much of the body is JSON; None if it is all.
        most: Most images.
        max_pixels: Largest accepted image, width times height.

    Raises:
        Refusal: The request is not one of the protocol, or not one for images.
    """
    length = len(body)
    if json_length is not None:
        if not json_length.isascii() or not json_length.isdecimal() or int(json_length[:12]) > len(body):
            raise bad(f"the header {BINARY_HEADER} is not a length within the body")
        length = int(json_length[:12])
    try:
        request = InferRequest.model_validate(json.loads(body[:length]))
    except ValidationError as error:
        first = error.errors()[0]
        raise bad(f"{' '.join(str(part) for part in first['loc'])[:100] or 'body'}: {first['msg']}") from None
    except (ValueError, RecursionError):
        raise bad("the body is not JSON") from None
    tensor = request.inputs[0]
    outputs = _outputs(request)
    raw = _raw(tensor, body[length:], json_length is not None)
    if tensor.name != INPUT:
        raise bad(f"there is no input {ascii(tensor.name)[:80]}")
    if tensor.datatype == "UINT8":
        return Inference(request, _pixels(tensor, raw, most, max_pixels), outputs)
    if tensor.datatype == "BYTES":
        return Inference(request, _files(tensor, raw, most), outputs)
    raise bad(f"the datatype {ascii(tensor.datatype)[:40]} is not one of images")


def _outputs(request: InferRequest) -> dict[str, bool]:
    default = request.parameters.get("binary_data_output") is True
    if not request.outputs:
        return dict.fromkeys(OUTPUTS[:3], default)
    named = {}
    for wanted in request.outputs:
        if wanted.name not in OUTPUTS or wanted.name in named:
            raise Refusal(
                422, "bad_tensor", f"there is no output {ascii(wanted.name)[:80]}, or it is asked for twice",
                f"ask for {', '.join(OUTPUTS)}",
            )  # fmt: skip
        named[wanted.name] = wanted.parameters.get("binary_data", default) is True
    return named


def _raw(tensor: Tensor, rest: bytes, binary: bool) -> bytes | None:
    """The binary data of the input; None if its values stand in the JSON."""
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if rest or tensor.data is None:
            raise bad("the input has neither data nor a binary_data_size that fits what follows the JSON")
        return None
    if not binary or type(size) is not int or size != len(rest) or tensor.data is not None:
        raise bad("binary_data_size is not the length of what follows the JSON, or data stands there too")
    return rest


def _pixels(tensor: Tensor, raw: bytes | None, most: int, max_pixels: int) -> list[bytes]:
    """PNG files of the images of a tensor of pixels."""
    shape = tensor.shape if len(tensor.shape) == 4 else [1, *tensor.shape]
    if len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
        raise bad("the shape is not [h, w, 3] or [n, h, w, 3]")
    if shape[0] > most or shape[1] * shape[2] > max_pixels:
        raise bad(f"there are more than {most} images, or more than {max_pixels} pixels in one")
    count = shape[0] * shape[1] * shape[2] * 3
    if raw is not None:
        values = np.frombuffer(raw, np.uint8)
    else:
        try:
            values = np.asarray(tensor.data).reshape(-1)
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise bad("the data are not numbers in equal rows") from None
        if values.size and (values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255):
            raise bad("the data are not whole numbers from 0 to 255")
    if values.size != count:
        raise bad(f"the shape holds {count} values and the data {values.size}")
    images = values.astype(np.uint8).reshape(shape)
    return [_png(image) for image in images]


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    import imagecodecs

    form = imagecodecs.PNG
    return bytes(imagecodecs.png_encode(image, strategy=form.STRATEGY.RLE, filter=form.FILTER.ALL))


def _files(tensor: Tensor, raw: bytes | None, most: int) -> list[bytes]:
    """Image files of a tensor of bytes."""
    texts = tensor.data
    if raw is not None:
        found = _split(raw)
    else:
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise bad("the data are not a list of texts")
        try:
            found = [base64.b64decode(text, validate=True) for text in texts]
        except (binascii.Error, ValueError):
            raise bad("the data are not base64") from None
    if tensor.shape not in ([len(found)], [len(found), 1]) or not 1 <= len(found) <= most:
        raise bad(f"the shape is not [n] for {len(found)} images, or they are more than {most}")
    return found


def _split(raw: bytes) -> list[bytes]:
    """Elements of binary data: each has its length in four bytes before it."""
    found, place = [], 0
    while place < len(raw):
        if place + 4 > len(raw):
            raise bad("the binary data end within a length")
        (size,) = struct.unpack_from("<I", raw, place)
        found.append(raw[place + 4 : place + 4 + size])
        if len(found[-1]) != size:
            raise bad("the binary data end within an element")
        place += 4 + size
    return found
