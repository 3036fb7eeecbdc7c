"""Who and what may come in, decided from the headers alone, before any byte of the body is read.

Three dangers are met here. A stranger has no key. A page of another site, open in the browser of somebody who is signed
in or sits at the machine, sends requests to this service: the browser then names that site in ``Origin`` and
``Sec-Fetch-Site``. A site whose name suddenly resolves to this machine (DNS rebinding) is told by the name in ``Host``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated
from urllib.parse import quote, urlsplit

from fastapi import Depends
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from advrad.serving.access import Access, Principal, Role
from advrad.serving.api.failures import Refusal, answer_of
from advrad.serving.errors import TooManyGuesses

SIGN_IN = "/sign-in"
"""Address of the page on which a person types a key."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of this machine for itself."""

_OPEN = frozenset({SIGN_IN, "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/openapi.json"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_LONGEST_PATH = 2048
_HEADER_BYTES = 32_000


#: Tells the OpenAPI description how keys are sent; the check itself was made before the route.
_BEARER = HTTPBearer(auto_error=False, scheme_name="key", description="A key that 'advrad keys add' made.")


class Boundary:
    """The layer that lets requests in or refuses them.

    Args:
        app: The app inside.
        access: Who may do what.
        hosts: Names that ``Host`` may have; empty for any.
    """

    def __init__(self, app: ASGIApp, access: Access, hosts: Collection[str]) -> None:
        self.app, self.access, self.hosts = app, access, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        try:
            self._check_address(request)
            principal = self.access.identity(request)
            self._check_site(request, principal)
            scope["state"]["principal"] = principal
            if principal is None and not _is_open(scope["path"]):
                raise stranger()
        except TooManyGuesses as error:
            await answer_of(error)(scope, receive, send)
            return
        except Refusal as refusal:
            wants_page = scope["method"] == "GET" and "text/html" in request.headers.get("accept", "")
            if refusal.status == 401 and wants_page and not scope["path"].startswith(("/v1", "/v2", "/metrics")):
                query = scope["query_string"].decode("ascii", "replace")
                asked = quote(f"{scope['path']}?{query}" if query else scope["path"], safe="")
                await RedirectResponse(f"{SIGN_IN}?next={asked}", 303)(scope, receive, send)
                return
            await answer_of(refusal)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _check_address(self, request: HTTPConnection) -> None:
        if len(request.scope["path"]) > _LONGEST_PATH or len(request.scope["query_string"]) > 4 * _LONGEST_PATH:
            raise Refusal(414, "address_too_long", "the address is too long", "shorten the names or the search")
        if sum(len(name) + len(value) for name, value in request.scope["headers"]) > _HEADER_BYTES:
            raise Refusal(431, "headers_too_large", "the headers are too large", "send fewer cookies and headers")
        if self.hosts and _host(request.headers.get("host", "")) not in self.hosts:
            raise Refusal(
                403,
                "host_not_allowed",
                "the service is not known under the name in the header Host",
                "use its own address, or start it with this name among its hosts",
            )

    def _check_site(self, request: HTTPConnection, principal: Principal | None) -> None:
        """Refuse what a page of another site sends."""
        method, headers = request.scope["method"], request.headers
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        navigates = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
        foreign = site in ("cross-site", "same-site") and not navigates
        if method not in _SAFE:
            if origin is not None:
                foreign = foreign or urlsplit_netloc(origin) != headers.get("host", "").lower()
            elif principal is not None and principal.by_cookie:
                foreign = foreign or site != "same-origin"
        if foreign:
            raise Refusal(
                403,
                "other_site",
                "the request comes from a page of another site",
                "use the page of this service, or a key in the header Authorization; a proxy must pass Host on",
            )


def urlsplit_netloc(origin: str) -> str | None:
    """Host and port of an origin; None if it has none, as ``null``.

    Args:
        origin: Value of the header Origin.
    """
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def stranger() -> Refusal:
    """The refusal of a request without a valid key. It does not tell whether a key was there."""
    return Refusal(
        401,
        "no_key",
        "a valid key is needed",
        "send the header Authorization: Bearer KEY; 'advrad keys add' makes keys",
        {"WWW-Authenticate": 'Bearer realm="advrad"'},
    )


def require(role: Role) -> object:
    """Make a dependency that lets a role in, and hands the route who asks.

    Args:
        role: Smallest role that may.
    """

    # Not a plain function, for which every request would wait for a thread.
    async def check(request: HTTPConnection, told: Annotated[object, Depends(_BEARER)]) -> Principal:
        principal: Principal | None = request.scope["state"]["principal"]
        if principal is None:
            raise stranger()
        if not principal.role.covers(role):
            raise Refusal(
                403,
                "role_not_enough",
                f"a key of the role {principal.role} may not do this",
                f"use a key of the role {role}",
            )
        return principal

    return check


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith("/static/")


def _host(value: str) -> str:
    """Name in a header Host, without its port."""
    value = value.strip().lower()
    if value.startswith("["):
        return value[1:].partition("]")[0]
    return value.rpartition(":")[0] if ":" in value else value
