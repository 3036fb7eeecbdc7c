"""Make the models of a table of products, each independent of the others, and write their overview."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from advrad.engine.base import Engine, Resources, SerialEngine
from advrad.errors import ConfigError
from advrad.products.overview import write_overview
from advrad.products.record import Places, ProductRecord
from advrad.products.table import Product, TableError, name_problem
from advrad.products.work import ProductWork
from advrad.utils.formatting import percent
from advrad.utils.output_folders import claim_folder
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.run_lock import exclusive

#: How often the process of a product may die before the product counts as failed.
_MOST_LOSSES = 2


@dataclass(frozen=True)
class ProductsOutcome:
    """What came of a table of products.

    Attributes:
        records: Records by name of the product, in the order of the table; None for one that was not reached.
        overview: HTML page about all of them.

    Example:
        >>> ProductsOutcome({"bottle": None}, Path("index.html")).failed
        ()
    """

    records: dict[str, ProductRecord | None]
    overview: Path

    @property
    def failed(self) -> tuple[ProductRecord, ...]:
        """Products that failed."""
        return tuple(one for one in self.records.values() if one is not None and one.state == "failed")

    @property
    def finished(self) -> tuple[ProductRecord, ...]:
        """Products with a model."""
        return tuple(one for one in self.records.values() if one is not None and one.finished)


def train_products(
    products: Sequence[Product],
    folder: Path,
    *,
    table: Path | None = None,
    engine: Engine | None = None,
    progress: ProgressReporter = SILENT,
) -> ProductsOutcome:
    """Make a model for each product, measure it where there are test images, and write an overview.

    A product that fails is named, and the others go on. The same call finishes what was interrupted, tries again what
    failed, and leaves finished products as they are.

    Args:
        products: Products, of different names.
        folder: Folder for models, exports, reports and the overview; made if missing.
        table: File of the table, for messages and the overview; None if there is none.
        engine: Carries out the work; None for this process alone.
        progress: Receives the number of finished products, and a line about each.

    Raises:
        ConfigError: A name cannot be used, or a product whose model is there has other options now.
        EngineError: The processes or machines cannot be used.
        OutputError: The folder cannot be written, holds something else, or another run is at work in it.

    Example:
        Not run here, because it trains.

        >>> outcome = train_products(read_table(Path("table.csv")), Path("models"))  # doctest: +SKIP
        >>> outcome.finished[0].figures.image_auroc  # doctest: +SKIP
        0.98
    """
    for product in products:
        if (words := name_problem(product.name)) is not None:
            raise ConfigError(f"product {product.name!r}: its name {words}")
    engine = engine or SerialEngine()
    place = claim_folder(folder, "products").absolute()
    with exclusive(place, "training of products"):
        _refuse_changes(products, Places(place), table)
        run = _Run(Places(place), progress)
        progress.stage("Training the products")
        progress.note(engine.in_words())
        try:
            run.execute(products, engine)
        finally:
            overview = write_overview(place, products, run.records(products), table)
    return ProductsOutcome(run.records(products), folder / overview.name)


@dataclass
class _Run:
    """The products of one run.

    Attributes:
        places: Where their files lie.
        progress: Receives the progress.
        found: Records that this run gave, by name.
        losses: How often the process of a product died, by name.
    """

    places: Places
    progress: ProgressReporter
    found: dict[str, ProductRecord] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=dict)

    def execute(self, products: Sequence[Product], engine: Engine) -> None:
        """Carry out all products."""
        tasks: Iterator[Product] = (replace(product, data=product.data.absolute()) for product in products)
        work = ProductWork(self.places.folder)
        for record in engine.run(work, tasks, left=self._left, resources=Resources(cpus=1)):
            self._take(record, len(products))
        self.progress.update(len(self.found), len(products))

    def records(self, products: Sequence[Product]) -> dict[str, ProductRecord | None]:
        """The records of all products: those of this run, or of earlier ones."""
        return {one.name: self.found.get(one.name) or self.places.read(one.name) for one in products}

    def _take(self, record: ProductRecord, total: int) -> None:
        self.found[record.name] = record
        self.progress.note(f"{len(self.found)} of {total}  {record.name}: {_in_words(record)}")
        self.progress.update(len(self.found), total)

    def _left(self, product: Product) -> Product | None:
        """What is left of a product whose process died: all of it, until it has died too often."""
        self.losses[product.name] = self.losses.get(product.name, 0) + 1
        if self.losses[product.name] < _MOST_LOSSES:
            return product
        error = "its process was killed each time, probably for lack of memory; use fewer jobs, or a smaller size"
        before = self.places.read(product.name) or ProductRecord(name=product.name, state="begun")
        record = before.model_copy(update={"state": "failed", "error": error, "settings": product.settings})
        self.places.write(record)
        self.found[product.name] = record
        return None


def _in_words(record: ProductRecord) -> str:
    """What came of a product, on a line."""
    if not record.finished:
        return f"failed: {record.error}"
    figures = record.figures
    words = [f"{record.seconds.in_all:.0f} s"]
    if figures is not None and figures.image_auroc is not None:
        words.insert(0, f"AUROC {figures.image_auroc:.3f}, {percent(figures.tpr)} of the defects found")
    if record.warnings:
        words.append(f"{len(record.warnings)} warning{'s' if len(record.warnings) > 1 else ''}")
    return ", ".join(words)


def _refuse_changes(products: Sequence[Product], places: Places, table: Path | None) -> None:
    """Refuse a table in which the options of a product differ from those with which its model was made."""
    problems = []
    for product in products:
        before = places.read(product.name) if places.holds_model(product.name) else None
        if before is None:
            continue
        now = product.settings
        changed = [name for name in now if now[name] != before.settings.get(name)]
        if changed:
            was = ", ".join(f"{product.column_of(name)} was {before.settings.get(name)}" for name in changed)
            problems.append(
                f"line {product.line}, product {product.name}: its model was made with other options ({was}); delete"
                f" {places.model(product.name)} to make it anew, or take another name"
            )
    if problems:
        raise ConfigError("; ".join(problems)) if table is None else TableError(table, problems)
