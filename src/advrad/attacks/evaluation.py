"""The runner: attacks on every image, judged anew by the true score, the worst of them kept, and resumable.

No attack is taken at its word. What it returns is brought into ball and box again, scored on noise that no attack has
seen (or, against an attacker who knows the noise, on that noise), and counts only if it is worse than the image as
given. Every finished image is a file of its own, so a run can be killed anywhere, and split over processes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator
from torch import Tensor

from advrad.attacks.base import AttackInput
from advrad.attacks.objectives import NEED_MAPS, SURROGATES, available_objectives, objective
from advrad.attacks.options import Noise
from advrad.attacks.registry import ATTACKS, WITHOUT_GRADIENTS
from advrad.attacks.threat import Threat
from advrad.data.png import write_image
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.probing import ProbedProperties, probe, validated_output
from advrad.errors import ConfigError, DataError, OutputError
from advrad.utils.config import Config
from advrad.utils.files import atomic_path, make_folder
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.result_store import ResultStore
from advrad.utils.seeding import generator_for, seed_of

Arithmetic = Literal["float32", "bfloat16"]
Floats = npt.NDArray[np.float64]

#: Images attacked side by side.
BATCH = 8
#: Gradients of two noise draws that agree less than this (cosine) call for averaging.
AGREEMENT = 0.3
#: By so much an attack goes on beyond the point from which nothing is left to win, as a share of the clean scores'
#: span: a result on the edge would not outlast being rounded to 8 bits.
_SPARE = 0.1


class AttackSpec(Config):
    """One attack of an audit.

    Attributes:
        attack: a name from :data:`advrad.attacks.registry.ATTACKS`.
        surrogate: what it climbs, see :func:`advrad.attacks.objectives.objective`.
        steps: gradient evaluations, or queries of an attack without gradients.
        restarts: how often it begins anew, each time from another random start.
        eot: calls of the detector averaged in every evaluation.
        transfer: climb another detector's score, given to the runner beside the one under audit.
        if_noisy: only of a detector whose gradients change from one noise draw to the next; see :data:`AGREEMENT`.
    """

    attack: str
    surrogate: str = "score"
    steps: int = Field(100, gt=0)
    restarts: int = Field(1, gt=0)
    eot: int = Field(1, gt=0)
    transfer: bool = False
    if_noisy: bool = False

    @field_validator("attack")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ATTACKS:
            raise ValueError(f"is unknown; choose {', '.join(ATTACKS)}")
        return value

    @property
    def name(self) -> str:
        """Short, and different for different members of a suite."""
        parts = [self.attack, self.surrogate, f"{self.steps} steps"]
        parts += [f"{self.restarts} restarts"] * (self.restarts > 1) + [f"eot {self.eot}"] * (self.eot > 1)
        return ", ".join(parts + ["transfer"] * self.transfer)


class AttackPlan(Config):
    """All that decides the result of an audit, but the detector and the images.

    Attributes:
        threat: what an attacker may do.
        members: attacks, in their order; the worst of all counts.
        seed: of all randomness.
        noise: ``unknown``: the attacker averages over noise, and is judged on noise nobody has seen; ``known``: the
            attacker knows the seed of the deployed detector's noise.
        arithmetic: of the gradients, where the detector offers a choice. What they lead to is judged in the arithmetic
            of use, whichever it is.
    """

    threat: Threat
    members: tuple[AttackSpec, ...] = Field(min_length=1)
    seed: int = Field(0, ge=0)
    noise: Noise = "unknown"
    arithmetic: Arithmetic = "float32"


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The images under attack.

    Attributes:
        images: (n, c, h, w) in [0, 1], at the size at which the detector takes them: the images as given.
        labels: (n,) 0 for good, 1 for defective.
        names: of the images, all different.
    """

    images: Tensor
    labels: npt.NDArray[np.int64]
    names: tuple[str, ...]

    @property
    def few(self) -> Tensor:
        """Two images of each kind, to try a detector on."""
        return self.images[[*np.flatnonzero(self.labels == 0)[:2], *np.flatnonzero(self.labels == 1)[:2]]]


