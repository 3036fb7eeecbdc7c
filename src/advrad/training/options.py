"""Options of training and calibration. The command line reads its options, their defaults and their help from here."""

from __future__ import annotations

from typing import Literal, TypedDict

from pydantic import Field, field_validator

from advrad.certificates.options import CONFIDENCE, N_SAMPLES
from advrad.data.options import WithDataOptions, seed_field
from advrad.utils.config import Config
from advrad.utils.precision import Precision

ScoreAim = Literal["auto", "robust", "paper"]

#: Budget of a training run that is given neither minutes nor steps.
DEFAULT_MINUTES = 5.0


class RunOptions(WithDataOptions):
    """Options of :func:`advrad.training.run.train`; each field's description says what it is.

    A run that is resumed keeps the values it was started with. Fields that were not set are not compared with them.
    """

    minutes: float | None = Field(
        None,
        description="Time for the whole command in minutes: training, choosing the score, setting the threshold.",
        json_schema_extra={"when_none": f"{DEFAULT_MINUTES:g}"},
    )
    steps: int | None = Field(None, gt=0, description="Number of training steps, in place of minutes.")
    preset: str = Field(
        "lean",
        description="Network: lean (fast on a CPU), paper (the paper's U-Net, slow without a GPU) or tiny (for tests).",
    )
    source: str | None = Field(
        None, description="Pretrained diffusers U-Net to start from: a folder, or a model id of the Hugging Face Hub."
    )
    size_px: int | None = Field(
        None,
        description="Side of the square to which images are scaled, in pixels, such as 128 or 256.",
        json_schema_extra={"when_none": "the preset's size"},
    )
    seed: int = seed_field()
    batch_size: int | None = Field(
        None,
        gt=0,
        description="Images per training step, summed over all processes.",
        json_schema_extra={"when_none": "the preset's"},
    )
    learning_rate: float | None = Field(
        None, gt=0, description="Highest learning rate.", json_schema_extra={"when_none": "the preset's"}
    )
    false_alarm_rate: float = Field(
        0.05, description="Largest share of normal images that may be called defective, between 0 and 1."
    )
    score: ScoreAim = Field(
        "auto",
        description="How the anomaly score is chosen: auto (best on clean images), robust (best under attack) or"
        " paper (the score of the paper).",
    )
    optimise_for_radius: float | None = Field(
        None,
        description="Choose the score with the best certified results at this l2 radius, for pixel values in [0, 1],"
        " such as 0.2; in place of score.",
    )
    adversarial_eps: float | None = Field(
        None,
        alias="harden",
        description="Train on adversarial images with linf perturbations up to this size, such as 2/255.",
        json_schema_extra={"when_none": "off"},
    )
    precision: Precision = Field(
        "auto",
        description="Precision of the network: auto (bfloat16 where the processor supports it), float32 or bfloat16.",
    )

    @field_validator("adversarial_eps", mode="before")
    @classmethod
    def _fraction(cls, value: str | float | None) -> float | None:
        from advrad.attacks.threat import radius_of

        return None if value is None else radius_of(value, "linf", "adversarial_eps")


class TrainKeywords(TypedDict, total=False):
    """Keyword options of :func:`advrad.training.run.train`: fields of :class:`RunOptions` and of its data options."""

    preset: str
    source: str | None
    size_px: int | None
    seed: int
    batch_size: int | None
    learning_rate: float | None
    false_alarm_rate: float
    score: ScoreAim
    optimise_for_radius: float | None
    adversarial_eps: float | str | None
    precision: Precision
    layout: str
    category: str | None
    skip_bad: bool
    max_pixels: int


class CalibrateOptions(Config):
    """Options of :func:`advrad.training.recalibrate.calibrate`; each field's description says what it is."""

    false_alarm_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Largest share of normal images that may be called defective, between 0 and 1.",
        json_schema_extra={"when_none": "as before"},
    )
    radius: float | None = Field(
        None,
        description="Also set a threshold for certified verdicts, which keeps this rate for normal images with a"
        " perturbation of up to this l2 length, for pixel values in [0, 1].",
    )
    score: ScoreAim | None = Field(
        None,
        description="Choose the anomaly score again: auto (best on clean images), robust (best under attack) or paper"
        " (the score of the paper).",
        json_schema_extra={"when_none": "as before"},
    )
    optimise_for_radius: float | None = Field(
        None,
        description="Choose the anomaly score again, with the best certified results at this l2 radius, for pixel"
        " values in [0, 1], such as 0.2.",
    )
    n_samples: int = Field(
        N_SAMPLES, ge=2, alias="draws", description="Noise samples per image for the certified threshold."
    )
    confidence: float = Field(
        CONFIDENCE, gt=0, lt=1, description="Probability that the bound on each image's smoothed score holds."
    )
