"""What every sink is: it takes inspections, and says when it did not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from pydantic import Field, field_validator

from advrad.serving.records import Inspection
from advrad.utils.config import Config


class SinkConfig(Config):
    """What the description of every sink may hold."""

    name: str = Field(description="Name in the status and the outbox.")
    only_defective: bool = Field(False, description="Whether to pass over what is called good.")
    products: tuple[str, ...] | None = Field(None, min_length=1, description="Products to deliver; all by default.")

    @field_validator("name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise ValueError("must be a name of at most 64 letters, digits, dots, - and _")
        return name

    def wants(self, inspection: Inspection) -> bool:
        """Whether the sink shall get an inspection."""
        if self.only_defective and not inspection.defective:
            return False
        return self.products is None or inspection.product in self.products


class Sink(Protocol):
    """A place outside that gets inspections.

    One thread uses a sink. What is sent twice is the same inspection: receivers know it by its ``id``.
    """

    @property
    def name(self) -> str:
        """Name of the sink, as in the outbox."""

    @property
    def kind(self) -> str:
        """Kind of the sink, such as ``webhook``."""

    @property
    def batch(self) -> int:
        """Largest number of inspections for each call of :meth:`send`."""

    @property
    def keeps_batches(self) -> bool:
        """Whether what was sent together must be sent together again, also after a restart."""

    def wants(self, inspection: Inspection) -> bool:
        """Whether the sink shall get an inspection."""

    def open(self) -> None:
        """Prepare, such as connect. A failure here is told again by ``send``.

        Raises:
            DeliveryError: The sink is not reachable now.
        """

    def send(self, inspections: Sequence[Inspection]) -> None:
        """Deliver inspections, all or none; return only when the receiver has said that it holds them.

        Args:
            inspections: At least one, at most ``batch``.

        Raises:
            Unavailable: The sink is not reachable now; what was sent may have arrived.
            Rejected: The receiver refuses these inspections.
        """

    def close(self) -> None:
        """Take leave of the receiver."""


class DeliveryError(Exception):
    """Inspections were not delivered.

    Args:
        message: What went wrong, without secrets.
        retry_after_s: Seconds that the receiver asks to wait; None if it does not say.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(DeliveryError):
    """The receiver is not reachable, or not ready."""


class Rejected(DeliveryError):
    """The receiver refuses what it was sent; the same again is likely to be refused again."""
