from __future__ import annotations

import hmac
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.requests import Request

from advrad.errors import ConfigError, OutputError
from advrad.serving import access as module
from advrad.serving import sessions
from advrad.serving.access import Access, KeyTable, Role, add_key, digest_of, read_rows, remove_key
from advrad.serving.errors import TooManyGuesses


def request(address: str = "192.0.2.1", **headers: str) -> Request:
    rows = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": rows, "query_string": b""}
    return Request(scope | {"client": (address, 50_000)})


def signed_in(access: Access, key: str) -> str:
    found = access.sign_in(request(), key)
    assert found is not None
    return found.token


@pytest.fixture
def keys(tmp_path: Path) -> dict[Role, str]:
    return {role: add_key(tmp_path / "keys", f"{role}-1", role) for role in Role}


def test_a_key_is_long_random_and_not_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    made = [add_key(path, f"k{number}", Role.INSPECT) for number in range(3)]
    text = path.read_text()
    assert len(set(made)) == 3
    assert all(len(key) >= 43 + len("advrad_") and key not in text and digest_of(key) in text for key in made)


def test_only_the_owner_reads_the_file(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        add_key(tmp_path / "keys", "line", Role.INSPECT)
        add_key(tmp_path / "keys", "line2", Role.INSPECT)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


def test_keys_that_are_made_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: add_key(path, f"k{number}", Role.INSPECT), range(24)))
        assert len(read_rows(path)) == 24
        list(pool.map(lambda number: remove_key(path, f"k{number}"), range(24)))
    assert read_rows(path) == []


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the folder is missing"):
        add_key(tmp_path / "nothing" / "keys", "line", Role.INSPECT)


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 65, "a\nadmin admin " + "0" * 64, "local"])
def test_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name"):
        add_key(tmp_path / "keys", name, Role.ADMIN)
    assert not (tmp_path / "keys").exists()


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    add_key(tmp_path / "keys", "line", Role.INSPECT)
    with pytest.raises(ConfigError, match="already"):
        add_key(tmp_path / "keys", "line", Role.ADMIN)


