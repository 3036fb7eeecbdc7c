"""A grid: which detectors meet which products, attacks and certificates; read from a TOML file, made into cells.

Every cell has a key that follows from all that decides its result, so that a result is found again exactly where it
still holds.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import Field

from advrad.attacks.options import AttackOptions
from advrad.attacks.registry import ATTACKS
from advrad.attacks.suite import members_of
from advrad.attacks.threat import Threat
from advrad.baselines.anomalib.models import AnomalibOptions
from advrad.baselines.purify import PurifyOptions
from advrad.baselines.registry import BASELINES
from advrad.benchmark.cells import CellKey
from advrad.certificates.options import CertifyOptions
from advrad.certificates.pipeline import check_confidence, radii_of
from advrad.data import cache
from advrad.data.layouts import Dataset, find_records
from advrad.data.options import DataOptions, WithDataOptions
from advrad.errors import ConfigError, UserError
from advrad.training.options import RunOptions
from advrad.utils.config import Config

#: The kind of our own detector; all others are in :data:`advrad.baselines.registry.BASELINES`, or files of one's own.
OURS = "advrad"

#: Keys of a result from another format are never those of this one.
_FORMAT = 1
_DECIDED_ELSEWHERE = frozenset({"seed", "data", "layout", "category", "size_px", "save_images"})


class Product(Config):
    """Where the images of a category are.

    Attributes:
        data: folder, below that of ``--data``.
        layout: of it.
        category: the product, where the folder holds several.
    """

    data: str
    layout: str = "auto"
    category: str | None = None

    @property
    def options(self) -> DataOptions:
        """How the images are found."""
        return DataOptions(layout=self.layout, category=self.category)


class UserDetectorOptions(Config):
    """A detector of one's own.

    Attributes:
        arguments: given to its function by name.
    """

    arguments: dict[str, Any] = Field(default_factory=dict)


class _File(Config):
    """The file, as far as its shape goes."""

    name: str | None = None
    size_px: int = Field(256, ge=16)
    limit: int | None = Field(None, ge=2)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    diffusion: str | None = None
    categories: dict[str, str | dict[str, Any]] = Field(min_length=1)
    detectors: dict[str, dict[str, Any]] = Field(min_length=1)
    attacks: dict[str, dict[str, Any]] = Field(default_factory=dict)
    certificates: dict[str, dict[str, Any]] = Field(default_factory=dict)


@dataclass(frozen=True)
class DetectorEntry:
    """One detector of a grid.

    Attributes:
        label: its name in the grid.
        kind: :data:`OURS`, one of the table's, or ``FILE.py:NAME``.
        options: of its kind.
        inner: the detector that it stands before.
        trained: the detector of ours whose training it uses.
        source: digest of the files that it rests on: one's own, or those that its options name.
    """

    label: str
    kind: str
    options: Config
    inner: DetectorEntry | None = None
    trained: DetectorEntry | None = None
    source: str | None = None

    @property
    def told(self) -> dict[str, Any]:
        """All that decides what is fitted, but images and seed, as plain JSON values."""
        return {
            "kind": self.kind,
            "options": _told(self.options),
            "inner": None if self.inner is None else self.inner.told,
            "trained": None if self.trained is None else self.trained.told,
            "source": self.source,
        }


_Options = TypeVar("_Options", AttackOptions, CertifyOptions)


@dataclass(frozen=True)
class GridTest(Generic[_Options]):
    """One attack or one certificate of a grid: its options, and the labels of the detectors that meet it."""

    options: _Options
    detectors: frozenset[str]


@dataclass(frozen=True)
class Grid:
    """A grid that makes sense.

    Attributes:
        path: of its file.
        name: of the grid.
        size_px: side at which all detectors are given the images.
        seeds: of training, attacks and certificates.
        categories: by label.
        detectors: by label.
        attacks: by label.
        certificates: by label.
    """

    path: Path
    name: str
    size_px: int
    seeds: tuple[int, ...]
    categories: Mapping[str, Product]
    detectors: Mapping[str, DetectorEntry]
    attacks: Mapping[str, GridTest[AttackOptions]]
    certificates: Mapping[str, GridTest[CertifyOptions]]


@dataclass(frozen=True)
class CellTask:
    """One cell to be measured; without attack and certificate it is the clean one, which always goes along.

    Attributes:
        place: in the grid.
        attack: how it is attacked.
        certificate: how it is certified.
        meant: it is to be worked on.
    """

    place: CellKey
    attack: AttackOptions | None = None
    certificate: CertifyOptions | None = None
    meant: bool = True


@dataclass(frozen=True)
class Job:
    """The cells for which one detector is fitted once.

    Attributes:
        name: of its claim; everybody who has this job gives it the same.
        detector: to be fitted.
        category: label of the product.
        seed: of everything.
        tasks: the cells, the clean one first.
        product: where its images are.
        data: folder of the images.
        dataset: found there; None where the job is not to be worked on.
        images: digest of them.
    """

    name: str
    detector: DetectorEntry
    category: str
    seed: int
    tasks: tuple[CellTask, ...]
    product: Product
    data: Path
    dataset: Dataset | None
    images: str

    @property
    def model(self) -> str:
        """Name of the folder of the training of ours that the detector uses, if any."""
        trained = self.detector if self.detector.kind == OURS else self.detector.trained
        return "" if trained is None else _digest([_FORMAT, trained.told, self.category, self.images, self.seed])


def read_grid(path: Path) -> Grid:
    """Read a grid.

    Args:
        path: TOML; see ``docs/bench.md``.

    Raises:
        ConfigError: the file is missing or no TOML, an option is unknown or out of range, or a name leads nowhere.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; name a grid, such as grids/smoke.toml") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML ({error}); mend it") from None
    file = _File.parse(values, str(path))
    if len(set(file.seeds)) < len(file.seeds) or min(file.seeds) < 0:
        raise ConfigError(f"{path}: seeds: must be 0 or more, and all different")
    products = {
        label: Product.parse({"data": value} if isinstance(value, str) else value, f"{path}: categories.{label}")
        for label, value in file.categories.items()
    }
    detectors = _detectors(path, file)
    common: dict[str, Any] = {} if file.limit is None else {"limit": file.limit}
    attacks = {
        label: _test(path, f"attacks.{label}", AttackOptions, common | given, detectors)
        for label, given in file.attacks.items()
    }
    certificates = {
        label: _test(path, f"certificates.{label}", CertifyOptions, common | given, detectors)
        for label, given in file.certificates.items()
    }
    return Grid(path, file.name or path.stem, file.size_px, file.seeds, products, detectors, attacks, certificates)


