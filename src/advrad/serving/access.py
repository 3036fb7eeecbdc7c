"""Who may do what: keys with roles, and the sessions of people who signed in on the page.

A key is made of 256 random bits. Nobody can guess it, so a plain SHA-256 protects it in the file: slow password hashes
exist for secrets that a dictionary holds, and would only give strangers a way to keep the service busy. A key that
comes in is hashed and compared by :func:`hmac.compare_digest` with every row, also after a row has matched and also
where no key came in, so the time tells neither whether a key is nearly right nor whose it is.

Three roles, each with what the one before it may: ``inspect`` sends images and reads the history; ``review`` says
where a verdict is wrong and makes new thresholds; ``admin`` activates them, deletes, and reads the audit log.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from advrad.errors import ConfigError, OutputError
from advrad.serving.errors import TooManyGuesses
from advrad.serving.guesses import Guesses
from advrad.serving.sessions import SESSION_S, Sessions
from advrad.utils.files import atomic_path, explain

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

COOKIE = "advrad_session"
"""Name of the cookie that holds a session."""

PREFIX = "advrad_"
"""Start of every key, by which scanners for leaked secrets find it."""

LOCAL = "local"
"""Name under which a service without keys acts."""

_HEADER = "# Keys of advrad: name, role, SHA-256 of the key. Made by 'advrad keys add'.\n"


class Role(StrEnum):
    """What the owner of a key may do.

    Example:
        >>> Role.ADMIN.covers(Role.REVIEW), Role.INSPECT.covers(Role.REVIEW)
        (True, False)
    """

    INSPECT = "inspect"
    REVIEW = "review"
    ADMIN = "admin"

    def covers(self, needed: Role) -> bool:
        """Whether the role may do what another may.

        Args:
            needed: The other role.
        """
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sends a request.

    Attributes:
        name: Name of the key.
        role: Role of the key.
        by_cookie: Whether a browser's session speaks, which needs protection against requests of other sites.
    """

    name: str
    role: Role
    by_cookie: bool = False


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One row of a file of keys.

    Attributes:
        name: Name of the key, unique in the file.
        role: Role of the key.
        digest: SHA-256 of the key, in hexadecimal.
    """

    name: str
    role: Role
    digest: str


def digest_of(key: str) -> str:
    """SHA-256 of a key, in hexadecimal.

    Args:
        key: The key; any text.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


#: What a request without a key is compared as. No row may hold it.
_NOTHING = digest_of("")


