"""Results of attacks and certifications that a report shows, read from a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from pydantic import ConfigDict, Field

from advrad.certificates.attack_results import compare_again
from advrad.certificates.bounds_evaluation import ImageBounds
from advrad.certificates.results import CertificationResult
from advrad.errors import ConfigError, DataError
from advrad.utils.config import Config

if TYPE_CHECKING:
    from advrad.attacks.results import CurveResult

R = TypeVar("R", bound=Config)


class _Summary(Config):
    """The part of a stored result that a report shows; the rest is ignored."""

    model_config = ConfigDict(extra="ignore")


class FlagSummary(_Summary):
    """A reason to doubt an attack.

    Attributes:
        name: Name of the flag.
        words: What was observed, in words.
    """

    name: str
    words: str


class AttackSummary(_Summary):
    """The figures of an attack that a report shows; see :class:`advrad.attacks.results.AttackResult`."""

    attack: str
    budget: str | None = None
    norm: str
    eps: float
    noise: str
    n_normal: int = Field(alias="n_good")
    n_anomalous: int = Field(alias="n_defect")
    clean_auroc: float | None
    robust_auroc: float | None
    robust_tpr: float | None
    robust_fpr: float | None
    flags: tuple[FlagSummary, ...]


class CurvePointSummary(_Summary):
    """One point of a curve.

    Attributes:
        value: Value of the parameter.
        robust_auroc: AUROC under the attack.
        robust_auroc_ci: 95 % bootstrap interval of ``robust_auroc``.
    """

    value: float
    robust_auroc: float
    robust_auroc_ci: tuple[float, float]


class CurveSummary(_Summary):
    """Robust AUROC over one parameter of an attack.

    Attributes:
        over: Parameter that is varied, such as ``eps``.
        attack: Name of the attack.
        norm: Norm of the threat model.
        clean_auroc: AUROC of the clean images.
        points: Points, in the order in which the values were given.
    """

    over: str
    attack: str
    norm: str
    clean_auroc: float
    points: tuple[CurvePointSummary, ...] = Field(min_length=1)

    @classmethod
    def of(cls, result: CurveResult) -> Self:
        """Summarise the result of a curve.

        Args:
            result: Result to summarise.
        """
        return cls.parse(result.to_dict())


def read_results(folder: Path, pattern: str, category: str, kind: type[R]) -> tuple[R, ...]:
    """Read the stored results of one product.

    Args:
        folder: Model folder.
        pattern: Pattern of the files, relative to the folder, such as ``attacks/*/result.json``.
        category: Name of the product; results of other products are left out.
        kind: Class of the results.

    Returns:
        The results, in the order of their file names.

    Raises:
        DataError: A result is damaged.
    """
    found = []
    for path in sorted(folder.glob(pattern)):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["category"] == category:
                found.append(kind.parse(values))
        except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
            raise DataError(f"{path}: is damaged ({error}); delete it or run its command again") from None
    return tuple(found)


def read_certificates(folder: Path, category: str) -> tuple[CertificationResult, ...]:
    """Read the stored certifications of one product.

    Exact bounds come with their images, and are compared with the attacks that the folder holds now.

    Args:
        folder: Model folder.
        category: Name of the product; certifications of other products are left out.

    Returns:
        The certifications, in the order of their file names.

    Raises:
        DataError: A result is damaged.
    """
    found = []
    for path in sorted(folder.glob("certificates/*/result.json")):
        for result in read_results(path.parent, path.name, category, CertificationResult):
            if result.method == "bounds":
                result = compare_again(result, path.with_name("plan.json"), folder)
                result = result.model_copy(update={"rows": _read_bounds(path.with_name("rows.jsonl"))})
            found.append(result)
    return tuple(found)


def _read_bounds(path: Path) -> tuple[ImageBounds, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return tuple(ImageBounds.parse(json.loads(line)) for line in lines)
    except (OSError, ValueError, TypeError, ConfigError) as error:
        raise DataError(f"{path}: is damaged ({error}); run its command again") from None
