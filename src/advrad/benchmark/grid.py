"""A grid: the detectors, products, attacks and certificates of a bench, read from a TOML file."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import Field

from advrad.attacks.options import AttackOptions
from advrad.attacks.registry import ATTACKS
from advrad.attacks.suite import suite_attacks
from advrad.attacks.threat import Threat
from advrad.baselines.registry import BASELINES
from advrad.benchmark.fingerprints import file_digest, fingerprint
from advrad.certificates.options import CertifyOptions
from advrad.certificates.pipeline import check_confidence
from advrad.certificates.radii import parse_radii
from advrad.data.options import DataOptions
from advrad.errors import ConfigError
from advrad.training.options import RunOptions
from advrad.utils.config import Config

#: Kind of the AdvRAD detector. Other kinds are those of :data:`advrad.baselines.registry.BASELINES` and
#: ``FILE.py:NAME``, a user-defined detector.
OURS = "advrad"

#: Options whose name in a grid differs from the Python parameter.
_TOML_KEYS = {"radii": "radius", "n_samples": "draws"}
_SET_BY_GRID = frozenset({"seed", "data", "layout", "category", "size_px", "save_images"})


class Product(Config):
    """Where the images of a product category are.

    Attributes:
        data: Folder, relative to the bench's data folder.
        layout: Layout of the folder.
        category: Product category, where the folder holds several.
    """

    data: str
    layout: str = "auto"
    category: str | None = None

    @property
    def options(self) -> DataOptions:
        """How the images are found."""
        return DataOptions(layout=self.layout, category=self.category)


class UserDetectorOptions(Config):
    """Options of a user-defined detector.

    Attributes:
        arguments: Keyword arguments of its function.
    """

    arguments: dict[str, Any] = Field(default_factory=dict)


class _File(Config):
    """The contents of a grid file before its parts are parsed."""

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
        label: Label in the grid.
        kind: :data:`OURS`, a key of :data:`advrad.baselines.registry.BASELINES`, or ``FILE.py:NAME``.
        options: Options of its kind.
        inner: The detector that it wraps; None if it wraps none.
        trained: The AdvRAD entry whose trained model it uses; None if it uses none.
        source: Digest of the files that it depends on: a user-defined detector, or files named in the options.
    """

    label: str
    kind: str
    options: Config
    inner: DetectorEntry | None = None
    trained: DetectorEntry | None = None
    source: str | None = None

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the fitted detector except images and seed, as plain JSON values."""
        return {
            "kind": self.kind,
            "options": fingerprint(self.options),
            "inner": None if self.inner is None else self.inner.fingerprint,
            "trained": None if self.trained is None else self.trained.fingerprint,
            "source": self.source,
        }


def source_digest(grid: Path, kind: str, options: Config) -> str | None:
    """Digest of the files that a detector depends on besides images.

    Args:
        grid: Path of the grid file.
        kind: Kind of the detector.
        options: Its options.

    Returns:
        The digest; None if it depends on none.
    """
    own = [grid.parent / kind.rpartition(":")[0]] if isinstance(options, UserDetectorOptions) else []
    named = [value for _, value in options if isinstance(value, Path) and value.is_file()]
    return file_digest([*own, *named]) if own or named else None


_Options = TypeVar("_Options", AttackOptions, CertifyOptions)


@dataclass(frozen=True)
class GridTest(Generic[_Options]):
    """One attack or certificate of a grid.

    Attributes:
        options: Options of the attack or certificate.
        detectors: Labels of the detectors that it is applied to.
    """

    options: _Options
    detectors: frozenset[str]


@dataclass(frozen=True)
class Grid:
    """A valid grid.

    Attributes:
        path: Path of its file.
        name: Name of the grid.
        size_px: Side in pixels of the images that all detectors are given.
        seeds: Seeds of training, attacks and certificates; each is a separate run.
        categories: Products by label.
        detectors: Detectors by label.
        attacks: Attacks by label.
        certificates: Certificates by label.
    """

    path: Path
    name: str
    size_px: int
    seeds: tuple[int, ...]
    categories: Mapping[str, Product]
    detectors: Mapping[str, DetectorEntry]
    attacks: Mapping[str, GridTest[AttackOptions]]
    certificates: Mapping[str, GridTest[CertifyOptions]]


def read_grid(path: Path) -> Grid:
    r"""Read a grid file.

    Args:
        path: TOML file; ``docs/bench.md`` describes the format.

    Raises:
        ConfigError: The file is missing or not TOML, an option is unknown or out of range, or a label is undefined.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from advrad.benchmark import read_grid
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "tiny.toml"
        ...     _ = path.write_text('categories.nut = "nut"\ndetectors.plain.kind = "autoencoder"\n')
        ...     grid = read_grid(path)
        >>> grid.name, list(grid.detectors)
        ('tiny', ['plain'])
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; name a grid, such as grids/smoke.toml") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML ({error}); fix the file") from None
    file = _File.parse(values, str(path))
    if len(set(file.seeds)) < len(file.seeds) or min(file.seeds) < 0:
        raise ConfigError(f"{path}: seeds: must be 0 or more, and all different")
    products = {
        label: Product.parse({"data": value} if isinstance(value, str) else value, f"{path}: categories.{label}")
        for label, value in file.categories.items()
    }
    reader = _DetectorReader(path, file)
    detectors = {label: reader.read(label) for label in file.detectors}
    common: dict[str, Any] = {} if file.limit is None else {"limit": file.limit}
    attacks = {
        label: _read_test(f"{path}: attacks.{label}", AttackOptions, common | given, detectors)
        for label, given in file.attacks.items()
    }
    certificates = {
        label: _read_test(f"{path}: certificates.{label}", CertifyOptions, common | given, detectors)
        for label, given in file.certificates.items()
    }
    return Grid(path, file.name or path.stem, file.size_px, file.seeds, products, detectors, attacks, certificates)


