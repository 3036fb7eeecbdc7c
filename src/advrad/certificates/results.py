"""The result of a certification, as it is returned, stored as JSON and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_serializer, model_serializer, model_validator

from advrad.certificates.bounds_evaluation import ImageBounds
from advrad.certificates.evaluation import ImageCertificate, write_certificates
from advrad.detectors.config import RecordedFigures
from advrad.detectors.guarded_figures import WordCounts
from advrad.utils.config import Config
from advrad.utils.files import write_json
from advrad.utils.formatting import radius_text
from advrad.utils.output_folders import ALL, claim_folder
from advrad.utils.radii import Norm


class VerdictShares(Config):
    """Certified verdicts at one radius, as shares of all images.

    Attributes:
        right: Share of certified verdicts that agree with the label.
        wrong: Share of certified verdicts that contradict the label.
        abstained: Share of images without a certified verdict.
        certified: Share of certified verdicts, ``right + wrong``.
        early_certified: Share of verdicts that a test that stops early certifies; None without noise.
        samples_saved: Share of the noise samples that this test does not need; ``draws_saved`` in JSON. None without
            noise.
    """

    right: float
    wrong: float
    abstained: float
    certified: float
    early_certified: float | None = None
    samples_saved: float | None = Field(None, alias="draws_saved")

    @model_serializer(mode="wrap")
    def _without_missing(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if value is not None}


class ProvenCounts(Config):
    """Numbers of proven verdicts on images of one class.

    Attributes:
        defective: Number of images that are proven defective.
        good: Number of images that are proven good.
        not_proven: Number of images without a proven verdict.
    """

    defective: int
    good: int
    not_proven: int


class ProvenVerdicts(Config):
    """Proven verdicts at one radius, by the class of the image.

    Attributes:
        normal: Verdicts on normal images.
        anomalous: Verdicts on anomalous images.
    """

    normal: ProvenCounts
    anomalous: ProvenCounts


class StickerFigures(Config):
    """What a sticker leaves of the scores of anomalous images, wherever it lies and whatever it shows.

    Attributes:
        side_px: Side of the square that the sticker covers, in pixels of the images as given.
        found: Share of anomalous images whose score stays above the threshold; None without a threshold.
        clean_found: Share of anomalous images above the threshold without a sticker; None without a threshold.
        auroc: AUROC with a sticker on every anomalous image, and none on normal ones; None without both classes.
    """

    side_px: int
    found: float | None
    clean_found: float | None
    auroc: float | None


class CertifiedCurve(Config):
    """Certified figures over the radius.

    Attributes:
        radii: Radii, increasing.
        certified_auroc: Certified AUROC at each radius; None without images of both classes.
        certified_right: Share of certified verdicts that agree with the label; None without a threshold.
        certified_wrong: Share of certified verdicts that contradict the label; None without a threshold.
    """

    radii: tuple[float, ...]
    certified_auroc: tuple[float | None, ...]
    certified_right: tuple[float, ...] | None = None
    certified_wrong: tuple[float, ...] | None = None

    @model_serializer(mode="wrap")
    def _without_missing(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if value is not None}


class AttackPoint(Config):
    """The result of an attack, in the norm of the certificate, on images of the same product and size.

    Attributes:
        attack: Name of the attack.
        eps: Radius of the attack.
        robust_auroc: AUROC under the attack.
        same_images: Whether it attacked exactly the certified images; ``same_pictures`` in JSON.
    """

    attack: str
    eps: float
    robust_auroc: float
    same_images: bool = Field(alias="same_pictures")


#: Figures that are left out of JSON where there are none.
_LEFT_OUT = {
    *(
        "draws",
        "confidence",
        "seed",
        "quantile",
        "certified_auroc_ci",
        "verdicts",
        "proven",
        "words",
        "sticker",
        "median_radius",
    ),
}


class CertificateFigures(Config):
    """Figures that follow from the certificates of all images. Those about noise are None for exact bounds.

    Attributes:
        n_samples: Number of noise samples per image; ``draws`` in JSON.
        confidence: Confidence with which the bounds of all images hold together at each radius.
        seed: Seed of all random draws.
        threshold: Threshold of the certified score; None without verdicts.
        n_normal: Number of normal images; ``n_good`` in JSON.
        n_anomalous: Number of anomalous images; ``n_defect`` in JSON.
        clean_auroc: AUROC of the certified score without perturbation; None without images of both classes.
        certified_auroc: Certified AUROC by requested radius: no perturbation of all images leaves less.
        certified_auroc_ci: 95 % bootstrap interval of each certified AUROC over the choice of images; None if it was
            not computed.
        verdicts: Certified verdicts by requested radius; None without a threshold.
        proven: Numbers of proven verdicts by requested radius; None without a threshold, and with noise.
        words: Numbers of the words of verdicts by requested radius; None for a detector that is not guarded.
        sticker: What a sticker leaves; None if it was not asked for.
        median_radius: Median over all images of the radius for which the right verdict is certified, 0 where it is not;
            None without a threshold.
        curve: Certified figures over the radius.
        seconds: Time spent on all images, in seconds.
    """

    n_samples: int | None = Field(None, alias="draws")
    confidence: float | None = None
    seed: int | None = None
    threshold: float | None
    n_normal: int = Field(alias="n_good")
    n_anomalous: int = Field(alias="n_defect")
    clean_auroc: float | None
    certified_auroc: dict[float, float | None]
    certified_auroc_ci: dict[float, tuple[float, float] | None] | None = None
    verdicts: dict[float, VerdictShares] | None = None
    proven: dict[float, ProvenVerdicts] | None = None
    words: dict[float, WordCounts] | None = None
    sticker: StickerFigures | None = None
    median_radius: float | None = None
    curve: CertifiedCurve
    seconds: float

    @field_serializer("certified_auroc", "certified_auroc_ci", "verdicts", "proven", "words", mode="wrap")
    def _radii_as_text(self, values: dict[float, Any] | None, write: SerializerFunctionWrapHandler) -> Any:
        if values is None:
            return None
        return {f"{radius:g}": value for radius, value in zip(values, write(values).values(), strict=True)}

    @model_serializer(mode="wrap")
    def _without_missing(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if value is not None or name not in _LEFT_OUT}


class CertificationResult(CertificateFigures):
    """The result of :func:`advrad.certify`.

    Attributes:
        method: Certificate: ``bounds``, ``two-path`` or ``percentile``.
        norm: Norm of the perturbations.
        sigma: Standard deviation of the noise that the certificate adds to the image; None for the other methods.
        quantile: Level of the quantile that smooths the score; None for ``bounds``.
        size: Height and width of the images in pixels; ``own`` if they have different sizes.
        rounding_l2: Typical l2 change by which rounding an image of this size to 8 bits changes it.
        attacked: Results of attacks on images of the same product and size, for comparison.
        category: Name of the product.
        folder: Folder of the results; None if they were not stored.
        versions: Versions of the packages used.
        meaning: What the figures say and what they do not, in sentences.
        notes: Notes on the method and the threshold.
        warnings: Reasons to distrust the certificate.
        rows: Certificates of the single images; stored in a file of their own.

    Example:
        >>> import advrad, torch
        >>> images = torch.full((2, 3, 8, 8), 0.2)
        >>> images[1, :, 2:6, 2:6] = 0.8  # anomalous: a bright square
        >>> detector = advrad.wrap(lambda x: x.mean((1, 2, 3)), deterministic=True)
        >>> advrad.certify(detector, (images, [0, 1]), radii=(0.1,), n_samples=100)
        CertificationResult(method='percentile', norm='l2', images=1 normal + 1 anomalous, confidence=0.999,
        clean_auroc=1.0000, certified_auroc={0.1: 1.0000})
    """

    method: str
    norm: Norm = "l2"
    sigma: float | None
    quantile: float | None = None
    size: tuple[int, int] | Literal["own"]
    rounding_l2: float
    attacked: tuple[AttackPoint, ...]
    category: str
    folder: str | None
    versions: dict[str, str]
    meaning: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    rows: tuple[ImageCertificate | ImageBounds, ...] = Field((), exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _read_radii(cls, values: Any) -> Any:
        """Read the radii of a stored result with all their digits; the keys of its figures have six."""
        if not isinstance(values, dict) or "radii" not in values:
            return values
        exact = {f"{radius:g}": radius for radius in values["radii"]}
        read = {name: value for name, value in values.items() if name != "radii"}
        for name in ("certified_auroc", "certified_auroc_ci", "verdicts", "proven", "words"):
            if isinstance(read.get(name), dict):
                read[name] = {exact.get(radius, radius): value for radius, value in read[name].items()}
        return read

    @property
    def radii(self) -> tuple[float, ...]:
        """Requested radii."""
        return tuple(self.certified_auroc)

    @property
    def figures(self) -> RecordedFigures:
        """The certified AUROC of exact bounds, as a model folder stores it; empty for bounds that need noise."""
        areas = {radius_text(radius, self.norm): area for radius, area in self.certified_auroc.items()}
        known = {radius: area for radius, area in areas.items() if area is not None}
        return RecordedFigures(**{f"certified_{self.norm}": known} if self.method == "bounds" else {})

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values, without the certificates of the single images."""
        return self.model_dump(mode="json") | {"radii": list(self.radii)}

    def save(self, folder: str | Path) -> None:
        """Write ``result.json`` and, for the single images, ``rows.jsonl``.

        Args:
            folder: Folder to write to; made if missing.

        Raises:
            OutputError: The files cannot be written.
        """
        place = claim_folder(Path(folder), "results", also=ALL)
        write_certificates(place / "rows.jsonl", self.rows)
        write_json(place / "result.json", self.to_dict())

    def __repr__(self) -> str:
        areas = ", ".join(f"{radius:g}: {_short(area)}" for radius, area in self.certified_auroc.items())
        parts = [
            f"method={self.method!r}",
            f"norm={self.norm!r}",
            f"images={self.n_normal} normal + {self.n_anomalous} anomalous",
            *([] if self.confidence is None else [f"confidence={self.confidence:g}"]),
            f"clean_auroc={_short(self.clean_auroc)}",
            f"certified_auroc={{{areas}}}",
        ]
        if self.median_radius is not None:
            parts.append(f"median_radius={self.median_radius:.4g}")
        return f"{type(self).__name__}({', '.join(parts)})"

    __str__ = __repr__


def _short(value: float | None) -> str:
    return "None" if value is None else f"{value:.4f}"