@dataclass(frozen=True, slots=True)
class ImageAttackResult:
    """What was found of one image.

    Attributes:
        name: of the image.
        label: 0 for good, 1 for defective.
        clean: score of the image as given.
        worst: score of the worst image found.
        by: the member that found it, or empty where none did any harm.
        rounded: score of that image in 8 bits.
        distance: of the worst image, in the threat's norm.
        scores: of the best that each member found.
        gradients: gradient evaluations.
        queries: evaluations, with gradient or without.
        seconds: spent on the image.
    """

    name: str
    label: int
    clean: float
    worst: float
    by: str
    rounded: float
    distance: float
    scores: dict[str, float]
    gradients: int
    queries: int
    seconds: float


@dataclass(frozen=True, eq=False)
class RobustnessResult:
    """A finished audit.

    Attributes:
        plan: of it.
        members: those of the plan that the detector could be attacked with, or what was done in their place.
        rows: one per image, in the images' order.
        clean_maps: (n, h, w) of the images as given, or None for a detector without maps.
        worst_maps: (n, h, w) of the worst images.
        traits: what the detector was found to be.
        left_out: members that this detector cannot be attacked with, and why.
        images: folder of the worst images, as 16-bit PNG.
    """

    plan: AttackPlan
    members: tuple[AttackSpec, ...]
    rows: tuple[ImageAttackResult, ...]
    clean_maps: npt.NDArray[np.float32] | None
    worst_maps: npt.NDArray[np.float32] | None
    traits: ProbedProperties
    left_out: dict[str, str]
    images: Path | None


def applicable_attacks(
    plan: AttackPlan, detector: AnomalyDetector, traits: ProbedProperties, maps: bool
) -> tuple[list[AttackSpec], dict[str, str]]:
    """Those members that a detector can be attacked with, and why the others cannot."""
    kept: list[AttackSpec] = []
    left_out: dict[str, str] = {}
    for member in plan.members:
        if member.transfer:
            kept.append(member)
        elif not traits.differentiable and member.attack not in WITHOUT_GRADIENTS:
            left_out[member.name] = f"no gradient reaches the image: {traits.why_not}"
        elif member.surrogate not in available_objectives(detector):
            left_out[member.name] = f"the detector offers no '{member.surrogate}'"
        elif not maps and member.surrogate in NEED_MAPS:
            left_out[member.name] = "the detector gives no maps"
        elif member.if_noisy and traits.deterministic:
            left_out[member.name] = "there is no noise to average over"
        elif member.if_noisy and traits.agreement >= AGREEMENT:
            left_out[member.name] = f"gradients of two noise draws agree to {traits.agreement:.2f}: one says enough"
        elif member.if_noisy and plan.noise == "known":
            left_out[member.name] = "the noise is known"
        elif plan.noise == "known" and member.surrogate not in SURROGATES:
            left_out[member.name] = "it draws other noise than the score does"
        else:
            kept.append(member)
    return kept, left_out


