"""What an export costs: AUROC, scores and verdicts of a model and of its exports on test images, side by side.

The exports are written to a folder of their own, unless they are there already; those that are refused are listed with
the reason::

    python performance/export.py RUN DATA [-o FOLDER] [--kinds openvino-float32,onnx-float32,...]

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import advrad
from advrad.data.layouts import find_records
from advrad.detectors.exported_folder import is_export
from advrad.detectors.saved import SavedDetector
from advrad.metrics import auroc

KINDS = ("openvino-float32", "openvino-bfloat16", "openvino-int8", "onnx-float32")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, and return the values of the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="model folder")
    parser.add_argument("data", type=Path, help="folder of images, with normal and anomalous test images")
    parser.add_argument("-o", "--output", type=Path, help="folder for the exports; a temporary one by default")
    parser.add_argument("--kinds", default=",".join(KINDS), help="exports to make")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        result = _measured(options.run, options.data, options.output or Path(temporary), options.kinds.split(","))
    print(json.dumps(result))
    return result


def _measured(run: Path, data: Path, output: Path, kinds: Sequence[str]) -> dict[str, Any]:
    """Make the exports, score the test images with all, and compare."""
    records = [record for record in find_records(data).records if record.split == "test"]
    paths = [record.path for record in records]
    labels = np.array([record.label for record in records])
    expected, verdicts = _scores(advrad.load_detector(run), paths)
    result: dict[str, Any] = {
        "run": run.name,
        "images": len(paths),
        "torch": {"auroc": auroc(labels, expected), "megabytes": _megabytes(run)},
    }
    print(f"{'PyTorch':20} AUROC {result['torch']['auroc']:.4f}")
    for kind in kinds:
        to, precision = kind.split("-")
        folder = output / kind
        try:
            if not is_export(folder):
                advrad.export(run, folder, to=to, precision=precision, data=data)  # type: ignore[arg-type]
        except advrad.AdvradError as error:
            result[kind] = {"refused": str(error)}
            print(f"{kind:20} refused: {error}")
            continue
        found, said = _scores(advrad.load_detector(folder), paths)
        unit = np.maximum(np.abs(expected), expected[labels == 0].std())
        result[kind] = {
            "auroc": auroc(labels, found),
            "auroc_lost": auroc(labels, expected) - auroc(labels, found),
            "score_difference": float((np.abs(found - expected) / unit).max()),
            "flips": int((said != verdicts).sum()),
            "megabytes": _megabytes(folder),
        }
        print(f"{kind:20} " + "  ".join(f"{name} {value:.4g}" for name, value in result[kind].items()))
    return result


def _scores(detector: SavedDetector, paths: Sequence[Path]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Scores and verdicts of image files."""
    found = list(detector.predict(paths))
    return np.array([one.score for one in found]), np.array([one.defective for one in found])


def _megabytes(folder: Path) -> float:
    """Size of the files of a folder, without those of its training."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / 1e6


if __name__ == "__main__":
    main()
