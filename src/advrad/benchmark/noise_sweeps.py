"""Detectors that differ only in their noise level: what more noise costs and gains.

Noise that hides an adversarial perturbation also hides small defects: the dilemma of purification. A detector that
compares the image with its reconstruction can be less affected. The families of a grid show by how much.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from advrad.benchmark.cells import Results
from advrad.benchmark.tables import Entry, Row, Table, mark_best


@dataclass(frozen=True, slots=True)
class Point:
    """One detector of a family.

    Attributes:
        sigma: Noise level in [0, 1] pixel units.
        label: Label of the detector.
        standard: Mean AUROC over categories without attack.
        robust: Mean AUROC under each attack, in grid order.
        certified: Mean certified AUROC at each radius of each certificate.
    """

    sigma: float
    label: str
    standard: Entry
    robust: tuple[Entry, ...]
    certified: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """Detectors that differ only in their noise level.

    Attributes:
        name: Name of the family.
        points: Its detectors by ascending noise level.
    """

    name: str
    points: tuple[Point, ...]


def families_of(results: Results, overview: Table, attacks: int) -> tuple[Family, ...]:
    """Group detectors of one kind whose options differ only in ``sigma``.

    Args:
        results: Results of the bench.
        overview: Means by detector: first the standard figure, then those under attack, then certified ones.
        attacks: Number of columns under attack.
    """
    options = {cell.detector: cell.options for cell in results.ended(results.planned)}
    kinds = {key.detector: key.kind for key in results.planned}
    grouped: dict[str, dict[str, list[Point]]] = {}
    for row in overview.rows:
        others = dict(options.get(row.label, {}))
        sigma = others.pop("sigma", None)
        if isinstance(sigma, int | float) and not isinstance(sigma, bool):
            standard, robust, certified = row.entries[0], row.entries[1 : 1 + attacks], row.entries[1 + attacks :]
            point = Point(float(sigma), row.label, standard, robust, certified)
            same = json.dumps(others, sort_keys=True)
            grouped.setdefault(kinds[row.label], {}).setdefault(same, []).append(point)
    families = []
    for kind, groups in grouped.items():
        real = {same: points for same, points in groups.items() if len({point.sigma for point in points}) > 1}
        for same, points in real.items():
            name = ", ".join([kind, *_differing(json.loads(same), [json.loads(other) for other in real])])
            families.append(Family(name, tuple(sorted(points, key=lambda point: point.sigma))))
    return tuple(families)


def _differing(options: dict[str, object], others: Sequence[dict[str, object]]) -> list[str]:
    """Options in which a family differs from others of its kind, as text."""
    return [
        f"{name} {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in options.items()
        if any(other.get(name) != value for other in others)
    ]


def dilemma_table(families: Iterable[Family], columns: tuple[str, ...]) -> Table:
    """Table of all families over their noise level, with the columns of the overview."""
    rows: list[Row] = []
    for family in families:
        # Mark the best noise level of each family: the dilemma is that it differs between the columns.
        rows += mark_best(
            [
                Row(f"{family.name}, sigma {point.sigma:g}", (point.standard, *point.robust, *point.certified))
                for point in family.points
            ]
        )
    title = "Effect of the noise level: AUROC over sigma, mean over categories, the best of each family bold"
    return Table("dilemma", "dilemma", title, "Detector and noise", columns, tuple(rows))