def _detectors(path: Path, file: _File) -> dict[str, DetectorEntry]:
    """Every detector, with those that it needs; one that stands before another may come before it in the file."""
    made: dict[str, DetectorEntry] = {}
    ours = [label for label, given in file.detectors.items() if given.get("kind") == OURS]
    shared = file.diffusion or (ours[0] if ours else None)
    if shared is not None and shared not in ours:
        raise ConfigError(f"{path}: diffusion: '{shared}' is no detector of kind {OURS} in this grid")

    def make(label: str, above: tuple[str, ...] = ()) -> DetectorEntry:
        if label in made:
            return made[label]
        where = f"{path}: detectors.{label}"
        if label in above:
            raise ConfigError(f"{where}: stands before itself; name another `inner`")
        given = dict(file.detectors[label])
        kind = given.pop("kind", None)
        if kind is None:
            raise ConfigError(f"{where}: has no `kind`; choose {', '.join((OURS, *BASELINES))}, or FILE.py:NAME")
        if kind == OURS:
            options: Config = RunOptions.parse({"size_px": file.size_px} | given, where)
            made[label] = DetectorEntry(label, OURS, options)
        elif isinstance(kind, str) and ".py:" in kind:
            source = path.parent / kind.rpartition(":")[0]
            if not source.is_file():
                raise ConfigError(f"{where}: kind {kind}: there is no file {source}")
            made[label] = DetectorEntry(
                label, kind, UserDetectorOptions(arguments=given), source=_file_digest([source])
            )
        elif kind in BASELINES:
            row = BASELINES[kind]
            inner = given.pop("inner", None) if row.holds else None
            if row.holds and inner not in file.detectors:
                raise ConfigError(f"{where}: inner: '{inner}' is no detector of this grid; name the one that judges")
            if row.diffusion and shared is None:
                raise ConfigError(f"{where}: needs a trained diffusion model; add a detector of kind {OURS}")
            parsed = row.options.parse(given, where)
            named = [value for _, value in parsed if isinstance(value, Path) and value.is_file()]
            made[label] = DetectorEntry(
                label,
                kind,
                parsed,
                None if inner is None else make(inner, (*above, label)),
                make(shared) if row.diffusion and shared is not None else None,
                _file_digest(named) if named else None,
            )
        else:
            known = (OURS, *BASELINES)
            close = difflib.get_close_matches(str(kind), known, 1)
            mend = f"did you mean {close[0]}?" if close else f"choose {', '.join(known)}, or FILE.py:NAME"
            raise ConfigError(f"{where}: kind '{kind}' is unknown; {mend}")
        return made[label]

    return {label: make(label) for label in file.detectors}


