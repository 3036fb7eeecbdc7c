"""A model for each of many products: a table of products, what is done for each row, and an overview of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

__all__ = ["Product", "ProductRecord", "ProductsOutcome", "read_table", "train_products"]

if TYPE_CHECKING:
    from advrad.products.record import ProductRecord
    from advrad.products.run import ProductsOutcome, train_products
    from advrad.products.table import Product, read_table
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "Product": "advrad.products.table",
            "ProductRecord": "advrad.products.record",
            "ProductsOutcome": "advrad.products.run",
            "read_table": "advrad.products.table",
            "train_products": "advrad.products.run",
        },
    )
