"""Options of a certification. The command line reads its options, their defaults and their help from here."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from pydantic import Field, field_validator

from advrad.data.options import WithDataOptions, limit_field, seed_field
from advrad.utils.config import Config
from advrad.utils.radii import Norm

Method = Literal["auto", "bounds", "percentile", "two-path"]

#: Noise samples per calibration image, and the confidence of each bound, for a certified threshold.
N_SAMPLES = 64
CONFIDENCE = 0.999


def _norm_field() -> Any:
    """Field of the norm of the perturbations."""
    return Field(
        None,
        description="Size of a perturbation: linf, the largest change of a pixel value, needs a closed-form detector;"
        " l2 is the length of the whole change.",
        json_schema_extra={"when_none": "linf for a closed-form detector, l2 for others"},
    )


class CertifyOptions(WithDataOptions):
    """Options of a certification; each field's description says what it is.

    Example:
        >>> options = CertifyOptions(radius="0.1,0.2", n_samples=400)
        >>> options.n_samples, options.method
        (400, 'auto')
    """

    norm: Norm | None = _norm_field()
    radius: str | None = Field(
        None,
        description="Radii to certify, separated by commas, for pixel values in [0, 1].",
        json_schema_extra={
            "when_none": "1/255,2/255,4/255 in linf; in l2 those of 0.1,0.2,0.5 that the samples can certify"
        },
    )
    sticker_px: int | None = Field(
        None,
        ge=1,
        description="Also bound what a sticker leaves of a defect: side of the covered square in pixels. Detectors"
        " with exact bounds only.",
    )
    n_samples: int = Field(200, alias="draws", description="Noise samples per image; exact bounds need none.")
    confidence: float = Field(
        0.999,
        description="Probability that all bounds of a radius hold together, and that each verdict holds; exact bounds"
        " always do.",
    )
    method: Method = Field(
        "auto",
        description="bounds (exact, without noise; for a closed-form detector), two-path (uses the noise of an AdvRAD"
        " detector itself), percentile (adds noise to the image; for any detector), or auto (the first that is"
        " possible).",
    )
    sigma: float | None = Field(
        None,
        description="Standard deviation of the noise that method percentile adds.",
        json_schema_extra={"when_none": "the largest radius"},
    )
    limit: int | None = limit_field()
    seed: int = seed_field()
    size_px: int | None = Field(
        None,
        ge=16,
        description="Side of the square images in pixels; the radii refer to images of this size.",
        json_schema_extra={"when_none": "the detector's size"},
    )
    own_size: bool = Field(False, description="Keep each image at the size of its file; the radii refer to that size.")


class CertifySettings(TypedDict, total=False):
    """Further settings of :func:`advrad.certify`, for type checkers; see :class:`CertifyOptions`.

    Attributes:
        sticker_px: Side of a square that may be covered, anywhere in the image, in pixels; None for none. Closed-form
            detectors only.
        n_samples: Number of noise samples per image, at least 2.
        confidence: Confidence with which the bounds of all images hold together, and with which each verdict holds.
        sigma: Standard deviation of the noise that ``percentile`` adds; None for the largest radius.
        limit: Number of test images, half of them normal; None for all.
        seed: Seed for all random draws.
        size_px: Side of the square to which image files are scaled; None for the detector's size.
        own_size: Whether each image file keeps its own size.
    """

    sticker_px: int | None
    n_samples: int
    confidence: float
    sigma: float | None
    limit: int | None
    seed: int
    size_px: int | None
    own_size: bool


class PredictionCertificateOptions(Config):
    """Options of the certificate of a single prediction; each field's description says what it is.

    The default seed cannot be predicted. An adversary who knew the seed could choose an image on which these noise
    samples mislead, and the confidence does not cover that case.

    Example:
        >>> PredictionCertificateOptions(norm="linf", radius="2/255").n_samples
        1000
    """

    norm: Norm | None = _norm_field()
    radius: str | None = Field(
        None,
        description="Radius for which the verdict should hold, for pixel values in [0, 1] of the image as given.",
        json_schema_extra={"when_none": "2/255 in linf, 0.2 in l2"},
    )
    n_samples: int = Field(1000, alias="draws", description="Largest number of noise samples per image.")
    confidence: float = Field(0.999, description="Probability that a certified verdict is correct.")
    seed: int | None = Field(
        None,
        description="Seed of the noise samples, to repeat a result.",
        json_schema_extra={"when_none": "unpredictable"},
    )

    @field_validator("radius", mode="before")
    @classmethod
    def _to_text(cls, value: object) -> object:
        return repr(value) if isinstance(value, int | float) else value
