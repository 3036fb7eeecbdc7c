"""The overview of many products stays one page that can be read."""

from __future__ import annotations

from pathlib import Path

from html_page import Page

from advrad.detectors.config import RecordedFigures
from advrad.products.overview import write_overview
from advrad.products.record import ProductRecord, Seconds
from advrad.products.shares import share_interval
from advrad.products.table import Product

HOSTILE = "<script>alert(1)</script> &"


def record(number: int) -> ProductRecord:
    name = f"product {number}"
    if number % 50 == 0:
        return ProductRecord(name=name, state="failed", error=HOSTILE)
    figures = RecordedFigures(
        image_auroc=0.9, image_auroc_ci=(0.85, 0.95), tpr=0.75, fpr=0.05, n_normal=20, n_anomalous=8
    )
    return ProductRecord(
        name=name,
        state="finished",
        n_normal=100,
        threshold=1.25,
        false_alarm_rate=0.05,
        figures=figures if number % 2 else None,
        warnings=("Brightness alone separates.",) if number % 10 == 0 else (),
        notes=("copies are left out",),
        model_bytes=5_000_000,
        seconds=Seconds(train=9.0, in_all=10.0),
    )


def test_four_hundred_products_are_one_page_with_what_matters_first(tmp_path: Path) -> None:
    records = {one.name: one for one in map(record, range(1, 401))}
    products = [Product(name, Path(name)) for name in records]
    path = write_overview(tmp_path, products, records, Path("table.csv"))
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert len(source) < 1_000_000
    assert "alert(1)" in page.text and "script" not in {tag for tag, _ in page.tags}
    assert len([one for tag, one in page.tags if tag == "tr"]) == 401
    assert page.text.index("Failed") < page.text.index("Warnings") < page.text.index("All products")
    assert "75 % (34.9 % to 96.8 %; 6 of 8)" in " ".join(page.text.split())
    assert "http" not in source.replace("http-equiv", "")


def test_a_product_that_was_not_reached_is_shown_so(tmp_path: Path) -> None:
    path = write_overview(tmp_path, [Product("nut", Path("nut"))], {"nut": None})
    assert "not begun" in Page(path.read_text(encoding="utf-8")).text


def test_the_interval_of_a_share_is_that_of_clopper_and_pearson() -> None:
    low, high = share_interval(6, 8)
    assert (round(low, 4), round(high, 4)) == (0.3491, 0.9681)
    assert share_interval(0, 10)[0] == 0 and share_interval(10, 10)[1] == 1
