"""Who may do what, for every route of the description: a route that nobody thought of here makes the test fail."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from advrad.serving.access import Role
from advrad.serving.api.boundary import SIGN_IN

NOBODY, INSPECT, REVIEW, ADMIN = None, Role.INSPECT, Role.REVIEW, Role.ADMIN
PRODUCT, ONE = "/v1/products/{product}", "/v1/inspections/{id}"

#: Smallest role that each route needs; None for none.
NEEDED: dict[tuple[str, str], Role | None] = {
    ("GET", "/healthz"): NOBODY,
    ("GET", "/readyz"): NOBODY,
    ("GET", "/v2/health/live"): NOBODY,
    ("GET", "/v2/health/ready"): NOBODY,
    ("GET", "/metrics"): INSPECT,
    ("GET", "/v2"): INSPECT,
    ("GET", "/v2/models"): INSPECT,
    ("GET", "/v2/models/{product}"): INSPECT,
    ("GET", "/v2/models/{product}/ready"): INSPECT,
    ("POST", "/v2/models/{product}/infer"): INSPECT,
    ("POST", f"{PRODUCT}/inspections"): INSPECT,
    ("GET", "/v1/inspections"): INSPECT,
    ("GET", "/v1/inspections.csv"): INSPECT,
    ("GET", ONE): INSPECT,
    ("GET", f"{ONE}/picture"): INSPECT,
    ("GET", f"{ONE}/{{artefact}}"): INSPECT,
    ("GET", "/v1/products"): INSPECT,
    ("GET", PRODUCT): INSPECT,
    ("GET", f"{PRODUCT}/drift"): INSPECT,
    ("GET", f"{PRODUCT}/calibrations"): INSPECT,
    ("GET", f"{PRODUCT}/what-if"): INSPECT,
    ("PUT", f"{ONE}/review"): REVIEW,
    ("DELETE", f"{ONE}/review"): REVIEW,
    ("GET", f"{PRODUCT}/review-queue"): REVIEW,
    ("POST", f"{PRODUCT}/drift/acknowledge"): REVIEW,
    ("POST", f"{PRODUCT}/drift/reference"): REVIEW,
    ("POST", f"{PRODUCT}/calibrations"): REVIEW,
    ("POST", f"{PRODUCT}/calibrations/{{version}}/activate"): ADMIN,
    ("GET", f"{PRODUCT}/export"): ADMIN,
    ("DELETE", ONE): ADMIN,
    ("GET", "/v1/audit-log"): ADMIN,
}
Keys = tuple[Path, dict[Role, str]]


def ask(client: TestClient, method: str, route: str, key: str | None) -> Any:
    path = route.format(product="widget", id="01M8F2RYYMDPNHN8R308BHN7FB", artefact="map", version="0")
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    body = {"content": b"x"} if method in ("PUT", "POST") else {}
    return client.request(method, path, headers=headers, **body)


def test_every_route_is_in_the_table(locked: TestClient) -> None:
    paths = locked.get("/openapi.json").json()["paths"]
    routes = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert routes == set(NEEDED)


@pytest.mark.parametrize(("method", "route"), NEEDED, ids=[" ".join(route) for route in NEEDED])
def test_a_route_lets_in_who_may(locked: TestClient, keys: Keys, method: str, route: str) -> None:
    needed = NEEDED[method, route]
    for key in (None, "advrad_" + "x" * 43, "", keys[1][INSPECT][:-1]):
        answer = ask(locked, method, route, key)
        assert (answer.status_code == 401) == (needed is not None), (key, answer.text)
        if needed is not None:
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.json()["error"]["code"] == "no_key"
    for role, key in keys[1].items():
        answer = ask(locked, method, route, key)
        refused = needed is not None and not role.covers(needed)
        assert (answer.status_code == 403) == refused, answer.text
        assert answer.status_code < 500
        assert answer.status_code != 401


def test_a_bad_key_and_none_get_the_same_answer(locked: TestClient) -> None:
    answers = [ask(locked, "GET", "/v1/products", key) for key in (None, "", "wrong", "advrad_" + "x" * 43)]
    kept = [{key: value for key, value in answer.headers.items() if key != "x-request-id"} for answer in answers]
    assert all(answer.content == answers[0].content for answer in answers)
    assert all(headers == kept[0] for headers in kept)


def test_keys_are_never_logged(locked: TestClient, keys: Keys, log: io.StringIO) -> None:
    secrets = [*keys[1].values(), "advrad_" + "q" * 43]
    for key in secrets:
        for path in ("/v1/products", "/v1/audit-log", f"/v1/products/{key}", f"/{key}?key={key}", "/metrics"):
            answer = locked.get(path, headers={"authorization": f"Bearer {key}", "x-key": key, "cookie": f"a={key}"})
            assert key in path or key not in answer.text
        locked.post(SIGN_IN, data={"key": key, "next": "/"}, headers={"origin": "http://plant.example"})
    text = log.getvalue()
    assert "inspect-key" in text
    assert not [key for key in secrets if key in text or key[:20] in text]


def test_a_person_signs_in_with_a_key_and_out_again(locked: TestClient, keys: Keys) -> None:
    own = {"origin": "http://plant.example"}
    wrong = locked.post(SIGN_IN, data={"key": "wrong"}, headers=own)
    assert wrong.status_code == 401 and "set-cookie" not in wrong.headers
    answer = locked.post(SIGN_IN, data={"key": keys[1][REVIEW]}, headers=own, follow_redirects=False)
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and keys[1][REVIEW] not in cookie
    assert locked.get("/v1/products").status_code == 200
    assert locked.get("/v1/audit-log").status_code == 403
    assert locked.put("/v1/inspections/x/review", json={"label": "good"}).status_code == 403
    assert locked.put("/v1/inspections/x/review", json={"label": "good"}, headers=own).status_code == 404
    locked.post("/sign-out", headers=own)
    assert locked.get("/v1/products").status_code == 401


def test_the_cookie_is_for_https_alone_where_https_is_spoken(locked: TestClient, keys: Keys) -> None:
    secure = TestClient(locked.app, base_url="https://plant.example")
    own = {"origin": "https://plant.example"}
    answer = secure.post(SIGN_IN, data={"key": keys[1][REVIEW]}, headers=own, follow_redirects=False)
    assert "; Secure" in answer.headers["set-cookie"]