def _test(
    path: Path, where: str, kind: type[_Options], given: dict[str, Any], detectors: Mapping[str, DetectorEntry]
) -> GridTest[_Options]:
    values = dict(given)
    wanted = values.pop("detectors", list(detectors))
    for name in sorted(_DECIDED_ELSEWHERE & set(values)):
        raise ConfigError(f"{path}: {where}: {name} is decided for the whole grid; leave it out here")
    if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
        raise ConfigError(f"{path}: {where}: detectors: must be a list of labels")
    for name in wanted:
        if name not in detectors:
            raise ConfigError(f"{path}: {where}: detectors: '{name}' is no detector of this grid")
    options = kind.parse(values, f"{path}: {where}")
    _fits(path, where, options)
    return GridTest(options, frozenset(wanted))


def _fits(path: Path, where: str, options: AttackOptions | CertifyOptions) -> None:
    """Find now what else would fail in every cell."""
    try:
        if isinstance(options, CertifyOptions):
            check_confidence(options.confidence, options.draws)
            if options.radius is not None:
                radii_of(options.radius)
            return
        Threat.of(options.norm, options.eps)
        if options.attack == "suite":
            members_of(options.budget)
        elif options.attack not in ATTACKS:
            raise ConfigError(f"--attack {options.attack}: is unknown; choose {', '.join((*ATTACKS, 'suite'))}")
    except ConfigError as error:
        raise ConfigError(f"{path}: {where}: {str(error).removeprefix('--')}") from None


def jobs_of(grid: Grid, data: Path, only: Iterable[str] = ()) -> tuple[Job, ...]:
    """The cells of a grid, by the detectors that are fitted for them.

    Args:
        grid: see there.
        data: folder that the categories lie in.
        only: labels of detectors, categories, attacks and certificates. Where detectors or categories are named, no
            others are worked on; where attacks or certificates are, none of either kind but those.

    Returns:
        All jobs, category after category; those that are not to be worked on without images.

    Raises:
        ConfigError: a label is unknown, or a category that is to be worked on cannot be found.
    """
    named = set(only)
    tests = {*grid.attacks, *grid.certificates}
    for label in sorted(named - set(grid.detectors) - set(grid.categories) - tests):
        raise ConfigError(f"--only {label}: is no detector, category, attack or certificate of {grid.path}")
    detectors = named & set(grid.detectors) or set(grid.detectors)
    categories = named & set(grid.categories) or set(grid.categories)
    tests = named & tests or tests
    jobs = []
    for label, product in grid.categories.items():
        dataset, images = None, "absent"
        try:
            dataset = find_records(data / product.data, product.options)
            images = _image_digest(dataset)
        except UserError as error:
            if label in categories:
                raise ConfigError(
                    f"{grid.path}: categories.{label}: {error}; name the folder that holds it with --data, or work on"
                    " others with --only"
                ) from None
        for seed in grid.seeds:
            for entry in grid.detectors.values():
                meant = label in categories and entry.label in detectors
                jobs.append(_job(grid, entry, label, seed, data, dataset if meant else None, images, tests))
    return tuple(jobs)


