"""Watches the inspections of all products for drift: camera, light or product changed."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from advrad.detectors.config import Calibration
from advrad.errors import ConfigError
from advrad.serving.drift.alarms import DriftAlarm, Statistic
from advrad.serving.drift.product_watch import DriftSettings, ProductWatch
from advrad.serving.errors import UnknownProduct
from advrad.serving.records import Inspection, utc_text

if TYPE_CHECKING:
    from advrad.serving.store import Store

# The state is saved after this many inspections; those since then are read again from the history after a crash.
_SAVED_EVERY = 50


class DriftMonitor:
    """Watches for drift. What it says is a function of the inspections in their order, across restarts.

    Thread-safe. One monitor watches a product: two processes that watch the same one overwrite each other's state.

    Args:
        store: Store of the service, which holds the state and the history.
        settings: How drift is watched; None for the defaults.
    """

    def __init__(self, store: Store, settings: DriftSettings | None = None) -> None:
        self._store, self._settings = store, settings or DriftSettings()
        self._turn = threading.RLock()
        self._watches: dict[str, ProductWatch] = {}
        self._unsaved: dict[str, int] = {}

    def watch(self, product: str, model: str, calibration: Calibration) -> list[DriftAlarm]:
        """Begin to watch a product, or go on, or change to its new model.

        Inspections of the model that are in the history, but not in the saved state, are taken first.

        Args:
            product: Name of the product.
            model: Identity of the model.
            calibration: Threshold of the model folder.

        Returns:
            Alarms of the inspections that are taken.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        from advrad.serving.store import InspectionFilter

        with self._turn:
            before = self._watches.get(product)
            if before is not None:
                self._save(product)
            state = self._store.drift.load(product, model)
            watch = ProductWatch.resumed(product, model, calibration, self._settings, state)
            missed = []
            if state is not None:
                for inspection in self._store.inspections.iterate(InspectionFilter(product=product, model=model)):
                    if inspection.id <= watch.last_id:
                        break
                    missed.append(inspection)
            self._watches[product] = watch
            self._unsaved[product] = 1
            found = self._observe(product, missed[::-1])
            self._save(product)
            return found

    def observe(self, inspections: Sequence[Inspection]) -> list[DriftAlarm]:
        """Take inspections that are in the history now.

        Args:
            inspections: Inspections in the order of the history; those of other products and models are left out.

        Returns:
            The alarms that they raise.

        Raises:
            StoreUnavailable: The state cannot be saved now. The inspections are taken all the same.
        """
        with self._turn:
            found = []
            for product in dict.fromkeys(one.product for one in inspections):
                watch = self._watches.get(product)
                if watch is None:
                    continue
                mine = [one for one in inspections if one.product == product and one.model == watch.model]
                alarms = self._observe(product, mine)
                found += alarms
                if alarms or self._unsaved[product] >= _SAVED_EVERY:
                    self._save(product)
            return found

    def _observe(self, product: str, inspections: Sequence[Inspection]) -> list[DriftAlarm]:
        watch = self._watches[product]
        self._unsaved[product] += len(inspections)
        return [alarm for inspection in inspections for alarm in watch.observe(inspection)]

    def status(self, product: str) -> dict[str, Any]:
        """What the monitor sees of a product, as JSON values.

        Args:
            product: Name of the product.

        Raises:
            UnknownProduct: It is not watched.
        """
        with self._turn:
            return self._watch(product).status()

    def acknowledge(self, product: str) -> None:
        """Begin anew after a person looked into the alarms; they are kept as past ones.

        Args:
            product: Name of the product.

        Raises:
            UnknownProduct: It is not watched.
            StoreUnavailable: The state cannot be saved now.
        """
        with self._turn:
            self._watch(product).acknowledge(utc_text(datetime.now(UTC)))
            self._unsaved[product] += 1
            self._save(product)

    def learn_reference(self, product: str, statistics: Collection[str] = tuple(Statistic)) -> None:
        """Begin anew, and compare with the next images instead of those of the calibration.

        Args:
            product: Name of the product.
            statistics: What is compared with them: ``score``, ``brightness``, ``sharpness``.

        Raises:
            ConfigError: A statistic is unknown, or none is given.
            UnknownProduct: The product is not watched.
            StoreUnavailable: The state cannot be saved now.
        """
        unknown = [name for name in statistics if name not in tuple(Statistic)]
        if unknown or not statistics:
            raise ConfigError(f"must be some of {', '.join(Statistic)}", option="statistics", value=ascii(unknown))
        with self._turn:
            self._watch(product).learn([Statistic(name) for name in statistics], utc_text(datetime.now(UTC)))
            self._unsaved[product] += 1
            self._save(product)

    def close(self) -> None:
        """Save what is not saved yet.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        with self._turn:
            for product in self._watches:
                self._save(product)

    def _watch(self, product: str) -> ProductWatch:
        if product not in self._watches:
            raise UnknownProduct(f"{product!a}: is not watched for drift", "name a product that is served")
        return self._watches[product]

    def _save(self, product: str) -> None:
        if self._unsaved[product]:
            watch = self._watches[product]
            self._store.drift.save(product, watch.model, watch.to_dict())
            self._unsaved[product] = 0
