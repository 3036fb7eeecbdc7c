"""What the page says of a proof, in a real browser: never more than the certificate holds."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, Page
from toy_audit import ToyAuditLog

from advrad.serving.access import Access
from advrad.serving.page.router import page_routes
from advrad.serving.page.sign_ins import SignInLog
from advrad.serving.page.static_files import static_root

BASE = {"score": 5.0, "threshold": 3.0, "defective": True, "verdict": "defective"}
EXACT = {"certified": "proven defective", "certified_radius": 3.59 / 255, "certified_threshold": 3.0, "norm": "linf"}
NOISE = {"certified_threshold": 1.0, "norm": "l2", "certified_radius": 0.219, "confidence": 0.999}


@pytest.fixture(scope="module")
def page(chromium: Browser) -> Any:
    """A tab with the page's modules, answered by the routes without a server."""
    from fastapi.testclient import TestClient

    app = FastAPI()
    app.include_router(page_routes(Access(None), lambda: ["screw"], SignInLog(ToyAuditLog())))
    client = TestClient(app, base_url="http://localhost")
    page = chromium.new_page()

    def answer(route: Any) -> None:
        found = client.get(route.request.url)
        route.fulfill(status=found.status_code, headers=dict(found.headers), body=found.content)

    page.route("**/*", answer)
    page.goto("http://localhost/sign-in")
    yield page
    page.close()


def said(page: Page, module: str, function: str, *values: object) -> Any:
    script = f"async (values) => (await import('{static_root()}/js/{module}.js')).{function}(...values)"
    return page.evaluate(script, list(values))


def proof(page: Page, certificate: dict[str, Any], **changes: Any) -> str:
    details = {"certificate": certificate, **changes.pop("details", {})}
    return said(page, "proofs", "proofSentence", BASE | {"details": details} | changes)


def test_a_proof_of_bounds(page: Page) -> None:
    assert proof(page, EXACT) == "Proven: no change of any pixel by up to 3.5/255 hides it."
    good = {"score": 1.0, "defective": False, "verdict": "good"}
    certificate = EXACT | {"certified": "proven good", "certified_radius": 2 / 255}
    assert proof(page, certificate, **good) == "Proven: no change of any pixel by up to 2/255 makes it defective."
    small = EXACT | {"certified": "not proven", "certified_radius": 0.000449}
    assert proof(page, small) == "Proven: no change of any pixel by up to 0.11/255 hides it."
    euclidean = proof(page, EXACT | {"norm": "l2", "certified_radius": 0.2599})
    assert euclidean == "Proven: no change of the picture by up to 0.25 in Euclidean norm hides it."


def test_nothing_is_claimed_without_a_proof(page: Page) -> None:
    assert said(page, "proofs", "proofSentence", BASE | {"details": {}}) is None
    none = proof(page, EXACT | {"certified": "not proven", "certified_radius": 0.0})
    assert none == "Not proven: a tiny change of the pixels might turn this verdict."


def test_a_proof_with_another_threshold_says_so(page: Page) -> None:
    same_side = proof(page, EXACT | {"certified_threshold": 4.0})
    assert same_side == "Proven with the threshold 4: no change of any pixel by up to 3.5/255 hides it."
    other_side = proof(page, EXACT | {"certified": "proven good", "certified_threshold": 6.0})
    assert other_side.startswith("Not proven: with the threshold 6")


def test_a_proof_by_noise_is_about_its_own_verdict(page: Page) -> None:
    found = proof(page, NOISE | {"certified": "certified anomalous"})
    assert found.startswith("Proven with 99.9 % confidence: no change of the picture by up to 0.21 in Euclidean norm")
    assert proof(page, NOISE | {"certified": "certified normal"}).startswith("Not proven")
    assert proof(page, NOISE | {"certified": "abstain", "certified_radius": 0.0}).startswith("Not proven")


def test_a_proof_of_the_memory_holds_for_the_memory(page: Page) -> None:
    half = EXACT | {"certified_half": "memory"}
    memory = {"halves": [{"name": "memory", "speaks": True}, {"name": "features", "speaks": True}]}
    assert proof(page, half, details=memory).endswith("hides it.")
    silent = {"halves": [{"name": "memory", "speaks": False}, {"name": "features", "speaks": True}]}
    assert proof(page, half, details=silent, verdict="suspected").startswith("Not proven: only parts without a proof")
    good = {"defective": False, "verdict": "good, memory proven", "details": silent}
    assert proof(page, half, **good).endswith("has hidden a defect that the memory would see.")


@pytest.mark.parametrize(
    ("verdict", "defective", "kind"),
    [
        ("good", False, "good"),
        ("good, memory proven", False, "good"),
        ("defective", True, "defective"),
        ("defective, proven", True, "defective"),
        ("suspected", True, "suspected"),
    ],
)
def test_each_verdict_has_a_shape_of_its_own(page: Page, verdict: str, defective: bool, kind: str) -> None:
    assert said(page, "words", "kindOf", {"verdict": verdict, "defective": defective}) == kind
