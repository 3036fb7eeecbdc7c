from __future__ import annotations

import base64
import io
import json
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advrad.serving.api.failures import Refusal
from advrad.serving.api.tensors import Inference, read_request

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def body(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "image", "shape": [5, 7, 3], "datatype": "UINT8", "data": PIXELS.reshape(-1).tolist()}
    return {"inputs": [tensor | changes]}


def read(values: Any, tail: bytes = b"", *, binary: bool = False) -> Inference:
    text = json.dumps(values).encode()
    return read_request(text + tail, str(len(text)) if binary else None, 4, 1000)


def pixels_of(png: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("shape", [[5, 7, 3], [1, 5, 7, 3]])
@pytest.mark.parametrize("data", [PIXELS.reshape(-1).tolist(), PIXELS.tolist()], ids=["flat", "nested"])
def test_pixels_become_an_image_file_of_the_same_pixels(shape: list[int], data: list[Any]) -> None:
    found = read(body(shape=shape, data=data))
    assert len(found.pictures) == 1
    assert np.array_equal(pixels_of(found.pictures[0]), PIXELS)
    assert found.outputs == {"score": False, "threshold": False, "defective": False}


def test_several_images_in_one_tensor() -> None:
    both = np.stack([PIXELS, 255 - PIXELS])
    found = read(body(shape=[2, 5, 7, 3], data=both.tolist()))
    assert [np.array_equal(pixels_of(png), own) for png, own in zip(found.pictures, both, strict=True)] == [True] * 2


def test_pixels_as_binary_data() -> None:
    values = body(parameters={"binary_data_size": PIXELS.nbytes})
    del values["inputs"][0]["data"]
    found = read(values, PIXELS.tobytes(), binary=True)
    assert np.array_equal(pixels_of(found.pictures[0]), PIXELS)


def test_image_files_in_base64_and_as_binary_data() -> None:
    files = [b"\x89PNG one", b"two"]
    texts = [base64.b64encode(file).decode() for file in files]
    assert read(body(datatype="BYTES", shape=[2], data=texts)).pictures == files
    tail = b"".join(struct.pack("<I", len(file)) + file for file in files)
    values = body(datatype="BYTES", shape=[2, 1], parameters={"binary_data_size": len(tail)})
    del values["inputs"][0]["data"]
    assert read(values, tail, binary=True).pictures == files


def test_outputs_are_those_that_are_asked_for() -> None:
    wanted = [{"name": "anomaly_map"}, {"name": "score", "parameters": {"binary_data": True}}]
    assert read(body() | {"outputs": wanted}).outputs == {"anomaly_map": False, "score": True}
    assert read(body() | {"parameters": {"binary_data_output": True}}).outputs["score"] is True


@pytest.mark.parametrize(
    "values",
    [
        None, [], {}, "x", 5, {"inputs": []}, {"inputs": [1]}, {"inputs": body()["inputs"] * 2},
        body(name="mask"), body(datatype="FP32"), body(datatype=3), body(shape=[]), body(shape=[5, 7]),
        body(shape=[5, 7, 4]), body(shape=[-5, -7, 3]), body(shape=[0, 7, 3]), body(shape=[10**30, 7, 3]),
        body(shape=[5, 5, 7, 3]), body(shape=[1, 1, 5, 7, 3]), body(shape=[2000, 7, 3]), body(shape=["a", 7, 3]),
        body(data=None), body(data=[]), body(data=5), body(data="x" * 105), body(data={"a": 1}),
        body(data=[256] * 105), body(data=[-1] * 105), body(data=[0.5] * 105), body(data=[None] * 105),
        body(data=[10**400] * 105), body(data=[True] * 105), body(data=[[1, 2], [3]]), body(data=[[]] * 105),
        body(datatype="BYTES", shape=[1], data="x"), body(datatype="BYTES", shape=[1], data=["!"]),
        body(datatype="BYTES", shape=[1], data=["ä"]), body(datatype="BYTES", shape=[2], data=["AA=="]),
        body(datatype="BYTES", shape=[0], data=[]), body(datatype="BYTES", shape=[5], data=["AA=="] * 5),
        body(parameters={"binary_data_size": 5}), body(parameters=[]), body() | {"outputs": [{"name": "x"}]},
        body() | {"outputs": [{"name": "score"}, {"name": "score"}]}, body() | {"id": 5}, body() | {"more": 1},
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused(values: Any) -> None:
    with pytest.raises(Refusal) as caught:
        read(values)
    assert caught.value.status == 422


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b'{"inputs": NaN', b"9" * 5000])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(Refusal, match="body"):
        read_request(text, None, 4, 1000)


@pytest.mark.parametrize("length", ["-1", "x", "", "²", "99", "9" * 50, "1.0"])
def test_a_wrong_length_of_the_json_is_refused(length: str) -> None:
    with pytest.raises(Refusal):
        read_request(b"{}", length, 4, 1000)


@pytest.mark.parametrize("size", [-1, 0, 104, 106, 1e9, "105", True, None])
@pytest.mark.parametrize("datatype", ["UINT8", "BYTES"])
def test_binary_data_of_another_length_are_refused(size: Any, datatype: str) -> None:
    values = body(datatype=datatype, parameters={"binary_data_size": size})
    del values["inputs"][0]["data"]
    with pytest.raises(Refusal):
        read(values, PIXELS.tobytes(), binary=True)


@pytest.mark.parametrize("tail", [b"\x05\0\0", b"\x05\0\0\0abc", b"\xff\xff\xff\xffabc"])
def test_binary_files_that_end_early_are_refused(tail: bytes) -> None:
    values = body(datatype="BYTES", shape=[1], parameters={"binary_data_size": len(tail)})
    del values["inputs"][0]["data"]
    with pytest.raises(Refusal, match="end within"):
        read(values, tail, binary=True)
