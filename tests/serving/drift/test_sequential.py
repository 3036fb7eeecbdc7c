"""The promise of the test for drift, counted, and how soon it finds a change."""

from __future__ import annotations

import json

import drift_streams
import numpy as np
import pytest
from scipy.stats import binom

from advrad.serving.drift.ranks import Bag
from advrad.serving.drift.reference_bets import ReferenceBets
from advrad.serving.drift.sequential import Direction, ShiftTest
from advrad.utils.seeding import numpy_generator_for

# A high rate, so that few streams can tell whether it is kept.
ALPHA = 0.2
STREAMS = 100


def draw(reference: int, length: int, *purpose: object, streams: int = STREAMS) -> tuple[np.ndarray, np.ndarray]:
    """Streams of normal numbers with their references, and random numbers for ties."""
    generator = numpy_generator_for(0, reference, length, *purpose)
    return 10 + generator.normal(size=(streams, reference + length)), generator.random((streams, length))


def with_others(values: np.ndarray, reference: int, share: float, place: str) -> np.ndarray:
    """The same streams, a share of whose numbers after the reference are replaced."""
    generator = numpy_generator_for(1, reference, share, place)
    chosen = generator.random(values.shape) < share
    chosen[:, :reference] = False
    signs = {"above": 1, "below": -1, "both": generator.choice([-1, 1], values.shape)}[place]
    return np.where(chosen, 10 + 9 * signs * np.ones(values.shape), values)


def most_alarms(alpha: float, streams: int = STREAMS) -> int:
    """More alarms than these have a probability below one in a thousand at this rate."""
    return int(binom.ppf(0.999, streams, alpha))


@pytest.mark.parametrize("reference", [20, 60, 200, 5000])
def test_normal_streams_sound_as_seldom_as_promised(reference: int) -> None:
    values, ties = draw(reference, 1500)
    alarms = (drift_streams.first_alarms(values, ties, reference, ALPHA) >= 0).sum()
    assert alarms <= most_alarms(ALPHA)


def test_ranks_in_a_fixed_reference_would_break_the_promise() -> None:
    """The same count finds a test that is wrong: its ranks are uniform one by one, but share the reference's error."""
    values, ties = draw(20, 3000)
    alarms = (drift_streams.first_alarms(values, ties, 20, ALPHA, joins=False) >= 0).sum()
    assert alarms > most_alarms(ALPHA)


@pytest.mark.parametrize("place", ["above", "below", "both"])
@pytest.mark.parametrize("reference", [20, 200])
def test_some_other_images_do_not_break_the_promise(reference: int, place: str) -> None:
    values, ties = draw(reference, 1000, place)
    values = with_others(values, reference, 0.05, place)
    alarms = (drift_streams.first_alarms(values, ties, reference, ALPHA, share=0.05) >= 0).sum()
    assert alarms <= most_alarms(ALPHA)


def test_other_images_that_are_not_allowed_for_break_it() -> None:
    values, ties = draw(1000, 1000, "above")
    values = with_others(values, 1000, 0.05, "above")
    assert (drift_streams.first_alarms(values, ties, 1000, ALPHA) >= 0).sum() > most_alarms(ALPHA)
    assert (drift_streams.first_alarms(values, ties, 1000, ALPHA, share=0.05) >= 0).sum() <= most_alarms(ALPHA)


@pytest.mark.slow
@pytest.mark.parametrize("reference", [20, 60])
def test_the_wrong_test_fails_on_long_streams_at_a_low_rate(reference: int) -> None:
    values, ties = draw(reference, 10_000, "wrong", streams=300)
    alarms = (drift_streams.first_alarms(values, ties, reference, 0.05, joins=False) >= 0).sum()
    assert alarms > most_alarms(0.05, 300)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.05])
@pytest.mark.parametrize("reference", [20, 60, 200, 5000])
def test_many_long_streams_sound_as_seldom_as_promised(reference: int, share: float) -> None:
    values, ties = draw(reference, 5000, share, streams=300)
    values = with_others(values, reference, share, "both")
    alarms = (drift_streams.first_alarms(values, ties, reference, 0.05, share) >= 0).sum()
    assert alarms <= most_alarms(0.05, 300)


@pytest.mark.parametrize("others", [0, 2])
def test_bounds_on_excess_hold(others: int) -> None:
    """Of many references, few have a value that is exceeded more often than the bound on it says."""
    generator, size, alpha = numpy_generator_for(3, others), 40, 0.1
    failed = 0
    for _ in range(1000):
        uniform = generator.random(size)
        uniform[:others] = -1  # other images in the reference hide normal ones
        bets = ReferenceBets.of(Bag((1 + uniform).tolist()), alpha, share=0.0, others=others)
        rates = 1 - (np.sort(uniform)[[-1, -4, -12]])
        # A bet wins on average if the rate is above its bound: mean factor = r exp(if) + (1 - r) exp(else).
        means = rates[:, None] * np.exp(bets.log_if[0]) + (1 - rates[:, None]) * np.exp(bets.log_else[0])
        failed += bool((means > 1 + 1e-9).any())
    assert failed <= binom.ppf(0.999, 1000, alpha / 2)


