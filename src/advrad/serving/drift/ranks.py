"""The values that a new one is compared with, counted in cells so that millions of them stay small."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import numpy.typing as npt

# A cell holds values with the same sign, exponent and first ten binary digits: they differ by less than 0.1 %.
_DROPPED_BITS = 42


def cell_of(value: float) -> int:
    """The number of a value's cell: larger values are in the same cell or one with a larger number.

    The cells are fixed. They depend on no data, so that what is proven about ranks of values holds for cells as well.

    Args:
        value: Finite value.

    Example:
        >>> cell_of(1.0) == cell_of(1.0001), cell_of(-2.0) < cell_of(-1.0) < cell_of(0.0) < cell_of(1.0)
        (True, True)
    """
    bits: int = struct.unpack(">q", struct.pack(">d", value + 0.0))[0]  # + 0.0 makes -0.0 the same as 0.0
    magnitude = (bits & 0x7FFF_FFFF_FFFF_FFFF) >> _DROPPED_BITS
    return magnitude if bits >= 0 else -magnitude - 1


def _least_of(cell: int) -> float:
    """The value of a cell that is nearest to zero."""
    magnitude = cell if cell >= 0 else -cell - 1
    value: float = struct.unpack(">d", struct.pack(">q", magnitude << _DROPPED_BITS))[0]
    return value if cell >= 0 else -value


class Bag:
    """Values by cell.

    Example:
        >>> bag = Bag([0.1, 0.2, 0.3])
        >>> bag.rank(0.4, tie=0.5), bag.rank(0.2, tie=0.5)
        (0.125, 0.5)
    """

    def __init__(self, values: Iterable[float] = ()) -> None:
        """Count values.

        Args:
            values: Finite values.
        """
        cells, counts = np.unique(np.array([cell_of(value) for value in values], dtype=np.int64), return_counts=True)
        self._cells: npt.NDArray[np.int64] = cells
        self._counts: npt.NDArray[np.int64] = counts.astype(np.int64)

    def __len__(self) -> int:
        """Number of values."""
        return int(self._counts.sum())

    def rank(self, value: float, tie: float) -> float:
        """The share of values, this one included, that are larger; where some are equal, a random part of them.

        If the value is exchangeable with those in the bag, and ``tie`` is uniform, the share is uniform.

        Args:
            value: Finite value, which is not put into the bag.
            tie: Random number in (0, 1) that was used for nothing else.

        Returns:
            Share, in (0, 1).
        """
        cell = cell_of(value)
        place = int(np.searchsorted(self._cells, cell))
        equal = self._holds(place, cell)
        above = int(self._counts[place + equal :].sum())
        alike = 1 + (int(self._counts[place]) if equal else 0)
        return (above + tie * alike) / (len(self) + 1)

    def add(self, value: float) -> None:
        """Put a value into the bag.

        Args:
            value: Finite value.
        """
        cell = cell_of(value)
        place = int(np.searchsorted(self._cells, cell))
        if self._holds(place, cell):
            self._counts[place] += 1
        else:
            self._cells = np.insert(self._cells, place, cell)
            self._counts = np.insert(self._counts, place, 1)

    def _holds(self, place: int, cell: int) -> bool:
        return place < len(self._cells) and int(self._cells[place]) == cell

    def cells(self) -> npt.NDArray[np.int64]:
        """The cell of each value, rising."""
        return np.repeat(self._cells, self._counts)

    def values(self) -> list[float]:
        """For each value one of its cell, rising."""
        least = [_least_of(int(cell)) for cell in self._cells]
        return np.repeat(np.array(least, dtype=np.float64), self._counts).tolist()

    def copy(self) -> Self:
        """Another bag with the same values."""
        made = type(self)()
        made._cells, made._counts = self._cells.copy(), self._counts.copy()
        return made

    def to_dict(self) -> dict[str, Any]:
        """The bag as JSON values."""
        return {"cells": self._cells.tolist(), "counts": self._counts.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote.

        Args:
            values: JSON values.
        """
        made = cls()
        made._cells = np.array(values["cells"], dtype=np.int64)
        made._counts = np.array(values["counts"], dtype=np.int64)
        return made
