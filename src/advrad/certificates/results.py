"""The result of a certification, as it is returned, stored as JSON and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_serializer, model_serializer

from advrad.certificates.evaluation import ImageCertificate, write_certificates
from advrad.utils.config import Config
from advrad.utils.files import make_folder, write_json


class VerdictShares(Config):
    """Certified verdicts at one radius, as shares of all images.

    Attributes:
        right: Share of certified verdicts that agree with the label.
        wrong: Share of certified verdicts that contradict the label.
        abstained: Share of images without a certified verdict.
        certified: Share of certified verdicts, ``right + wrong``.
        early_certified: Share of verdicts that a test that stops early certifies.
        samples_saved: Share of the noise samples that this test does not need; ``draws_saved`` in JSON.
    """

    right: float
    wrong: float
    abstained: float
    certified: float
    early_certified: float
    samples_saved: float = Field(alias="draws_saved")


class CertifiedCurve(Config):
    """Certified figures over the radius.

    Attributes:
        radii: Radii, l2, increasing.
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
    """The result of an l2 attack on images of the same product and size.

    Attributes:
        attack: Name of the attack.
        eps: Radius of the attack, l2.
        robust_auroc: AUROC under the attack.
        same_images: Whether it attacked exactly the certified images; ``same_pictures`` in JSON.
    """

    attack: str
    eps: float
    robust_auroc: float
    same_images: bool = Field(alias="same_pictures")


class CertificateFigures(Config):
    """Figures that follow from the certificates of all images.

    Attributes:
        n_samples: Number of noise samples per image; ``draws`` in JSON.
        confidence: Confidence with which the bounds of all images hold together at each radius.
        seed: Seed of all random draws.
        threshold: Threshold of the smoothed score; None without verdicts.
        n_normal: Number of normal images; ``n_good`` in JSON.
        n_anomalous: Number of anomalous images; ``n_defect`` in JSON.
        clean_auroc: AUROC of the smoothed score without perturbation; None without images of both classes.
        certified_auroc: Certified AUROC by requested radius: no perturbation of all images leaves less.
        verdicts: Certified verdicts by requested radius; None without a threshold.
        median_radius: Median over all images of the radius for which the right verdict is certified, 0 where it is not;
            None without a threshold.
        curve: Certified figures over the radius.
        seconds: Time spent on all images, in seconds.
    """

    n_samples: int = Field(alias="draws")
    confidence: float
    seed: int
    threshold: float | None
    n_normal: int = Field(alias="n_good")
    n_anomalous: int = Field(alias="n_defect")
    clean_auroc: float | None
    certified_auroc: dict[float, float | None]
    verdicts: dict[float, VerdictShares] | None = None
    median_radius: float | None = None
    curve: CertifiedCurve
    seconds: float

    @field_serializer("certified_auroc", "verdicts", mode="wrap")
    def _radii_as_text(self, values: dict[float, Any] | None, write: SerializerFunctionWrapHandler) -> Any:
        if values is None:
            return None
        return {f"{radius:g}": value for radius, value in zip(values, write(values).values(), strict=True)}

    @model_serializer(mode="wrap")
    def _without_verdicts(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        if self.verdicts is None:
            del values["verdicts"], values["median_radius"]
        return values


class CertificationResult(CertificateFigures):
    """The result of :func:`advrad.certify`.

    Attributes:
        method: Certificate: ``two-path`` or ``percentile``.
        sigma: Standard deviation of the noise that the certificate adds to the image; None for ``two-path``.
        quantile: Level of the quantile that smooths the score.
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
        CertificationResult(method='percentile', images=1 normal + 1 anomalous, confidence=0.999, clean_auroc=1.0000,
        certified_auroc={0.1: 1.0000})
    """

    method: str
    sigma: float | None
    quantile: float
    size: tuple[int, int] | Literal["own"]
    rounding_l2: float
    attacked: tuple[AttackPoint, ...]
    category: str
    folder: str | None
    versions: dict[str, str]
    meaning: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    rows: tuple[ImageCertificate, ...] = Field((), exclude=True)

    @property
    def radii(self) -> tuple[float, ...]:
        """Requested radii, l2."""
        return tuple(self.certified_auroc)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values, without the certificates of the single images."""
        return self.model_dump(mode="json")

    def save(self, folder: str | Path) -> None:
        """Write ``result.json`` and, for the single images, ``rows.jsonl``.

        Args:
            folder: Folder to write to; made if missing.

        Raises:
            OutputError: The files cannot be written.
        """
        place = make_folder(Path(folder))
        write_certificates(place / "rows.jsonl", self.rows)
        write_json(place / "result.json", self.to_dict())

    def __repr__(self) -> str:
        areas = ", ".join(f"{radius:g}: {_short(area)}" for radius, area in self.certified_auroc.items())
        parts = [
            f"method={self.method!r}",
            f"images={self.n_normal} normal + {self.n_anomalous} anomalous",
            f"confidence={self.confidence:g}",
            f"clean_auroc={_short(self.clean_auroc)}",
            f"certified_auroc={{{areas}}}",
        ]
        if self.median_radius is not None:
            parts.append(f"median_radius={self.median_radius:.4g}")
        return f"{type(self).__name__}({', '.join(parts)})"

    __str__ = __repr__


def _short(value: float | None) -> str:
    return "None" if value is None else f"{value:.4f}"
