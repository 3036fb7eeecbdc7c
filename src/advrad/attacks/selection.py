"""The choice of attacks: those that options ask for, and those of a plan that suit a detector."""

from __future__ import annotations

from advrad.attacks.objectives import NEED_MAPS, OUTPUT_LOSSES, available_objectives, check_surrogate
from advrad.attacks.options import AttackOptions
from advrad.attacks.plan import AttackPlan, AttackSpec
from advrad.attacks.registry import ATTACKS, WITHOUT_GRADIENTS
from advrad.attacks.suite import suite_attacks
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.probing import ProbedProperties
from advrad.errors import ConfigError

#: Steps of a single attack if the options name none; 100 for all others.
DEFAULT_STEPS = {"square": 1000}
#: Gradients of two noise draws that agree less than this (cosine) need averaging.
AGREEMENT = 0.3
#: Number of noise draws that an attack on a part averages if its gradients do.
DRAWS = 8


def requested_attacks(options: AttackOptions, detector: AnomalyDetector) -> tuple[AttackSpec, ...]:
    """List the attacks that the options ask for.

    Raises:
        ConfigError: The attack, the budget or the surrogate loss is unknown.
    """
    name = options.attack
    if name == "suite":
        return suite_attacks(options.budget, detector.surrogates)
    transfer = name == "transfer"
    if name not in ATTACKS and not transfer:
        known = ", ".join((*ATTACKS, "transfer", "suite"))
        raise ConfigError(f"is unknown; choose {known}", option="attack", value=name)
    if not transfer:
        check_surrogate(detector, options.surrogate)
    spec = AttackSpec(
        attack="pgd" if transfer else name,
        surrogate=options.surrogate,
        steps=options.steps or DEFAULT_STEPS.get(name, 100),
        restarts=options.restarts,
        eot=options.eot,
        transfer=transfer,
    )
    return (spec,)


def applicable_attacks(
    plan: AttackPlan, detector: AnomalyDetector, properties: ProbedProperties, has_maps: bool
) -> tuple[list[AttackSpec], dict[str, str]]:
    """Choose the attacks that suit a detector.

    Args:
        plan: Plan.
        detector: Detector.
        properties: Its measured properties.
        has_maps: Whether it gives anomaly maps.

    Returns:
        The attacks that suit it, and the names of the others with the reason why they do not. An attack on a part whose
        gradients of two noise draws hardly agree averages :data:`DRAWS` draws.
    """
    kept: list[AttackSpec] = []
    left_out: dict[str, str] = {}
    for attack in plan.attacks:
        reason = None if attack.transfer else _reason_against(attack, plan, detector, properties, has_maps)
        if reason is None:
            part = properties.parts.get(attack.surrogate)
            noisy = part is not None and part.agreement < AGREEMENT
            kept.append(attack.model_copy(update={"eot": max(attack.eot, DRAWS)}) if noisy else attack)
        else:
            left_out[attack.name] = reason
    return kept, left_out


def _reason_against(
    attack: AttackSpec, plan: AttackPlan, detector: AnomalyDetector, properties: ProbedProperties, has_maps: bool
) -> str | None:
    if not properties.differentiable and attack.attack not in WITHOUT_GRADIENTS:
        return f"no gradient reaches the image: {properties.why_not}"
    if attack.surrogate not in available_objectives(detector):
        return f"the detector offers no '{attack.surrogate}'"
    part = properties.parts.get(attack.surrogate)
    if part is not None and not part.differentiable and attack.attack not in WITHOUT_GRADIENTS:
        return f"no gradient of this part reaches the image: {part.why_not}"
    if not has_maps and attack.surrogate in NEED_MAPS:
        return "the detector gives no maps"
    if attack.if_noisy and properties.deterministic:
        return "there is no noise to average over"
    if attack.if_noisy and properties.agreement >= AGREEMENT:
        return f"gradients of two noise draws agree to {properties.agreement:.2f}: one is enough"
    if attack.if_noisy and plan.noise == "known":
        return "the noise is known"
    if plan.noise == "known" and attack.surrogate not in OUTPUT_LOSSES and part is None:
        return "it draws other noise than the score does"
    return None
