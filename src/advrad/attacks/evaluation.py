"""Evaluation of robustness: run attacks on every image, score what they find, and keep the worst case.

What an attack returns is projected into the threat model and scored again: on noise that no attack has seen, or, for an
attacker who knows the noise, on that noise. It counts only if it is worse than the image as given. Every image has a
result file of its own, so a run can be interrupted and resumed, and shared by several processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advrad.attacks.batch_attack import (
    AttackSetup,
    BatchAttack,
    Booleans,
    Floats,
    GainLimits,
    ImageAttackResult,
    Labels,
)
from advrad.attacks.plan import AttackPlan, AttackSpec
from advrad.attacks.selection import applicable_attacks
from advrad.data.png import write_image
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.probing import ProbedProperties, judge_images, probe, validated_output
from advrad.errors import ConfigError, DataError, OutputError
from advrad.utils.files import atomic_path, make_folder
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.result_store import ResultStore
from advrad.utils.seeding import seed_of

Maps = npt.NDArray[np.float32]

#: Number of images that are attacked at a time.
BATCH = 8


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images.

    Attributes:
        images: Images, (n, c, h, w), in [0, 1], at the size at which the detector takes them.
        labels: 0 for normal, 1 for anomalous, (n,).
        names: Names of the images, n different ones.

    Example:
        >>> images = ImageSet(torch.rand(6, 3, 8, 8), np.array([0, 0, 0, 1, 1, 1]), tuple("abcdef"))
        >>> images.examples.shape
        torch.Size([4, 3, 8, 8])
    """

    images: Tensor
    labels: Labels
    names: tuple[str, ...]

    @property
    def examples(self) -> Tensor:
        """Two images of each class, to probe a detector with; (up to 4, c, h, w)."""
        return self.images[self._examples]

    @property
    def example_names(self) -> list[str]:
        """Names of the examples."""
        return [self.names[index] for index in self._examples]

    @property
    def _examples(self) -> list[int]:
        return [*np.flatnonzero(self.labels == 0)[:2], *np.flatnonzero(self.labels == 1)[:2]]

    @property
    def digest(self) -> str:
        """Digest of the images' values."""
        return hashlib.sha256(self.images.cpu().numpy().tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class RobustnessResult:
    """Result of an evaluation of robustness.

    Attributes:
        plan: Plan.
        attacks: Attacks that were run: those of the plan that suit the detector, or one without gradients instead.
        rows: Results of the images, in their order.
        clean_maps: Anomaly maps of the images as given, (n, h, w); None for a detector without maps.
        worst_maps: Anomaly maps of the worst images, (n, h, w).
        properties: Measured properties of the detector.
        left_out: Names of the attacks that do not suit the detector, with the reason.
        images: Folder of the worst images as 16-bit PNG files; None if they were not saved.
        clean_verdicts: Verdicts on the images as given, (n,), of a detector whose verdict is more than
            ``score > threshold``; None for others.
    """

    plan: AttackPlan
    attacks: tuple[AttackSpec, ...]
    rows: tuple[ImageAttackResult, ...]
    clean_maps: Maps | None
    worst_maps: Maps | None
    properties: ProbedProperties
    left_out: dict[str, str]
    images: Path | None
    clean_verdicts: Booleans | None = None


def evaluate_robustness(
    detector: AnomalyDetector,
    images: ImageSet,
    plan: AttackPlan,
    folder: Path,
    *,
    gradient_detector: AnomalyDetector | None = None,
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
        detector: Detector.
        images: Images.
        plan: Plan.
        folder: Folder of the results; finished images of an earlier run with the same plan are kept.
        gradient_detector: The same detector in the plan's precision, which attacks use; None for ``detector``.
        source: Detector that transfer attacks use.
        identity: Digest of the detector; a run of another detector is not resumed.
        save_images: Whether the worst images are saved.
        process: Index of this process and number of processes; each takes its share of the images.
        progress: Receives the progress.
        wait: Function that waits for all processes; called before the results are read.
        batch_size: Number of images that are attacked at a time; it does not change the result.

    Returns:
        The results of all images, whichever process attacked them.

    Raises:
        ConfigError: A transfer attack has no source.
        DataError: There are no images.
        DetectorError: The detector's output is not valid.
        OutputError: The folder holds another run, or cannot be written.

    Example:
        >>> import advrad, tempfile
        >>> from advrad.attacks.threat import Threat
        >>> detector = advrad.wrap(lambda images: images.mean((1, 2, 3)), deterministic=True)
        >>> values = torch.stack([torch.full((3, 8, 8), value) for value in (0.2, 0.8)])
        >>> plan = AttackPlan(threat=Threat.of("linf", 0.1), attacks=(AttackSpec(attack="pgd", steps=20),))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     images = ImageSet(values, np.array([0, 1]), ("dark", "bright"))
        ...     result = evaluate_robustness(detector, images, plan, Path(folder))
        >>> [round(row.worst, 2) for row in result.rows]
        [0.3, 0.7]
    """
    if not len(images.names):
        raise DataError("there is no image to attack; give test images, normal and anomalous ones")
    properties = probe(detector, images.examples, images.example_names)
    attacks, left_out = _select_attacks(plan, detector, properties, images, source)
    store = ResultStore.open(folder, plan, images.names, images.digest, identity)
    score_seed = _score_seed(detector, plan)
    clean, clean_maps, verdicts = judge_images(detector, images.images, score_seed, images.names)
    gradient_detector = gradient_detector or detector
    setup = AttackSetup(
        detector,
        gradient_detector,
        source,
        plan,
        attacks,
        score_seed,
        GainLimits.of(clean, images.labels, detector.threshold),
        early_stopping=properties.deterministic and gradient_detector is detector,
    )
    share = range(process[0], len(images.names), process[1])
    save_in = folder if save_images else None
    _attack_missing(setup, images, (clean, verdicts), share, store, save_in, batch_size, progress)
    if wait:
        wait()
    rows, worst_maps = _read(store, clean_maps is not None)
    saved = folder / "pictures" if save_images else None
    return RobustnessResult(plan, tuple(attacks), rows, clean_maps, worst_maps, properties, left_out, saved, verdicts)


def _select_attacks(
    plan: AttackPlan,
    detector: AnomalyDetector,
    properties: ProbedProperties,
    images: ImageSet,
    source: AnomalyDetector | None,
) -> tuple[list[AttackSpec], dict[str, str]]:
    """The attacks of a plan that can be used on a detector, and those that cannot.

    Raises:
        ConfigError: A transfer attack has no source.
    """
    first = validated_output(detector, images.images[:1], torch.Generator().manual_seed(0))
    attacks, left_out = applicable_attacks(plan, detector, properties, first.anomaly_maps is not None)
    if any(attack.transfer for attack in attacks) and source is None:
        raise ConfigError("is needed for a transfer attack; give the detector whose gradients it uses", option="source")
    if not attacks:  # only queries of the score remain
        attacks = [AttackSpec(attack="square", steps=max(attack.steps for attack in plan.attacks))]
    return attacks, left_out


def _attack_missing(
    setup: AttackSetup,
    images: ImageSet,
    clean: tuple[Floats, Booleans | None],
    share: range,
    store: ResultStore,
    worst_folder: Path | None,
    batch_size: int,
    progress: ProgressReporter,
) -> None:
    """Attack the images of this process's share that have no stored result yet."""
    missing = store.missing(share)
    done = len(share) - len(missing)
    progress.update(done, len(share))
    for start in range(0, len(missing), batch_size):
        batch = missing[start : start + batch_size]
        _attack_batch(setup, images, clean, batch, store, worst_folder)
        done += len(batch)
        progress.update(done, len(share))


def _score_seed(detector: AnomalyDetector, plan: AttackPlan) -> int:
    """Seed of the noise on which all results are scored."""
    if plan.noise == "unknown":
        return seed_of(plan.seed, "score")
    return seed_of(plan.seed, "known") if detector.noise_seed is None else detector.noise_seed


def _attack_batch(
    setup: AttackSetup,
    images: ImageSet,
    clean: tuple[Floats, Booleans | None],
    batch: list[int],
    store: ResultStore,
    save_in: Path | None,
) -> None:
    """Attack the images at the positions ``batch``, with their scores and verdicts, and store their results."""
    names = [images.names[index] for index in batch]
    scores, verdicts = clean
    judged = None if verdicts is None else verdicts[batch]
    attack = BatchAttack(setup, images.images[batch], images.labels[batch], names, scores[batch], judged)
    for row, result in enumerate(attack.run()):
        if attack.worst_maps is not None:
            _write_map(_map_path(store, batch[row]), attack.worst_maps[row])
        if save_in is not None:
            _write_worst(save_in, result.name, attack.worst[row])
        store.write(batch[row], result.to_dict())


def _map_path(store: ResultStore, index: int) -> Path:
    return store.path(index).with_suffix(".npy")


def _write_map(path: Path, values: Maps) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, values)


def _write_worst(folder: Path, name: str, image: Tensor) -> None:
    """Write an image as 16-bit PNG, named after the given image with its folders joined by hyphens."""
    path = make_folder(folder / "pictures") / f"{Path(name).with_suffix('').as_posix().replace('/', '-')}.png"
    values = image.permute(1, 2, 0).cpu().numpy()
    write_image(path, values[..., 0] if values.shape[2] == 1 else values, bits=16)


def _read(store: ResultStore, with_maps: bool) -> tuple[tuple[ImageAttackResult, ...], Maps | None]:
    """Read the results and maps of all images."""
    try:
        rows = tuple(ImageAttackResult(**values) for values in store.read_all())
    except TypeError as error:
        raise OutputError(f"{store.folder}: a row is of another version ({error}); name another folder") from None
    if not with_maps:
        return rows, None
    maps = []
    for index in range(store.count):
        path = _map_path(store, index)
        try:
            maps.append(np.load(path))
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{path}: a map is damaged ({error}); delete it and its row, and run the same command again"
            ) from None
    return rows, np.stack(maps)
