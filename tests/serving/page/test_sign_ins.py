"""Who signs in and out is in the audit log, and strangers cannot fill it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from toy_audit import ToyAuditLog

from advrad.serving.access import Access, KeyTable, Role, add_key
from advrad.serving.errors import StoreUnavailable
from advrad.serving.page.router import page_routes
from advrad.serving.page.sign_ins import REFUSED_ROWS, REFUSED_S, SignInLog
from advrad.serving.store import Store

FROM = {"address": "testclient"}


@pytest.fixture
def rows() -> ToyAuditLog:
    return ToyAuditLog()


@pytest.fixture
def key(tmp_path: Path) -> str:
    return add_key(tmp_path / "keys", "ruth", Role.ADMIN)


@pytest.fixture
def client(tmp_path: Path, key: str, rows: ToyAuditLog) -> TestClient:
    app = FastAPI()
    app.include_router(page_routes(Access(KeyTable(tmp_path / "keys"), 3), lambda: ["screw"], SignInLog(rows)))
    return TestClient(app, base_url="http://localhost", follow_redirects=False)


def test_who_comes_and_goes_is_written(client: TestClient, key: str, rows: ToyAuditLog) -> None:
    assert client.post("/sign-in", data={"key": "wrong"}).status_code == 401
    assert client.post("/sign-in", data={"key": key}).status_code == 303
    assert client.post("/sign-out").status_code == 303
    assert client.post("/sign-out").status_code == 303  # nobody is signed in any more
    assert rows.rows == [
        ("refuse sign in", "page", "advrad", FROM),
        ("sign in", "page", "ruth", FROM),
        ("sign out", "page", "ruth", FROM),
    ]


def test_too_many_wrong_keys_are_told_on_the_page_and_not_written(
    client: TestClient, key: str, rows: ToyAuditLog
) -> None:
    for _ in range(3):
        assert client.post("/sign-in", data={"key": "wrong"}).status_code == 401
    for tried in ("wrong", key):
        answer = client.post("/sign-in", data={"key": tried})
        assert (answer.status_code, "set-cookie" in answer.headers) == (429, False)
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert f"Too many wrong keys came from here. Wait {answer.headers['retry-after']} seconds." in answer.text
    assert [row[0] for row in rows.rows] == ["refuse sign in"] * 3


def test_nobody_signs_in_unwritten(client: TestClient, key: str, rows: ToyAuditLog) -> None:
    rows.broken = True
    answer = client.post("/sign-in", data={"key": key})
    assert (answer.status_code, "set-cookie" in answer.headers) == (503, False)
    assert "the history cannot be reached" in answer.text
    rows.broken = False
    assert client.post("/sign-in", data={"key": key}).status_code == 303


def test_a_session_ends_also_where_it_cannot_be_written(client: TestClient, key: str, rows: ToyAuditLog) -> None:
    client.post("/sign-in", data={"key": key})
    rows.broken = True
    with pytest.raises(StoreUnavailable):  # answered with 503 by the whole app
        client.post("/sign-out")
    assert client.get("/").headers["location"].startswith("/sign-in")


def test_strangers_write_so_many_rows_and_no_more(rows: ToyAuditLog) -> None:
    now = [0.0]
    log = SignInLog(rows, lambda: now[0])
    for _ in range(REFUSED_ROWS + 25):
        log.refused("192.0.2.1")
    assert len(rows.rows) == REFUSED_ROWS
    log.signed_in("ruth", "192.0.2.1")
    now[0] += REFUSED_S
    log.refused("192.0.2.1")
    log.refused("192.0.2.1")
    assert [row[3] for row in rows.rows[-2:]] == [
        {"address": "192.0.2.1", "not_written_before": 25},
        {"address": "192.0.2.1"},
    ]


def test_the_rows_are_links_of_the_chain(tmp_path: Path) -> None:
    with Store.open(None, tmp_path) as store:
        log = SignInLog(store.audit)
        log.refused("192.0.2.1")
        log.signed_in("ruth", "192.0.2.1")
        log.signed_out("ruth", "192.0.2.1")
        assert store.audit.verify().whole and store.audit.verify().rows == 3