def evaluate_robustness(
    detector: AnomalyDetector,
    subjects: ImageSet,
    plan: AttackPlan,
    folder: Path,
    *,
    climbed: AnomalyDetector | None = None,
    source: AnomalyDetector | None = None,
    identity: str = "",
    save_images: bool = False,
    process: tuple[int, int] = (0, 1),
    progress: ProgressReporter = SILENT,
    wait: Callable[[], None] | None = None,
    batch_size: int = BATCH,
) -> RobustnessResult:
    """Attack every image.

    Args:
        detector: under audit.
        subjects: the images.
        plan: of the audit.
        folder: of its rows; what an earlier run with the same plan finished there is kept.
        climbed: the same detector in the plan's arithmetic, which members climb in its place; its own if None.
        source: the detector that members with ``transfer`` climb.
        identity: of the detector; an earlier run of another one is not continued.
        save_images: keep the worst images, too.
        process: number of this process, and of all processes; each takes its share of the images.
        progress: Receives the progress.
        wait: for all processes; called once all their rows should be there.
        batch_size: images side by side; does not change the result.

    Returns:
        The audit, of all processes' rows.

    Raises:
        ConfigError: no member fits, or the folder holds another audit.
        DataError: there is no image.
        DetectorError: the detector answers with no score.
        OutputError: a row cannot be written.
    """
    if not len(subjects.names):
        raise DataError("there is no image to attack; give test images, good and defective")
    traits = probe(detector, subjects.few)
    first = validated_output(detector, subjects.images[:1], torch.Generator().manual_seed(0))
    members, left_out = applicable_attacks(plan, detector, traits, first.anomaly_maps is not None)
    if any(member.transfer for member in members) and source is None:
        raise ConfigError("--attack transfer: needs another detector to climb; name its folder with --from")
    if not members:  # nothing but its scores is left
        members = [AttackSpec(attack="square", steps=max(member.steps for member in plan.members))]
    digest = hashlib.sha256(subjects.images.cpu().numpy().tobytes()).hexdigest()
    files = ResultStore.open(folder, plan, subjects.names, digest, identity)
    seed = _score_seed(detector, plan)
    clean, clean_maps = scored(detector, subjects.images, seed)
    opposite = _reach(clean, subjects.labels, detector.threshold)
    climbed = climbed or detector
    frank = traits.deterministic and climbed is detector

    share = range(process[0], len(subjects.names), process[1])
    missing = files.missing(share)
    done = len(share) - len(missing)
    progress.update(done, len(share))
    for start in range(0, len(missing), batch_size):
        batch = missing[start : start + batch_size]
        for index, row, worst, worst_map in _attacked(
            detector, climbed, source, subjects, batch, clean, opposite, members, plan, seed, frank
        ):
            if worst_map is not None:
                _write_map(files.path(index).with_suffix(".npy"), worst_map)
            if save_images:
                _write_worst(folder, row.name, worst)
            files.write(index, asdict(row))
        done += len(batch)
        progress.update(done, len(share))
    if wait:
        wait()
    rows, worst_maps = _collected(files, clean_maps is not None)
    images = folder / "pictures" if save_images else None
    return RobustnessResult(plan, tuple(members), rows, clean_maps, worst_maps, traits, left_out, images)


def _score_seed(detector: AnomalyDetector, plan: AttackPlan) -> int:
    """Of the noise on which everything is judged."""
    if plan.noise == "unknown":
        return seed_of(plan.seed, "score")
    return seed_of(plan.seed, "known") if detector.noise_seed is None else detector.noise_seed


def scored(detector: AnomalyDetector, images: Tensor, seed: int) -> tuple[Floats, npt.NDArray[np.float32] | None]:
    """Scores (n,) and maps (n, h, w), each image on the same noise."""
    # One at a time on a CPU, where nothing is lost: kernels that depend on the batch size cannot show.
    at_once = 1 if images.device.type == "cpu" else BATCH
    answers = [
        validated_output(detector, part, torch.Generator().manual_seed(seed)) for part in torch.split(images, at_once)
    ]
    scores = torch.cat([answer.scores for answer in answers]).double().numpy()
    if answers[0].anomaly_maps is None:
        return scores, None
    maps = torch.cat([answer.anomaly_maps for answer in answers if answer.anomaly_maps is not None])
    return scores, maps[:, 0].numpy()


def _reach(clean: Floats, labels: npt.NDArray[np.int64], threshold: float | None) -> tuple[float, float]:
    """Beyond which score there is nothing left to win with a normal image, and below which with a defective one.

    Attacks only raise good scores and lower defective ones. A normal image above every defective one, or a defective
    one below every good one, is on the wrong side of all others already: no AUROC falls any further, whatever else is
    done. And its verdict must be wrong, too.
    """
    good, defective = clean[labels == 0], clean[labels == 1]
    if not (good.size and defective.size):
        return np.inf, -np.inf
    above, below = float(defective.max()), float(good.min())
    return (above, below) if threshold is None else (max(above, threshold), min(below, threshold))


