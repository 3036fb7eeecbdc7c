"""The table of attacks."""

from __future__ import annotations

from advrad.attacks.auto_pgd import apgd
from advrad.attacks.base import Attack
from advrad.attacks.low_frequency import lowfrequency
from advrad.attacks.patch_attack import patch
from advrad.attacks.projected_gradient import pgd
from advrad.attacks.square_attack import square

#: By name. The contract tests run over every row.
ATTACKS: dict[str, Attack] = {
    "pgd": pgd,
    "apgd": apgd,
    "square": square,
    "lowfrequency": lowfrequency,
    "patch": patch,
}
#: Those that ask for scores only.
WITHOUT_GRADIENTS = frozenset({"square"})
#: Those confined to a part of the ball: they are reported apart, for what they say of the world, not as a worst case.
CONFINED = frozenset({"lowfrequency", "patch"})
