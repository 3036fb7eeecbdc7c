"""Auditing from the command line: which pictures, which detector, which attacks; and what is written where."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from advrad import checks, suite
from advrad.attacks import ATTACKS, CONFINED
from advrad.audit import AuditPlan, Member, Noise, Subjects, run, seed_of
from advrad.checkpoint import CONFIG_NAME
from advrad.config import Config
from advrad.data import load_masks, load_pictures
from advrad.errors import ConfigError, DataError
from advrad.evaluate import load_detector
from advrad.exposed import Exposed
from advrad.files import make_folder, write_json, write_text
from advrad.layouts import find_records
from advrad.objectives import climbable
from advrad.precision import Precision, takes_bfloat16
from advrad.robustness import figures
from advrad.target import Detector, as_detector
from advrad.threat import Threat
from advrad.types import MAX_PIXELS, Record
from advrad.userfile import is_file_name, load_name

DEFAULT_STEPS = {"square": 1000}

Progress = Callable[[int, int], None]


class AttackOptions(Config):
    """What a caller may ask of an attack; None leaves the default.

    Attributes:
        attack: a name from :data:`advrad.attacks.ATTACKS`, ``transfer`` (PGD on another detector), or ``suite``.
        norm: of the threat.
        eps: radius, a number or a fraction such as ``2/255``.
        budget: of the suite.
        steps: of a single attack; 100, or 1000 queries of Square.
        restarts: of a single attack.
        eot: of a single attack.
        surrogate: of a single attack.
        noise: known to the attacker, or not.
        gradients: arithmetic of the gradients of our own detector; ``auto`` is bfloat16 where the processor has it.
        limit: attack only so many pictures, half of them good.
        seed: of everything.
        layout: of the data.
        category: product in the data.
        size_px: side at which pictures are given to a detector that takes any size.
        max_pixels: bound on each picture file.
        save_pictures: keep the adversarial pictures.
    """

    attack: str = "suite"
    norm: str = "linf"
    eps: str = "2/255"
    budget: str = "standard"
    steps: int | None = Field(None, gt=0)
    restarts: int = Field(1, gt=0)
    eot: int = Field(1, gt=0)
    surrogate: str = "score"
    noise: Noise = "unknown"
    gradients: Precision = "auto"
    limit: int | None = Field(None, ge=2)
    seed: int = Field(0, ge=0)
    layout: str = "auto"
    category: str | None = None
    size_px: int | None = Field(None, ge=16)
    max_pixels: int = MAX_PIXELS
    save_pictures: bool = False


@dataclass(frozen=True)
class Accused:
    """A detector that a name led to.

    Attributes:
        detector: as an audit needs it.
        identity: a digest of its weights, or its name.
        home: where results go if nothing else is said; None for a detector that is no model folder.
    """

    detector: Detector
    identity: str
    home: Path | None

    def place(self, kind: str, label: str, told: list[object]) -> Path:
        """A folder for results inside the model's, one of its own for everything that they depend on.

        Args:
            kind: of the results: the folder that holds all of them.
            label: for people, before the digest.
            told: what the results depend on, as plain JSON values.

        Raises:
            ConfigError: the detector has no folder.
        """
        if self.home is None:
            raise ConfigError("-o: is needed, because this detector has no folder; name one for the results")
        digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:8]
        return self.home / kind / f"{label}-{digest}"


def accused(name: str, device: str = "auto") -> Accused:
    """Find a detector.

    Args:
        name: a model folder, or ``FILE.py:NAME``, where the file's NAME is a :class:`advrad.target.Detector`, or a
            function or module that :func:`advrad.wrap` takes. The file is run.
        device: for a model folder.

    Raises:
        CheckpointError: the folder is no model.
        ConfigError: the file cannot be run, or holds no such name.
    """
    if not is_file_name(name):
        folder = Path(name)
        detector = load_detector(folder, device)
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        config.pop("figures", None)  # measuring a detector does not make it another one
        return Accused(Exposed(detector), hashlib.sha256(json.dumps(config).encode()).hexdigest(), folder)
    return Accused(as_detector(load_name(name)), Path(name).name, None)


def chosen(records: Sequence[Record], limit: int | None, seed: int) -> tuple[Record, ...]:
    """Test pictures to attack: all, or half good and half defective ones, the kinds of defect taken in turn.

    Raises:
        DataError: pictures of one kind only.
    """
    test = [record for record in records if record.split == "test"]
    good = [record for record in test if not record.label]
    bad = [record for record in test if record.label]
    if not (good and bad):
        missing = "good" if not good else "defective"
        raise DataError(f"there is no {missing} test picture; both kinds are needed, good and defective")
    if limit is None or limit >= len(test):
        return tuple(test)
    shuffled = np.random.default_rng(seed_of(seed, "limit"))
    good = [good[i] for i in shuffled.permutation(len(good))]
    kinds: dict[str, list[Record]] = {}
    for i in shuffled.permutation(len(bad)):
        kinds.setdefault(bad[i].defect, []).append(bad[i])
    turns = [kind[turn] for turn in range(len(bad)) for _, kind in sorted(kinds.items()) if turn < len(kind)]
    defects = max(limit - len(good), min(limit - limit // 2, len(bad)))
    wanted = {record.path for record in (*good[: limit - defects], *turns[:defects])}
    return tuple(record for record in test if record.path in wanted)


def members_for(options: AttackOptions, detector: Detector) -> tuple[Member, ...]:
    """The attacks that are asked for.

    Raises:
        ConfigError: the attack, the budget or the surrogate is unknown.
    """
    name = options.attack
    if name == "suite":
        return suite.members_of(options.budget, tuple(detector.hints))
    if name not in (*ATTACKS, "transfer"):
        raise ConfigError(f"--attack {name}: is unknown; choose {', '.join((*ATTACKS, 'transfer', 'suite'))}")
    if name != "transfer" and options.surrogate not in climbable(detector):
        raise ConfigError(f"--surrogate {options.surrogate}: is unknown here; choose {', '.join(climbable(detector))}")
    steps = options.steps or DEFAULT_STEPS.get(name, 100)
    attack = "pgd" if name == "transfer" else name
    values = {"attack": attack, "surrogate": options.surrogate, "steps": steps, "transfer": name == "transfer"}
    return (Member.parse(values | {"restarts": options.restarts, "eot": options.eot}, "options"),)


@dataclass(frozen=True, eq=False)
class Case:
    """Pictures and detector, ready for attacks.

    Attributes:
        accused: the detector.
        subjects: its pictures.
        masks: (n, s, s) ground truth.
        known: (n,) whether it is known.
        category: the product.
    """

    accused: Accused
    subjects: Subjects
    masks: np.ndarray[Any, np.dtype[np.bool_]]
    known: np.ndarray[Any, np.dtype[np.bool_]]
    category: str


def case_of(accused: Accused, data: Path, options: AttackOptions) -> Case:
    """Load the pictures to attack, at the size at which the detector takes them.

    Raises:
        DataError: a picture cannot be read, or one kind is missing.
    """
    dataset = find_records(data, options.layout, options.category)
    size_px = accused.detector.size_px or options.size_px or 256
    records = chosen(dataset.records, options.limit, options.seed)
    stack = load_pictures(records, size_px, max_pixels=options.max_pixels)
    masks, known = load_masks(stack.records, size_px, max_pixels=options.max_pixels)
    labels = np.array([record.label for record in stack.records], dtype=np.int64)
    names = tuple(record.path.relative_to(dataset.root).as_posix() for record in stack.records)
    subjects = Subjects(stack.batch(slice(None)), labels, names)
    return Case(accused, subjects, masks, known, dataset.category)


def attack(
    case: Case,
    options: AttackOptions,
    folder: Path | None = None,
    *,
    source: Detector | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Attack, look for reasons to distrust the result, and write both down.

    Args:
        case: detector and pictures.
        options: of the attack.
        folder: of the rows and the result; None for one inside the model folder, whose name tells the plan.
        source: the detector whose gradients a transfer attack follows.
        progress: told (pictures done, pictures in all).

    Returns:
        As :func:`advrad.robustness.figures`, and ``attack``, ``members``, ``flags``, ``folder``, ``category``; with a
        suite its ``budget`` and ``suite_version``. The same lies in ``result.json``, and the rows in ``rows.jsonl``.

    Raises:
        UserError: an option does not fit, the detector answers with no score, or the folder cannot be written.
    """
    from accelerate import PartialState

    state = PartialState()
    detector = case.accused.detector
    climbed = _climbed(detector, options.gradients)
    plan = AuditPlan(
        threat=Threat.of(options.norm, options.eps),
        members=members_for(options, detector),
        seed=options.seed,
        noise=options.noise,
        arithmetic="float32" if climbed is detector else "bfloat16",
    )
    folder = folder or _home(case, options, plan)
    make_folder(folder)
    audit = run(
        detector,
        case.subjects,
        plan,
        folder,
        climbed=climbed,
        source=source,
        identity=case.accused.identity,
        save_pictures=options.save_pictures,
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
    result |= figures(audit, detector.threshold, case.masks, case.known)
    result |= {
        "members": [member.name for member in audit.members],
        "flags": [asdict(flag) for flag in flags],
        "category": case.category,
        "folder": str(folder),
        "versions": _versions(),
    }
    if state.is_main_process:
        write_text(folder / "rows.jsonl", "".join(json.dumps(asdict(row)) + "\n" for row in audit.rows))
        write_json(folder / "result.json", result)
    return result


def _climbed(detector: Detector, gradients: Precision) -> Detector:
    """The detector whose gradients an attack follows: itself, or the same in bfloat16.

    Raises:
        ConfigError: bfloat16 is asked of a detector that is not ours.
    """
    if isinstance(detector, Exposed):
        bf16 = takes_bfloat16(gradients, detector.detector.device)
        return detector.in_arithmetic("bfloat16") if bf16 else detector
    if gradients == "bfloat16":
        raise ConfigError("--gradients bfloat16: only our own detectors offer it; leave the option out")
    return detector


def _versions() -> dict[str, str]:
    from advrad import __version__

    return {"advrad": __version__, "torch": torch.__version__}


def _home(case: Case, options: AttackOptions, plan: AuditPlan) -> Path:
    """A folder of its own for every plan and choice of pictures."""
    told: list[object] = [plan.model_dump(mode="json"), case.subjects.names, case.accused.identity]
    label = f"{options.attack}-{options.norm}-{options.eps.replace('/', '-')}"
    return case.accused.place("attacks", label, told)


def check(
    case: Case, options: AttackOptions, folder: Path | None = None, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Make every check, also those that take attacks of their own.

    Arguments as :func:`attack`; of the options only threat, eot, steps and seed matter.

    Returns:
        ``flags`` and ``auroc``, the AUROC that each rung of the ladder left.
    """
    threat = Threat.of(options.norm, options.eps)
    detector = case.accused.detector
    if folder is None:
        plan = AuditPlan(threat=threat, members=(Member(attack="pgd"),), seed=options.seed)
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
    case: Case,
    options: AttackOptions,
    over: str,
    values: Sequence[str],
    folder: Path | None = None,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Attack again and again with more of one thing.

    Args:
        case: detector and pictures.
        options: of the attack; a suite has no steps, eot or restarts to vary.
        over: a name from :data:`AXES`.
        values: as typed.
        folder: for all attacks; None for one inside the model folder.
        progress: told (attacks done, attacks in all).

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
        if progress:
            progress(index + 1, len(values))
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
