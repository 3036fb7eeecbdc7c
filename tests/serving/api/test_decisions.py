"""Reviews, thresholds and drift: what people decide."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from advrad.serving.app import create_app
from advrad.serving.settings import ServeSettings

PRODUCT = "/v1/products/widget"
PNG = {"content-type": "image/png"}


def picture(seed: int) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def service(closed_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service with 24 inspected images."""
    app = create_app(ServeSettings(data=tmp_path_factory.mktemp("decisions")), {"widget": closed_run})
    with TestClient(app, base_url="http://localhost") as found:
        files = [("files", (f"{number}.png", picture(number), "image/png")) for number in range(24)]
        assert found.post(f"{PRODUCT}/inspections", files=files).status_code == 201
        yield found


def ids(service: TestClient) -> list[str]:
    return [one["id"] for one in service.get("/v1/inspections").json()["inspections"]]


def review(service: TestClient, identity: str, **said: Any) -> Any:
    return service.put(f"/v1/inspections/{identity}/review", json={"label": "good"} | said)


def last_row(service: TestClient) -> dict[str, Any]:
    (row,) = service.get("/v1/audit-log", params={"newest": True, "limit": 1}).json()["rows"]
    found: dict[str, Any] = row
    return found


def test_a_review_is_stored_told_and_taken_back(service: TestClient) -> None:
    identity = ids(service)[0]
    said = review(service, identity, label="unsure", note="dust?").json()["review"]
    assert (said["label"], said["note"], said["by"]) == ("unsure", "dust?", "local")
    assert service.get(f"/v1/inspections/{identity}").json()["review"] == said
    assert (last_row(service)["action"], last_row(service)["subject"]) == ("review", identity)
    assert service.delete(f"/v1/inspections/{identity}/review").json()["review"] is None


def test_two_people_do_not_overwrite_each_other_in_silence(service: TestClient) -> None:
    identity = ids(service)[0]
    first = review(service, identity, seen=None).json()["review"]
    late = review(service, identity, label="defective", seen=None)
    assert (late.status_code, late.json()["error"]["code"]) == (409, "review_changed")
    assert review(service, identity, label="defective", seen=first["at"]).status_code == 200
    assert review(service, identity, label="good").status_code == 200
    for _ in range(3):
        service.delete(f"/v1/inspections/{identity}/review")


@pytest.mark.parametrize(
    "said",
    [
        {"label": "maybe"},
        {"label": None},
        {"more": 1},
        {"note": 5},
        {"note": "x" * 4001},
        {"seen": "x"},
        {"seen": 5e300},
    ],
)
def test_a_wrong_review_is_refused(service: TestClient, said: dict[str, Any]) -> None:
    answer = review(service, ids(service)[0], **said)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")


@pytest.mark.parametrize("order", ["closest", "random"])
def test_the_queue_offers_what_nobody_has_reviewed(service: TestClient, order: str) -> None:
    queue = service.get(f"{PRODUCT}/review-queue", params={"order": order, "limit": 5}).json()
    assert (len(queue["inspections"]), queue["remaining"], queue["reviewed"]) == (5, 24, 0)
    first = queue["inspections"][0]["id"]
    review(service, first)
    after = service.get(f"{PRODUCT}/review-queue", params={"order": order}).json()
    assert first not in [one["id"] for one in after["inspections"]]
    assert (after["remaining"], after["reviewed"]) == (23, 1)
    service.delete(f"/v1/inspections/{first}/review")


@pytest.mark.parametrize("rate", [0, 1, -1, 1e-300, 0.51, 0.9999999999999998, 2, "x", None])
def test_a_threshold_needs_a_rate_and_images(service: TestClient, rate: Any) -> None:
    answer = service.post(f"{PRODUCT}/calibrations", json={"false_alarm_rate": rate})
    assert (answer.status_code, set(answer.json()["error"])) == (422, {"code", "message", "fix"})


