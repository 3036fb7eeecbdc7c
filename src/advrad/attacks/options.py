"""Options of an attack. The command line reads its options, their defaults and their help from here."""

from __future__ import annotations

from typing import Literal, TypedDict

from pydantic import Field

from advrad.data.options import WithDataOptions, limit_field, seed_field
from advrad.utils.precision import Precision

Noise = Literal["unknown", "known"]


class AttackOptions(WithDataOptions):
    """Options of an attack; each field's description says what it is.

    Example:
        >>> AttackOptions(norm="l2", eps="0.5").budget
        'standard'
    """

    attack: str = Field(
        "suite",
        description="Attack: suite (several attacks, the strongest result counts), pgd, apgd, square (needs no"
        " gradients), transfer (PGD on another detector), lowfrequency or patch.",
    )
    norm: str = Field(
        "linf",
        description="Norm of the perturbation: linf (largest change of a pixel) or l2 (length of the whole change).",
    )
    eps: str = Field(
        "2/255",
        description="Largest perturbation in this norm, for pixel values in [0, 1]: a number or a fraction, such as"
        " 2/255.",
    )
    budget: str = Field("standard", description="Effort of the suite: quick, standard or full.")
    steps: int | None = Field(
        None,
        gt=0,
        description="Steps of a single attack.",
        json_schema_extra={"when_none": "100; for square 1000 queries"},
    )
    restarts: int = Field(1, gt=0, description="Random starts of a single attack; the strongest result counts.")
    eot: int = Field(
        1, gt=0, description="Noise samples averaged per step of a single attack, for detectors that add noise."
    )
    surrogate: str = Field(
        "score",
        description="Loss that a single attack maximises: score, or a surrogate loss of the detector, such as"
        " logsumexp, top or sum.",
    )
    noise: Noise = Field(
        "unknown", description="Whether the attacker knows the noise that the detector will add: unknown or known."
    )
    gradients: Precision = Field(
        "auto",
        description="Precision of the gradients of AdvRAD detectors: auto (bfloat16 where the processor supports it),"
        " float32 or bfloat16.",
    )
    limit: int | None = limit_field()
    seed: int = seed_field()
    size_px: int | None = Field(
        None,
        ge=16,
        description="Side of the square images in pixels, for detectors that take any size.",
        json_schema_extra={"when_none": "the detector's size, else 256"},
    )
    save_images: bool = Field(False, description="Save the adversarial images as 16-bit PNG files.")


class AttackSettings(TypedDict, total=False):
    """Further settings of :func:`advrad.attack`, for type checkers; see :class:`AttackOptions`.

    Attributes:
        steps: Steps of a single attack; None for 100, or 1000 queries of ``square``.
        restarts: Number of random starts of a single attack.
        eot: Number of noise draws averaged in each step of a single attack.
        surrogate: Loss that a single attack maximises: ``score``, or another name from
            :func:`advrad.attacks.objectives.available_objectives`.
        noise: Whether the attacker knows the noise that the detector draws: ``unknown`` or ``known``.
        gradients: Precision of the gradients, for detectors that offer a choice: ``auto``, ``float32`` or ``bfloat16``.
        limit: Number of images, half of them normal; None for all.
        seed: Seed for all random draws.
        size_px: Side of the images in pixels, for detectors that take any size; None for the size to which the
            detector's image files are scaled, else 256. Tensors keep their size.
        save_images: Whether the adversarial images are saved in the output folder.
    """

    steps: int | None
    restarts: int
    eot: int
    surrogate: str
    noise: Noise
    gradients: Precision
    limit: int | None
    seed: int
    size_px: int | None
    save_images: bool