@pytest.mark.parametrize("share", [0.0, 0.05])
def test_streams_at_once_agree_with_one_by_one(share: float) -> None:
    values, ties = draw(30, 120, "one by one", streams=12)
    values[:6, 60:] += 1.5
    at_once = drift_streams.first_alarms(values, ties, 30, 0.01, share)
    singly = [first_alarm(stream, tie, 30, 0.01, share) for stream, tie in zip(values, ties, strict=True)]
    assert at_once.tolist() == singly and max(singly) > 0


def first_alarm(stream: np.ndarray, ties: np.ndarray, reference: int, alpha: float, share: float) -> int:
    test = ShiftTest(Bag(stream[:reference].tolist()), alpha, share)
    for place, (value, tie) in enumerate(zip(stream[reference:].tolist(), ties.tolist(), strict=True)):
        if test.observe(value, tie, str(place)):
            return place
    return -1


@pytest.mark.parametrize(("reference", "within"), [(20, 40), (60, 20), (200, 15)])
def test_a_total_change_is_found_within_some_images(reference: int, within: int) -> None:
    """Every image is wrong from the first on: the brief asks for an alarm within a thousand."""
    values, ties = draw(reference, 100, "total", streams=50)
    values[:, reference:] += 5
    first = drift_streams.first_alarms(values, ties, reference, 0.01 / 3, share=0.05)
    assert (first >= 0).all() and first.max() < within


def test_a_change_after_a_long_quiet_run_is_found_soon() -> None:
    quiet = 3000
    values, ties = draw(60, quiet + 100, "late", streams=20)
    values[:, 60 + quiet :] -= 2
    first = drift_streams.first_alarms(values, ties, 60, 0.01 / 3, share=0.05)
    late = first[first >= quiet] - quiet
    assert len(late) >= 19 and late.max() < 60


def test_a_change_says_since_when_and_how_strongly() -> None:
    values, ties = draw(100, 400, "words", streams=1)
    values[0, 300:] += 3
    test = ShiftTest(Bag(values[0, :100].tolist()), 0.01, 0.05)
    found = [c for i in range(400) for c in test.observe(values[0, 100 + i], ties[0, i], str(i))]
    assert [change.direction for change in found] == [Direction.HIGHER], "each direction sounds once"
    (change,) = found
    assert 195 <= int(change.since) <= 203 and int(change.since) <= int(change.at) < 230
    assert change.strength > 0.9 and change.count == int(change.at) - int(change.since) + 1
    assert test.evidence()[Direction.HIGHER] == 1 and test.evidence()[Direction.LOWER] < 0.5


def test_the_state_goes_through_json_at_any_time() -> None:
    values, ties = draw(25, 150, "json", streams=1)
    values[0, 100:] += 3
    whole = broken = ShiftTest(Bag(values[0, :25].tolist()), 0.01, 0.05)
    broken = ShiftTest.from_dict(json.loads(json.dumps(whole.to_dict())))
    for place in range(150):
        value, tie = float(values[0, 25 + place]), float(ties[0, place])
        assert whole.observe(value, tie, str(place)) == broken.observe(value, tie, str(place))
        broken = ShiftTest.from_dict(json.loads(json.dumps(broken.to_dict(), allow_nan=False)))
        assert broken.to_dict() == whole.to_dict()
    assert whole.sounded


def test_a_learned_reference_takes_no_bets_while_it_is_learned() -> None:
    generator = numpy_generator_for(5)
    test = ShiftTest(Bag(), 0.01, 0.05, fill=50)
    for place in range(50):
        assert test.learning == 50 - place
        assert test.observe(place % 7 + 100.0 * (place > 40), generator.random(), "") == []
    assert test.learning == 0 and len(test.reference) == 50 and test.doubtful == 50
    again = test.restarted()
    assert again.learning == 0 and len(again.reference) == 50 and again.seen == 0
    learning = ShiftTest(Bag(), 0.01, 0.05, fill=50)
    learning.observe(1.0, 0.5, "")
    assert learning.restarted().learning == 50


def test_a_restart_forgets_the_stream_and_keeps_the_reference() -> None:
    test = ShiftTest(Bag(range(100, 160)), 0.01, 0.0)
    while not test.sounded:
        test.observe(500.0, 0.5, "")
    again = test.restarted()
    assert not again.sounded and again.seen == 0 and again.reference.values() == test.reference.values()
    assert max(again.evidence().values()) == 0
