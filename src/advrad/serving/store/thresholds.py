"""The versions of the thresholds that people made from reviewed images."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, func, insert, select, update

from advrad.errors import ConfigError
from advrad.serving.errors import UnknownThreshold
from advrad.serving.records import ThresholdVersion
from advrad.serving.store.audit import append_row, lock_end
from advrad.serving.store.database import Database
from advrad.serving.store.tables import thresholds
from advrad.serving.store.texts import NAME_CHARACTERS, check_text


class Thresholds:
    """The thresholds of a database. Each change is told in the audit log, in the same transaction.

    Version 0, the threshold of the model folder, is not stored: it decides where no version is active.

    Args:
        database: Open database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, product: str, model: str | None = None) -> list[ThresholdVersion]:
        """Read the versions of a product, the newest first.

        Args:
            product: Name of the product.
            model: Identity of the model; None for all.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        query = select(thresholds).where(thresholds.c.product == product).order_by(thresholds.c.version.desc())
        if model is not None:
            query = query.where(thresholds.c.model == model)
        with self._database.reading() as connection:
            return [_version(row) for row in connection.execute(query)]

    def active(self, product: str, model: str) -> ThresholdVersion | None:
        """Read the version that decides.

        Args:
            product: Name of the product.
            model: Identity of the model.

        Returns:
            The version; None if the threshold of the model folder decides.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        here = and_(thresholds.c.product == product, thresholds.c.model == model, thresholds.c.active)
        with self._database.reading() as connection:
            row = connection.execute(select(thresholds).where(here)).one_or_none()
        return None if row is None else _version(row)

    def add(
        self,
        *,
        product: str,
        model: str,
        threshold: float,
        false_alarm_rate: float,
        n: int,
        source: dict[str, Any],
        by: str,
        at: datetime,
    ) -> ThresholdVersion:
        """Store a new version. It decides nothing until it is activated.

        Args:
            product: Name of the product.
            model: Identity of the model whose scores set it.
            threshold: Threshold of the score.
            false_alarm_rate: False-alarm rate that it keeps.
            n: Number of normal images that set it.
            source: Where the scores come from, as JSON values.
            by: Name of the key of the person.
            at: Time, in UTC.

        Returns:
            The version, with the next number of the product.

        Raises:
            ConfigError: A text cannot be stored, or the threshold is not finite.
            StoreUnavailable: The database cannot be used now.
        """
        for name, text in (("product", product), ("model", model), ("by", by)):
            check_text(text, name, NAME_CHARACTERS)
        if not math.isfinite(threshold):
            raise ConfigError("is not a finite number", option="threshold", value=threshold)
        with self._database.writing() as connection:
            # Two processes must not take the same number.
            lock_end(connection)
            query = select(func.coalesce(func.max(thresholds.c.version), 0)).where(thresholds.c.product == product)
            made = ThresholdVersion(
                product=product,
                version=connection.execute(query).scalar_one() + 1,
                threshold=threshold,
                false_alarm_rate=false_alarm_rate,
                n=n,
                model=model,
                made_by=by,
                made_at=at,
                active=False,
                source=source,
            )
            facts = {"version": made.version, "threshold": threshold, "false_alarm_rate": false_alarm_rate, "n": n}
            append_row(connection, "new threshold", product, by, facts | {"model": model, "source": source})
            connection.execute(insert(thresholds).values({name: getattr(made, name) for name in _NAMES}))
        return made

    def activate(self, product: str, model: str, version: int, by: str) -> ThresholdVersion | None:
        """Make a version decide from now on, and the one before rest.

        Args:
            product: Name of the product.
            model: Identity of the model.
            version: Number of the version; 0 for the threshold of the model folder.
            by: Name of the key of the person.

        Returns:
            The version; None for version 0.

        Raises:
            UnknownThreshold: The product has no such version for this model.
            StoreUnavailable: The database cannot be used now.
        """
        here = and_(thresholds.c.product == product, thresholds.c.model == model)
        with self._database.writing() as connection:
            lock_end(connection)
            rows = {row.version: _version(row) for row in connection.execute(select(thresholds).where(here))}
            if version != 0 and version not in rows:
                raise UnknownThreshold(
                    f"{product}: has no version {version} of the threshold for the model in use",
                    "choose a version that was made for this model, or 0 for that of the model folder",
                )
            before = next((number for number, row in rows.items() if row.active), 0)
            connection.execute(update(thresholds).where(here).values(active=thresholds.c.version == version))
            facts = {"version": version, "before": before, "model": model}
            append_row(connection, "activate threshold", product, by, facts)
        return replace(rows[version], active=True) if version else None


_NAMES = tuple(ThresholdVersion.__dataclass_fields__)


def _version(row: Row[Any]) -> ThresholdVersion:
    return ThresholdVersion(**{name: getattr(row, name) for name in _NAMES})
