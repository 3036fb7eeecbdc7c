"""Auditing from the command line: which images, which detector, which attacks; and what is written where."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from advrad.attacks import sanity_checks as checks
from advrad.attacks import suite
from advrad.attacks.evaluation import AttackPlan, AttackSpec, ImageSet, evaluate_robustness
from advrad.attacks.objectives import available_objectives
from advrad.attacks.options import AttackOptions
from advrad.attacks.registry import ATTACKS, CONFINED
from advrad.attacks.summary import summarize
from advrad.attacks.threat import Threat
from advrad.data.layouts import find_records
from advrad.data.loading import load_images, load_masks
from advrad.data.splits import sample_test_records
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.loading import LoadedDetector
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.errors import ConfigError
from advrad.utils.environment import versions
from advrad.utils.files import make_folder, write_json, write_text
from advrad.utils.precision import Precision, takes_bfloat16
from advrad.utils.progress import SILENT, ProgressReporter

DEFAULT_STEPS = {"square": 1000}


def members_for(options: AttackOptions, detector: AnomalyDetector) -> tuple[AttackSpec, ...]:
    """The attacks that are asked for.

    Raises:
        ConfigError: the attack, the budget or the surrogate is unknown.
    """
    name = options.attack
    if name == "suite":
        return suite.members_of(options.budget, tuple(detector.surrogates))
    if name not in (*ATTACKS, "transfer"):
        raise ConfigError(f"--attack {name}: is unknown; choose {', '.join((*ATTACKS, 'transfer', 'suite'))}")
    if name != "transfer" and options.surrogate not in available_objectives(detector):
        raise ConfigError(
            f"--surrogate {options.surrogate}: is unknown here; choose {', '.join(available_objectives(detector))}"
        )
    steps = options.steps or DEFAULT_STEPS.get(name, 100)
    attack = "pgd" if name == "transfer" else name
    values = {"attack": attack, "surrogate": options.surrogate, "steps": steps, "transfer": name == "transfer"}
    return (AttackSpec.parse(values | {"restarts": options.restarts, "eot": options.eot}),)


@dataclass(frozen=True, eq=False)
class AttackJob:
    """Images and detector, ready for attacks.

    Attributes:
        accused: the detector.
        subjects: its images.
        masks: (n, s, s) ground truth.
        known: (n,) whether it is known.
        category: the product.
    """

    accused: LoadedDetector
    subjects: ImageSet
    masks: np.ndarray[Any, np.dtype[np.bool_]]
    known: np.ndarray[Any, np.dtype[np.bool_]]
    category: str


def prepare(accused: LoadedDetector, data: Path, options: AttackOptions) -> AttackJob:
    """Load the images to attack, at the size at which the detector takes them.

    Raises:
        DataError: an image cannot be read, or one kind is missing.
    """
    dataset = find_records(data, options.data)
    size_px = accused.detector.size_px or options.size_px or 256
    records = sample_test_records(dataset.records, options.limit, options.seed)
    stack = load_images(records, size_px, options.data)
    masks, known = load_masks(stack.records, size_px, options.data)
    labels = np.array([record.label for record in stack.records], dtype=np.int64)
    names = tuple(record.path.relative_to(dataset.root).as_posix() for record in stack.records)
    subjects = ImageSet(stack.batch(slice(None)), labels, names)
    return AttackJob(accused, subjects, masks, known, dataset.category)


def attack(
    case: AttackJob,
    options: AttackOptions,
    folder: Path | None = None,
    *,
    source: AnomalyDetector | None = None,
    progress: ProgressReporter = SILENT,
) -> dict[str, Any]:
    """Attack, look for reasons to distrust the result, and write both down.

    Args:
        case: detector and images.
        options: of the attack.
        folder: of the rows and the result; None for one inside the model folder, whose name tells the plan.
        source: the detector whose gradients a transfer attack follows.
        progress: Receives the progress.

    Returns:
        As :func:`advrad.attacks.summary.summarize`, and ``attack``, ``members``, ``flags``, ``folder``, ``category``;
        with a suite its ``budget`` and ``suite_version``. The same lies in ``result.json``, and
        the rows in ``rows.jsonl``.

    Raises:
        UserError: an option does not fit, the detector answers with no score, or the folder cannot be written.
    """
    from accelerate import PartialState

    state = PartialState()
    detector = case.accused.detector
    climbed = _climbed(detector, options.gradients)
    plan = AttackPlan(
        threat=Threat.of(options.norm, options.eps),
        members=members_for(options, detector),
        seed=options.seed,
        noise=options.noise,
        arithmetic="float32" if climbed is detector else "bfloat16",
    )
    folder = folder or _home(case, options, plan)
    make_folder(folder)
    audit = evaluate_robustness(
        detector,
        case.subjects,
        plan,
        folder,
        climbed=climbed,
        source=source,
        identity=case.accused.identity,
        save_images=options.save_images,
        process=(state.process_index, state.num_processes),
        progress=progress,
        wait=state.wait_for_everyone,
    )
    flags = checks.check_detector(detector, case.subjects.few, options.seed, max(m.eot for m in audit.members))
    flags += checks.check_audit(audit)
    result: dict[str, Any] = {"attack": options.attack}
    if options.attack == "suite":
        result |= {"budget": options.budget, "suite_version": suite.VERSION}
    if options.attack in CONFINED:
        result["note"] = (
            "confined to a part of the ball: says what such a change can do, not how robust the detector is"
        )
    result |= summarize(audit, detector.threshold, case.masks, case.known)
    result |= {
        "members": [member.name for member in audit.members],
        "flags": [asdict(flag) for flag in flags],
        "category": case.category,
        "folder": str(folder),
        "versions": versions(),
    }
    if state.is_main_process:
        write_text(folder / "rows.jsonl", "".join(json.dumps(asdict(row)) + "\n" for row in audit.rows))
        write_json(folder / "result.json", result)
    return result


def _climbed(detector: AnomalyDetector, gradients: Precision) -> AnomalyDetector:
    """The detector whose gradients an attack follows: itself, or the same in bfloat16.

    Raises:
        ConfigError: bfloat16 is asked of a detector that is not ours.
    """
    if isinstance(detector, WhiteBoxAdvRAD):
        bf16 = takes_bfloat16(gradients, detector.detector.device)
        return detector.in_arithmetic("bfloat16") if bf16 else detector
    if gradients == "bfloat16":
        raise ConfigError("--gradients bfloat16: only our own detectors offer it; leave the option out")
    return detector


def _home(case: AttackJob, options: AttackOptions, plan: AttackPlan) -> Path:
    """A folder of its own for every plan and choice of images."""
    told: list[object] = [plan.model_dump(mode="json"), case.subjects.names, case.accused.identity]
    label = f"{options.attack}-{options.norm}-{options.eps.replace('/', '-')}"
    return case.accused.place("attacks", label, told)


def check(
    case: AttackJob, options: AttackOptions, folder: Path | None = None, *, progress: ProgressReporter = SILENT
) -> dict[str, Any]:
    """Make every check, also those that take attacks of their own.

    Arguments as :func:`attack`; of the options only threat, eot, steps and seed matter.

    Returns:
        ``flags`` and ``auroc``, the AUROC that each rung of the ladder left.
    """
    threat = Threat.of(options.norm, options.eps)
    detector = case.accused.detector
    if folder is None:
        plan = AttackPlan(threat=threat, members=(AttackSpec(attack="pgd"),), seed=options.seed)
        folder = _home(case, options.model_copy(update={"attack": "checks"}), plan)
    flags = checks.check_detector(detector, case.subjects.few, options.seed, options.eot)
    more, areas = checks.check_ladder(
        detector,
        case.subjects,
        threat,
        folder,
        seed=options.seed,
        steps=options.steps or 20,
        eot=options.eot,
        identity=case.accused.identity,
        progress=progress,
    )
    flags += [flag for flag in more if flag not in flags]
    result = {"flags": [asdict(flag) for flag in flags], "auroc": areas, "pictures": len(case.subjects.names)}
    write_json(folder / "checks.json", result)
    return result


Axis = Literal["eps", "steps", "eot", "restarts"]
AXES: tuple[Axis, ...] = ("eps", "steps", "eot", "restarts")


def curve(
    case: AttackJob,
    options: AttackOptions,
    over: str,
    values: Sequence[str],
    folder: Path | None = None,
    *,
    progress: ProgressReporter = SILENT,
) -> dict[str, Any]:
    """Attack again and again with more of one thing.

    Args:
        case: detector and images.
        options: of the attack; a suite has no steps, eot or restarts to vary.
        over: a name from :data:`AXES`.
        values: as typed.
        folder: for all attacks; None for one inside the model folder.
        progress: Receives the progress.

    Returns:
        ``over``, and ``points``: for each value the figures that matter.

    Raises:
        ConfigError: the axis or a value is unknown.
    """
    if over not in AXES:
        raise ConfigError(f"--over {over}: is unknown; choose {', '.join(AXES)}")
    if over != "eps" and options.attack == "suite":
        raise ConfigError(f"--over {over}: a suite has none of its own; name an attack, such as --attack pgd")
    variants = []
    for value in values:  # all, before minutes are spent on the first
        variants.append(AttackOptions.parse(options.model_dump() | {over: value}, f"--values {value}"))
        try:
            Threat.of(options.norm, variants[-1].eps)
        except ConfigError as error:
            raise ConfigError(str(error).replace("--eps", "--values", 1)) from None
    points = []
    for index, (value, varied) in enumerate(zip(values, variants, strict=True)):
        place = None if folder is None else folder / f"{over}-{value.replace('/', '-')}"
        result = attack(case, varied, place)
        kept = (
            "robust_auroc",
            "robust_auroc_ci",
            "robust_tpr",
            "robust_fpr",
            "gradients",
            "seconds",
            "flags",
            "folder",
        )
        number = result["eps"] if over == "eps" else int(value)
        points.append({"value": number, "typed": value, **{name: result[name] for name in kept}})
        progress.update(index + 1, len(values))
    return {
        "over": over,
        "attack": options.attack,
        "norm": options.norm,
        "eps": options.eps,
        "noise": options.noise,
        "category": case.category,
        "clean_auroc": result["clean_auroc"],
        "n_good": result["n_good"],
        "n_defect": result["n_defect"],
        "points": points,
    }
