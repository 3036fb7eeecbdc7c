"""Attacks on anomaly detectors, and the evaluation of what they find.

Example:
    >>> from advrad import attacks
    >>> sorted(attacks.ATTACKS)
    ['apgd', 'lowfrequency', 'patch', 'pgd', 'square']
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

__all__ = [
    "ATTACKS",
    "AttackInput",
    "AttackOptions",
    "AttackOutput",
    "AttackPlan",
    "AttackResult",
    "AttackSpec",
    "ChecksResult",
    "CurveResult",
    "ImageAttackResult",
    "ImageSet",
    "Threat",
    "attack",
    "evaluate_robustness",
    "suite_attacks",
]

if TYPE_CHECKING:
    from advrad.attacks.base import AttackInput, AttackOutput
    from advrad.attacks.batch_attack import ImageAttackResult
    from advrad.attacks.evaluation import ImageSet, evaluate_robustness
    from advrad.attacks.options import AttackOptions
    from advrad.attacks.pipeline import attack
    from advrad.attacks.plan import AttackPlan, AttackSpec
    from advrad.attacks.registry import ATTACKS
    from advrad.attacks.results import AttackResult, ChecksResult, CurveResult
    from advrad.attacks.suite import suite_attacks
    from advrad.attacks.threat import Threat
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "ATTACKS": "advrad.attacks.registry",
            "AttackInput": "advrad.attacks.base",
            "AttackOptions": "advrad.attacks.options",
            "AttackOutput": "advrad.attacks.base",
            "AttackPlan": "advrad.attacks.plan",
            "AttackResult": "advrad.attacks.results",
            "AttackSpec": "advrad.attacks.plan",
            "ChecksResult": "advrad.attacks.results",
            "CurveResult": "advrad.attacks.results",
            "ImageAttackResult": "advrad.attacks.batch_attack",
            "ImageSet": "advrad.attacks.evaluation",
            "Threat": "advrad.attacks.threat",
            "attack": "advrad.attacks.pipeline",
            "evaluate_robustness": "advrad.attacks.evaluation",
            "suite_attacks": "advrad.attacks.suite",
        },
    )
