"""The cells of a bench folder: what was planned, what was measured, and reading both back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from advrad.errors import ConfigError, DataError
from advrad.utils.config import Config

#: Format of a bench folder that this release reads.
FORMAT = 1

Share = Annotated[float, Field(ge=0, le=1)]
Interval = tuple[Share, Share]


class _Stored(Config):
    """Read from a file that may hold more than is needed here."""

    model_config = ConfigDict(extra="ignore")


class CellKey(_Stored):
    """One cell of the grid, measured or not.

    Attributes:
        key: names its file.
        detector: label of the detector in the grid.
        kind: of the detector; several labels may share it.
        category: label of the product.
        seed: of training and attack.
        attack: label of the attack; None for none.
        certificate: label of the certificate; None for none.
    """

    key: str = Field(pattern=r"^[\w-]+$")
    detector: str
    kind: str
    category: str
    seed: int
    attack: str | None = None
    certificate: str | None = None


class Reason(_Stored):
    """Why an audit distrusts its own figure; see :class:`advrad.attacks.sanity_checks.Flag`."""

    name: str
    words: str = ""


class Figures(_Stored):
    """What a cell measured; None where it did not. Names as in ``robustness``, ``certainty`` and ``evaluate``."""

    image_auroc: Share | None = None
    image_auroc_ci: Interval | None = None
    pixel_auroc: Share | None = None
    aupro: Share | None = None
    clean_auroc: Share | None = None
    robust_auroc: Share | None = None
    robust_auroc_ci: Interval | None = None
    robust_auroc_anomalous_only: Share | None = None
    robust_auroc_normal_only: Share | None = None
    robust_auroc_8bit: Share | None = None
    norm: str | None = None
    eps: float | None = None
    arithmetic: str | None = None
    suite_version: int | None = None
    certified_auroc: dict[str, Share | None] = Field(default_factory=dict)
    method: str | None = None
    draws: int | None = None
    confidence: float | None = None
    rounding_l2: float | None = None
    n_good: int | None = None
    n_defect: int | None = None
    gradients: int | None = None
    note: str | None = None
    flags: tuple[Reason, ...] = ()
    warnings: tuple[str, ...] = ()

    @field_validator("certified_auroc")
    @classmethod
    def _radii_are_numbers(cls, areas: dict[str, float | None]) -> dict[str, float | None]:
        for radius in areas:
            float(radius)
        return areas

    @property
    def images(self) -> int | None:
        """How many images were judged, or None where it is not recorded."""
        return None if self.n_good is None or self.n_defect is None else self.n_good + self.n_defect


class Machine(_Stored):
    """Where a cell ran."""

    processor: str = "unknown processor"
    cores: int | None = None
    memory_gib: float | None = None
    gpu: str | None = None

    @property
    def words(self) -> str:
        """On one line."""
        cores = f", {self.cores} cores" if self.cores else ""
        memory = f", {self.memory_gib:g} GiB" if self.memory_gib else ""
        return f"{self.processor}{cores}{memory}" + (f", {self.gpu}" if self.gpu else "")


class Cell(CellKey):
    """One cell that ran to its end, good or bad.

    Attributes:
        status: ``failed`` cells hold an ``error`` and no figures.
        error: one line.
        figures: what was measured.
        options: of the detector.
        versions: of the packages that matter, by name.
        machine: where it ran.
        finished: ISO time.
        seconds: that judging, attacking or certifying took.
        fit_seconds: that the fit took, which all cells of one detector, category and seed share.
        gradients: evaluations that the attack made; None where there was none.
        code: digest of the code that ran.
    """

    status: Literal["done", "failed"]
    error: str | None = None
    figures: Figures = Figures()
    options: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    machine: Machine = Machine()
    finished: str = ""
    seconds: float | None = None
    fit_seconds: float | None = None
    gradients: int | None = None
    code: str = ""

    @property
    def done(self) -> bool:
        """Whether it holds figures."""
        return self.status == "done"

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why its figure is to be distrusted; a certificate's warnings count as such."""
        warnings = self.figures.warnings if self.certificate is not None else ()
        return self.figures.flags + tuple(Reason(name="distrust the certificate", words=line) for line in warnings)