@dataclass
class _DetectorReader:
    """Reads the detectors of a grid; an inner detector may stand after the one that wraps it."""

    path: Path
    file: _File
    shared: str | None = None
    entries: dict[str, DetectorEntry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ours = [label for label, given in self.file.detectors.items() if given.get("kind") == OURS]
        self.shared = self.file.diffusion or (ours[0] if ours else None)
        if self.shared is not None and self.shared not in ours:
            raise ConfigError(f"{self.path}: diffusion: '{self.shared}' is no detector of kind {OURS} in this grid")

    def read(self, label: str, outer: tuple[str, ...] = ()) -> DetectorEntry:
        """Read the detector ``label``, which the detectors ``outer`` wrap, the outermost first."""
        if label not in self.entries:
            where = f"{self.path}: detectors.{label}"
            if label in outer:
                raise ConfigError(f"{where}: wraps itself; name another `inner`")
            self.entries[label] = self._parse(label, where, outer)
        return self.entries[label]

    def _parse(self, label: str, where: str, outer: tuple[str, ...]) -> DetectorEntry:
        given = dict(self.file.detectors[label])
        kind = given.pop("kind", None)
        if kind is None:
            raise ConfigError(f"{where}: has no `kind`; choose {', '.join((OURS, *BASELINES))}, or FILE.py:NAME")
        if kind == OURS:
            return DetectorEntry(label, OURS, RunOptions.parse({"size_px": self.file.size_px} | given, where))
        if isinstance(kind, str) and ".py:" in kind:
            source = self.path.parent / kind.rpartition(":")[0]
            if not source.is_file():
                raise ConfigError(f"{where}: kind {kind}: there is no file {source}")
            return self._entry(label, kind, UserDetectorOptions(arguments=given))
        if kind not in BASELINES:
            known = (OURS, *BASELINES)
            close = difflib.get_close_matches(str(kind), known, 1)
            fix = f"did you mean {close[0]}?" if close else f"choose {', '.join(known)}, or FILE.py:NAME"
            raise ConfigError(f"{where}: kind '{kind}' is unknown; {fix}")
        return self._parse_baseline(label, kind, given, where, outer)

    def _parse_baseline(
        self, label: str, kind: str, given: dict[str, Any], where: str, outer: tuple[str, ...]
    ) -> DetectorEntry:
        spec = BASELINES[kind]
        inner = trained = None
        if spec.wraps_detector:
            name = given.pop("inner", None)
            if name not in self.file.detectors:
                raise ConfigError(f"{where}: inner: '{name}' is no detector of this grid; name the detector to wrap")
            inner = self.read(name, (*outer, label))
        if spec.diffusion:
            if self.shared is None:
                raise ConfigError(f"{where}: needs a trained diffusion model; add a detector of kind {OURS}")
            trained = self.read(self.shared)
        elif inner is not None and inner.kind == OURS:
            trained = inner
        options = spec.options.parse(given, where)
        return self._entry(label, kind, options, inner, trained)

    def _entry(
        self,
        label: str,
        kind: str,
        options: Config,
        inner: DetectorEntry | None = None,
        trained: DetectorEntry | None = None,
    ) -> DetectorEntry:
        return DetectorEntry(label, kind, options, inner, trained, source_digest(self.path, kind, options))


def _read_test(
    where: str, kind: type[_Options], given: dict[str, Any], detectors: Mapping[str, DetectorEntry]
) -> GridTest[_Options]:
    """Read one attack or certificate."""
    values = dict(given)
    labels = values.pop("detectors", list(detectors))
    for name in sorted(_SET_BY_GRID & set(values)):
        raise ConfigError(f"{where}: {name} is set for the whole grid; leave it out here")
    if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
        raise ConfigError(f"{where}: detectors: must be a list of labels")
    for name in labels:
        if name not in detectors:
            raise ConfigError(f"{where}: detectors: '{name}' is no detector of this grid")
    options = kind.parse(values, where)
    try:
        _check_test(options)
    except ConfigError as error:
        option = None if error.option is None else _TOML_KEYS.get(error.option, error.option)
        raise ConfigError(f"{where}: {error.named(option)}") from None
    return GridTest(options, frozenset(labels))


def _check_test(options: AttackOptions | CertifyOptions) -> None:
    """Check values that would otherwise fail in every cell."""
    if isinstance(options, CertifyOptions):
        check_confidence(options.confidence, options.n_samples)
        if options.radius is not None:
            parse_radii(options.radius, options.norm or "l2")
        return
    Threat.of(options.norm, options.eps)
    if options.attack == "suite":
        suite_attacks(options.budget)
    elif options.attack not in ATTACKS:
        raise ConfigError(f"is unknown; choose {', '.join((*ATTACKS, 'suite'))}", option="attack", value=options.attack)
