from __future__ import annotations

import base64
import csv
import io
import struct
import zlib
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

POST = "/v1/products/widget/inspections"
PNG = {"content-type": "image/png"}
EVIL = [
    "<script>alert(1)</script>", "'; DROP TABLE inspections; --", "=HYPERLINK(1)", "{{7*7}}", "../../etc/passwd", "ä漢",
]  # fmt: skip


def files(*pictures: bytes) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("files", (f"p{number}.png", picture, "image/png")) for number, picture in enumerate(pictures)]


def _header_only(height: int, width: int) -> bytes:
    """A small file that says that it is a large PNG."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def inspect(client: TestClient, picture: bytes, **query: Any) -> dict[str, Any]:
    answer = client.post(POST, content=picture, headers=PNG, params=query)
    assert answer.status_code == 201, answer.text
    (found,) = answer.json()["inspections"]
    return found


def test_a_picture_is_inspected_and_stored(client: TestClient, picture: bytes) -> None:
    found = inspect(client, picture, part_id="A-7", station="line 2")
    assert found["verdict"] in ("good", "defective")
    assert found["defective"] == (found["score"] > found["threshold"])
    assert (found["part_id"], found["station"], found["artefacts"]) == ("A-7", "line 2", {})
    stored = client.get(f"/v1/inspections/{found['id']}").json()
    assert stored == {key: value for key, value in found.items() if key != "artefacts"}


def test_the_picture_comes_back_as_it_was_sent(client: TestClient, picture: bytes) -> None:
    found = inspect(client, picture)
    answer = client.get(f"/v1/inspections/{found['id']}/picture")
    assert (answer.content, answer.headers["content-type"]) == (picture, "image/png")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_any_picture_can_be_had_small(client: TestClient, kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (128, 64), "white").save(file, kind)
    found = inspect(client, file.getvalue())
    for side, size in ((32, (32, 16)), (4096, (128, 64))):
        answer = client.get(f"/v1/inspections/{found['id']}/picture", params={"side": side})
        assert answer.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(answer.content)).size == size
    whole = client.get(f"/v1/inspections/{found['id']}/picture")
    assert whole.content == file.getvalue()
    assert ("attachment" in whole.headers.get("content-disposition", "")) == (kind == "TIFF")


def test_artefacts_are_drawn_at_once_and_later(client: TestClient, picture: bytes) -> None:
    found = inspect(client, picture, artefacts="map,overlay")
    assert set(found["artefacts"]) == {"map", "overlay"}
    for name, text in found["artefacts"].items():
        later = client.get(f"/v1/inspections/{found['id']}/{name}")
        assert later.headers["content-type"] == "image/png"
        assert later.content == base64.b64decode(text)
        Image.open(io.BytesIO(later.content)).load()


def test_an_artefact_that_the_detector_does_not_make_is_missing(client: TestClient, picture: bytes) -> None:
    found = inspect(client, picture, artefacts="reconstruction")
    assert found["artefacts"] == {}
    answer = client.get(f"/v1/inspections/{found['id']}/reconstruction")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_artefact")


def test_a_certificate_on_request(client: TestClient, picture: bytes) -> None:
    assert inspect(client, picture, certify="true")["details"]["certificate"]
    assert "certificate" not in inspect(client, picture)["details"]


def test_several_pictures_of_which_one_is_bad(client: TestClient, picture: bytes) -> None:
    answer = client.post(POST, files=files(picture, b"no image", picture), data={"part_id": "B-1"})
    assert answer.status_code == 201
    first, bad, last = answer.json()["inspections"]
    assert first["file_name"] == "p0.png" and last["file_name"] == "p2.png" and first["part_id"] == "B-1"
    assert bad["file_name"] == "p1.png" and bad["error"]["code"] == "bad_image"
    assert first["id"] != last["id"]


def test_only_bad_pictures_are_an_error(client: TestClient) -> None:
    for answer in (
        client.post(POST, content=b"no image", headers=PNG),
        client.post(POST, files=files(b"no image", b"nothing")),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "bad_image")


@pytest.mark.parametrize("kind", ["text/html", "application/x-www-form-urlencoded", "application/json", "", "image"])
def test_another_content_type_is_refused(client: TestClient, picture: bytes, kind: str) -> None:
    answer = client.post(POST, content=picture, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "content_type")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ({"content": b"", "headers": PNG}, "no_image"),
        ({"files": [("other", ("a.png", b"x", "image/png"))]}, "no_image"),
        ({"files": [*files(b"x"), ("other", ("a.png", b"x", "image/png"))]}, "no_image"),
        ({"files": files(*[b"x"] * 5)}, "bad_form"),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data"}}, "bad_form"),
        ({"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data; boundary=y"}}, "bad_form"),
        ({"files": files(b"x"), "data": {"part": "1"}}, "invalid"),
        ({"files": files(b"x"), "data": {"part_id": ["1", "2"]}}, "invalid"),
        ({"files": files(b"x"), "data": {"part_id": "1"}, "params": {"part_id": "2"}}, "invalid"),
        ({"content": b"x", "headers": PNG, "params": {"partid": "1"}}, "invalid"),
        ({"content": b"x", "headers": PNG, "params": {"part_id": "a\0b"}}, "invalid"),
        ({"content": b"x", "headers": PNG, "params": {"part_id": "x" * 201}}, "invalid"),
        ({"content": b"x", "headers": PNG, "params": {"artefacts": "map,x"}}, "invalid"),
        ({"content": b"x", "headers": PNG, "params": {"certify": "maybe"}}, "invalid"),
    ],
)
def test_a_wrong_request_says_what_is_wrong(client: TestClient, sent: dict[str, Any], code: str) -> None:
    answer = client.post(POST, **sent)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, code), answer.text
    assert set(answer.json()["error"]) == {"code", "message", "fix"}


def test_a_picture_with_too_many_pixels_is_refused(client: TestClient) -> None:
    answer = client.post(POST, content=_header_only(65_000, 65_000), headers=PNG)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "bad_image")


@pytest.mark.parametrize("name", ["nothing", "%2e%2e", "..%2f..%2fetc", "a%00b", "x" * 100, "%F0%28", "wid get"])
def test_an_unknown_product(client: TestClient, name: str) -> None:
    answer = client.post(f"/v1/products/{name}/inspections", content=b"x", headers=PNG)
    assert answer.status_code in (404, 422)
    assert answer.json()["error"]["fix"]


@pytest.mark.parametrize("identity", ["..%2f", "%2e%2e", "a%00", "x" * 100, "'", "01M8F2RYYMDPNHN8R308BHN7FB"])
@pytest.mark.parametrize("end", ["", "/picture", "/map", "/other"])
def test_an_unknown_inspection(client: TestClient, identity: str, end: str) -> None:
    assert client.get(f"/v1/inspections/{identity}{end}").status_code in (404, 422)


@pytest.mark.parametrize("text", EVIL)
def test_hostile_text_is_only_text(client: TestClient, picture: bytes, text: str) -> None:
    found = inspect(client, picture, part_id=text)
    assert found["part_id"] == text
    answer = client.get("/v1/inspections", params={"part_id": text})
    assert found["id"] in [one["id"] for one in answer.json()["inspections"]]
    assert answer.headers["content-type"] == "application/json"
    client.put(f"/v1/inspections/{found['id']}/review", json={"label": "good", "note": text})
    assert client.get(f"/v1/inspections/{found['id']}").json()["review"]["note"] == text
    rows = list(csv.DictReader(io.StringIO(client.get("/v1/inspections.csv", params={"part_id": text}).text)))
    assert rows and rows[0]["part_id"].replace("'", "") == text.replace("'", "")
    assert not rows[0]["part_id"].startswith(("=", "+", "-", "@"))


def test_the_history_is_filtered_and_turned_page_by_page(client: TestClient, picture: bytes) -> None:
    made = [inspect(client, picture, station="pages")["id"] for _ in range(5)]
    seen: list[str] = []
    after: str | None = None
    while True:
        query = {"station": "pages", "limit": 2} | ({"after": after} if after else {})
        page = client.get("/v1/inspections", params=query).json()
        seen += [one["id"] for one in page["inspections"]]
        after = page["next"]
        if after is None:
            break
    assert seen == made[::-1]
    first = client.get(f"/v1/inspections/{made[0]}").json()
    for query, n in [
        ({"since": first["at"]}, 5),
        ({"until": first["at"]}, 0),
        ({"verdict": first["verdict"]}, 5),
        ({"verdict": "good" if first["defective"] else "defective"}, 0),
        ({"review": "none"}, 5),
        ({"review": "good"}, 0),
        ({"product": "widget"}, 5),
        ({"product": "other"}, 0),
    ]:
        found = client.get("/v1/inspections", params={"station": "pages"} | query).json()["inspections"]
        assert len(found) == n, query


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0}, {"limit": 501}, {"limit": "x"}, {"verdict": "x"}, {"review": "x"}, {"since": "x"}, {"after": "'"},
        {"after": "abc"}, {"since": "2026-01-01T00:00:00"}, {"since": "0001-01-01T00:00:00+20:00"}, {"product": "../x"},
        {"until": "9999-12-31T23:59:59-20:00"}, {"text": "a\0"}, {"unknown": "1"}, {"limit": "9" * 5000},
    ],
)  # fmt: skip
def test_a_wrong_filter_is_refused(client: TestClient, query: dict[str, Any]) -> None:
    answer = client.get("/v1/inspections", params=query)
    assert (answer.status_code, set(answer.json()["error"])) == (422, {"code", "message", "fix"})


def test_a_deleted_inspection_is_gone_and_the_log_says_who(client: TestClient, picture: bytes) -> None:
    found = inspect(client, picture)
    answer = client.delete(f"/v1/inspections/{found['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert client.get(f"/v1/inspections/{found['id']}").status_code == 404
    assert client.delete(f"/v1/inspections/{found['id']}").status_code == 404
    rows = client.get("/v1/audit-log", params={"newest": "true", "limit": 1}).json()["rows"]
    assert (rows[0]["action"], rows[0]["subject"], rows[0]["by"]) == ("delete inspection", found["id"], "local")


def test_a_script_in_a_picture_is_never_served_as_a_page(client: TestClient) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(file, "PNG")
    sent = file.getvalue() + b"<script>alert(1)</script>"
    found = inspect(client, sent)
    answer = client.get(f"/v1/inspections/{found['id']}/picture")
    assert (answer.content, answer.headers["content-type"]) == (sent, "image/png")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
