"""What the command ``certify`` does: find detector and pictures, certify, and reckon up the figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from advrad import metrics
from advrad.audits import Accused, chosen
from advrad.certify import CertifyPlan, Pictures, Row, run
from advrad.config import Config
from advrad.data import load_pictures
from advrad.errors import ConfigError
from advrad.exposed import Exposed
from advrad.files import make_folder, write_json, write_text
from advrad.layouts import find_records
from advrad.pictures import read_picture, to_tensor
from advrad.smoothing import Percentile, Sampler
from advrad.target import find_traits
from advrad.twopath import TwoPath
from advrad.types import MAX_PIXELS

Method = Literal["auto", "percentile", "two-path"]
METHODS: tuple[Method, ...] = ("auto", "percentile", "two-path")

#: Rounding a picture to 8 bits moves each value by up to half a level, evenly: per value, the root of the mean square.
ROUNDING = 1 / 255 / 12**0.5


class CertifyOptions(Config):
    """What a caller may ask of a certification.

    Attributes:
        radius: radii, separated by commas; l2 in [0, 1] pixel units of the pictures as given.
        draws: of every picture's score.
        confidence: of the bounds of all pictures together, and of each verdict.
        method: ``percentile`` adds noise to the picture; ``two-path`` uses AdvRAD's own; ``auto`` takes two-path where
            the score allows.
        sigma: of the noise that ``percentile`` adds; None for the largest radius.
        limit: certify only so many pictures, half of them good.
        seed: of everything.
        layout: of the data.
        category: product in the data.
        size_px: side of the square at which pictures are given; None for the detector's own size.
        own_size: give pictures at the size that they have in their files.
        max_pixels: bound on each picture file.
    """

    radius: str = "0.1,0.2,0.5"
    draws: int = Field(200, ge=2)
    confidence: float = 0.999
    method: Method = "auto"
    sigma: float | None = None
    limit: int | None = Field(None, ge=2)
    seed: int = Field(0, ge=0)
    layout: str = "auto"
    category: str | None = None
    size_px: int | None = Field(None, ge=16)
    own_size: bool = False
    max_pixels: int = MAX_PIXELS


def radii_of(typed: str) -> tuple[float, ...]:
    """Radii, as a person types them.

    Raises:
        ConfigError: one is no number, or below 0, or none is given.
    """
    found = []
    for word in typed.split(","):
        try:
            radius = float(word)
        except ValueError:
            raise ConfigError(f"--radius {typed}: '{word}' is no number; give some, such as 0.1,0.2") from None
        if not 0 <= radius < np.inf:
            raise ConfigError(f"--radius {typed}: must be 0 or more")
        found.append(radius)
    return tuple(dict.fromkeys(found))


def check_confidence(confidence: float, draws: int) -> None:
    """Refuse what no number of draws, or a single one, could prove.

    Raises:
        ConfigError: says why.
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"--confidence {confidence:g}: must lie strictly between 0 and 1; nothing drawn is certain")
    if draws < 2:
        raise ConfigError(f"--draws {draws}: must be at least 2; of a single draw nothing can be told")


def sampler_for(accused: Accused, method: Method, sigma: float | None, largest: float, probe: Tensor) -> Sampler:
    """The way in which a detector's score is certified.

    Args:
        accused: the detector.
        method: that is asked for.
        sigma: of the noise that ``percentile`` adds; None for ``largest``.
        largest: radius that is asked for.
        probe: (1, c, h, w) a picture, to find out whether the detector draws noise.

    Raises:
        ConfigError: the method does not suit the detector, or sigma the method.
    """
    ours = isinstance(accused.detector, Exposed)
    if method == "two-path" and not ours:
        raise ConfigError(
            "--method two-path: bounds the score of a model folder only; choose --method percentile for other detectors"
        )
    if ours and method != "percentile":
        if sigma is not None:
            raise ConfigError(
                "--sigma: goes with --method percentile; the two-path certificate uses the detector's own noise"
            )
        assert isinstance(accused.detector, Exposed)
        return TwoPath(accused.detector.detector)
    noise = largest if sigma is None else sigma
    deterministic = not ours and find_traits(accused.detector, probe).deterministic
    return Percentile(accused.detector, noise, deterministic)


