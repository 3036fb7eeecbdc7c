"""Benchmark folders in the format that ``advrad bench`` writes, made without a benchmark."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

PLACE = ("key", "detector", "kind", "category", "seed", "attack", "certificate")
MACHINE = {"processor": "Processor A", "cores": 2, "memory_gib": 7.5, "gpu": None}


def cell(detector: str, category: str = "nut", seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Make a finished cell; without attack, unless ``attack`` or ``certificate`` is given."""
    values: dict[str, Any] = {
        "detector": detector,
        "kind": detector,
        "category": category,
        "seed": seed,
        "attack": None,
        "certificate": None,
        "status": "done",
        "error": None,
        "figures": {},
        "options": {},
        "versions": {"torch": "2.14.1", "advrad": "1.0"},
        "machine": MACHINE,
        "finished": "2026-01-02T03:04:05+00:00",
        "seconds": 10.0,
        "fit_seconds": 60.0,
        "gradients": None,
        "code": "c0de",
    } | changes
    place = repr([values[name] for name in PLACE[1:]])
    return {"key": f"key-{zlib.crc32(place.encode()):x}"} | values


def clean(detector: str, area: float, category: str = "nut", seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Make a cell without attack: an AUROC, an interval of 0.02 to each side, and 20 images."""
    figures = {"image_auroc": area, "image_auroc_ci": [area - 0.02, area + 0.02], "n_good": 8, "n_defect": 12}
    return cell(detector, category, seed, **{"figures": figures} | changes)


def attacked(detector: str, area: float, category: str = "nut", seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Make a cell with an attack."""
    figures = {
        "clean_auroc": 0.9,
        "robust_auroc": area,
        "robust_auroc_ci": [area - 0.04, area + 0.04],
        "norm": "linf",
        "eps": 2 / 255,
        "n_good": 8,
        "n_defect": 12,
        "gradients": 500,
    }
    figures |= changes.pop("figures", {})
    return cell(detector, category, seed, **{"attack": "pgd", "figures": figures, "gradients": 500} | changes)


def missing(values: dict[str, Any]) -> dict[str, Any]:
    """Reduce a cell to its plan, as if it had not run."""
    return {name: values[name] for name in PLACE}


def failed(values: dict[str, Any], error: str = "ValueError: no such thing") -> dict[str, Any]:
    """Turn a cell into one that failed."""
    return values | {"status": "failed", "error": error, "figures": {}, "gradients": None}


def make_bench(folder: Path, cells: list[dict[str, Any]], **plan: Any) -> Path:
    """Write a benchmark folder; cells without a status are only planned."""
    (folder / "cells").mkdir(parents=True)
    places = [{name: values[name] for name in PLACE} for values in cells]
    write(folder / "grid.json", {"format": 1, "name": "by hand", "grid": 'name = "by hand"', "cells": places} | plan)
    for values in cells:
        if "status" in values:
            write(folder / "cells" / f"{values['key']}.json", values)
    return folder


def write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")
