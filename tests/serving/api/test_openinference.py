from __future__ import annotations

import base64
import io
import json
import struct
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

INFER = "/v2/models/widget/infer"


def tensor(picture: bytes) -> dict[str, Any]:
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    return {"name": "image", "shape": list(pixels.shape), "datatype": "UINT8", "data": pixels.reshape(-1).tolist()}


def test_the_server_and_its_models_say_what_they_are(client: TestClient) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2").json()["name"] == "advrad"
    assert client.get("/v2/models").json() == {"models": [{"name": "widget"}]}
    model = client.get("/v2/models/widget").json()
    assert model["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert client.get("/v2/models/widget/ready").json() == {"ready": True, "name": "widget"}
    assert client.get("/v2/models/other").status_code == 404
    assert client.post("/v2/models/other/infer", json={}).status_code == 404


def test_pixels_are_inspected_as_their_file_is_and_stored(client: TestClient, picture: bytes) -> None:
    posted = client.post("/v1/products/widget/inspections", content=picture, headers={"content-type": "image/png"})
    file = posted.json()["inspections"][0]
    answer = client.post(INFER, json={"id": "call-1", "inputs": [tensor(picture)]})
    assert answer.status_code == 200
    found = answer.json()
    outputs = {output["name"]: output for output in found["outputs"]}
    assert (found["id"], found["model_name"]) == ("call-1", "widget")
    assert list(outputs) == ["score", "threshold", "defective"]
    assert outputs["score"] == {"name": "score", "datatype": "FP64", "shape": [1], "data": [file["score"]]}
    assert outputs["defective"]["data"] == [file["defective"]]
    stored = client.get(f"/v1/inspections/{found['parameters']['inspections']}").json()
    assert stored["score"] == file["score"]
    assert client.get(f"/v1/inspections/{stored['id']}/picture").headers["content-type"] == "image/png"


def test_files_and_maps_as_bytes(client: TestClient, picture: bytes) -> None:
    texts = [base64.b64encode(picture).decode()] * 2
    sent = {
        "inputs": [{"name": "image", "shape": [2], "datatype": "BYTES", "data": texts}],
        "outputs": [{"name": "anomaly_map"}],
    }
    (output,) = client.post(INFER, json=sent).json()["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2])
    for text in output["data"]:
        assert Image.open(io.BytesIO(base64.b64decode(text))).size == (64, 64)


def test_binary_data_in_both_directions(client: TestClient, picture: bytes) -> None:
    values = tensor(picture)
    raw = np.array(values.pop("data"), np.uint8).tobytes()
    values["parameters"] = {"binary_data_size": len(raw)}
    names = ["defective", "score", "threshold", "anomaly_map"]
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in names]
    text = json.dumps({"inputs": [values], "outputs": outputs}).encode()
    answer = client.post(INFER, content=text + raw, headers={"Inference-Header-Content-Length": str(len(text))})
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["Inference-Header-Content-Length"])
    head, tail = json.loads(answer.content[:length]), answer.content[length:]
    pieces = []
    for output in head["outputs"]:
        size = output["parameters"]["binary_data_size"]
        pieces.append(tail[:size])
        tail = tail[size:]
    assert tail == b"" and [len(piece) for piece in pieces[:3]] == [1, 8, 8]
    score, threshold = (struct.unpack("<d", piece)[0] for piece in pieces[1:3])
    assert bool(pieces[0][0]) == (score > threshold)
    (size,) = struct.unpack("<I", pieces[3][:4])
    assert len(pieces[3]) == 4 + size and pieces[3][5:8] == b"PNG"


@pytest.mark.parametrize(
    ("changes", "status"),
    [({"shape": [1, 2, 3]}, 422), ({"datatype": "FP32"}, 422), ({"shape": [1000, 1000, 3]}, 422), ({"name": "x"}, 422)],
)
def test_a_wrong_tensor_is_an_error_in_the_one_form(
    client: TestClient, picture: bytes, changes: dict[str, Any], status: int
) -> None:
    answer = client.post(INFER, json={"inputs": [tensor(picture) | changes]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, "bad_tensor")


def test_a_file_that_is_no_image_is_an_error(client: TestClient) -> None:
    sent = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(b"x").decode()]}]}
    answer = client.post(INFER, json=sent)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "bad_image")
