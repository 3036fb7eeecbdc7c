"""Results of attacks, sanity checks and attack curves, as users get them and as they are stored."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advrad.attacks.batch_attack import ImageAttackResult
from advrad.attacks.bounds_check import BoundsCheck
from advrad.attacks.sanity_checks import Flag
from advrad.attacks.summary import RobustnessFigures
from advrad.utils.files import write_json, write_text
from advrad.utils.formatting import number
from advrad.utils.output_folders import ALL, claim_folder

RESULT_NAME, ROWS_NAME, CHECKS_NAME = "result.json", "rows.jsonl", "checks.json"


def _interval(limits: tuple[float, float] | None) -> str:
    return "None" if limits is None else f"({limits[0]:.4g}, {limits[1]:.4g})"


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class AttackResult(RobustnessFigures):
    """Result of an attack on a detector: the figures of :class:`RobustnessFigures`, and how they came about.

    Attributes:
        attack: Name of the attack, or ``suite``.
        budget: Budget of the suite; None for a single attack.
        suite_version: Version of the suite; None for a single attack. Results of different versions are not comparable.
        note: Restriction of the attack that limits what its figures mean; None for none.
        attacks: Names of the attacks that were run. Stored as ``members``.
        flags: Reasons to distrust the result.
        bounds: Comparison with the bounds that no perturbation can leave; None for a detector without such bounds.
        category: Name of the product.
        folder: Folder of the result; None if it was not stored.
        versions: Versions of the software, by name.
        rows: Results of the images.
        original: Result of the same attack on the detector that was exported; None for a detector that is no export.

    Example:
        >>> import advrad, torch
        >>> images = 0.5 * torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> images[4:] += 0.2
        >>> detector = advrad.wrap(lambda images: images.mean((1, 2, 3)), deterministic=True)
        >>> result = advrad.attack(detector, (images, [0] * 4 + [1] * 4), attack="pgd", eps=0.5, steps=5)
        >>> result.clean_auroc, result.robust_auroc
        (1.0, 0.0)
        >>> result.to_dict()["n_defect"]
        4
    """

    attack: str
    budget: str | None
    suite_version: int | None
    note: str | None
    attacks: tuple[str, ...]
    flags: tuple[Flag, ...]
    bounds: BoundsCheck | None = None
    category: str
    folder: Path | None
    versions: dict[str, str]
    rows: tuple[ImageAttackResult, ...]
    original: AttackResult | None = None

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values, without the rows."""
        optional = {name: getattr(self, name) for name in ("budget", "suite_version", "note")}
        return {
            "attack": self.attack,
            **{name: value for name, value in optional.items() if value is not None},
            **self.figures_to_dict(),
            "members": list(self.attacks),
            "flags": [asdict(flag) for flag in self.flags],
            **({} if self.bounds is None else {"bounds": self.bounds.to_dict()}),
            "category": self.category,
            "folder": None if self.folder is None else str(self.folder),
            "versions": self.versions,
            **({} if self.original is None else {"original": self.original.to_dict()}),
        }

    def save(self, folder: str | Path) -> None:
        """Write ``result.json`` with the figures and ``rows.jsonl`` with the result of each image.

        Args:
            folder: Folder for the files; made if missing.

        Raises:
            OutputError: A file cannot be written.
        """
        place = claim_folder(Path(folder), "results", also=ALL)
        write_text(place / ROWS_NAME, "".join(json.dumps(row.to_dict()) + "\n" for row in self.rows))
        write_json(place / RESULT_NAME, self.to_dict())

    def __repr__(self) -> str:
        parts = [
            f"attack={self.attack!r}",
            *([f"budget={self.budget!r}"] if self.budget is not None else []),
            f"norm={self.norm!r}",
            f"eps={self.eps:.4g}",
            f"clean_auroc={number(self.clean_auroc, '.4g', 'None')}",
            f"robust_auroc={number(self.robust_auroc, '.4g', 'None')}",
            f"robust_auroc_ci={_interval(self.robust_auroc_ci)}",
            f"n_normal={self.n_normal}",
            f"n_anomalous={self.n_anomalous}",
            f"flags={[flag.name for flag in self.flags]}",
        ]
        return f"AttackResult({', '.join(parts)})"


