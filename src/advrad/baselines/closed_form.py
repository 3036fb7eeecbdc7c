"""The closed-form detector, alone and together with a trained AdvRAD, as systems of the bench.

Its score can be bounded exactly, so the bench also certifies it at the radius of each attack.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from advrad.baselines.base import FitContext
from advrad.data.loading import ImageStack
from advrad.data.records import MAX_PIXELS
from advrad.data.splits import MOST_IMAGES, rate_in_reach
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.errors import ConfigError
from advrad.training.batches import TrainConfig, View
from advrad.training.calibration_data import split_stack
from advrad.training.plan import RunPlan
from advrad.utils.config import Config

if TYPE_CHECKING:
    from advrad.detectors.closed_form import ClosedFormDetector
    from advrad.training.closed_form import ClosedFormFit


class ClosedFormBaselineOptions(Config):
    """Options of the closed-form detector in a bench; it chooses everything else from the normal images.

    Attributes:
        false_alarm_rate: Largest share of normal images that may be called anomalous. If there are too few images for
            it, the lowest rate that they allow is used.
    """

    false_alarm_rate: float = Field(0.05, gt=0, lt=1)


class CombinedOptions(Config):
    """Options of the closed form together with the grid's AdvRAD.

    Attributes:
        score: ``auto`` combines them for clean images; ``robust`` keeps what the closed form certifies.
    """

    score: Literal["auto", "robust"] = "auto"


def fit_closed_form_baseline(context: FitContext, options: ClosedFormBaselineOptions) -> ClosedFormDetector:
    """Fit the closed form to all normal images, or to 400 of them drawn at random."""
    return fit_memory(context, most_images(context), options.false_alarm_rate).detector


def fit_combined(context: FitContext, options: CombinedOptions) -> AnomalyDetector:
    """Combine the closed form and the trained AdvRAD, as held-out normal images and synthetic defects show it best.

    The closed form is fitted to the images on which AdvRAD was trained, so that the same images are held out from both.

    Args:
        context: Training images, with ``diffusion``.
        options: What they are combined for.

    Returns:
        Both together, or the one that is better alone.

    Raises:
        ConfigError: The context has no trained AdvRAD.
    """
    from advrad.training.combination import combine

    if context.diffusion is None:
        raise ConfigError("the combination needs a trained AdvRAD; set FitContext.diffusion")
    learned = copy.copy(context.diffusion())  # its record is changed
    record = learned.detector_config.training.plan
    rate = float(record.to_dict().get("false_alarm_rate", 0.05)) if record else 0.05
    images = split_stack(context.normal_images, context.seed, rate)
    memory = fit_memory(context, most_images(context, images.train), rate).detector
    size_px = learned.size_px
    train = TrainConfig(steps=0, seed=context.seed, size_px=size_px, views=(View(image_px=size_px, window_px=size_px),))
    plan = RunPlan(
        data="",
        layout="stack",
        category="",
        train=train,
        denoiser=learned.detector_config.denoiser,
        score=options.score,
        names=(),
    )
    found = combine(memory, learned, images, plan, context.progress)
    return WhiteBoxAdvRAD(found) if isinstance(found, AdvRAD) else found


def most_images(context: FitContext, stack: ImageStack | None = None) -> ImageStack:
    """Normal images for a closed form: all, or 400 of them drawn at random.

    Args:
        context: Gives the seed, and the images.
        stack: Images in place of the context's; None for those.
    """
    images = context.normal_images if stack is None else stack
    rows = torch.randperm(len(images), generator=context.generator("closed form"))[:MOST_IMAGES].sort().values
    return images.at(rows.tolist())


def fit_memory(context: FitContext, images: ImageStack, false_alarm_rate: float) -> ClosedFormFit:
    """Fit the closed form to normal images, and give the division of the images as well.

    Args:
        context: Gives the seed and the progress reporter.
        images: Normal images, see :func:`most_images`.
        false_alarm_rate: Largest share of normal images that may be called anomalous; the lowest that so many images
            allow if it is lower.
    """
    from advrad.training.closed_form import fit_with_plans
    from advrad.training.closed_form_run import aspect_of

    known = all(record.path.is_file() for record in images.records)
    return fit_with_plans(
        images.batch(slice(None)),
        false_alarm_rate=max(false_alarm_rate, rate_in_reach(len(images))),
        seed=context.seed,
        aspect=aspect_of(images.records, MAX_PIXELS) if known else 1.0,
        progress=context.progress,
    )
