"""Options of training and calibration. The command line reads its options, their defaults and their help from here."""

from __future__ import annotations

from typing import Literal, TypedDict

from pydantic import Field, field_validator

from advrad.certificates.options import CONFIDENCE, N_SAMPLES
from advrad.data.options import WithDataOptions, seed_field
from advrad.utils.config import Config
from advrad.utils.precision import Precision
from advrad.utils.radii import Norm, radius_of

ScoreAim = Literal["auto", "robust", "paper"]
ShapeAim = Literal["auto", "stretch", "pad", "tiles"]

#: Budget of the training of a learned denoiser that is given neither minutes nor steps.
DEFAULT_MINUTES = 5.0
#: Largest side of working images: nineteen of them take 60 GB in float32.
MOST_PX = 16384


class RunOptions(WithDataOptions):
    """Options of :func:`advrad.training.run.train`; each field's description says what it is.

    A run that is resumed keeps the values it was started with. Fields that were not set are not compared with them.
    ``denoiser`` is called ``source`` in grids and files.
    """

    minutes: float | None = Field(
        None,
        description="Also train a learned denoiser, and take this many minutes for the whole command.",
        json_schema_extra={"when_none": f"not trained; {DEFAULT_MINUTES:g} if denoiser or preset names a network"},
    )
    steps: int | None = Field(
        None, gt=0, description="Also train a learned denoiser, for this many steps; in place of minutes."
    )
    denoiser: str | None = Field(
        None,
        alias="source",
        description="Use one denoiser alone: memory (closed form, ready in seconds), lean (learned, fast on a CPU),"
        " ddpm (the paper's U-Net, slow without a GPU), or a pretrained diffusers U-Net to start from: a folder, or a"
        " model id of the Hugging Face Hub.",
        json_schema_extra={"when_none": "memory; with minutes or steps, memory and lean together"},
    )
    preset: str = Field(
        "lean",
        description="Size of the learned network, which is then used alone: lean, paper (ddpm as in the paper) or tiny"
        " (ddpm, for tests).",
    )
    features: str | None = Field(
        None,
        description="Guard a detector on features with the memory: patchcore (fitted to the same images, ready in a"
        " minute), FILE.py:NAME for a detector of your own, or a checkpoint of anomalib (.ckpt). An image is called"
        " defective if either half says so, and what the memory says is proven. With minutes or steps, a learned"
        " denoiser joins as a third half.",
    )
    backbone: str | None = Field(
        None,
        description="Network of the features of patchcore: lite0 or lite2 (from packages), or one of the library timm"
        " such as wide_resnet50_2, or hf-hub:NAME.",
        json_schema_extra={"when_none": "lite2"},
    )
    size_px: int | None = Field(
        None,
        ge=1,
        le=MOST_PX,
        description="Side of the square to which images are scaled, in pixels, such as 128 or 256.",
        json_schema_extra={"when_none": "256; for ddpm that of its network"},
    )
    shape: ShapeAim = Field(
        "auto",
        description="How images become working images: stretch (to a square, whatever their aspect ratio), pad (they"
        " keep it, with grey borders), tiles (cut into overlapping square tiles, for long or large images; for the"
        " closed form alone), or auto: stretch where one side is at most twice the other, tiles above four times, and"
        " pad between them or for images of several shapes.",
    )
    tile_px: int | None = Field(
        None,
        alias="tile",
        ge=16,
        description="Cut images into tiles of this side, in pixels of the images, such as 512.",
        json_schema_extra={"when_none": "no tiles; with the shape tiles, the shorter side of the images"},
    )
    seed: int = seed_field()
    batch_size: int | None = Field(
        None,
        gt=0,
        description="Images per training step, summed over all processes.",
        json_schema_extra={"when_none": "the network's"},
    )
    learning_rate: float | None = Field(
        None, gt=0, description="Highest learning rate.", json_schema_extra={"when_none": "the network's"}
    )
    false_alarm_rate: float = Field(
        0.05,
        description="Largest share of normal images that may be called defective, between 0 and 1. 0.05 needs 19"
        " different normal images and 0.01 needs 99; with a learned denoiser 42 and 202, with features 39 and 199.",
    )
    score: ScoreAim = Field(
        "auto",
        description="How the anomaly score is chosen: auto (best on clean images), robust (best under attack; what is"
        " proven for the memory stays) or paper (the score of the paper, which has no exact bounds, of one denoiser"
        " alone: the learned one, or the memory if denoiser names it).",
    )
    optimise_for_radius: float | None = Field(
        None,
        description="Choose what gives the best certified results at this l2 radius, for pixel values in [0, 1], such"
        " as 0.2: how the memory compares patches; with minutes or steps, the score of a learned denoiser alone.",
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
        return None if value is None else radius_of(value, "linf", "adversarial_eps")


class TrainKeywords(TypedDict, total=False):
    """Keyword options of :func:`advrad.training.run.train`: fields of :class:`RunOptions` and of its data options."""

    denoiser: str | None
    preset: str
    features: str | None
    backbone: str | None
    size_px: int | None
    shape: ShapeAim
    tile_px: int | None
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
    value_range: float | None
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
        " perturbation of up to this size, such as 2/255, for pixel values in [0, 1].",
    )
    norm: Norm | None = Field(
        None,
        description="Size of that perturbation: linf, the largest change of a pixel value, for a closed-form detector;"
        " l2 is the length of the whole change.",
        json_schema_extra={"when_none": "linf for a closed-form detector, l2 for others"},
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
        N_SAMPLES,
        ge=2,
        alias="draws",
        description="Noise samples per image for the certified threshold; exact bounds need none.",
    )
    confidence: float = Field(
        CONFIDENCE,
        gt=0,
        lt=1,
        description="Probability that the bound on each image's smoothed score holds; exact bounds always do.",
    )

    @field_validator("radius", mode="before")
    @classmethod
    def _fraction(cls, value: str | float | None) -> float | None:
        return None if value is None else radius_of(value, "l2", "radius")