@dataclass(frozen=True, kw_only=True)
class ChecksResult:
    """Result of all sanity checks of a detector.

    Attributes:
        flags: Reasons to distrust results of attacks on the detector.
        auroc: AUROC of the clean images and under each attack of the checks, by name.
        n_images: Number of images. Stored as ``pictures``.

    Example:
        >>> ChecksResult(flags=(), auroc={"clean": 1.0, "eps": 0.8}, n_images=12).to_dict()["pictures"]
        12
    """

    flags: tuple[Flag, ...]
    auroc: dict[str, float]
    n_images: int

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {"flags": [asdict(flag) for flag in self.flags], "auroc": self.auroc, "pictures": self.n_images}

    def save(self, folder: str | Path) -> None:
        """Write ``checks.json``.

        Args:
            folder: Folder for the file; made if missing.

        Raises:
            OutputError: The file cannot be written.
        """
        write_json(claim_folder(Path(folder), "results", also=ALL) / CHECKS_NAME, self.to_dict())


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One attack of a curve.

    Attributes:
        value: Value of the parameter that is varied.
        given: The value as it was given, such as ``2/255``. Stored as ``typed``.
        result: Result of the attack.
    """

    value: float
    given: str
    result: AttackResult

    def to_dict(self) -> dict[str, Any]:
        """The point as JSON values: the value and the most important figures."""
        names = (
            "robust_auroc",
            "robust_auroc_ci",
            "robust_tpr",
            "robust_fpr",
            "gradients",
            "seconds",
            "flags",
            "folder",
        )
        stored = self.result.to_dict()
        return {"value": self.value, "typed": self.given, **{name: stored[name] for name in names}}


@dataclass(frozen=True, kw_only=True)
class CurveResult:
    """Results of attacks in which one parameter is varied.

    Attributes:
        over: Parameter that is varied: ``eps``, ``steps``, ``eot`` or ``restarts``.
        attack: Name of the attack.
        norm: Norm of the threat model.
        eps: Radius as it was given; the points have their own if ``over`` is ``eps``.
        noise: Whether the attacker knew the noise: ``unknown`` or ``known``.
        category: Name of the product.
        points: Attacks, in the order of their values as given.

    Example:
        Needs a trained model folder.

        >>> from advrad.attacks.options import AttackOptions
        >>> from advrad.attacks.curve import run_curve  # doctest: +SKIP
        >>> from advrad.attacks.pipeline import prepare  # doctest: +SKIP
        >>> options = AttackOptions(attack="pgd")
        >>> job = prepare(load_target("run"), Path("images"), options)  # doctest: +SKIP
        >>> curve = run_curve(job, options, "eps", ["1/255", "2/255"])  # doctest: +SKIP
        >>> [point.result.robust_auroc for point in curve.points]  # doctest: +SKIP
        [0.97, 0.93]
    """

    over: str
    attack: str
    norm: str
    eps: str
    noise: str
    category: str
    points: tuple[CurvePoint, ...]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        last = self.points[-1].result
        return {
            "over": self.over,
            "attack": self.attack,
            "norm": self.norm,
            "eps": self.eps,
            "noise": self.noise,
            "category": self.category,
            "clean_auroc": last.clean_auroc,
            "n_good": last.n_normal,
            "n_defect": last.n_anomalous,
            "points": [point.to_dict() for point in self.points],
        }

    def save(self, folder: str | Path) -> None:
        """Write ``curve-<parameter>.json``.

        Args:
            folder: Folder for the file; made if missing.

        Raises:
            OutputError: The file cannot be written.
        """
        write_json(claim_folder(Path(folder), "results", also=ALL) / f"curve-{self.over}.json", self.to_dict())
