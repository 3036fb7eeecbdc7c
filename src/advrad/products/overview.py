"""The overview of many products: a page for people, and the same figures as CSV and JSON for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from advrad import __version__
from advrad.detectors.model_folder import CONFIG_NAME
from advrad.errors import CheckpointError
from advrad.products.record import Places, ProductRecord
from advrad.products.shares import share_interval
from advrad.products.table import Product
from advrad.report.rendering import page
from advrad.utils.files import write_json, write_text
from advrad.utils.formatting import clock

PAGE, TABLE, VALUES = "index.html", "overview.csv", "overview.json"

#: Words for the state of a product.
_WORDS = {"begun": "not finished", "finished": "finished", "failed": "failed"}


@dataclass(frozen=True, slots=True)
class Share:
    """A share of test images, with its interval.

    Attributes:
        count: Number of images that have the property.
        total: Number of all images.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    count: int
    total: int
    low: float
    high: float

    @classmethod
    def of(cls, share: float | None, total: int) -> Share | None:
        """The share of some images; None if it was not measured.

        Args:
            share: Share, in [0, 1].
            total: Number of all images.
        """
        if share is None or not total:
            return None
        count = round(share * total)
        return cls(count, total, *share_interval(count, total))


@dataclass(frozen=True, slots=True)
class Line:
    """A product in the overview.

    Attributes:
        name: Name of the product.
        number: Number in the order of the table, from 1.
        record: What is known of it; one without figures if nothing is.
        state: State in words.
        found: Share of the anomalous test images that are called defective.
        alarms: Share of the normal test images that are called defective.
        links: Addresses of model card, report and export by their words, relative to the page.
        seconds: Duration in words.
    """

    name: str
    number: int
    record: ProductRecord
    state: str
    found: Share | None
    alarms: Share | None
    links: Mapping[str, str]
    seconds: str

    @classmethod
    def of(cls, number: int, product: Product, record: ProductRecord | None, places: Places) -> Line:
        """Describe a product.

        Args:
            number: Number in the order of the table.
            product: The product.
            record: What is known of it.
            places: Where its files lie.
        """
        known = record or ProductRecord(name=product.name, state="begun")
        figures, name = known.figures, product.name
        return cls(
            name=name,
            number=number,
            record=known,
            state="not begun" if record is None else _WORDS[known.state],
            found=None if figures is None else Share.of(figures.tpr, figures.n_anomalous),
            alarms=None if figures is None else Share.of(figures.fpr, figures.n_normal),
            links=_links(name, places),
            seconds=clock(known.seconds.in_all) if known.seconds.in_all else "",
        )


def _links(name: str, places: Places) -> dict[str, str]:
    """Addresses of what is there of a product: its model, and what was made of this model."""
    model = places.model(name)
    if not (model / CONFIG_NAME).is_file():
        return {}
    files = {"card": model / "README.md", "report": places.report(name)}
    with suppress(CheckpointError):
        if places.holds_export(name):
            files["export"] = places.export(name) / "README.md"
    return {words: quote(path.relative_to(places.folder).as_posix()) for words, path in files.items() if path.is_file()}


def write_overview(
    folder: Path, products: Sequence[Product], records: Mapping[str, ProductRecord | None], table: Path | None = None
) -> Path:
    """Write ``index.html``, ``overview.csv`` and ``overview.json``.

    Args:
        folder: Folder of all products.
        products: Products, in order.
        records: What is known of them, by name.
        table: File of the table; None if there is none.

    Returns:
        The page.

    Raises:
        OutputError: A file cannot be written.
    """
    places = Places(folder)
    lines = [
        Line.of(number, product, records.get(product.name), places) for number, product in enumerate(products, start=1)
    ]
    write_text(folder / TABLE, _csv(lines))
    values = {
        "format": 1,
        "advrad": __version__,
        "products": [line.record.model_dump(mode="json") | {"links": dict(line.links)} for line in lines],
    }
    write_json(folder / VALUES, values)
    finished = [line for line in lines if line.record.finished]
    text = page(
        "products.html.j2",
        title=table.name if table is not None else folder.name,
        lines=lines,
        finished=len(finished),
        failed=[line for line in lines if line.record.state == "failed"],
        warned=[line for line in lines if line.record.warnings],
        waiting=len(lines) - len(finished) - sum(line.record.state == "failed" for line in lines),
        measured=sum(line.record.figures is not None for line in lines),
        seconds=clock(sum(line.record.seconds.in_all for line in lines)),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
    )
    write_text(folder / PAGE, text)
    return folder / PAGE


#: Columns of the CSV file with the value that each takes of a line.
_COLUMNS: dict[str, Callable[[Line], object]] = {
    "name": lambda line: line.name,
    "state": lambda line: line.state,
    "error": lambda line: line.record.error,
    "warnings": lambda line: " | ".join(line.record.warnings),
    "normal_images": lambda line: line.record.n_normal,
    "threshold": lambda line: line.record.threshold,
    "false_alarm_rate": lambda line: line.record.false_alarm_rate,
    "image_auroc": lambda line: _figure(line, "image_auroc"),
    "image_auroc_low": lambda line: _interval(line, 0),
    "image_auroc_high": lambda line: _interval(line, 1),
    "pixel_auroc": lambda line: _figure(line, "pixel_auroc"),
    "aupro": lambda line: _figure(line, "aupro"),
    "normal_test_images": lambda line: _figure(line, "n_normal"),
    "anomalous_test_images": lambda line: _figure(line, "n_anomalous"),
    "defects_found": lambda line: _figure(line, "tpr"),
    "defects_found_low": lambda line: _end(line.found, "low"),
    "defects_found_high": lambda line: _end(line.found, "high"),
    "false_alarms": lambda line: _figure(line, "fpr"),
    "false_alarms_low": lambda line: _end(line.alarms, "low"),
    "false_alarms_high": lambda line: _end(line.alarms, "high"),
    "model_bytes": lambda line: line.record.model_bytes,
    "export_bytes": lambda line: line.record.export_bytes,
    "seconds": lambda line: line.record.seconds.in_all,
    "train_seconds": lambda line: line.record.seconds.train,
    "evaluate_seconds": lambda line: line.record.seconds.evaluate,
    "export_seconds": lambda line: line.record.seconds.export,
}


def _figure(line: Line, name: str) -> object:
    return None if line.record.figures is None else getattr(line.record.figures, name)


def _interval(line: Line, end: int) -> float | None:
    figures = line.record.figures
    return None if figures is None or figures.image_auroc_ci is None else figures.image_auroc_ci[end]


def _end(share: Share | None, end: str) -> object:
    return None if share is None else getattr(share, end)


def _csv(lines: Sequence[Line]) -> str:
    """One row for each product; an empty field is what was not measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for line in lines:
        writer.writerow("" if (value := take(line)) is None else value for take in _COLUMNS.values())
    return text.getvalue()
