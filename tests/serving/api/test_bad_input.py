"""Whatever is sent, the answer says what is wrong: never a defect, a hang, or memory beyond the bound."""

from __future__ import annotations

import io
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

import advrad

POST = "/v1/products/widget/inspections"
REVIEW = "/v1/inspections/01M8F2RYYMDPNHN8R308BHN7FB/review"
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
BOUND_S, BOUND_MB = 10.0, 400.0
QUICK = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 30).convert("RGB").save(file, kind)
    return file.getvalue()


PICTURES = {kind: encoded(kind) for kind in FORMATS}


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes with some replaced, cut out, put in, or repeated."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(0, 4))):
        # The beginning of a file says how large it is, and is hit more often.
        place = draw(st.integers(0, min(len(content), draw(st.sampled_from([40, 200, len(whole)])))))
        length = draw(st.sampled_from([1, 2, 4, 16, 1000]))
        match draw(st.sampled_from(["replace", "cut", "put", "repeat", "end"])):
            case "replace":
                content[place : place + length] = draw(st.binary(min_size=1, max_size=min(length, 16)))
            case "cut":
                del content[place : place + length]
            case "put":
                content[place:place] = draw(st.sampled_from([b"\0", b"\xff", b"\0" * 4, b"\xff" * 4, b"<svg>"]))
            case "repeat":
                content[place:place] = content[place : place + length] * 3
            case "end":
                del content[place:]
    return bytes(content)


def pictures() -> st.SearchStrategy[bytes]:
    return st.sampled_from(FORMATS).flatmap(lambda kind: mutated(PICTURES[kind]))


#: Folders of this machine, which no answer names: that of the program and that of its data.
FOLDERS = (str(Path(advrad.__file__).parents[1]), tempfile.gettempdir())


def check(answer: Any, *expected: int) -> None:
    assert answer.status_code in expected, (answer.status_code, answer.text[:300])
    if answer.status_code >= 400:
        assert set(answer.json()) == {"error"}
        assert all(isinstance(answer.json()["error"][key], str) for key in ("code", "message", "fix"))
        assert not any(text in answer.text for text in ("Traceback", *FOLDERS))


def check_mutated_pictures(client: TestClient, picture: bytes) -> None:
    began = time.process_time()  # a busy machine makes the wall time longer
    answer = client.post(POST, content=picture, headers={"content-type": "application/octet-stream"})
    check(answer, 201, 422)
    assert time.process_time() - began < BOUND_S


def check_mutated_body(client: TestClient, kind: str, body: bytes) -> None:
    answer = client.post(POST, content=body, headers={"content-type": kind})
    check(answer, 201, 415, 422)


FORM = (
    b'--edge\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    + PICTURES["PNG"]
    + b'\r\n--edge\r\nContent-Disposition: form-data; name="part_id"\r\n\r\nA-7\r\n--edge--\r\n'
)
KINDS = st.sampled_from(
    [
        "multipart/form-data; boundary=edge", "multipart/form-data", "multipart/form-data; boundary=", "image/png",
        "multipart/form-data; boundary=edge; charset=nonsense", "multipart/form-data; boundary=\"e", "IMAGE/PNG; x",
        "multipart/form-data; boundary=" + "e" * 300, "text/plain", "application/json",
        "multipart/mixed; boundary=edge",
    ]
)  # fmt: skip
TENSOR = json.dumps(
    {
        "id": "1",
        "inputs": [{"name": "image", "shape": [8, 8, 3], "datatype": "UINT8", "data": [7] * 192}],
        "outputs": [{"name": "score", "parameters": {"binary_data": True}}],
    }
).encode()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from(["name", "shape", "datatype", "data", "parameters", "inputs", "outputs", "id", "label"])


def infer_bodies() -> st.SearchStrategy[bytes]:
    shaped = st.dictionaries(FIELDS, JSON, max_size=4).map(lambda one: _replaced(json.loads(TENSOR), one))
    return mutated(TENSOR) | JSON.map(lambda one: json.dumps(one).encode()) | shaped


