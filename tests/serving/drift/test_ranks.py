from __future__ import annotations

import json
import math

import numpy as np
import pytest

from advrad.serving.drift.ranks import Bag, cell_of
from advrad.utils.seeding import numpy_generator_for


def test_cells_rise_with_values() -> None:
    generator = numpy_generator_for(0)
    sizes = 10.0 ** generator.uniform(-12, 12, size=2000)
    values = sorted([*(sizes * generator.choice([-1, 1], 2000)).tolist(), 0.0, math.inf, -math.inf, 5e-324])
    cells = [cell_of(value) for value in values]
    assert cells == sorted(cells)
    assert cell_of(-0.0) == cell_of(0.0) < cell_of(1e-9)


def test_a_cell_is_a_thousandth_wide() -> None:
    assert cell_of(0.5) == cell_of(0.50047) != cell_of(0.5006)
    assert cell_of(-7.0) != cell_of(-7.01)


def test_ranks_agree_with_counting() -> None:
    generator = numpy_generator_for(1)
    known, bag = generator.integers(-5, 5, size=40).astype(float).tolist(), Bag()
    for value in known:
        bag.add(value)
    assert len(bag) == 40 and bag.values() == sorted(known)
    for value in (-9.0, -2.0, 0.0, 3.0, 9.0):
        above, alike = sum(one > value for one in known), sum(one == value for one in known)
        assert bag.rank(value, 0.25) == pytest.approx((above + 0.25 * (alike + 1)) / 41)
    assert len(bag) == 40, "a rank does not put the value into the bag"


def test_ranks_among_all_before_are_uniform_and_independent() -> None:
    """Also where most values are equal."""
    generator = numpy_generator_for(2)
    found = np.zeros((4000, 6))
    for row in found:
        bag = Bag(generator.integers(0, 3, size=4).astype(float))
        for place, value in enumerate(generator.integers(0, 3, size=6).tolist()):
            row[place] = bag.rank(float(value), generator.random())
            bag.add(float(value))
    assert found.mean() == pytest.approx(0.5, abs=0.01)
    assert found.var() == pytest.approx(1 / 12, abs=0.003)
    assert np.abs(np.corrcoef(found.T) - np.eye(6)).max() < 0.06


def test_a_bag_goes_through_json() -> None:
    bag = Bag(numpy_generator_for(3).normal(size=300))
    again = Bag.from_dict(json.loads(json.dumps(bag.to_dict())))
    assert again.to_dict() == bag.to_dict() and again.rank(0.1, 0.5) == bag.rank(0.1, 0.5)
    other = bag.copy()
    other.add(1.0)
    assert len(bag) == 300 and len(other) == 301


def test_a_million_values_stay_small() -> None:
    bag = Bag(0.4 + 0.02 * numpy_generator_for(4).normal(size=200_000))
    assert len(json.dumps(bag.to_dict())) < 10_000
