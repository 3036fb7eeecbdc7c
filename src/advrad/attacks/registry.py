"""The table of attacks."""

from __future__ import annotations

from advrad.attacks.auto_pgd import apgd
from advrad.attacks.base import Attack
from advrad.attacks.low_frequency import lowfrequency
from advrad.attacks.patch_attack import patch
from advrad.attacks.projected_gradient import pgd
from advrad.attacks.square_attack import square

#: All attacks by name. The contract tests run over every one.
ATTACKS: dict[str, Attack] = {
    "pgd": pgd,
    "apgd": apgd,
    "square": square,
    "lowfrequency": lowfrequency,
    "patch": patch,
}
#: Attacks that use scores only.
WITHOUT_GRADIENTS = frozenset({"square"})
#: Attacks confined to a part of the ball. They show what such a perturbation can do, not the worst case.
CONFINED = frozenset({"lowfrequency", "patch"})
