from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from toy_audit import ToyAuditLog

from advrad.serving.access import Access, KeyTable, Role, add_key
from advrad.serving.page.router import page_routes
from advrad.serving.page.sign_ins import SignInLog
from advrad.serving.page.static_files import static_root

STATIC = Path(page_routes.__code__.co_filename).parent / "static"
PAGES = ("/", "/history", "/history/00000001", "/review", "/product")


def app(access: Access, products: tuple[str, ...] = ("screw", "washer")) -> TestClient:
    found = FastAPI()
    found.include_router(page_routes(access, lambda: list(products), SignInLog(ToyAuditLog())))
    return TestClient(found, base_url="http://localhost", follow_redirects=False)


@pytest.fixture
def keys(tmp_path: Path) -> dict[Role, str]:
    return {role: add_key(tmp_path / "keys", role.value, role) for role in Role}


@pytest.fixture
def guarded(tmp_path: Path, keys: dict[Role, str]) -> TestClient:
    return app(Access(KeyTable(tmp_path / "keys")))


def signed_in(client: TestClient, key: str, next: str = "/") -> str:
    answer = client.post("/sign-in", data={"key": key, "next": next})
    assert answer.status_code == 303
    return answer.headers["location"]


class _Audit(HTMLParser):
    """Collects what a strict content policy forbids, and what a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.loads: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.inline += [f"{tag} {name}" for name in values if name == "style" or name.startswith("on")]
        self.inline += ["<style>"] if tag == "style" else []
        self._in_script = tag == "script"
        if tag in ("script", "img") or (tag == "link" and values.get("rel") in ("stylesheet", "icon")):
            self.loads.append(values.get("src") or values.get("href") or "inline script")

    def handle_data(self, data: str) -> None:
        if self._in_script and data.strip():
            self.inline.append("script text")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False


@pytest.mark.parametrize("path", [*PAGES, "/sign-in", "/?product=nothing"])
def test_a_page_holds_no_inline_code_and_loads_its_own_files_only(path: str) -> None:
    client = app(Access(None))
    audit = _Audit()
    audit.feed(client.get(path).text)
    assert audit.inline == []
    assert len(audit.loads) >= 3
    for load in audit.loads:
        assert load.startswith(static_root() + "/")
        assert client.get(load).status_code == 200


def test_every_module_imports_modules_that_exist() -> None:
    scripts = sorted((STATIC / "js").glob("*.js"))
    assert len(scripts) > 10
    for script in scripts:
        for name in re.findall(r'from "([^"]+)"', script.read_text(encoding="utf-8")):
            assert (script.parent / name).is_file(), f"{script.name}: {name}"


@pytest.mark.parametrize("path", sorted(STATIC.rglob("*.*")), ids=lambda path: path.name)
def test_a_static_file_is_short_and_names_no_other_host(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for address in re.findall(r"https?://[^\"' )]+", text):
        assert address == "http://www.w3.org/2000/svg"
    # What a person typed goes into text nodes; none of these would.
    assert not re.search(r"innerHTML\s*=|insertAdjacentHTML|document\.write|\beval\(|outerHTML\s*=", text)


@pytest.mark.parametrize(
    "path",
    [
        "/static/page.css",
        "/static/0123456789abcdef/page.css",
        f"{static_root()}/../router.py",
        f"{static_root()}/%2e%2e/router.py",
        f"{static_root()}/js",
        f"{static_root()}//etc/passwd",
        f"{static_root()}x/page.css",
    ],
)
def test_no_path_leads_to_another_file(path: str) -> None:
    assert app(Access(None)).get(path).status_code == 404


def test_static_files_are_kept_for_good_and_named_by_their_content() -> None:
    answer = app(Access(None)).get(f"{static_root()}/js/inspect.js")
    assert answer.headers["content-type"].startswith("text/javascript")
    assert "immutable" in answer.headers["cache-control"]
    assert answer.content == (STATIC / "js" / "inspect.js").read_bytes()


def test_a_page_is_not_kept() -> None:
    assert app(Access(None)).get("/").headers["cache-control"] == "no-store"


def test_values_of_the_address_are_shown_as_text() -> None:
    evil = "\"><script>alert(1)</script>'"
    client = app(Access(None))
    for path in ("/history", "/sign-in", "/"):
        product = evil if path == "/" else ""
        text = client.get(path, params={"part_id": evil, "next": "/" + evil, "product": product}).text
        assert "<script>alert" not in text
    assert "&lt;script&gt;" in client.get("/history", params={"part_id": evil}).text
    assert "<script>" not in client.get("/history/<script>x").text


def test_an_unknown_product_is_named() -> None:
    answer = app(Access(None)).get("/?product=bolt")
    assert answer.status_code == 404
    assert "no product named &#39;bolt&#39;" in answer.text
    assert "screw, washer" in answer.text


def test_without_keys_everything_is_offered_and_no_sign_in() -> None:
    text = app(Access(None)).get("/product").text
    assert "Sign out" not in text
    assert 'href="/v1/audit-log"' in text
    assert "this computer only" in text


def test_a_stranger_is_led_to_the_sign_in_and_back(guarded: TestClient, keys: dict[Role, str]) -> None:
    answer = guarded.get("/product?product=washer")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in?next=%2Fproduct%3Fproduct%3Dwasher"
    page = guarded.get(answer.headers["location"])
    assert 'value="/product?product=washer"' in page.text
    assert signed_in(guarded, keys[Role.INSPECT], "/product?product=washer") == "/product?product=washer"
    assert guarded.get("/product?product=washer").status_code == 200


@pytest.mark.parametrize("next", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:x", "/\r\n"])
def test_signing_in_leads_to_this_service_only(guarded: TestClient, keys: dict[Role, str], next: str) -> None:
    assert signed_in(guarded, keys[Role.INSPECT], next) == "/"


def test_a_wrong_key_opens_nothing_and_is_not_shown(guarded: TestClient, keys: dict[Role, str]) -> None:
    answer = guarded.post("/sign-in", data={"key": "advrad_wrong", "next": "/history"})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "not known" in answer.text
    assert "advrad_wrong" not in answer.text
    assert guarded.get("/").status_code == 303


def test_the_session_is_out_of_reach_of_scripts_and_ends_at_the_sign_out(
    guarded: TestClient, keys: dict[Role, str]
) -> None:
    answer = guarded.post("/sign-in", data={"key": keys[Role.REVIEW]})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and keys[Role.REVIEW] not in cookie
    assert guarded.get("/").status_code == 200
    kept = dict(guarded.cookies)
    assert guarded.post("/sign-out").headers["location"] == "/sign-in"
    guarded.cookies.update(kept)
    assert guarded.get("/").status_code == 303


def test_controls_that_a_role_may_not_use_are_absent(guarded: TestClient, keys: dict[Role, str]) -> None:
    offered = {"review": 'href="/review', "make": 'id="make"', "audit": "/v1/audit-log", "confirm": 'id="confirm"'}
    found = {}
    for role in Role:
        signed_in(guarded, keys[role])
        text = guarded.get("/product").text
        found[role] = {name for name, mark in offered.items() if mark in text}
        assert f"<strong>{role.value}</strong>" in text
    assert found == {Role.INSPECT: set(), Role.REVIEW: {"review", "make"}, Role.ADMIN: set(offered)}


def test_the_review_page_refuses_who_may_not_review(guarded: TestClient, keys: dict[Role, str]) -> None:
    signed_in(guarded, keys[Role.INSPECT])
    answer = guarded.get("/review")
    assert answer.status_code == 403
    assert "needs a key that may review" in answer.text
