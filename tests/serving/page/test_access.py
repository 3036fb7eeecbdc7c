"""The pages of people with keys, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import served_page
from playwright.sync_api import Page, expect
from served_page import Served, wait_for

from advrad.serving.access import Role, add_key, remove_key


@pytest.fixture
def keys(tmp_path: Path) -> dict[Role, str]:
    return {role: add_key(tmp_path / "keys", role.value, role) for role in Role}


@pytest.fixture
def locked(tmp_path: Path, page_model: Path, keys: dict[Role, str]) -> Iterator[Served]:
    with served_page.served({"widget": page_model}, tmp_path / "data", tmp_path / "keys") as service:
        yield service


def sign_in(page: Page, key: str) -> None:
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Sign in").click()


def test_an_inspector_signs_in_and_gets_no_more_than_the_role(
    locked: Served, tabs, keys: dict[Role, str], widgets: Path
) -> None:
    page = tabs(locked.url, "/history")
    sign_in(page, "advrad_guess")
    wait_for(["This key is not known"], page, "#wrong")
    sign_in(page, keys[Role.INSPECT])
    expect(page).to_have_url(f"{locked.url}/history")
    wait_for(["inspect, may inspect"], page, ".who")
    expect(page.get_by_role("link", name="Review")).to_have_count(0)
    picture = next((widgets / "test" / "good").iterdir())
    [found] = locked.send(picture, key=keys[Role.INSPECT])
    page.goto(f"{locked.url}/history/{found['id']}")
    wait_for(["Good"], page, "#detail .word")
    expect(page.locator("[data-label], #delete")).to_have_count(0)
    # The page offers nothing, and the service refuses all the same.
    status = page.evaluate(
        """async (path) => (await fetch(path, {
            method: "PUT", headers: { "Content-Type": "application/json" }, body: '{"label": "good"}' })).status""",
        f"/v1/inspections/{found['id']}/review",
    )
    assert status == 403
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(f"{locked.url}/sign-in")


@pytest.mark.slow
def test_a_session_that_ends_loses_nothing(
    locked: Served, tabs, keys: dict[Role, str], widgets: Path, tmp_path: Path
) -> None:
    page = tabs(locked.url)
    sign_in(page, keys[Role.INSPECT])
    expect(page.get_by_role("button", name="Choose pictures")).to_be_visible()
    remove_key(tmp_path / "keys", "inspect")
    page.set_input_files("#files", next((widgets / "test" / "good").iterdir()))
    expect(page.get_by_role("alert").filter(has_text="Your session has ended")).to_be_visible()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Sign in in a new tab").click()
    sign_in(opened.value, keys[Role.REVIEW])
    page.bring_to_front()
    wait_for(["1 picture inspected"], page, "#summary")
