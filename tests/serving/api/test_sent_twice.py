"""A request that is sent again with its Idempotency-Key is in the history once."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from httpx import Response
from PIL import Image

from advrad.serving.access import Role
from advrad.serving.app import create_app
from advrad.serving.settings import ServeSettings

POST = "/v1/products/widget/inspections"
PNG = {"content-type": "image/png"}


def png(seed: int) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def send(client: TestClient, key: str, picture: bytes, **query: Any) -> Response:
    return client.post(POST, content=picture, headers=PNG | {"Idempotency-Key": key}, params=query)


def count(client: TestClient, **wanted: str) -> int:
    return len(client.get("/v1/inspections", params={"limit": 500} | wanted).json()["inspections"])


def judged(client: TestClient) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("advrad_inspections_total{"))


def test_the_second_answer_is_the_stored_inspection(client: TestClient, picture: bytes) -> None:
    first = send(client, "k-1", picture, part_id="once", certify="true")
    before = judged(client)
    second = send(client, "k-1", picture, part_id="once", certify="true")
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == first.json()
    assert before > 0
    assert (count(client, part_id="once"), judged(client)) == (1, before)


def test_without_a_key_or_with_another_one_it_counts_each_time(client: TestClient, picture: bytes) -> None:
    for key in ("k-2", "k-3"):
        assert send(client, key, picture, part_id="thrice").status_code == 201
    assert client.post(POST, content=picture, headers=PNG, params={"part_id": "thrice"}).status_code == 201
    assert count(client, part_id="thrice") == 3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"picture": png(seed=5)}, "another image"),
        ({"part_id": "other"}, "another part_id"),
        ({"station": "other"}, "another station"),
        ({"certify": "true"}, "another certify"),
    ],
)
def test_something_else_under_a_used_key_is_refused(
    client: TestClient, picture: bytes, change: dict[str, Any], named: str
) -> None:
    known = {"picture": picture, "part_id": "same", "station": "line 1"}
    first = send(client, "k-4", **known)
    answer = send(client, "k-4", **known | change)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["code"] == "key_used"
    assert named in error["message"] and first.json()["inspections"][0]["id"] in error["message"]
    assert count(client, part_id="same") == 1


def test_artefacts_of_a_known_inspection_are_drawn_anew(client: TestClient, picture: bytes) -> None:
    first = send(client, "k-5", picture, artefacts="map").json()
    assert set(first["inspections"][0]["artefacts"]) == {"map"}
    assert send(client, "k-5", picture, artefacts="map").json() == first


def test_of_several_images_only_what_is_missing_is_inspected(client: TestClient, picture: bytes) -> None:
    def sent(*pictures: bytes) -> Response:
        files = [("files", (f"{n}.png", one, "image/png")) for n, one in enumerate(pictures)]
        return client.post(POST, files=files, data={"part_id": "many"}, headers={"Idempotency-Key": "k-6"})

    first = sent(picture, b"damaged on the way", png(seed=7))
    assert first.status_code == 201 and first.json()["inspections"][1]["error"]["code"] == "bad_image"
    second = sent(picture, png(seed=6), png(seed=7))
    assert second.status_code == 201
    ids = [[one.get("id") for one in answer.json()["inspections"]] for answer in (first, second)]
    assert ids[0][0] == ids[1][0] and ids[0][2] == ids[1][2] and ids[0][1] is None and ids[1][1]
    third = sent(picture, png(seed=6), png(seed=7))
    assert (third.status_code, third.json()) == (200, second.json())
    assert count(client, part_id="many") == 3


def test_requests_that_come_at_once_are_in_the_history_once(client: TestClient, picture: bytes) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: send(client, "k-7", picture, part_id="at once"), range(8)))
    assert {answer.status_code for answer in answers} <= {200, 201}
    assert [answer.status_code for answer in answers].count(201) == 1
    assert len({answer.json()["inspections"][0]["id"] for answer in answers}) == 1
    assert count(client, part_id="at once") == 1


def test_different_images_at_once_under_one_key_are_one_inspection(client: TestClient) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda n: send(client, "k-8", png(seed=n), part_id="race"), range(4)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [201, 422, 422, 422]
    assert count(client, part_id="race") == 1


def test_a_key_belongs_to_its_sender(locked: TestClient, keys: tuple[Path, dict[Role, str]], picture: bytes) -> None:
    answers = [
        locked.post(POST, content=picture, headers=PNG | {"Idempotency-Key": "k-9", "Authorization": f"Bearer {key}"})
        for key in keys[1].values()
    ]
    assert [answer.status_code for answer in answers] == [201, 201, 201]


@pytest.mark.parametrize("key", ["", "x" * 201, "two words", "\xe4"])
def test_a_key_that_cannot_be_one_is_refused(client: TestClient, picture: bytes, key: str) -> None:
    answer = client.post(POST, content=picture, headers=PNG | {"Idempotency-Key": key.encode("latin-1")})
    assert answer.status_code == 422
    assert "Idempotency-Key" in answer.json()["error"]["message"]


def test_a_key_holds_across_a_restart_and_ends_with_its_inspection(
    closed_run: Path, tmp_path: Path, picture: bytes
) -> None:
    def service() -> TestClient:
        return TestClient(create_app(ServeSettings(data=tmp_path), {"widget": closed_run}), base_url="http://localhost")

    with service() as client:
        first = send(client, "k-10", picture)
    with service() as client:
        second = send(client, "k-10", picture)
        assert (second.status_code, second.json()) == (200, first.json())
        address = f"/v1/inspections/{first.json()['inspections'][0]['id']}"
        assert client.delete(address).status_code == 204
        assert send(client, "k-10", picture).status_code == 201