@dataclass(frozen=True)
class Results:
    """A grid and what is known of it.

    Attributes:
        name: of the grid.
        grid: text of its file.
        places: every cell planned, in grid order.
        cells: those that ended, by key.
        strangers: cell files that the grid does not name; they are left out.
    """

    name: str
    grid: str
    places: tuple[CellKey, ...]
    cells: Mapping[str, Cell]
    strangers: int = 0

    def order(self, attribute: Callable[[CellKey], str | None]) -> tuple[str, ...]:
        """The values of an attribute of the places, each once, in grid order, without None."""
        return tuple(dict.fromkeys(value for place in self.places if (value := attribute(place)) is not None))

    def ended(self, places: Iterable[CellKey]) -> tuple[Cell, ...]:
        """Of these places those cells that ended, good or bad, in the same order."""
        return tuple(self.cells[place.key] for place in places if place.key in self.cells)

    @property
    def done(self) -> tuple[Cell, ...]:
        """Cells with figures, in grid order."""
        return tuple(cell for cell in self.ended(self.places) if cell.done)

    @property
    def failed(self) -> tuple[Cell, ...]:
        """Cells that failed, in grid order."""
        return tuple(cell for cell in self.ended(self.places) if not cell.done)


def read_bench(folder: Path) -> Results:
    """Read a bench folder: ``grid.json``, and ``cells/KEY.json`` of every cell that ended.

    Args:
        folder: as ``advrad bench`` makes it; it may still be running.

    Raises:
        DataError: there is no grid, it is damaged or of another format, a cell file is damaged or belongs elsewhere,
            or no cell holds figures yet.
    """
    path = folder / "grid.json"
    if not path.is_file():
        raise DataError(f"{folder}: holds no grid.json; name a folder made by `advrad bench GRID -o {folder}`")
    mend = "run `advrad bench` with its grid again, which keeps the finished cells"
    plan = _read(path, mend)
    if plan.get("format") != FORMAT:
        raise DataError(f"{path}: is of format {plan.get('format')}, not {FORMAT}; use the advrad that wrote it")
    if not isinstance(plan.get("cells"), list) or not all(isinstance(values, dict) for values in plan["cells"]):
        raise DataError(f"{path}: is damaged (cells: not a list of cells); {mend}")
    try:
        places = tuple(CellKey.parse(values, str(path)) for values in plan["cells"])
    except ConfigError as error:
        raise DataError(f"{path}: is damaged ({_reason(error, path)}); {mend}") from None
    cells = {place.key: cell for place in places if (cell := read_cell(folder, place)) is not None}
    files = {file.stem for file in (folder / "cells").glob("[!.]*.json")}
    strangers = len(files - {place.key for place in places})
    results = Results(str(plan.get("name") or folder.name), str(plan.get("grid", "")), places, cells, strangers)
    if not results.done:
        failed = results.failed
        told = f" ({len(failed)} failed, the first with: {failed[0].error})" if failed else ""
        raise DataError(f"{folder}: none of {len(places)} cells is done{told}; run `advrad bench` again, then report")
    return results


def read_cell(folder: Path, place: CellKey) -> Cell | None:
    """One cell of a bench folder; None if it did not end yet.

    Raises:
        DataError: its file is damaged or belongs to another cell.
    """
    path = folder / "cells" / f"{place.key}.json"
    if not path.exists():
        return None
    mend = "delete it, and `advrad bench` makes it anew"
    try:
        cell = Cell.parse(_read(path, mend), str(path))
    except ConfigError as error:
        raise DataError(f"{path}: is damaged ({_reason(error, path)}); {mend}") from None
    for name, planned in place.model_dump().items():
        found = getattr(cell, name)
        if found != planned:
            raise DataError(f"{path}: is of another cell ({name} {found}, not {planned}); {mend}")
    return cell


def _read(path: Path, mend: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: is damaged ({error}); {mend}") from None
    if not isinstance(values, dict):
        raise DataError(f"{path}: is damaged (not a set of named values); {mend}")
    return values


def _reason(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")