def pictures_for(accused: Accused, data: Path, options: CertifyOptions) -> tuple[Pictures, str, tuple[int, int] | None]:
    """The test pictures, as given.

    Returns:
        The pictures, the name of the product, and their height and width, or None where they differ.

    Raises:
        DataError: a picture cannot be read, or one kind is missing.
    """
    dataset = find_records(data, options.layout, options.category)
    records = chosen(dataset.records, options.limit, options.seed)
    names = tuple(record.path.relative_to(dataset.root).as_posix() for record in records)
    labels = np.array([record.label for record in records], dtype=np.int64)
    if options.own_size:
        told = hashlib.sha256()
        for record in records:
            told.update(hashlib.sha256(record.path.read_bytes()).digest())

        def load(index: int) -> Tensor:
            return to_tensor(read_picture(records[index].path, options.max_pixels))

        return Pictures(load, labels, names, told.hexdigest()), dataset.category, None
    size_px = options.size_px or accused.detector.size_px or 256
    images = load_pictures(records, size_px, max_pixels=options.max_pixels).batch(slice(None))
    digest = hashlib.sha256(images.numpy().tobytes()).hexdigest()
    return Pictures(images.__getitem__, labels, names, digest), dataset.category, (size_px, size_px)


def certify(
    accused: Accused,
    data: Path,
    options: CertifyOptions,
    folder: Path | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Certify a detector on test pictures.

    Args:
        accused: the detector.
        data: folder of pictures.
        options: of the certification.
        folder: of the rows and the result; None for one inside the model folder, whose name tells the plan.
        progress: told (pictures done, pictures in all).

    Returns:
        As :func:`figures`, and ``method``, ``sigma``, ``category``, ``folder``, ``attacked`` (what attacks in the
        model folder left in the same norm), ``notes``. The same lies in ``result.json``, the rows in ``rows.jsonl``.

    Raises:
        UserError: an option does not fit, a radius is out of reach, or the folder cannot be written.
    """
    from accelerate import PartialState

    radii = radii_of(options.radius)
    check_confidence(options.confidence, options.draws)
    pictures, category, sides = pictures_for(accused, data, options)
    sampler = sampler_for(accused, options.method, options.sigma, max(radii), pictures.load(0)[None])
    threshold, notes = threshold_of(accused, sampler)
    plan = CertifyPlan(
        radii=radii, draws=options.draws, confidence=options.confidence, threshold=threshold, seed=options.seed
    )
    sigma = sampler.sigma if isinstance(sampler, Percentile) else None
    identity = f"{accused.identity} {sampler.method} {sigma or ''}".strip()
    folder = make_folder(folder or _home(accused, plan, pictures, identity))
    state = PartialState()
    rows = run(
        sampler,
        pictures,
        plan,
        folder,
        identity=identity,
        process=(state.process_index, state.num_processes),
        progress=progress,
        wait=state.wait_for_everyone,
    )
    result: dict[str, Any] = {"method": sampler.method, "sigma": sigma}
    result |= figures(rows, plan)
    result |= {
        "size": "own" if sides is None else list(sides),
        "attacked": attacked(accused.home, category),
        "notes": notes,
        "category": category,
        "folder": str(folder),
        "versions": _versions(),
    }
    if sides is not None:
        result["rounding_l2"] = ROUNDING * (3 * sides[0] * sides[1]) ** 0.5
    if state.is_main_process:
        write_text(folder / "rows.jsonl", "".join(json.dumps(asdict(row)) + "\n" for row in rows))
        write_json(folder / "result.json", result)
    return result


def threshold_of(accused: Accused, sampler: Sampler) -> tuple[float | None, list[str]]:
    """The threshold for smoothed scores, and what is to be said of it."""
    notes = []
    if sampler.method == "percentile" and isinstance(accused.detector, Exposed):
        notes.append("percentile was asked for: it adds a second noise, and mostly certifies less than two-path")
    elif sampler.method == "percentile":
        notes.append("the score is not of the form that two-path certifies, so percentile is used")
    if isinstance(accused.detector, Exposed) and sampler.method == "two-path":
        guarantee = accused.detector.detector.detector_config.guarantee
        if guarantee is not None:
            return guarantee.threshold, notes
    if accused.detector.threshold is not None:
        notes.append(
            "the threshold was set for plain scores, so it promises no false-alarm rate for smoothed ones; set one with"
            " 'advrad calibrate RUN DATA --radius R'"
        )
    return accused.detector.threshold, notes


def certified_auroc(rows: tuple[Row, ...], rung: int) -> float | None:
    """Least AUROC that can be left within a radius, whatever is done to every picture at once.

    Args:
        rows: of all pictures.
        rung: of the radius in the plan's ladder.

    Returns:
        Share of pairs whose defective picture stays above the good one; a tie counts nothing. None without both kinds.
    """
    low = np.array([-np.inf if row.lower[rung] is None else row.lower[rung] for row in rows if row.label])
    high = np.array([np.inf if row.upper[rung] is None else row.upper[rung] for row in rows if not row.label])
    if not (low.size and high.size):
        return None
    return float((low.astype(float)[:, None] > high.astype(float)[None]).mean())


def figures(rows: tuple[Row, ...], plan: CertifyPlan) -> dict[str, Any]:
    """What is reported of a certification, as plain JSON values.

    Args:
        rows: of all pictures.
        plan: of the certification.

    Returns:
        ``clean_auroc`` of the smoothed score; ``certified_auroc``, by radius; ``curve``: ``radii``, and over them
        ``certified_auroc``, ``certified_right`` and ``certified_wrong`` (share of verdicts that are certified, and
        agree with what the picture is or not; the rest abstain); ``verdicts``, by radius: ``right``, ``wrong``,
        ``abstained``, ``draws_saved`` (share of the draws that a test that stops early does without) and
        ``early_certified`` beside ``certified`` (share of verdicts with and without stopping early);
        ``median_radius`` of the verdicts; the plan.
    """
    labels = np.array([row.label for row in rows])
    both = bool(labels.any() and not labels.all())
    ladder = plan.ladder
    areas = [certified_auroc(rows, rung) for rung in range(len(ladder))]
    result: dict[str, Any] = {
        "draws": plan.draws,
        "confidence": plan.confidence,
        "seed": plan.seed,
        "threshold": plan.threshold,
        "n_good": int((labels == 0).sum()),
        "n_defect": int((labels == 1).sum()),
        "clean_auroc": metrics.auroc(labels, np.array([row.score for row in rows])) if both else None,
        "certified_auroc": {f"{radius:g}": areas[ladder.index(radius)] for radius in plan.radii},
    }
    curve: dict[str, Any] = {"radii": list(ladder), "certified_auroc": areas}
    if plan.threshold is not None:
        shares = [_shares(rows, [row.verdicts[rung] for row in rows]) for rung in range(len(ladder))]
        curve |= {f"certified_{name}": [share[name] for share in shares] for name in ("right", "wrong")}
        result["verdicts"] = {}
        for radius in plan.radii:
            share = shares[ladder.index(radius)]
            # The early tests lie in the order of the ladder.
            place = sorted(plan.radii).index(radius)
            used = np.array([row.early_draws[place] for row in rows])
            early = np.array([row.early[place] != "abstain" for row in rows])
            result["verdicts"][f"{radius:g}"] = share | {
                "certified": share["right"] + share["wrong"],
                "early_certified": float(early.mean()),
                "draws_saved": float(1 - used.mean() / plan.draws),
            }
        result["median_radius"] = float(np.median([row.radius for row in rows]))
    result["curve"] = curve
    result["seconds"] = round(sum(row.seconds for row in rows), 1)
    return result


def _shares(rows: tuple[Row, ...], verdicts: list[str]) -> dict[str, float]:
    meant = ["certified anomalous" if row.label else "certified normal" for row in rows]
    right = np.array([verdict == truth for verdict, truth in zip(verdicts, meant, strict=True)])
    abstained = np.array([verdict == "abstain" for verdict in verdicts])
    return {
        "right": float(right.mean()),
        "wrong": float((~right & ~abstained).mean()),
        "abstained": float(abstained.mean()),
    }


def attacked(home: Path | None, category: str) -> list[dict[str, Any]]:
    """What attacks in l2 on this product left, from the model folder: radius and robust AUROC, by radius."""
    found = []
    for path in sorted((home / "attacks").glob("*/result.json")) if home else ():
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            if result["norm"] == "l2" and result["category"] == category and result["robust_auroc"] is not None:
                kept = ("attack", "eps", "robust_auroc", "n_good", "n_defect")
                found.append({name: result[name] for name in kept})
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a damaged neighbour is no reason to withhold this result
    return sorted(found, key=lambda point: float(point["eps"]))


def _home(accused: Accused, plan: CertifyPlan, pictures: Pictures, identity: str) -> Path:
    """A folder of its own for every plan and choice of pictures."""
    if accused.home is None:
        raise ConfigError("-o: is needed, because this detector has no folder; name one for the results")
    told = json.dumps([plan.model_dump(mode="json"), pictures.names, pictures.digest, identity])
    return accused.home / "certificates" / hashlib.sha256(told.encode()).hexdigest()[:12]


def _versions() -> dict[str, str]:
    from advrad import __version__

    return {"advrad": __version__, "torch": torch.__version__}