def _attacked(
    detector: AnomalyDetector,
    climbed: AnomalyDetector,
    source: AnomalyDetector | None,
    subjects: ImageSet,
    batch: list[int],
    clean: Floats,
    opposite: tuple[float, float],
    members: Sequence[AttackSpec],
    plan: AttackPlan,
    seed: int,
    frank: bool,
) -> Iterator[tuple[int, ImageAttackResult, Tensor, npt.NDArray[np.float32] | None]]:
    """Attack images side by side, member after member.

    ``frank``: what an attack climbs, if it is the score, is what judges it, so that it may end where nothing is left to
    win.
    """
    began = time.perf_counter()
    count = len(batch)
    images, labels = subjects.images[batch], subjects.labels[batch]
    signs = np.where(labels == 0, 1.0, -1.0)
    worst, worst_scores = images.clone(), clean[batch].copy()
    scores: list[dict[str, float]] = [{} for _ in batch]
    by, gradients, queries = [""] * count, np.zeros(count, int), np.zeros(count, int)
    spare = _SPARE * abs(opposite[0] - opposite[1])
    for member in members:
        for restart in range(member.restarts):
            beyond = np.where(labels == 0, worst_scores > opposite[0], worst_scores < opposite[1])
            rows = np.flatnonzero(~beyond)
            if not rows.size:
                break
            # Not of the number of restarts: five of them begin with the one.
            tag = (plan.seed, member.model_copy(update={"restarts": 1}).name, restart)
            goal = objective(
                source if member.transfer and source is not None else climbed,
                torch.from_numpy(signs[rows]),
                member.surrogate,
                generator_for(*tag, "noise"),
                eot=member.eot,
                known_noise=seed if plan.noise == "known" else None,
            )
            own = [generator_for(*tag, subjects.names[batch[row]]) for row in rows]
            told = frank and member.surrogate == "score" and not member.transfer
            enough = torch.from_numpy((signs * np.where(labels == 0, *opposite) + spare)[rows]) if told else None
            found = ATTACKS[member.attack](AttackInput(goal, images[rows], plan.threat, own, member.steps, enough))
            gradients[rows] += found.gradients.numpy() * member.eot
            queries[rows] += found.queries.numpy() * member.eot
            candidates = [found.images] if torch.equal(found.last, found.images) else [found.images, found.last]
            for candidate in candidates:
                candidate = plan.threat.project(candidate.detach(), images[rows])
                values, _ = scored(detector, candidate, seed)
                queries[rows] += 1
                for place, row in enumerate(rows):
                    gain = signs[row] * values[place]
                    if gain > signs[row] * scores[row].get(member.name, -signs[row] * np.inf):
                        scores[row][member.name] = float(values[place])
                    if gain > signs[row] * worst_scores[row]:
                        worst_scores[row], by[row] = values[place], member.name
                        worst[row] = candidate[place]
    rounded, _ = scored(detector, (worst * 255).round() / 255, seed)
    _, maps = scored(detector, worst, seed)
    distance = plan.threat.distance(images, worst).tolist()
    seconds = (time.perf_counter() - began) / count
    for place, index in enumerate(batch):
        row_of = ImageAttackResult(
            name=subjects.names[index],
            label=int(labels[place]),
            clean=float(clean[index]),
            worst=float(worst_scores[place]),
            by=by[place],
            rounded=float(rounded[place]),
            distance=distance[place],
            scores=scores[place],
            gradients=int(gradients[place]),
            queries=int(queries[place]),
            seconds=round(seconds, 3),
        )
        yield index, row_of, worst[place], None if maps is None else maps[place]


def _write_map(path: Path, values: npt.NDArray[np.float32]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, values)


def _write_worst(folder: Path, name: str, image: Tensor) -> None:
    """As 16-bit PNG, under the image's own name with its folders flattened."""
    path = make_folder(folder / "pictures") / f"{Path(name).with_suffix('').as_posix().replace('/', '-')}.png"
    values = image.permute(1, 2, 0).cpu().numpy()
    write_image(path, values[..., 0] if values.shape[2] == 1 else values, bits=16)


def _collected(rows: ResultStore, maps: bool) -> tuple[tuple[ImageAttackResult, ...], npt.NDArray[np.float32] | None]:
    try:
        found = tuple(ImageAttackResult(**values) for values in rows.read_all())
    except TypeError as error:
        raise OutputError(f"{rows.folder}: a row is of another version ({error}); name another folder") from None
    worst_maps = []
    for index in range(rows.count if maps else 0):
        path = rows.path(index).with_suffix(".npy")
        try:
            worst_maps.append(np.load(path))
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{path}: a map is damaged ({error}); delete it and its row, and run the same command again"
            ) from None
    return found, np.stack(worst_maps) if maps else None
