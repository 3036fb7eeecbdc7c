"""The suite: a fixed list of attacks whose only parameter is the budget. The worst case over all of them counts.

Results of different versions of the suite are not comparable, so every result states its version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from advrad.attacks.objectives import ALTERNATING
from advrad.attacks.plan import AttackSpec
from advrad.detectors.base import SurrogateKind, SurrogateLoss
from advrad.errors import ConfigError

VERSION = 3

Budget = Literal["quick", "standard", "full"]

#: Surrogate losses that every budget uses, because without them the gradient of the score may be useless: for
#: reconstructions of many steps, and for scores that saturate.
ALWAYS: frozenset[SurrogateKind] = frozenset({"one_step", "bpda", "unsaturated"})

#: Cheap attacks come first: images that they have moved as far as counts are skipped by the later ones.
SUITES: dict[Budget, tuple[AttackSpec, ...]] = {
    "quick": (
        AttackSpec(attack="pgd", surrogate=ALTERNATING, steps=40),
        AttackSpec(attack="apgd", surrogate="score", steps=20),
        AttackSpec(attack="pgd", surrogate="logsumexp", steps=20),
        AttackSpec(attack="pgd", surrogate="score", steps=40, eot=8, if_noisy=True),
        AttackSpec(attack="square", surrogate="score", steps=50),
    ),
    "standard": (
        AttackSpec(attack="pgd", surrogate=ALTERNATING, steps=200),
        AttackSpec(attack="apgd", surrogate="score", steps=100),
        AttackSpec(attack="pgd", surrogate="logsumexp", steps=100),
        AttackSpec(attack="pgd", surrogate="top", steps=50),
        AttackSpec(attack="pgd", surrogate="score", steps=100, eot=8, if_noisy=True),
        AttackSpec(attack="square", surrogate="score", steps=500),
    ),
    "full": (
        AttackSpec(attack="pgd", surrogate=ALTERNATING, steps=400, restarts=5, eot=4),
        AttackSpec(attack="apgd", surrogate="score", steps=100, restarts=5, eot=4),
        AttackSpec(attack="pgd", surrogate="logsumexp", steps=200, restarts=5, eot=4),
        AttackSpec(attack="pgd", surrogate="top", steps=100, restarts=5, eot=4),
        AttackSpec(attack="pgd", surrogate="score", steps=200, eot=16, if_noisy=True),
        AttackSpec(attack="pgd", surrogate="maximum", steps=100),
        AttackSpec(attack="pgd", surrogate="sum", steps=100),
        AttackSpec(attack="square", surrogate="score", steps=5000),
    ),
}
#: Steps of PGD on each surrogate loss of the detector.
_SURROGATE_STEPS: dict[Budget, int] = {"quick": 20, "standard": 50, "full": 100}
#: Steps of PGD and of APGD on each part of a score that is the largest of its parts'. Such a score leads the attack to
#: one part at a time, so every part is attacked as thoroughly as a detector of that part alone.
_PART_STEPS: dict[Budget, tuple[int, int]] = {"quick": (40, 20), "standard": (100, 100), "full": (200, 100)}


def suite_attacks(budget: str, surrogates: Mapping[str, SurrogateLoss] | None = None) -> tuple[AttackSpec, ...]:
    """List the attacks of the suite.

    Args:
        budget: ``quick``, ``standard`` or ``full``.
        surrogates: Surrogate losses of the detector, by name; None for none. ``full`` attacks with each of them, the
            others with those of a kind in :data:`ALWAYS`, and every budget with PGD and APGD on each ``part``. For a
            score without components, the attacks on components in turn use the score.

    Raises:
        ConfigError: The budget is unknown.

    Example:
        >>> [attack.name for attack in suite_attacks("quick")][0]
        'pgd, score, 40 steps'
    """
    known = next((name for name in get_args(Budget) if name == budget), None)
    if known is None:
        raise ConfigError(f"is unknown; choose {', '.join(get_args(Budget))}", option="budget", value=budget)
    losses = surrogates or {}
    attacks = SUITES[known]
    if not any(loss.kind == "component" for loss in losses.values()):
        whole = {"surrogate": "score"}
        attacks = tuple(one.model_copy(update=whole) if one.surrogate == ALTERNATING else one for one in attacks)
    parts = [name for name, loss in losses.items() if loss.kind == "part"]
    steps = tuple(zip(("pgd", "apgd"), _PART_STEPS[known], strict=True))
    of_parts = tuple(AttackSpec(attack=way, surrogate=name, steps=count) for name in parts for way, count in steps)
    chosen = [name for name, loss in losses.items() if loss.kind in ALWAYS or (known == "full" and name not in parts)]
    others = tuple(AttackSpec(attack="pgd", surrogate=name, steps=_SURROGATE_STEPS[known]) for name in chosen)
    if not parts:
        return attacks + others
    *first, black_box = attacks  # which is compared with all others, so it comes last
    return (*first, *of_parts, *others, black_box)
