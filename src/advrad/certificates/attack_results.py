"""Stored results of attacks on the images of a certification, and what contradicts the certificate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from advrad.certificates.evaluation import CertifiedImages
from advrad.certificates.results import AttackPoint, CertificationResult, CertifiedCurve
from advrad.detectors.loading import LoadedDetector
from advrad.errors import ConfigError
from advrad.utils.formatting import radius_text
from advrad.utils.radii import Norm

#: End of the identity of a detector in the plans of certifications with exact bounds.
EXACT_SUFFIX = " bounds"

#: What a contradiction means for smoothed scores, and for exact bounds.
_SMOOTHED = (
    "an attack changes the score of one noise sample, the certificate bounds the smoothed score: if that does not"
    " explain it, distrust the certificate"
)
_EXACT = "no perturbation can do that if the bounds are right: this is a bug in advrad, please report it"


def find_attacks(
    loaded: LoadedDetector, images: CertifiedImages, norm: Norm = "l2", *, same_detector: bool = False
) -> tuple[AttackPoint, ...]:
    """Find the stored results of attacks on images of the same product and size.

    Args:
        loaded: Detector; its model folder is searched.
        images: Certified images.
        norm: Norm of the attacks.
        same_detector: Whether only attacks on the detector with exactly this configuration count as attacks on the same
            images.

    Returns:
        The results, by increasing radius.
    """
    size_px = loaded.detector.size_px
    if loaded.folder is None or (size_px is not None and set(images.sizes) != {(size_px, size_px)}):
        return ()  # at another size, a length differs
    identity = loaded.identity if same_detector else None
    # Without a fixed size, the other images of an attack may have another size.
    return _attacks_in(loaded.folder, norm, images.category, images.digest, identity, other_images=size_px is not None)


def compare_again(result: CertificationResult, plan: Path, folder: Path) -> CertificationResult:
    """Compare a stored certification with the attacks that a model folder holds now.

    Args:
        result: Certification with exact bounds.
        plan: Its file ``plan.json``, which says for which images and which detector it holds.
        folder: Model folder.

    Returns:
        The certification with all attacks on the same images and the same detector, and with the warnings that follow;
        as it was stored if the plan cannot be read.
    """
    try:
        held = json.loads(plan.read_text(encoding="utf-8"))
        digest, identity = str(held["pictures"]), str(held["detector"]).removesuffix(EXACT_SUFFIX)
    except (OSError, ValueError, KeyError, TypeError):
        return result
    attacked = _attacks_in(folder, result.norm, result.category, digest, identity, other_images=False)
    before, now = (contradictions(result.curve, some, result.norm, exact=True) for some in (result.attacked, attacked))
    others = tuple(warning for warning in result.warnings if warning not in before)
    return result.model_copy(update={"attacked": attacked, "warnings": (*others, *now)})


def _attacks_in(
    folder: Path, norm: Norm, category: str, digest: str, identity: str | None, *, other_images: bool
) -> tuple[AttackPoint, ...]:
    """Results of the attacks in a model folder, by increasing radius.

    Args:
        folder: Model folder.
        norm: Norm of the attacks.
        category: Name of the product.
        digest: Digest of the certified images.
        identity: Identity of the detector; with another one, the images count as other images. None for any.
        other_images: Whether attacks on other images are returned, too.
    """
    found = []
    for path in sorted((folder / "attacks").glob("*/result.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            held = json.loads(path.with_name("plan.json").read_text(encoding="utf-8"))
            same = held["pictures"] == digest and identity in (None, held["detector"])
            wanted = result["norm"] == norm and result["category"] == category and result["robust_auroc"] is not None
            if wanted and (same or other_images):
                point = {name: result[name] for name in ("attack", "eps", "robust_auroc")}
                found.append(AttackPoint.parse(point | {"same_pictures": same}, str(path)))
        except (OSError, ValueError, KeyError, TypeError, ConfigError):
            continue  # a damaged attack result does not invalidate the certificate
    return tuple(sorted(found, key=lambda point: point.eps))


def contradictions(
    curve: CertifiedCurve, attacked: Sequence[AttackPoint], norm: Norm = "l2", *, exact: bool = False
) -> tuple[str, ...]:
    """Find attacks on the same images that left less than was certified, which a sound certificate excludes.

    Args:
        curve: Certified figures over the radius.
        attacked: Results of attacks.
        norm: Norm of certificate and attacks.
        exact: Whether the bounds are exact, so that nothing but an error explains a contradiction.

    Returns:
        One warning per contradiction.
    """
    warnings = []
    for point in attacked:
        beyond = [
            (radius, area)
            for radius, area in zip(curve.radii, curve.certified_auroc, strict=True)
            if radius >= point.eps and area is not None and area > point.robust_auroc
        ]
        if point.same_images and beyond:
            radius, area = beyond[0]
            warnings.append(
                f"an AUROC of {area:.4f} is certified at radius {radius_text(radius, norm)}, but {point.attack} at"
                f" {norm} {radius_text(point.eps, norm)} left {point.robust_auroc:.4f} of the same images;"
                f" {_EXACT if exact else _SMOOTHED}"
            )
    return tuple(warnings)
