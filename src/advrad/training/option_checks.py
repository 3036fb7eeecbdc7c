"""Refuse options of a training that are out of range or contradict each other, before any image is looked for."""

from __future__ import annotations

from advrad.data.splits import normals_needed
from advrad.errors import ConfigError
from advrad.training.choice import choice_of
from advrad.training.options import RunOptions
from advrad.training.plan import check_score_options


def check_options(options: RunOptions) -> None:
    """Refuse options that no new run can have.

    Args:
        options: Options of the run.

    Raises:
        ConfigError: An option is out of range, or does not fit the others.

    Example:
        >>> check_options(RunOptions(minutes=5, steps=3))
        Traceback (most recent call last):
        advrad.errors.ConfigError: minutes 5: cannot be combined with steps; give one of them
    """
    check_ranges(options)
    choice_of(options)


def check_ranges(options: RunOptions) -> None:
    """Refuse options that no run can have, also none that is resumed.

    Args:
        options: Options of the run.

    Raises:
        ConfigError: An option is out of range.
    """
    if options.minutes is not None and options.steps is not None:
        raise ConfigError("cannot be combined with steps; give one of them", option="minutes", value=options.minutes)
    if options.minutes is not None and not 0 < options.minutes < 1e6:
        raise ConfigError("must be above 0", option="minutes", value=options.minutes)
    normals_needed(options.false_alarm_rate)
    check_score_options(options.score, options.optimise_for_radius)
