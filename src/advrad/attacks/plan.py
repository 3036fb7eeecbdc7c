"""What an evaluation of robustness does: which attacks, within which threat model, with which seed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from advrad.attacks.options import Noise
from advrad.attacks.registry import ATTACKS
from advrad.attacks.threat import Threat
from advrad.utils.config import Config

GradientPrecision = Literal["float32", "bfloat16"]


class AttackSpec(Config):
    """One attack of an evaluation.

    Attributes:
        attack: Name from :data:`advrad.attacks.registry.ATTACKS`.
        surrogate: Loss that it maximises, see :func:`advrad.attacks.objectives.make_objective`.
        steps: Number of gradient evaluations, or of queries for an attack without gradients.
        restarts: Number of runs, each from another random start.
        eot: Number of noise draws averaged in every evaluation.
        transfer: Whether it maximises the score of another detector, the source.
        if_noisy: Whether it is used only on detectors whose gradients differ between noise draws; see
            :data:`advrad.attacks.selection.AGREEMENT`.

    Example:
        >>> AttackSpec(attack="pgd", steps=40, eot=8).name
        'pgd, score, 40 steps, eot 8'
    """

    attack: str
    surrogate: str = "score"
    steps: int = Field(100, gt=0)
    restarts: int = Field(1, gt=0)
    eot: int = Field(1, gt=0)
    transfer: bool = False
    if_noisy: bool = False

    @field_validator("attack")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ATTACKS:
            raise ValueError(f"is unknown; choose {', '.join(ATTACKS)}")
        return value

    @property
    def name(self) -> str:
        """Short name; it differs between the attacks of a suite."""
        parts = [self.attack, self.surrogate, f"{self.steps} steps"]
        parts += [f"{self.restarts} restarts"] * (self.restarts > 1) + [f"eot {self.eot}"] * (self.eot > 1)
        return ", ".join(parts + ["transfer"] * self.transfer)

    @property
    def seed_name(self) -> str:
        """Name from which seeds are made. It leaves out the restarts: five restarts begin with the same first one."""
        return self.model_copy(update={"restarts": 1}).name


class AttackPlan(Config):
    """Everything that determines an evaluation of robustness, apart from the detector and the images.

    Attributes:
        threat: Threat model.
        attacks: Attacks in their order; the worst case over all counts. Stored as ``members``.
        seed: Seed for all random draws.
        noise: ``unknown``: the attacker averages over noise, and results are scored on noise that no attack has seen;
            ``known``: the attacker knows the noise of the deployed detector.
        gradient_precision: Precision of the gradients. Results are scored in the detector's own precision. Stored as
            ``arithmetic``.

    Example:
        >>> plan = AttackPlan(threat=Threat.of("linf", "2/255"), attacks=(AttackSpec(attack="pgd"),))
        >>> plan.model_dump(mode="json")["arithmetic"]
        'float32'
    """

    threat: Threat
    attacks: tuple[AttackSpec, ...] = Field(min_length=1, alias="members")
    seed: int = Field(0, ge=0)
    noise: Noise = "unknown"
    gradient_precision: GradientPrecision = Field("float32", alias="arithmetic")