def _replaced(values: dict[str, Any], changes: dict[str, Any]) -> bytes:
    tensor = values["inputs"][0]
    for key, value in changes.items():
        (tensor if key in tensor else values)[key] = value
    return json.dumps(values).encode()


def check_infer(client: TestClient, body: bytes, length: str | None) -> None:
    headers = {} if length is None else {"Inference-Header-Content-Length": length}
    check(client.post("/v2/models/widget/infer", content=body, headers=headers), 200, 422)


def check_review(client: TestClient, body: bytes, kind: str) -> None:
    check(client.put(REVIEW, content=body, headers={"content-type": kind}), 400, 404, 422)


REVIEWS = mutated(b'{"label": "good", "note": "dust", "seen": null}') | JSON.map(lambda one: json.dumps(one).encode())
LENGTHS = st.none() | st.sampled_from(["0", "10", "-1", "x", "9" * 40, str(len(TENSOR))])


@QUICK
@given(pictures())
def test_mutated_pictures(client: TestClient, content: bytes) -> None:
    check_mutated_pictures(client, content)


@pytest.mark.filterwarnings("ignore:Unclosed file <tempfile:ResourceWarning")  # Starlette, of a form that is cut off
@QUICK
@given(KINDS, mutated(FORM))
def test_mutated_bodies(client: TestClient, kind: str, body: bytes) -> None:
    check_mutated_body(client, kind, body)


@QUICK
@given(infer_bodies(), LENGTHS)
def test_mutated_tensors(client: TestClient, body: bytes, length: str | None) -> None:
    check_infer(client, body, length)


@QUICK
@given(REVIEWS, st.sampled_from(["application/json", "text/plain", "application/x+json", ""]))
def test_mutated_reviews(client: TestClient, body: bytes, kind: str) -> None:
    check_review(client, body, kind)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Unclosed file <tempfile:ResourceWarning")  # Starlette, of a form that is cut off
def test_many_mutated_inputs_leave_the_memory_as_it_was(client: TestClient) -> None:
    many = settings(QUICK, max_examples=500)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    many(given(pictures())(lambda content: check_mutated_pictures(client, content)))()
    many(given(KINDS, mutated(FORM))(lambda kind, body: check_mutated_body(client, kind, body)))()
    many(given(infer_bodies(), LENGTHS)(lambda body, length: check_infer(client, body, length)))()
    many(given(REVIEWS)(lambda body: check_review(client, body, "application/json")))()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000 < before + BOUND_MB


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"label":' * 50_000, b"9" * 100_000, b'"\\ud800"', b"\xff\xfe"])
@pytest.mark.parametrize("path", [REVIEW, "/v2/models/widget/infer"])
def test_json_that_breaks_parsers(client: TestClient, body: bytes, path: str) -> None:
    method = "PUT" if path.endswith("review") else "POST"
    check(client.request(method, path, content=body, headers={"content-type": "application/json"}), 400, 422)


@pytest.mark.parametrize(
    "note", ["\\ud800", "\\u0000", "x" * 4001, "\\u001b[2J"], ids=["half", "null", "long", "terminal"]
)
def test_text_that_no_database_holds(client: TestClient, note: str) -> None:
    sent = f'{{"label": "good", "note": "{note}"}}'.encode()
    answer = client.put(REVIEW, content=sent, headers={"content-type": "application/json"})
    check(answer, 422)


@pytest.mark.parametrize("name", ["../../x.png", "a\0b.png", "<img src=x>.png", "x" * 5000, "a\r\nX-Evil: 1", "\udcff"])
def test_names_of_files_are_only_shown(client: TestClient, name: str) -> None:
    quoted = name.encode("utf-8", "surrogateescape").replace(b"\r\n", b" ")
    body = FORM.replace(b"a.png", quoted)
    answer = client.post(POST, content=body, headers={"content-type": "multipart/form-data; boundary=edge"})
    check(answer, 201, 422)
    if answer.status_code == 201:
        shown = answer.json()["inspections"][0]["file_name"]
        assert len(shown) <= 255 and "\0" not in shown
