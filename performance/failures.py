"""Where a detector fails: one picture of the missed defects and the false alarms among the test images.

    python performance/failures.py RUN DATA -o failures.jpg

Each failure is a pair. On the left the image, with the true defect outlined, and the parts where the detector finds
them. On the right its anomaly map with the proven defect area, drawn as in ``advrad report``. The last line of the
output is JSON.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import advrad
from advrad.errors import ConfigError
from advrad.inference.heatmaps import outline
from advrad.report.content import Gallery
from advrad.report.proofs import ImageProofs
from advrad.report.registration import draw_registration, registered_views
from advrad.utils.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from advrad.detectors.saved import SavedDetector
    from advrad.inference.evaluation import EvaluationResult
    from advrad.report.evaluation_report import GalleryItem

#: Failures in a row of the picture, and side of an image, inches at 100 pixels.
_PAIRS, _SIDE_INCHES = 4, 1.6
#: Largest size of the picture, bytes, and the qualities of a JPEG that are tried for it.
_MOST_BYTES, _QUALITIES = 200_000, (90, 80, 70, 60, 50, 40, 30, 20, 10)


def failures(evaluation: EvaluationResult) -> tuple[list[int], list[int]]:
    """Places of the missed defects, lowest score first, and of the false alarms, highest score first."""
    if evaluation.threshold is None:
        raise ConfigError("the detector has no threshold, so nothing is missed")
    called, order = evaluation.scores > evaluation.threshold, np.argsort(evaluation.scores, kind="stable")
    missed = [int(index) for index in order if evaluation.labels[index] == 1 and not called[index]]
    alarms = [int(index) for index in order[::-1] if evaluation.labels[index] == 0 and called[index]]
    return missed, alarms


def pair(item: GalleryItem, detector: SavedDetector) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The image with true defect and parts, and the image with anomaly map and proven defect area, (h, w, 3) each."""
    image = item.image
    for view in registered_views(detector):
        image = draw_registration(item.name, image, view).image
    if item.mask is not None:
        image = outline(image, item.mask)
    return image, image if item.heat is None else item.heat


def draw(items: Sequence[GalleryItem], detector: SavedDetector, title: str) -> Figure:
    """Draw the sheet of all failures."""
    from matplotlib.figure import Figure

    rows = -(-len(items) // _PAIRS)
    size = (2 * _PAIRS * _SIDE_INCHES, rows * (_SIDE_INCHES + 0.4) + 0.4)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    figure.suptitle(title, fontsize=9)
    grid = figure.subplots(rows, 2 * _PAIRS, squeeze=False).flatten()
    for axes in grid:
        axes.set_axis_off()
    for place, item in enumerate(items):
        left, right = grid[2 * place : 2 * place + 2]
        for axes, picture in zip((left, right), pair(item, detector), strict=True):
            axes.imshow(picture)
        left.set_title(f"{'missed' if item.label else 'false alarm'}\n{item.name}", fontsize=7)
        right.set_title(f"score {item.score:.3g}\n{item.proof}", fontsize=7)
    return figure


def save(path: Path, figure: Figure) -> int:
    """Write the picture as a JPEG or PNG below 200 kB; returns its size in bytes."""
    kind = "png" if path.suffix.lower() == ".png" else "jpeg"
    for quality in _QUALITIES if kind == "jpeg" else (None,):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, pil_kwargs={} if quality is None else {"quality": quality})
        if buffer.tell() < _MOST_BYTES:
            with atomic_path(path) as temporary:
                temporary.write_bytes(buffer.getvalue())
            return buffer.tell()
    raise ConfigError(f"{path}: the picture is larger than {_MOST_BYTES // 1000} kB; use a JPEG or a smaller --limit")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Draw the failures of a model and print how many there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="model folder")
    parser.add_argument("data", type=Path, help="folder of images")
    parser.add_argument("-o", "--output", type=Path, default=Path("failures.jpg"), help="JPEG or PNG to write")
    parser.add_argument("--limit", type=int, default=12, help="failures of each kind that are shown, the worst first")
    asked = parser.parse_args(arguments)
    detector = advrad.load_detector(asked.run)
    evaluation = advrad.evaluate(detector, asked.data)
    missed, alarms = failures(evaluation)
    proofs = ImageProofs(detector)
    found: dict[str, Any] = {
        "product": evaluation.category,
        "threshold": evaluation.threshold,
        "missed": len(missed),
        "anomalous": evaluation.n_anomalous,
        "false_alarms": len(alarms),
        "normal": evaluation.n_normal,
        "bytes": 0,
    }
    if missed or alarms:
        items = Gallery(evaluation, detector, proofs).items([*missed[: asked.limit], *alarms[: asked.limit]])
        title = (
            f"{evaluation.category}: {len(missed)} of {evaluation.n_anomalous} defects missed, {len(alarms)} false"
            f" alarms on {evaluation.n_normal} normal images; threshold {evaluation.threshold:.3g}"
        )
        if proofs.area_radius:
            title += f"; the broken line surrounds what is proven at {proofs.area_radius}"
        found["bytes"] = save(asked.output, draw(items, detector, title))
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
