"""The toy export as a product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import toy_exports

from advrad.serving.products import Product


def load(folder: Path, **options: Any) -> Product:
    """Write the export and load it."""
    return Product.load("toy", toy_exports.write(folder / "toy", **options))
