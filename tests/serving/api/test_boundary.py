from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from advrad.serving.access import COOKIE, Access, KeyTable, Role, add_key
from advrad.serving.api.boundary import LOOPBACK, Boundary


def ask(
    app: Boundary, path: str = "/v1/products", method: str = "GET", *, path_query: bytes = b"", **headers: str
) -> tuple[int, dict[str, str]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was read")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    rows = {"host": "localhost:8000"} | {name.replace("_", "-").lower(): value for name, value in headers.items()}
    scope = {
        "type": "http", "method": method, "path": path, "query_string": path_query, "state": {}, "server": None,
        "headers": [(name.encode(), value.encode()) for name, value in rows.items()],
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    named = {key.decode().lower(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], named


async def inside(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def local() -> Boundary:
    return Boundary(inside, Access(None), LOOPBACK)


@pytest.fixture
def access(tmp_path: Path) -> tuple[Access, str]:
    key = add_key(tmp_path / "keys", "ann", Role.ADMIN)
    return Access(KeyTable(tmp_path / "keys")), key


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]", "LOCALHOST"])
def test_this_machine_is_known_by_its_names(local: Boundary, host: str) -> None:
    assert ask(local, host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "127.0.0.1.x"])
def test_another_name_for_this_machine_is_refused(local: Boundary, host: str) -> None:
    assert ask(local, host=host)[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000", "http://[bad", "x"])
def test_another_site_changes_nothing(local: Boundary, method: str, origin: str) -> None:
    assert ask(local, method=method, origin=origin)[0] == 403


def test_the_own_page_and_programs_may_change(local: Boundary) -> None:
    assert ask(local, method="POST", origin="http://localhost:8000", sec_fetch_site="same-origin")[0] == 200
    assert ask(local, method="POST")[0] == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_reads_nothing_but_may_link_here(local: Boundary, site: str) -> None:
    assert ask(local, sec_fetch_site=site, sec_fetch_mode="no-cors")[0] == 403
    assert ask(local, sec_fetch_site=site, sec_fetch_mode="navigate")[0] == 200
    assert ask(local, method="POST", sec_fetch_site=site, sec_fetch_mode="navigate")[0] == 403


def test_strangers_are_refused_before_the_body_is_read(access: tuple[Access, str]) -> None:
    app = Boundary(inside, access[0], ())
    for headers in ({}, {"authorization": "Bearer advrad_wrong"}, {"cookie": f"{COOKIE}=x"}):
        status, named = ask(app, "/v1/products/x/inspections", "POST", **headers)
        assert status == 401 and named["www-authenticate"].startswith("Bearer")
    assert ask(app, authorization=f"Bearer {access[1]}")[0] == 200


@pytest.mark.parametrize("path", ["/v1", "/metrics", "/v2", "/v2/health/other", "/nothing", "/healthz/x", "/static"])
def test_every_other_address_needs_a_key(access: tuple[Access, str], path: str) -> None:
    assert ask(Boundary(inside, access[0], ()), path)[0] == 401


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/openapi.json", "/sign-in", "/static/a.css"]
)
def test_some_addresses_are_for_everybody(access: tuple[Access, str], path: str) -> None:
    assert ask(Boundary(inside, access[0], ()), path)[0] == 200


def test_a_person_without_a_key_is_led_to_the_page_for_it(access: tuple[Access, str]) -> None:
    app = Boundary(inside, access[0], ())
    status, named = ask(app, "/history/a b", accept="text/html", path_query=b"product=x")
    assert (status, named["location"]) == (303, "/sign-in?next=%2Fhistory%2Fa%20b%3Fproduct%3Dx")
    assert ask(app, "/v1/products", accept="text/html")[0] == 401


def test_a_session_needs_the_browser_to_say_where_a_change_comes_from(access: tuple[Access, str]) -> None:
    person = access[0].sign_in(HTTPConnection({"type": "http", "headers": []}), access[1])
    assert person is not None
    cookie = f"{COOKIE}={person.token}"
    app = Boundary(inside, access[0], ())
    assert ask(app, cookie=cookie)[0] == 200
    assert ask(app, method="PUT", cookie=cookie)[0] == 403
    assert ask(app, method="PUT", cookie=cookie, origin="http://localhost:8000")[0] == 200
    assert ask(app, method="PUT", cookie=cookie, sec_fetch_site="same-origin")[0] == 200
    assert ask(app, method="PUT", cookie=cookie, origin="https://evil.example")[0] == 403


def test_too_many_wrong_keys_are_answered_with_429(access: tuple[Access, str]) -> None:
    app = Boundary(inside, Access(access[0].keys, wrong_keys=2), ())
    right, wrong = f"Bearer {access[1]}", "Bearer advrad_guess"
    assert [ask(app, authorization=wrong)[0] for _ in range(3)] == [401, 401, 429]
    status, headers = ask(app, authorization=right)
    assert status == 429 and 1 <= int(headers["retry-after"]) <= 60
    # Addresses that need no key are there for all who bring none.
    assert (ask(app)[0], ask(app, "/healthz")[0]) == (401, 200)


def test_headers_are_bounded(local: Boundary) -> None:
    assert ask(local, x_large="x" * 31_000)[0] == 200
    assert ask(local, x_large="x" * 33_000)[0] == 431


def test_too_long_an_address_is_refused(local: Boundary) -> None:
    assert ask(local, "/" + "x" * 3000)[0] == 414
    assert ask(local, path_query=b"x" * 9000)[0] == 414