def read_rows(path: Path) -> list[KeyRow]:
    """Read a file of keys.

    Args:
        path: The file: one row for each key, with name, role and SHA-256; lines that start with # are notes.

    Raises:
        ConfigError: The file cannot be read, or a row is wrong.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path}: the keys cannot be read: {reason}; make the file with 'advrad keys add'") from error
    rows: list[KeyRow] = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            row = _row(line)
            if row is None or row.name in {other.name for other in rows}:
                what = "name, role and SHA-256 are expected" if row is None else f"the name {row.name} is there twice"
                raise ConfigError(f"{path}: line {number}: {what}; correct the line or remove it")
            rows.append(row)
    return rows


def _row(line: str) -> KeyRow | None:
    parts = line.split()
    if len(parts) != 3 or not _is_name(parts[0]) or parts[1] not in list(Role):
        return None
    usable = re.fullmatch("[0-9a-f]{64}", parts[2]) and parts[2] != _NOTHING
    return KeyRow(parts[0], Role(parts[1]), parts[2]) if usable else None


def _is_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", name) is not None


def add_key(path: Path, name: str, role: Role) -> str:
    """Add a key to a file, which is made if it is missing and can be read by its owner only.

    Args:
        path: The file.
        name: Name of the key.
        role: Role of the key.

    Returns:
        The key. It is stored nowhere.

    Raises:
        ConfigError: The name cannot be used or is taken, or the file is wrong.
        OutputError: The file cannot be written.
    """
    if not _is_name(name) or name == LOCAL:
        raise ConfigError(
            "cannot be the name of a key; use up to 64 letters, digits, points, hyphens and underscores, and not"
            f" '{LOCAL}'",
            option="name",
            value=name,
        )
    key = PREFIX + secrets.token_urlsafe(32)
    with _alone(path):
        rows = read_rows(path) if path.exists() else []
        if name in {row.name for row in rows}:
            raise ConfigError(f"is in {path} already; choose another or remove it first", option="name", value=name)
        _write_rows(path, [*rows, KeyRow(name, role, digest_of(key))])
    return key


def remove_key(path: Path, name: str) -> None:
    """Remove a key from a file. A service that runs refuses it from its next request on.

    Args:
        path: The file.
        name: Name of the key.

    Raises:
        ConfigError: There is no such key, or the file is wrong.
        OutputError: The file cannot be written.
    """
    with _alone(path):
        rows = read_rows(path)
        kept = [row for row in rows if row.name != name]
        if len(kept) == len(rows):
            raise ConfigError(f"is not in {path}; 'advrad keys list {path}' shows the names", option="name", value=name)
        _write_rows(path, kept)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep others from changing a file of keys between reading and writing it: a key would be lost or live on."""
    try:
        folder = os.open(path.absolute().parent, os.O_RDONLY)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {explain(error)}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write_rows(path: Path, rows: list[KeyRow]) -> None:
    text = _HEADER + "".join(f"{row.name} {row.role} {row.digest}\n" for row in rows)
    with atomic_path(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


class KeyTable:
    """The keys of a file, which is read again when it changes.

    While the file is missing or wrong, no key is accepted: a key that was removed must not live on because of a slip
    in the line beside it. :attr:`problem` says what is wrong.

    Args:
        path: The file.

    Raises:
        ConfigError: The file cannot be read, or a row is wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] | None = self._state()
        self._rows = tuple(read_rows(path))
        self.problem: str | None = None

    def find(self, key: str) -> KeyRow | None:
        """The row of a key; None if there is none. Every row is compared, whatever the key.

        Args:
            key: What a request brought; empty if it brought nothing.
        """
        return self.by_digest(digest_of(key))

    def by_digest(self, digest: str) -> KeyRow | None:
        """The row of a key that was accepted before, if it is still there.

        Args:
            digest: SHA-256 of the key, in hexadecimal.
        """
        found = None
        for row in self._current():
            found = row if hmac.compare_digest(row.digest, digest) else found
        return found

    def _current(self) -> tuple[KeyRow, ...]:
        """The rows, read again if the file has changed."""
        with self._lock:
            state = self._state()
            if state != self._seen or state is None:
                self._seen = state
                self._read()
            return self._rows

    def _read(self) -> None:
        log = structlog.get_logger("advrad.access")
        try:
            self._rows, problem = tuple(read_rows(self._path)), None
            log.info("keys read", file=str(self._path), keys=len(self._rows))
        except ConfigError as error:
            self._rows, problem = (), str(error)
            if problem != self.problem:
                log.error("no key is accepted", reason=problem)
        self.problem = problem

    def _state(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Somebody who signed in.

    Attributes:
        name: Name of the key.
        token: Value of the cookie.
    """

    name: str
    token: str = field(repr=False)


class Access:
    """Tells who sends a request: by a key, by a session that a key opened, or without keys the person at this machine.

    A session ends after twelve hours, with the process, and with its key.

    Args:
        keys: The keys; None for a service on loopback alone, where whoever reaches it is admin.
        wrong_keys: Wrong keys that may come from one address within a minute.
    """

    def __init__(self, keys: KeyTable | None, wrong_keys: int = 20) -> None:
        self.keys = keys
        self._guesses = Guesses(wrong_keys)
        self._sessions = Sessions()

    @property
    def keys_on(self) -> bool:
        """Whether a key is needed."""
        return self.keys is not None

    def identity(self, request: HTTPConnection) -> Principal | None:
        """Who sends a request; None if it brings no valid key and no session.

        Args:
            request: The request. The key stands in ``Authorization: Bearer KEY``.

        Raises:
            TooManyGuesses: It brings a key, and too many wrong ones came from its address.
        """
        if self.keys is None:
            return Principal(LOCAL, Role.ADMIN)
        header = request.headers.get("authorization")
        cookie = request.cookies.get(COOKIE)
        if header is None and cookie is not None:
            row = self.keys.by_digest(self._sessions.digest(cookie) or _NOTHING)
            return None if row is None else Principal(row.name, row.role, by_cookie=True)
        scheme, _, key = (header or "").partition(" ")
        row = self._find(request, key.strip() if scheme.lower() == "bearer" else "")
        return None if row is None else Principal(row.name, row.role)

    def sign_in(self, request: HTTPConnection, key: str) -> SignedIn | None:
        """Open a session.

        Args:
            request: The request.
            key: Key that a person typed.

        Returns:
            Who signed in; None if there is no such key.

        Raises:
            TooManyGuesses: Too many wrong keys came from the address of the request.
        """
        row = self._find(request, key.strip())
        return None if row is None else SignedIn(row.name, self._sessions.open(row.digest))

    def sign_out(self, request: HTTPConnection) -> None:
        """End the session of a request, if it has one.

        Args:
            request: The request.
        """
        self._sessions.end(request.cookies.get(COOKIE, ""))

    def cookie_options(self, request: HTTPConnection) -> dict[str, object]:
        """Attributes of the cookie, as ``Response.set_cookie`` takes them: no script reads it, no other site sends it.

        Args:
            request: The request that the cookie answers.
        """
        return {
            "httponly": True,
            "samesite": "strict",
            "secure": request.url.scheme == "https",
            "path": "/",
            "max_age": int(SESSION_S),
        }

    def _find(self, request: HTTPConnection, key: str) -> KeyRow | None:
        """The row of a key, of which wrong ones are counted; nothing is no wrong key."""
        row = None if self.keys is None else self.keys.find(key)
        if key:
            wait_s = self._guesses.weigh(address_of(request), None if row is None else row.digest)
            if wait_s:
                raise TooManyGuesses(wait_s)
        return row


def address_of(request: HTTPConnection) -> str:
    """Address of the machine that sends a request, or that a proxy on this machine names; empty if nobody knows it."""
    return "" if request.client is None else request.client.host