@pytest.mark.parametrize(
    "row",
    ["x", "x admin", "x boss " + "0" * 64, "x admin " + "0" * 63, f"x admin {digest_of('')}", "x admin " + "G" * 64],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: str) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# note\n{row}\n")
    with pytest.raises(ConfigError, match="line 2"):
        read_rows(path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_rows(tmp_path / "keys")


def test_each_key_has_its_role(tmp_path: Path, keys: dict[Role, str]) -> None:
    access = Access(KeyTable(tmp_path / "keys"))
    for role, key in keys.items():
        found = access.identity(request(Authorization=f"Bearer {key}"))
        assert found is not None and (found.name, found.role, found.by_cookie) == (f"{role}-1", role, False)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic {key}", "{key}", "Bearer {key}x", "Bearer x{key}"])
def test_nothing_else_is_a_key(tmp_path: Path, keys: dict[Role, str], header: str) -> None:
    access = Access(KeyTable(tmp_path / "keys"))
    assert access.identity(request(Authorization=header.format(key=keys[Role.ADMIN]))) is None
    assert access.identity(request()) is None


def test_every_row_is_compared_whatever_the_key(
    tmp_path: Path, keys: dict[Role, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    access = Access(KeyTable(tmp_path / "keys"))
    compared: list[str] = []
    real = hmac.compare_digest

    def counted(left: str, right: str) -> bool:
        compared.append(left)
        return real(left, right)

    monkeypatch.setattr(module.hmac, "compare_digest", counted)
    first, last = keys[Role.INSPECT], keys[Role.ADMIN]
    for header in ("", "Bearer wrong", f"Bearer {first}", f"Bearer {last}", f"Bearer {last[:-1]}"):
        compared.clear()
        access.identity(request(Authorization=header))
        assert len(compared) == 3
    compared.clear()
    access.identity(request())
    access.identity(request(Cookie=f"{module.COOKIE}=unknown"))
    assert len(compared) == 6


def test_a_removed_key_is_refused_at_once_and_so_is_its_session(tmp_path: Path, keys: dict[Role, str]) -> None:
    path = tmp_path / "keys"
    access = Access(KeyTable(path))
    cookie = signed_in(access, keys[Role.REVIEW])
    session = request(Cookie=f"{module.COOKIE}={cookie}")
    found = access.identity(session)
    assert found is not None and found.by_cookie and found.role is Role.REVIEW
    remove_key(path, "review-1")
    assert access.identity(session) is None
    assert access.identity(request(Authorization=f"Bearer {keys[Role.REVIEW]}")) is None
    assert access.identity(request(Authorization=f"Bearer {keys[Role.ADMIN]}")) is not None


def test_no_key_is_accepted_while_the_file_is_wrong_or_missing(tmp_path: Path, keys: dict[Role, str]) -> None:
    path = tmp_path / "keys"
    table = KeyTable(path)
    good = path.read_text()
    path.write_text(good + "nonsense\n")
    assert table.find(keys[Role.ADMIN]) is None
    assert table.problem is not None and "line 5" in table.problem
    path.unlink()
    assert table.find(keys[Role.ADMIN]) is None
    path.write_text(good)
    assert table.find(keys[Role.ADMIN]) is not None
    assert table.problem is None


def test_a_session_ends(tmp_path: Path, keys: dict[Role, str], monkeypatch: pytest.MonkeyPatch) -> None:
    access = Access(KeyTable(tmp_path / "keys"))
    assert access.sign_in(request(), "wrong") is None
    cookie, other = signed_in(access, keys[Role.ADMIN]), signed_in(access, keys[Role.ADMIN])
    assert cookie != other
    session = request(Cookie=f"{module.COOKIE}={cookie}")
    access.sign_out(session)
    assert access.identity(session) is None
    late = request(Cookie=f"{module.COOKIE}={other}")
    assert access.identity(late) is not None
    now = time.monotonic()
    monkeypatch.setattr(sessions.time, "monotonic", lambda: now + 13 * 3600)
    assert access.identity(late) is None


def test_after_too_many_wrong_keys_an_address_waits(tmp_path: Path, keys: dict[Role, str]) -> None:
    access = Access(KeyTable(tmp_path / "keys"), wrong_keys=3)
    right = {"Authorization": f"Bearer {keys[Role.INSPECT]}"}
    assert access.identity(request(**right)) is not None
    cookie = signed_in(access, keys[Role.REVIEW])
    assert access.identity(request(Authorization="Bearer one")) is None
    assert access.sign_in(request(), "two") is None
    assert access.identity(request(Authorization="Bearer three")) is None
    for key in ("wrong", keys[Role.ADMIN]):
        with pytest.raises(TooManyGuesses, match="too many wrong keys came from this address; wait"):
            access.identity(request(Authorization=f"Bearer {key}"))
        with pytest.raises(TooManyGuesses):
            access.sign_in(request(), key)
    # What was right from there before goes on, and so does who brings no key.
    assert access.identity(request(**right)) is not None
    assert access.identity(request(Cookie=f"{module.COOKIE}={cookie}")) is not None
    assert access.identity(request()) is None
    # Other addresses do not wait.
    assert access.identity(request("192.0.2.2", Authorization=f"Bearer {keys[Role.ADMIN]}")) is not None


def test_without_keys_whoever_is_at_the_machine_is_admin() -> None:
    found = Access(None).identity(request())
    assert found is not None and (found.name, found.role) == ("local", Role.ADMIN)


def test_removing_an_unknown_key_changes_nothing(tmp_path: Path, keys: dict[Role, str]) -> None:
    before = (tmp_path / "keys").read_bytes()
    with pytest.raises(ConfigError, match="keys list"):
        remove_key(tmp_path / "keys", "nobody")
    assert (tmp_path / "keys").read_bytes() == before