def _job(
    grid: Grid,
    entry: DetectorEntry,
    category: str,
    seed: int,
    data: Path,
    dataset: Dataset | None,
    images: str,
    tests: Container[str],
) -> Job:
    product = grid.categories[category]
    told = {
        "format": _FORMAT,
        "labels": [entry.label, category],
        "detector": entry.told,
        "size_px": grid.size_px,
        "product": [product.layout, product.category],
        "pictures": images,
        "seed": seed,
    }

    def placed(options: WithDataOptions) -> dict[str, Any]:
        """The seed, and where the images are."""
        where = {"layout": product.layout, "category": product.category}
        return {"seed": seed, "data": options.data.model_copy(update=where)}

    place = CellKey(key=_digest(told), detector=entry.label, kind=entry.kind, category=category, seed=seed)
    tasks = [CellTask(place)]
    for label, attack in grid.attacks.items():
        if entry.label in attack.detectors:
            threat = attack.options.model_copy(update=placed(attack.options) | {"size_px": grid.size_px})
            key = _digest(told | {"attack": [label, _told(threat)]})
            here = place.model_copy(update={"key": key, "attack": label})
            tasks.append(CellTask(here, attack=threat, meant=label in tests))
    for label, certificate in grid.certificates.items():
        if entry.label in certificate.detectors:
            proof = certificate.options.model_copy(update=placed(certificate.options))
            key = _digest(told | {"certificate": [label, _told(proof)]})
            here = place.model_copy(update={"key": key, "certificate": label})
            tasks.append(CellTask(here, certificate=proof, meant=label in tests))
    return Job(place.key, entry, category, seed, tuple(tasks), product, data / product.data, dataset, images)


def _image_digest(dataset: Dataset) -> str:
    """Of what every image and mask holds, and what it is said to be."""
    told = hashlib.sha256()
    for record in dataset.records:
        name = record.path.relative_to(dataset.root).as_posix()
        told.update(f"{name}|{record.split}|{record.label}|{record.defect}|".encode("utf-8", "surrogateescape"))
        for path in (record.path, record.mask):
            told.update((None if path is None else cache.digest(path)) or b"-")
    return told.hexdigest()


def _file_digest(paths: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(cache.digest(path) or b"-" for path in paths)).hexdigest()


#: Options younger than the first published results. Left out, they name the cell that was named before there were any.
_YOUNGER: dict[type[Config], frozenset[str]] = {
    AttackOptions: frozenset({"gradients"}),
    AnomalibOptions: frozenset({"pictures"}),
    RunOptions: frozenset({"harden"}),
    PurifyOptions: frozenset({"learns"}),
}


def _told(options: Config) -> dict[str, Any]:
    """All options that a result depends on, as plain JSON values."""
    younger, fields = _YOUNGER.get(type(options), frozenset()), type(options).model_fields
    left_out = {name for name in younger if getattr(options, name) == fields[name].default}
    told = options.model_dump(mode="json", exclude=left_out)
    if isinstance(options, AttackOptions | CertifyOptions) and not options.data.skip_bad:
        del told["skip_bad"]  # younger too
    return told


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
