"""The suite: attacks in a fixed order, with no parameter but the budget. The worst case of all members counts.

Figures of different versions are not comparable, so every result names its version.
"""

from __future__ import annotations

from typing import Literal, get_args

from advrad.attacks.evaluation import AttackSpec
from advrad.attacks.objectives import IN_TURN
from advrad.errors import ConfigError

VERSION = 3

Budget = Literal["quick", "standard", "full"]

#: Hints without which a score's gradient may say little: of a walk of many steps, and of a score that saturates.
ALWAYS = ("one shot", "straight through", "unsaturated")

#: What is cheap comes first: an image that is beyond repair already costs the later members nothing.
SUITES: dict[Budget, tuple[AttackSpec, ...]] = {
    "quick": (
        AttackSpec(attack="pgd", surrogate=IN_TURN, steps=40),
        AttackSpec(attack="apgd", surrogate="score", steps=20),
        AttackSpec(attack="pgd", surrogate="logsumexp", steps=20),
        AttackSpec(attack="pgd", surrogate="score", steps=40, eot=8, if_noisy=True),
        AttackSpec(attack="square", surrogate="score", steps=50),
    ),
    "standard": (
        AttackSpec(attack="pgd", surrogate=IN_TURN, steps=200),
        AttackSpec(attack="apgd", surrogate="score", steps=100),
        AttackSpec(attack="pgd", surrogate="logsumexp", steps=100),
        AttackSpec(attack="pgd", surrogate="top", steps=50),
        AttackSpec(attack="pgd", surrogate="score", steps=100, eot=8, if_noisy=True),
        AttackSpec(attack="square", surrogate="score", steps=500),
    ),
    "full": (
        AttackSpec(attack="pgd", surrogate=IN_TURN, steps=400, restarts=5, eot=4),
        AttackSpec(attack="apgd", surrogate="score", steps=100, restarts=5, eot=4),
        AttackSpec(attack="pgd", surrogate="logsumexp", steps=200, restarts=5, eot=4),
        AttackSpec(attack="pgd", surrogate="top", steps=100, restarts=5, eot=4),
        AttackSpec(attack="pgd", surrogate="score", steps=200, eot=16, if_noisy=True),
        AttackSpec(attack="pgd", surrogate="maximum", steps=100),
        AttackSpec(attack="pgd", surrogate="sum", steps=100),
        AttackSpec(attack="square", surrogate="score", steps=5000),
    ),
}


def members_of(budget: str, surrogates: tuple[str, ...] = ()) -> tuple[AttackSpec, ...]:
    """The members of a suite.

    Args:
        budget: ``quick``, ``standard`` or ``full``.
        surrogates: of the detector. ``full`` climbs each alone; all budgets climb those of :data:`ALWAYS`. What has no
            parts to climb in turn is climbed by its score in their place.

    Raises:
        ConfigError: there is no such budget.
    """
    for known in get_args(Budget):
        if budget == known:
            members = SUITES[known]
            if not any(hint.startswith("part") for hint in surrogates):
                whole = {"surrogate": "score"}
                members = tuple(m.model_copy(update=whole) if m.surrogate == IN_TURN else m for m in members)
            steps = {"quick": 20, "standard": 50, "full": 100}[budget]
            chosen = [hint for hint in surrogates if known == "full" or hint in ALWAYS]
            return members + tuple(AttackSpec(attack="pgd", surrogate=hint, steps=steps) for hint in chosen)
    raise ConfigError(f"--budget {budget}: is unknown; choose {', '.join(get_args(Budget))}")
