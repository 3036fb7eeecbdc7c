"""The page Product in a real browser: what if, a new threshold, its activation, drift."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import toy_exports
from playwright.sync_api import expect
from served_page import Served, served, wait_for


@pytest.fixture
def good(widgets: Path) -> list[Path]:
    return sorted((widgets / "test" / "good").iterdir())


def active(service: Served) -> int:
    versions = service.call("GET", "/v1/products/widget/calibrations")["calibrations"]
    [found] = [one["version"] for one in versions if one["active"]]
    return found


def test_recalibrate_and_activate(service: Served, tabs, good: list[Path]) -> None:
    page = tabs(service.url, "/product")
    wait_for(["0, of the model folder", "decides now"], page, "#versions")
    page.get_by_label("False-alarm rate in %").fill("20")
    page.get_by_role("button", name="Make a new threshold").click()
    # It says how many pictures it needs, and makes nothing.
    wait_for(["needs 4 different images that are reviewed as good; there are 0"], page, "#says")

    for one in service.send(*good):
        service.call("PUT", f"/v1/inspections/{one['id']}/review", {"label": "good", "chosen": "random"})
    page.get_by_role("button", name="Make a new threshold").click()
    wait_for(["Version 1 is made", "decides nothing until it is activated"], page, "#says")
    assert active(service) == 0

    other = tabs(service.url, "/product", beside=page)
    expect(other.locator("#versions tr")).to_have_count(2)
    page.bring_to_front()
    page.get_by_role("button", name="Activate").click()
    dialog = page.get_by_role("dialog", name="Activate version 1?")
    wait_for(["Now decides: version 0, of the model folder", "Then decides: version 1, threshold"], page, "#confirm")
    dialog.get_by_role("button", name="Cancel").click()
    assert active(service) == 0
    page.get_by_role("button", name="Activate").click()
    dialog.get_by_role("button", name="Activate version 1").click()
    wait_for(["Version 1 decides now, in place of version 0"], page, "#says")
    assert active(service) == 1
    other.bring_to_front()
    expect(other.locator("#versions tr", has_text="decides now").locator("th")).to_have_text("1")


@pytest.mark.slow
def test_what_if(service: Served, tabs, good: list[Path]) -> None:
    page = tabs(service.url, "/product")
    wait_for(["Pictures of the calibration", "of 48)", "between"], page, "#what-if")
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")
    wait_for(["47 of 48"], page, "#what-if")
    expect(page.get_by_role("img", name="Tried threshold")).to_be_visible()
    page.keyboard.press("End")
    wait_for(["0 of 48"], page, "#what-if")


@pytest.mark.slow
def test_drift_is_shown_and_acknowledged(service: Served, tabs, widgets: Path) -> None:
    dents = sorted((widgets / "test" / "dent").iterdir())
    page = tabs(service.url, "/product")
    wait_for(["Score", "Brightness", "Sharpness"], page, "#drift")
    for _ in range(12):
        service.send(*dents)
    wait_for(["scores are higher"], page, "#drift .warning")
    expect(page.get_by_role("img", name="Score of the last 24 inspections")).to_be_visible()
    page.get_by_role("button", name="I have looked into it").click()
    expect(page.locator("#drift .warning")).to_have_count(0)
    wait_for(["1 earlier alarm"], page, "#drift summary")
    [row] = [one for one in service.call("GET", "/v1/audit-log")["rows"] if one["action"] == "acknowledge drift"]
    assert row["by"] == "local"


@pytest.mark.slow
def test_a_guarded_detector_gets_no_new_threshold(service: Served, tabs) -> None:
    page = tabs(service.url, "/product")
    expect(page.locator("#new-threshold")).to_be_visible()
    product = service.call("GET", "/v1/products/widget") | {"guarded": True}
    page.route("**/v1/products/widget", lambda route: route.fulfill(json=product))
    page.reload()
    expect(page.locator("#guarded")).to_be_visible()
    expect(page.locator("#trial")).to_be_hidden()
    expect(page.locator("#new-threshold")).to_be_hidden()


def test_the_detector_is_taken_along(tabs, page_model: Path, tmp_path: Path) -> None:
    export = toy_exports.write(tmp_path / "toy")
    with served({"toy": export, "widget": page_model}, tmp_path / "data") as service:
        page = tabs(service.url, "/product?product=toy")
        with page.expect_download() as download:
            page.get_by_role("button", name="Detector for ONNX (ZIP)").click()
        assert download.value.suggested_filename == "toy-onnx.zip"
        with zipfile.ZipFile(download.value.path()) as archive:
            assert archive.read("toy-onnx/detector.json") == (export / "detector.json").read_bytes()
        wait_for(["toy-onnx.zip", "MB"], page, "#taken")
        (row,) = service.call("GET", "/v1/audit-log")["rows"]
        assert (row["action"], row["subject"]) == ("export model", "toy")

        page.goto(f"{service.url}/product?product=widget")
        page.get_by_role("button", name="Detector for OpenVINO (ZIP)").click()
        wait_for(["which are not on this machine; make it by 'advrad export' where they are"], page, "#taken")
        assert len(service.call("GET", "/v1/audit-log")["rows"]) == 1
