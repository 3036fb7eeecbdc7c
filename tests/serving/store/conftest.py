"""Every contract of the store holds for SQLite and for PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_server import PostgresServer, postgres_server

from advrad.serving.store import Store


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server that all tests share; a test that stops it starts it again."""
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a new database of either kind."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").make_schema()
    return f"sqlite:///{tmp_path / 'history.sqlite'}"


@pytest.fixture
def store(db: str, tmp_path: Path) -> Iterator[Store]:
    """A new store in either database."""
    with Store.open(db, tmp_path) as opened:
        yield opened
