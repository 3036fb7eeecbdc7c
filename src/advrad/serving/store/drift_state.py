"""What the drift monitor remembers across restarts."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from advrad.serving.store.database import Database
from advrad.serving.store.tables import drift


class DriftStates:
    """The states of the drift monitors of a database, one for each product and model.

    Args:
        database: Open database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, product: str, model: str) -> dict[str, Any] | None:
        """Read a state.

        Args:
            product: Name of the product.
            model: Identity of the model.

        Returns:
            The state; None if none was saved.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        query = select(drift.c.state).where(drift.c.product == product, drift.c.model == model)
        with self._database.reading() as connection:
            state: dict[str, Any] | None = connection.execute(query).scalar_one_or_none()
        return state

    def save(self, product: str, model: str, state: dict[str, Any]) -> None:
        """Replace a state.

        Args:
            product: Name of the product.
            model: Identity of the model.
            state: JSON values.

        Raises:
            StoreUnavailable: The database cannot be used now.
        """
        statement = self._database.insert(drift).values(product=product, model=model, state=state)
        statement = statement.on_conflict_do_update(index_elements=["product", "model"], set_={"state": state})
        with self._database.writing() as connection:
            connection.execute(statement)
