from __future__ import annotations

import pytest

from advrad.serving import sessions as module
from advrad.serving.sessions import Sessions


def test_the_oldest_session_ends_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 2)
    sessions = Sessions()
    tokens = [sessions.open(f"key {n}") for n in range(3)]
    assert [sessions.digest(token) for token in tokens] == [None, "key 1", "key 2"]


def test_no_token_is_kept() -> None:
    sessions = Sessions()
    token = sessions.open("digest")
    assert token not in repr(vars(sessions))
    sessions.end("another")
    assert sessions.digest(token) == "digest"
