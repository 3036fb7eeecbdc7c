"""The cells of a bench folder: what is planned, what was measured, and reading both from files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from advrad.benchmark.store import BenchStore, open_store
from advrad.errors import ConfigError, DataError
from advrad.utils.config import Config

if TYPE_CHECKING:
    from advrad.attacks.results import AttackResult
    from advrad.certificates.results import CertificationResult
    from advrad.detectors.config import TestedFigures

#: Format of a bench folder.
FORMAT = 1
#: Name of the file that holds the plan of a bench.
GRID_NAME = "grid.json"

Share = Annotated[float, Field(ge=0, le=1)]
Interval = tuple[Share, Share]


class _Stored(Config):
    """A record read from a file that may hold further fields."""

    model_config = ConfigDict(extra="ignore")


class CellKey(_Stored):
    """One cell of the grid, measured or not.

    Attributes:
        key: Digest of everything that decides the result; the name of the cell's file.
        detector: Label of the detector.
        kind: Kind of the detector; several labels may have the same kind.
        category: Label of the product.
        seed: Seed of training and attack.
        attack: Label of the attack; None for none.
        certificate: Label of the certificate; None for none.
    """

    key: str = Field(pattern=r"^[\w-]+$")
    detector: str
    kind: str
    category: str
    seed: int
    attack: str | None = None
    certificate: str | None = None


class Reason(_Stored):
    """Why an attack distrusts its own figure; see :class:`advrad.attacks.sanity_checks.Flag`.

    Attributes:
        name: Short name.
        words: Explanation.
    """

    name: str
    words: str = ""


class Figures(_Stored):
    """The figures that a cell keeps of an evaluation, an attack or a certification; None if not measured.

    ``certified_at_eps`` is the AUROC that no perturbation within ``eps`` of the attack leaves less of, by exact bounds;
    detectors without bounds have none. ``found_at_eps`` is the share of defects that are certainly called defective,
    whatever perturbation within ``eps`` is added to them; detectors without bounds or without threshold have none.
    ``tpr`` and ``fpr`` are the shares of anomalous and of normal images that are called defective without attack.
    """

    image_auroc: Share | None = None
    image_auroc_ci: Interval | None = None
    pixel_auroc: Share | None = None
    aupro: Share | None = None
    tpr: Share | None = None
    fpr: Share | None = None
    clean_auroc: Share | None = None
    robust_auroc: Share | None = None
    robust_auroc_ci: Interval | None = None
    robust_auroc_anomalous_only: Share | None = None
    robust_auroc_normal_only: Share | None = None
    robust_auroc_8bit: Share | None = None
    certified_at_eps: Share | None = None
    certified_at_eps_ci: Interval | None = None
    found_at_eps: Share | None = None
    norm: str | None = None
    eps: float | None = None
    arithmetic: str | None = None
    suite_version: int | None = None
    certified_auroc: dict[str, Share | None] = Field(default_factory=dict)
    method: str | None = None
    n_samples: int | None = Field(None, alias="draws")
    confidence: float | None = None
    rounding_l2: float | None = None
    n_normal: int | None = Field(None, alias="n_good")
    n_anomalous: int | None = Field(None, alias="n_defect")
    gradients: int | None = None
    note: str | None = None
    flags: tuple[Reason, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, result: TestedFigures | AttackResult | CertificationResult) -> Figures:
        """Take the figures that a cell keeps from a result.

        Args:
            result: Result of an evaluation, an attack or a certification.
        """
        kept = {field.alias or name for name, field in cls.model_fields.items()}
        values = {name: value for name, value in result.to_dict().items() if name in kept and value is not None}
        return cls.parse(values, type(result).__name__)

    @field_validator("certified_auroc")
    @classmethod
    def _radii_are_numbers(cls, areas: dict[str, float | None]) -> dict[str, float | None]:
        for radius in areas:
            float(radius)
        return areas

    @property
    def images(self) -> int | None:
        """Number of scored images; None if not recorded."""
        return None if self.n_normal is None or self.n_anomalous is None else self.n_normal + self.n_anomalous


class Machine(_Stored):
    """The machine that measured a cell.

    Attributes:
        processor: Name of the processor.
        cores: Number of processor cores.
        memory_gib: Memory in GiB.
        gpu: Name of the GPU; None if there is none.
    """

    processor: str = "unknown processor"
    cores: int | None = None
    memory_gib: float | None = None
    gpu: str | None = None

    @property
    def words(self) -> str:
        """The machine on one line."""
        cores = f", {self.cores} cores" if self.cores else ""
        memory = f", {self.memory_gib:g} GiB" if self.memory_gib else ""
        return f"{self.processor}{cores}{memory}" + (f", {self.gpu}" if self.gpu else "")


class Cell(CellKey):
    """A finished cell, successful or failed.

    Attributes:
        status: ``done``, or ``failed`` with an ``error`` and no figures.
        error: Error message on one line.
        figures: Measured figures.
        options: Options of the detector.
        versions: Versions of the packages that the result depends on, by name.
        machine: Machine that measured it.
        finished: End of the measurement, ISO 8601.
        seconds: Time of scoring, attacking or certifying, in seconds.
        fit_seconds: Time of the fit in seconds, shared by all cells of one detector, category and seed.
        gradients: Number of gradient evaluations of the attack; None without an attack.
        code: Digest of advrad's source code.
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
        """Whether the cell has figures."""
        return self.status == "done"

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why the figure is distrusted; the warnings of a certificate count as such."""
        warnings = self.figures.warnings if self.certificate is not None else ()
        return self.figures.flags + tuple(Reason(name="distrust the certificate", words=line) for line in warnings)


@dataclass(frozen=True)
class Results:
    """A grid and its results.

    Attributes:
        name: Name of the grid.
        grid: Text of its file.
        planned: Every cell of the grid, in grid order.
        cells: Finished cells by key.
        orphans: Number of result files that belong to no cell of the grid; they are ignored.
    """

    name: str
    grid: str
    planned: tuple[CellKey, ...]
    cells: Mapping[str, Cell]
    orphans: int = 0

    def order(self, attribute: Callable[[CellKey], str | None]) -> tuple[str, ...]:
        """List the distinct values of an attribute over the planned cells, in grid order, without None.

        Args:
            attribute: Function that reads the attribute.
        """
        return tuple(dict.fromkeys(value for key in self.planned if (value := attribute(key)) is not None))

    def ended(self, cells: Iterable[CellKey]) -> tuple[Cell, ...]:
        """Finished cells among the given ones, successful or failed, in the same order."""
        return tuple(self.cells[cell.key] for cell in cells if cell.key in self.cells)

    @property
    def done(self) -> tuple[Cell, ...]:
        """Cells with figures, in grid order."""
        return tuple(cell for cell in self.ended(self.planned) if cell.done)

    @property
    def failed(self) -> tuple[Cell, ...]:
        """Failed cells, in grid order."""
        return tuple(cell for cell in self.ended(self.planned) if not cell.done)


def read_bench(place: Path | str) -> Results:
    """Read a bench: its grid and the results of every finished cell.

    Args:
        place: Folder that ``advrad bench`` wrote, or URL of one in a bucket; it may still be running.

    Raises:
        DataError: The grid is missing, damaged or of another format, a result is damaged or belongs to another cell, no
            cell has figures yet, or a bucket cannot be read.

    Example:
        >>> from pathlib import Path
        >>> from advrad.benchmark import read_bench
        >>> results = read_bench(Path("docs/results/cpu"))  # doctest: +SKIP
        >>> len(results.done), results.order(lambda cell: cell.category)  # doctest: +SKIP
    """
    store = open_store(place)
    path = f"{store.place}/{GRID_NAME}"
    fix = "run `advrad bench` with its grid again, which keeps the finished cells"
    [plan] = _read(store, [GRID_NAME], fix)
    if plan is None:
        raise DataError(f"{place}: holds no grid.json; name a folder made by `advrad bench GRID -o {place}`")
    if plan.get("format") != FORMAT:
        raise DataError(f"{path}: is of format {plan.get('format')}, not {FORMAT}; use the advrad that wrote it")
    if not isinstance(plan.get("cells"), list) or not all(isinstance(values, dict) for values in plan["cells"]):
        raise DataError(f"{path}: is damaged (cells: not a list of cells); {fix}")
    try:
        planned = tuple(CellKey.parse(values, path) for values in plan["cells"])
    except ConfigError as error:
        raise DataError(f"{path}: is damaged ({_reason(error, path)}); {fix}") from None
    cells = read_cells(store, planned)
    orphans = len(store.stems("cells") - {key.key for key in planned})
    name = str(plan.get("name") or Path(store.place).name)
    results = Results(name, str(plan.get("grid", "")), planned, cells, orphans)
    if not results.done:
        failed = results.failed
        told = f" ({len(failed)} failed, the first with: {failed[0].error})" if failed else ""
        raise DataError(f"{place}: none of {len(planned)} cells is done{told}; run `advrad bench` again, then report")
    return results


def read_cells(store: BenchStore, keys: Iterable[CellKey]) -> dict[str, Cell]:
    """Read the finished cells of a bench, successful or failed.

    Args:
        store: Where they are.
        keys: The cells to look for.

    Returns:
        The cells that are finished, by key.

    Raises:
        DataError: A file is damaged or belongs to another cell, or a bucket cannot be read.
    """
    keys = tuple(keys)
    fix = "delete it, and `advrad bench` measures the cell again"
    names = [cell_name(key.key) for key in keys]
    found: dict[str, Cell] = {}
    for key, name, values in zip(keys, names, _read(store, names, fix), strict=True):
        if values is not None:
            found[key.key] = _parsed(key, values, f"{store.place}/{name}", fix)
    return found


def cell_name(key: str) -> str:
    """Name of the file of a cell in a bench.

    Args:
        key: Key of the cell.
    """
    return f"cells/{key}.json"


def _parsed(key: CellKey, values: dict[str, Any], path: str, fix: str) -> Cell:
    try:
        cell = Cell.parse(values, path)
    except ConfigError as error:
        raise DataError(f"{path}: is damaged ({_reason(error, path)}); {fix}") from None
    for name, planned in key.model_dump().items():
        found = getattr(cell, name)
        if found != planned:
            raise DataError(f"{path}: is of another cell ({name} {found}, not {planned}); {fix}")
    return cell


def _read(store: BenchStore, names: Sequence[str], fix: str) -> list[dict[str, Any] | None]:
    """The named values in JSON files; None for those that are missing."""
    found: list[dict[str, Any] | None] = []
    for name, content in zip(names, store.read(names), strict=True):
        try:
            values = None if content is None else json.loads(content.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{store.place}/{name}: is damaged ({error}); {fix}") from None
        if content is not None and not isinstance(values, dict):
            raise DataError(f"{store.place}/{name}: is damaged (not a set of named values); {fix}")
        found.append(values)
    return found


def _reason(error: Exception, path: str) -> str:
    return str(error).removeprefix(f"{path}: ")
