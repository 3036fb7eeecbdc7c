"""The plans of fits of the closed form: alone, and beside a detector on features."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from advrad.data.shapes import ShapeName
from advrad.training.options import RunOptions
from advrad.training.plan_base import PlanBase
from advrad.utils.precision import Precision


class FitPlan(PlanBase):
    """Base of the plans: how the images were framed.

    Attributes:
        size_px: Side of the square to which the images were resized, pixels.
        seed: Seed of all draws.
        aspect: Width of the image files divided by their height; 1 if they differ.
        shape: How images become working images: ``stretch`` or ``pad`` to a square, or ``tiles``.
    """

    size_px: int = Field(gt=0)
    seed: int = Field(0, ge=0)
    aspect: float = Field(1.0, gt=0)
    shape: ShapeName = "stretch"


class ClosedFormPlan(FitPlan):
    """Everything that determines a closed-form detector that was fitted alone. It is written with the finished model.

    Attributes:
        kind: Name of this kind of plan in files.
        tile_px: Side of a tile in pixels of the images; None for their shorter side, or without tiles.
    """

    kind: Literal["closed_form"] = "closed_form"
    tile_px: int | None = Field(None, gt=0)

    @property
    def options(self) -> RunOptions:
        """Options with which it was fitted."""
        return RunOptions(
            denoiser="memory",
            size_px=self.size_px,
            seed=self.seed,
            false_alarm_rate=self.false_alarm_rate,
            score=self.score,
            optimise_for_radius=self.optimise_for_radius,
            shape=self.shape,
            tile_px=self.tile_px,
            data=self.data_options,
        )


class GuardedPlan(FitPlan):
    """Everything that determines a guarded detector: the closed form beside a detector on features.

    It is written with the finished model; where a denoiser is trained as well, before its first step.

    Attributes:
        kind: Name of this kind of plan in files.
        features: What the detector on features is, see :class:`advrad.training.options.RunOptions`.
        backbone: Network of the features; None for the usual one, or for a foreign detector.
        budget_minutes: Time budget from which the number of steps was derived; None if the steps were given, or no
            denoiser is trained.
        steps: Number of training steps of the learned denoiser; None if none is trained.
        batch_size: Images per training step; None for the usual number.
        learning_rate: Highest learning rate; None for the usual one.
        adversarial_eps: Size of the perturbations that the denoiser is trained on; None for none.
        precision: Precision of the denoiser's network.
        threshold_names: Names of the images that set the thresholds; no half may be trained on them.
    """

    kind: Literal["guarded"] = "guarded"
    features: str
    backbone: str | None = None
    budget_minutes: float | None = None
    steps: int | None = Field(None, gt=0)
    batch_size: int | None = Field(None, gt=0)
    learning_rate: float | None = Field(None, gt=0)
    adversarial_eps: float | None = None
    precision: Precision = "auto"
    threshold_names: tuple[str, ...] = ()

    @property
    def options(self) -> RunOptions:
        """Options with which it was fitted."""
        return RunOptions(
            features=self.features,
            backbone=self.backbone,
            minutes=self.budget_minutes,
            steps=self.steps,
            size_px=self.size_px,
            seed=self.seed,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            false_alarm_rate=self.false_alarm_rate,
            score=self.score,
            shape=self.shape,
            adversarial_eps=self.adversarial_eps,
            precision=self.precision,
            data=self.data_options,
        )
