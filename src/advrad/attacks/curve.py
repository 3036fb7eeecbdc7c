"""Attack with several values of one parameter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from advrad.attacks.options import AttackOptions
from advrad.attacks.pipeline import AttackJob, run_attack
from advrad.attacks.results import CurvePoint, CurveResult
from advrad.errors import ConfigError
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.radii import radius_of

Axis = Literal["eps", "steps", "eot", "restarts"]
AXES: tuple[Axis, ...] = get_args(Axis)


def run_curve(
    job: AttackJob,
    options: AttackOptions,
    over: str,
    values: Sequence[str],
    folder: Path | None = None,
    *,
    progress: ProgressReporter = SILENT,
) -> CurveResult:
    """Attack with several values of one parameter.

    Args:
        job: Detector and images.
        options: Options of the attack; the suite has no steps, eot or restarts to vary.
        over: Parameter that is varied, from :data:`AXES`.
        values: Values of the parameter: whole numbers, or for ``eps`` numbers or fractions such as ``2/255``.
        folder: Folder for the results of all attacks; None for one folder each inside the model folder.
        progress: Receives the number of attacks that are finished.

    Raises:
        ConfigError: The parameter or a value is unknown.
    """
    variants = check_curve(options, over, values)  # all before the first attack begins
    points = []
    for done, (given, (value, varied)) in enumerate(zip(values, variants, strict=True)):
        place = None if folder is None else folder / f"{over}-{given.replace('/', '-')}"
        points.append(CurvePoint(value=value, given=given, result=run_attack(job, varied, place)))
        progress.update(done + 1, len(values))
    return CurveResult(
        over=over,
        attack=options.attack,
        norm=options.norm,
        eps=options.eps,
        noise=options.noise,
        category=job.category,
        points=tuple(points),
    )


def check_curve(options: AttackOptions, over: str, values: Sequence[str]) -> list[tuple[float, AttackOptions]]:
    """Read the values of a curve: each as a number, and the options with it. No image is read.

    Raises:
        ConfigError: The parameter or a value is unknown.
    """
    if over not in AXES:
        raise ConfigError(f"is unknown; choose {', '.join(AXES)}", option="over", value=over)
    if over != "eps" and options.attack == "suite":
        raise ConfigError("the suite has fixed ones; choose a single attack, such as pgd", option="over", value=over)
    return [_variant(options, over, value) for value in values]


def _variant(options: AttackOptions, over: str, value: str) -> tuple[float, AttackOptions]:
    """One value of a curve as a number, and the options with it."""
    if over == "eps":
        return radius_of(value, options.norm, "values"), options.model_copy(update={"eps": value})
    if not (value.isdecimal() and int(value) > 0):
        raise ConfigError("must be a whole number above 0", option="values", value=value)
    return int(value), options.model_copy(update={over: int(value)})
