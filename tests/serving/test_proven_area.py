"""What is drawn of a proven verdict, when it is given and later."""

from __future__ import annotations

from pathlib import Path

import closed_form_run
import pytest

from advrad.serving.drift import DriftMonitor
from advrad.serving.inspecting import InspectionService
from advrad.serving.products import ProductTable
from advrad.serving.records import InspectionRequest
from advrad.serving.settings import ServeSettings
from advrad.serving.store import Store


@pytest.mark.parametrize("certify", [True, False])
def test_the_proven_area_is_in_the_overlay_that_is_drawn_later(tmp_path: Path, widgets: Path, certify: bool) -> None:
    run = closed_form_run.write(widgets, tmp_path / "run")
    picture = next((widgets / "test" / "dent").iterdir()).read_bytes()
    with Store.open(None, tmp_path / "data") as store:
        monitor = DriftMonitor(store)
        table = ProductTable({"widget": run}, on_load=lambda one: monitor.watch(one.name, one.model, one.calibration))
        service = InspectionService(store, table, monitor, ServeSettings(deadline_s=60))
        service.start()
        try:
            wanted = frozenset({"overlay"})
            request = InspectionRequest("widget", picture, "dent.png", certify=certify, artefacts=wanted)
            plain = service.submit(InspectionRequest("widget", picture, artefacts=wanted)).result(60)
            answer = service.submit(request).result(60)
            again = service.redraw(answer.inspection.id, wanted)
        finally:
            service.stop(10)
    assert again == answer.artefacts
    # The area is drawn where it was proven, and only there.
    assert (answer.artefacts != plain.artefacts) == certify
    assert table.get("widget").facts()["artefacts"] == ["map", "overlay"]
