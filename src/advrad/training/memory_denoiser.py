"""An AdvRAD detector on the memory denoiser: its memory is filled, its score is chosen, its threshold is set.

Nothing is trained, so the only cost is the choice of the score.
"""

from __future__ import annotations

import time

from advrad.data.loading import ImageStack
from advrad.denoisers.memory import MemoryDenoiserConfig
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.score_config import ScoreConfig
from advrad.training.calibration_data import CalibrationData, split_stack
from advrad.training.finalize import How, detector_of, set_thresholds
from advrad.training.memory_filling import fill_memory, held_back
from advrad.training.score_candidates import CLEAN, ScoreObjective
from advrad.training.score_selection import fixed_score, select_score
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.seeding import generator_for

#: Default shape: patches of 7 cells of a 64 px image, compared within 2 cells.
DEFAULT = MemoryDenoiserConfig()


def fit_memory_denoiser(
    images: ImageStack | CalibrationData,
    config: MemoryDenoiserConfig = DEFAULT,
    *,
    objective: ScoreObjective = CLEAN,
    score: ScoreConfig | None = None,
    false_alarm_rate: float = 0.05,
    seed: int = 0,
    progress: ProgressReporter = SILENT,
) -> AdvRAD:
    """Make a detector whose denoiser is the posterior mean over patches of normal images.

    Args:
        images: Normal images, or the same divided by purpose.
        config: Shape of the denoiser.
        objective: What the score is chosen for; with a radius, a threshold under attack is set as well.
        score: Score to use, whose views suit the denoiser; None to choose it.
        false_alarm_rate: Largest share of normal images that may be called anomalous, between 0 and 1.
        seed: Seed of all random draws.
        progress: Receives the progress.

    Returns:
        The calibrated detector, in evaluation mode.

    Raises:
        ConfigError: There are too few images for the rate, or a view does not suit the denoiser.
        DataError: There are fewer than 8 images.

    Example:
        >>> from advrad.data.loading import load_images
        >>> detector = fit_memory_denoiser(load_images(records, 256))  # doctest: +SKIP
        >>> detector.save_pretrained("bottle")  # doctest: +SKIP
    """
    began = time.perf_counter()
    divided = images if isinstance(images, CalibrationData) else split_stack(images, seed, false_alarm_rate)
    train = divided.train
    denoiser, references = fill_memory(train, config, seed), train.batch(held_back(len(train), seed))
    generator = generator_for(seed, "score of the memory denoiser")
    normals = divided.selection.batch(slice(None))
    progress.stage("Choosing the score")
    if score is None:
        selection = select_score(
            denoiser, references, normals, (config.side_cells,), generator, objective=objective, progress=progress
        )
    else:
        selection = fixed_score(denoiser, references, normals, score, generator)
    made = How(divided.counts, int(train.values.shape[-1]), seed, "float32", time.perf_counter() - began)
    detector = detector_of(denoiser, selection, made).eval()
    progress.stage("Calibrating")
    set_thresholds(
        detector,
        divided,
        false_alarm_rate=false_alarm_rate,
        radius=objective.radius or None,
        source={"split_seed": seed},
        strict=False,
        progress=progress,
    )
    return detector
