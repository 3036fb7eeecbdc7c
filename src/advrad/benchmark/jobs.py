"""The jobs of a grid: one per detector, category and seed, each with the cells that share a fitted detector."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advrad.attacks.options import AttackOptions
from advrad.benchmark.cells import CellKey
from advrad.benchmark.fingerprints import fingerprint, key_digest
from advrad.benchmark.grid import OURS, DetectorEntry, Grid, Product
from advrad.certificates.options import CertifyOptions
from advrad.data.dataset_digest import image_digest
from advrad.data.layouts import Dataset, find_records
from advrad.data.options import WithDataOptions
from advrad.errors import ConfigError, UserError
from advrad.training.options import RunOptions

#: Version of the fingerprints; results of another version have other keys.
_FORMAT = 1


@dataclass(frozen=True)
class CellTask:
    """One cell to measure. Without attack and certificate it is the clean cell, which every job has.

    Attributes:
        cell: Position in the grid.
        attack: Options of the attack; None for none.
        certificate: Options of the certificate; None for none.
        selected: Whether the user wants this cell to be measured.
    """

    cell: CellKey
    attack: AttackOptions | None = None
    certificate: CertifyOptions | None = None
    selected: bool = True


@dataclass(frozen=True)
class Job:
    """The cells for which one detector is fitted once.

    Attributes:
        name: Name of its lock, the same in every process.
        detector: Detector to fit.
        category: Label of the product.
        seed: Seed for all random draws.
        tasks: Cells, the clean one first.
        product: Where the product's images are.
        data: Folder of the images.
        dataset: Images found there; None if the job is not selected.
        images: Digest of the images.
        size_px: Side in pixels of the images that the detector is given.
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
    size_px: int

    @property
    def trained(self) -> DetectorEntry | None:
        """The AdvRAD entry that must be trained for this job; None if there is none."""
        return self.detector if self.detector.kind == OURS else self.detector.trained

    @property
    def training_options(self) -> RunOptions | None:
        """Options of that training."""
        options = None if self.trained is None else self.trained.options
        return options if isinstance(options, RunOptions) else None

    @property
    def model(self) -> str:
        """Name of the folder of that training; empty if there is none."""
        if self.trained is None:
            return ""
        return key_digest([_FORMAT, self.trained.fingerprint, self.category, self.images, self.seed])


def jobs_of(grid: Grid, data: Path, only: Iterable[str] = ()) -> tuple[Job, ...]:
    """List the jobs of a grid.

    Args:
        grid: The grid.
        data: Folder that holds the product categories.
        only: Labels of detectors, categories, attacks and certificates to work on. Naming detectors or categories
            selects those; naming attacks or certificates selects only those tests.

    Returns:
        All jobs, by category; those that are not selected have no images.

    Raises:
        ConfigError: A label is unknown, or the images of a selected category are not found.
    """
    named = set(only)
    tests = {*grid.attacks, *grid.certificates}
    for label in sorted(named - set(grid.detectors) - set(grid.categories) - tests):
        raise ConfigError(f"is no detector, category, attack or certificate of {grid.path}", option="only", value=label)
    detectors = named & set(grid.detectors) or set(grid.detectors)
    categories = named & set(grid.categories) or set(grid.categories)
    tests = named & tests or tests
    jobs = []
    for label, product in grid.categories.items():
        dataset, images = None, "absent"
        try:
            dataset = find_records(data / product.data, product.options)
            images = image_digest(dataset)
        except UserError as error:
            if label in categories:
                raise ConfigError(
                    f"{grid.path}: categories.{label}: {error}; set the data folder to the one that holds it, or select"
                    " only other categories"
                ) from None
        for seed in grid.seeds:
            for entry in grid.detectors.values():
                selected = label in categories and entry.label in detectors
                jobs.append(_job(grid, entry, label, seed, data, dataset if selected else None, images, tests))
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
    common: dict[str, Any] = {
        "format": _FORMAT,
        "labels": [entry.label, category],
        "detector": entry.fingerprint,
        "size_px": grid.size_px,
        "product": [product.layout, product.category],
        "pictures": images,
        "seed": seed,
    }

    def in_place(options: WithDataOptions) -> dict[str, Any]:
        """The options that the grid sets: the seed, and where the images are."""
        where = {"layout": product.layout, "category": product.category}
        return {"seed": seed, "data": options.data.model_copy(update=where)}

    clean = CellKey(key=key_digest(common), detector=entry.label, kind=entry.kind, category=category, seed=seed)
    tasks = [CellTask(clean)]
    for label, attack in grid.attacks.items():
        if entry.label in attack.detectors:
            threat = attack.options.model_copy(update=in_place(attack.options) | {"size_px": grid.size_px})
            key = key_digest(common | {"attack": [label, fingerprint(threat)]})
            cell = clean.model_copy(update={"key": key, "attack": label})
            tasks.append(CellTask(cell, attack=threat, selected=label in tests))
    for label, certificate in grid.certificates.items():
        if entry.label in certificate.detectors:
            proof = certificate.options.model_copy(update=in_place(certificate.options))
            key = key_digest(common | {"certificate": [label, fingerprint(proof)]})
            cell = clean.model_copy(update={"key": key, "certificate": label})
            tasks.append(CellTask(cell, certificate=proof, selected=label in tests))
    return Job(
        name=clean.key,
        detector=entry,
        category=category,
        seed=seed,
        tasks=tuple(tasks),
        product=product,
        data=data / product.data,
        dataset=dataset,
        images=images,
        size_px=grid.size_px,
    )
