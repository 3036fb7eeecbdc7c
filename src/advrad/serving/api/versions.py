"""The versions of a product's threshold, that of the model folder among them."""

from __future__ import annotations

from dataclasses import replace

from advrad.serving.products import Product
from advrad.serving.records import ThresholdVersion
from advrad.serving.store import Store


def versions_of(store: Store, product: Product) -> list[ThresholdVersion]:
    """All versions for the model that inspects now, the newest first; the last is 0, that of the model folder.

    Args:
        store: The history.
        product: The product.
    """
    made = store.thresholds.list(product.name, product.model)
    return [*made, replace(folder_version(product), active=not any(version.active for version in made))]


def folder_version(product: Product) -> ThresholdVersion:
    """Version 0: the threshold of the model folder.

    Args:
        product: The product.
    """
    calibration = product.calibration
    return ThresholdVersion(
        product=product.name,
        version=0,
        threshold=calibration.threshold,
        false_alarm_rate=calibration.false_alarm_rate,
        n=calibration.n,
        model=product.model,
        made_by="",
        made_at=product.loaded_at,
        active=True,
        source=dict(calibration.source),
    )
