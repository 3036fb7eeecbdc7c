"""Certification from the command line; more is tested with the packages of attacks and certificates."""

from __future__ import annotations

import json
from pathlib import Path

from trained_run import Cli


def test_certify_runs_on_a_trained_model(cli: Cli, widgets: Path, widget_run: Path, tmp_path: Path) -> None:
    options = ("--radius", 0.05, "--draws", 40, "--limit", 2, "-o", tmp_path / "out")
    done = cli("certify", widget_run, widgets, *options, "--json")
    assert done.status == 0, done.err
    result = json.loads(done.out)
    assert result["method"] == "two-path" and result["certified_auroc"]["0.05"] <= result["clean_auroc"]
