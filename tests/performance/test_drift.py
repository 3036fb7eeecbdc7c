"""The script behind the delays in docs/drift.md runs, and the document shows its columns."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("performance_drift", ROOT / "performance" / "drift.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_delays_are_measured_and_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    drift = script()
    for name, value in {"REFERENCES": (60, 200), "MOST": 60, "QUIET": 30, "IMAGES": 40, "REFERENCE_IMAGES": 20}.items():
        monkeypatch.setattr(drift, name, value)
    drift.main(["--streams", "3", "--size", "32"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    total = result["delays"]["every image wrong (5 sd)"]
    assert set(total) == {"60", "200", "200, then 30 quiet"}
    assert total["200"][0] <= total["60"][0] < 20 and total["60"][2] == 1
    assert all(found == 0 for _, _, found in result["delays"][drift.NOTHING].values())
    assert result["images"]["lamp 0 %"] == {"brightness": None, "sharpness": None}
    assert result["images"]["blur 1 px"]["sharpness"] < 40


def test_the_document_shows_all_rows() -> None:
    drift, text = script(), (ROOT / "docs" / "drift.md").read_text(encoding="utf-8")
    for change in (*drift.STEPS, drift.RAMP, drift.NOTHING):
        assert f"| {change} |" in text
