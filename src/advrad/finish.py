"""From trained weights to a detector that decides: its score is chosen, then its thresholds are set.

Training ends with it, and ``advrad calibrate`` does it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from advrad.batches import View
from advrad.data import PictureStack
from advrad.denoiser import Denoiser
from advrad.detector import AdvRAD
from advrad.guarantee import CONFIDENCE, guarantee, least_rate
from advrad.guarantee import DRAWS as GUARANTEE_DRAWS
from advrad.plan import RunPlan, ScoreAim
from advrad.precision import takes_bfloat16
from advrad.quick_certificate import DRAWS as CERTIFICATE_DRAWS
from advrad.quick_certificate import PICTURES as CERTIFICATE_PICTURES
from advrad.score import paper_score
from advrad.select import DEFECTS_PER_SELECTION, DRAWS, FIELDS, REFERENCES, Aim, choose, forced
from advrad.settings import DetectorConfig
from advrad.twopath import TwoPath

Count = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Stacks:
    """Normal pictures, by what they are for.

    Attributes:
        train: the weights were learnt from these.
        selection: the score is chosen by these.
        calibration: the thresholds are set by these.
    """

    train: PictureStack
    selection: PictureStack
    calibration: PictureStack


def aim_of(score: ScoreAim, optimise_for_radius: float | None) -> Aim:
    """What the score is to be good at."""
    if optimise_for_radius is not None:
        return "radius"
    return "attack" if score == "robust" else "peace"


def choose_score(
    plan: RunPlan, denoiser: Denoiser, stacks: Stacks, device: torch.device, trained_s: float, progress: Count
) -> AdvRAD:
    """Choose how a trained denoiser scores pictures, as the plan wants it.

    Args:
        plan: of the run.
        denoiser: trained, in evaluation mode.
        stacks: normal pictures.
        device: to compute on.
        trained_s: seconds that the training took, for the record.
        progress: told (looks done, looks in all).

    Returns:
        A detector without thresholds.
    """
    config = plan.train
    bf16 = takes_bfloat16(config.precision, device)

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    normals = stacks.selection.batch(range(len(stacks.selection)))
    generator = torch.Generator().manual_seed(config.seed)
    references = stacks.train.batch(torch.randperm(len(stacks.train), generator=generator)[:REFERENCES])
    if plan.score == "paper":
        selection = forced(denoiser, references, normals, paper_score(config.size_px), generator, autocast)
    else:
        selection = choose(
            denoiser,
            references,
            normals,
            sorted({view.picture_px for view in config.views}),
            generator,
            autocast=autocast,
            aim=aim_of(plan.score, plan.optimise_for_radius),
            radius=plan.optimise_for_radius,
            progress=progress,
        )
    training: dict[str, Any] = {
        "plan": plan.model_dump(mode="json", exclude={"names", "data"}),
        "seconds": round(trained_s, 1),
        "pictures": {
            "train": len(stacks.train),
            "selection": len(stacks.selection),
            "calibration": len(stacks.calibration),
        },
        "tried": [list(row) for row in selection.tried[:50]],
        "candidates": len(selection.tried),
        "winner": selection.winner,
        "reason": selection.reason,
        "attacked": [list(row) for row in selection.attacked],
        "versions": versions(),
    }
    settings = DetectorConfig(
        denoiser=plan.denoiser,
        size_px=config.size_px,
        score=selection.config,
        noise_seed=config.seed,
        precision=config.precision,
        training=training,
    )
    return AdvRAD(denoiser, settings, selection.statistics).to(device)


def set_thresholds(
    detector: AdvRAD,
    calibration: PictureStack,
    *,
    false_alarm_rate: float,
    radius: float | None,
    source: dict[str, Any],
    draws: int = GUARANTEE_DRAWS,
    confidence: float = CONFIDENCE,
    strict: bool = True,
    progress: Count | None = None,
) -> None:
    """Set a detector's threshold, and for a radius also the one that holds under attack.

    Args:
        detector: to be calibrated.
        calibration: normal pictures that nothing else was learnt from.
        false_alarm_rate: promised.
        radius: l2, in [0, 1] pixel units of a picture of the detector's own size; None for no promise under attack.
        source: provenance, kept with the thresholds.
        draws: that bound each picture's score.
        confidence: of each such bound.
        strict: refuse a rate that the promise under attack cannot keep with so few pictures; else it promises the
            least that it can.
        progress: told (pictures done, pictures in all) of the longer part.

    Raises:
        ConfigError: too few pictures for the rate, or the radius is out of reach.
    """
    batches = (calibration.batch(range(i, min(i + 8, len(calibration)))) for i in range(0, len(calibration), 8))
    detector.calibrate(batches, false_alarm_rate, source)
    if radius is None:
        return
    rate = false_alarm_rate if strict else max(false_alarm_rate, least_rate(len(calibration), confidence))
    promise = guarantee(
        TwoPath(detector),
        list(calibration.batch(slice(None))),
        false_alarm_rate=rate,
        radius=radius,
        draws=draws,
        confidence=confidence,
        seed=detector.detector_config.noise_seed,
        source=source,
        progress=progress,
    )
    detector.detector_config = detector.detector_config.model_copy(update={"guarantee": promise})


def source_of(plan: RunPlan) -> dict[str, Any]:
    """Provenance of the thresholds. The folder's name, not its path: model folders are published."""
    return {"data": Path(plan.data).name, "category": plan.category, "split_seed": plan.train.seed}


def passes_after(
    views: Sequence[View], references: int, held: int, calibration: int, *, aim: Aim, guaranteed: bool
) -> float:
    """Passes of the network over one training window that choosing the score and calibrating will take.

    Args:
        views: of the training.
        references: pictures that the error maps are compared with.
        held: pictures for the choice of the score.
        calibration: pictures for the thresholds.
        aim: of the choice.
        guaranteed: a threshold that holds under attack is set, too.
    """
    looked_at = set(views) if aim != "radius" else {min(views, key=lambda view: view.picture_px)}
    per_picture = len(FIELDS[aim].sigmas) * sum((view.picture_px / view.window_px) ** 2 for view in looked_at)
    chosen_on = references + held + DEFECTS_PER_SELECTION
    passes = per_picture * (chosen_on + DRAWS * (references + held + calibration))
    if aim == "radius":
        passes += per_picture * CERTIFICATE_DRAWS * sum(CERTIFICATE_PICTURES)
    # Bounding a draw costs about as much as making it.
    return passes + 2 * GUARANTEE_DRAWS * calibration * guaranteed


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    import platform

    from advrad import __version__

    return {"advrad": __version__, "torch": torch.__version__, "python": platform.python_version()}