def test_a_new_threshold_decides_once_it_is_activated(service: TestClient) -> None:
    few = service.post(f"{PRODUCT}/calibrations", json={"false_alarm_rate": 0.1})
    assert (few.status_code, "9" in few.json()["error"]["message"]) == (422, True)
    for one in service.get(f"{PRODUCT}/review-queue", params={"order": "random"}).json()["inspections"]:
        review(service, one["id"], chosen="random")
    made = service.post(f"{PRODUCT}/calibrations", json={"false_alarm_rate": 0.1})
    assert made.status_code == 201, made.text
    version, threshold = made.json()["version"], made.json()["threshold"]
    assert (made.json()["active"], made.json()["n"], made.json()["made_by"]) == (False, 24, "local")
    facts = service.get(PRODUCT).json()
    assert facts["threshold"] == facts["calibration"]["threshold"] != threshold

    for wanted, decides in ((version, threshold), (0, facts["calibration"]["threshold"]), (version, threshold)):
        done = service.post(f"{PRODUCT}/calibrations/{wanted}/activate")
        assert (done.status_code, done.json()["version"], done.json()["active"]) == (200, wanted, True)
        assert (last_row(service)["action"], last_row(service)["by"]) == ("activate threshold", "local")
        sent = service.post(f"{PRODUCT}/inspections", content=picture(99), headers=PNG).json()["inspections"][0]
        assert (sent["threshold"], sent["calibration"]) == (decides, wanted)
    listed = service.get(f"{PRODUCT}/calibrations").json()["calibrations"]
    assert [(one["version"], one["active"]) for one in listed] == [(version, True), (0, False)]
    assert service.get(PRODUCT).json()["threshold"] == threshold


@pytest.mark.parametrize("version", ["99", "-1", "x", "99999999999", "1e3", "0x1"])
def test_an_unknown_version_is_not_activated(service: TestClient, version: str) -> None:
    before = service.get(PRODUCT).json()["threshold"]
    assert service.post(f"{PRODUCT}/calibrations/{version}/activate").status_code in (404, 422)
    assert service.get(PRODUCT).json()["threshold"] == before


def test_what_another_threshold_would_do(service: TestClient) -> None:
    low = service.get(f"{PRODUCT}/what-if", params={"threshold": -1}).json()
    high = service.get(f"{PRODUCT}/what-if", params={"threshold": 1e9}).json()
    assert (low["threshold"], high["threshold"]) == (-1, 1e9)
    assert set(low) == {"threshold", "false_alarms", "drawn", "reviewed", "notes"}


@pytest.mark.parametrize("threshold", ["nan", "inf", "-inf", "x", "1e400", ""])
def test_a_threshold_to_try_is_a_number(service: TestClient, threshold: str) -> None:
    assert service.get(f"{PRODUCT}/what-if", params={"threshold": threshold}).status_code == 422


def test_drift_is_told_acknowledged_and_learned_anew(service: TestClient) -> None:
    assert service.get(f"{PRODUCT}/drift").json()["alarm"] is False
    assert service.post(f"{PRODUCT}/drift/acknowledge").status_code == 200
    assert last_row(service)["action"] == "acknowledge drift"
    learned = service.post(f"{PRODUCT}/drift/reference", json={"statistics": ["brightness"]}).json()
    assert learned["statistics"]["brightness"]["learning"] > 0
    assert last_row(service)["facts"] == {"statistics": ["brightness"]}
    assert service.post(f"{PRODUCT}/drift/reference").status_code == 200
    assert service.post(f"{PRODUCT}/drift/reference", json={"statistics": ["x"]}).status_code == 422


def test_the_chain_of_the_log_holds(service: TestClient) -> None:
    rows = service.get("/v1/audit-log", params={"limit": 500}).json()["rows"]
    assert len(rows) > 5
    assert [row["n"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(later["previous"] == earlier["hash"] for earlier, later in pairwise(rows))
    page = service.get("/v1/audit-log", params={"limit": 2, "after": 1}).json()
    assert ([row["n"] for row in page["rows"]], page["next"]) == ([2, 3], 3)
