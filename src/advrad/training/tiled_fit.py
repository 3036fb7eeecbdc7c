"""Fit a detector of tiles to the normal images of a product.

The images are divided. Tiles of **part A** are the normal images of the closed form: its memory, its statistics, and
all that is chosen. **Part B** sets the threshold: the conformal quantile of the scores of whole images. None of their
tiles is in part A, so the promise holds, see :mod:`advrad.detectors.tiled`; and so more images are needed than without
tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from advrad.data.framing import Framing
from advrad.data.loading import ImageStack
from advrad.data.picture_statistics import PictureReference, picture_statistics
from advrad.data.splits import LEAST_FOR_TILES, MOST_IMAGES, normals_needed, rate_in_reach
from advrad.data.sufficiency import NormalCount, check_enough
from advrad.detectors.config import ImageCounts
from advrad.detectors.conformal import calibration_from
from advrad.detectors.tiled import TiledDetector
from advrad.detectors.tiled_config import TiledConfig, tile_starts
from advrad.errors import DataError
from advrad.training.closed_form import fit_closed_form
from advrad.training.closed_form_members import groups_of
from advrad.training.closed_form_plan import MemberPlan
from advrad.training.closed_form_selection import USUAL_RADIUS, Radius
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.seeding import generator_for

#: Share of the images that set the threshold, where there are enough.
_THRESHOLD_SHARE = 1 / 3


def fit_tiled(
    images: ImageStack,
    framing: Framing,
    plans: Sequence[MemberPlan] | None = None,
    *,
    false_alarm_rate: float = 0.05,
    seed: int = 0,
    radius: Radius = USUAL_RADIUS,
    names: Sequence[str] = (),
    progress: ProgressReporter = SILENT,
) -> TiledDetector:
    """Fit a detector of tiles.

    Args:
        images: Different normal images at the working size of ``framing``.
        framing: How image files become working images, with the side of a tile.
        plans: Plans of the members of the closed form; None to choose them.
        false_alarm_rate: Largest probability that a new normal image exceeds the threshold, between 0 and 1.
        seed: Seed of the division of the images and of all random draws.
        radius: Perturbations for which the closed form of the tiles is chosen.
        names: Names of the images, n, for notes; empty to number them.
        progress: Receives the stages and the number of scored images.

    Returns:
        The calibrated detector.

    Raises:
        ConfigError: There are too few images for the rate.
        DataError: All tiles look the same.
    """
    count = len(images)
    check_enough(NormalCount(count), false_alarm_rate, tiles=True)
    held = max(normals_needed(false_alarm_rate), min(round(count * _THRESHOLD_SHARE), count - LEAST_FOR_TILES))
    order: list[int] = torch.randperm(count, generator=generator_for(seed, "tiles")).tolist()
    threshold, learn = sorted(order[:held]), sorted(order[held:])
    tiles, labels = _tiles_of(images, learn, framing, seed)
    progress.note(
        f"{len(tiles)} tiles of {len(learn)} normal images are compared; the other {held} images set the threshold"
    )
    base = fit_closed_form(
        tiles,
        plans,
        false_alarm_rate=max(false_alarm_rate, rate_in_reach(len(tiles))),
        seed=seed,
        radius=radius,
        image_size_px=framing.tile_px,
        names=[f"{names[image] if names else f'image {image}'} (tile {tile})" for image, tile in labels],
        progress=progress,
    )
    training = base.config.training.model_copy(
        update={"images": ImageCounts(train=len(learn), selection=0, calibration=held)}
    )
    base.update_config(calibration=None, held_out=(), training=type(training)())
    config = TiledConfig(
        base=base.config,
        height_px=framing.height_px,
        width_px=framing.width_px,
        held_out=tuple(threshold),
        training=training,
    )
    detector = TiledDetector(config, base).eval()
    progress.stage("Calibrating")
    scores, maxima = [], []
    for done, (score, largest) in enumerate(scored(detector, images, threshold), start=1):
        scores.append(score)
        maxima.append(largest)
        progress.update(done, held)
    pictures = PictureReference.of(picture_statistics(images.batch([row])[0]) for row in threshold)
    detector.update_config(calibration=calibration_from(scores, maxima, false_alarm_rate, pictures=pictures))
    return detector


def scored(detector: TiledDetector, images: ImageStack, rows: Sequence[int]) -> Iterator[tuple[float, float]]:
    """Score whole images.

    Args:
        detector: Detector of tiles.
        images: Images at its working size.
        rows: Numbers of the images.

    Yields:
        Score, and largest value of the anomaly map, of each image.
    """
    for row in rows:
        output = detector.predict_batch(images.batch([row]))
        maps = output.scores if output.anomaly_maps is None else output.anomaly_maps
        yield float(output.scores), float(maps.max())


def _tiles_of(
    images: ImageStack, rows: Sequence[int], framing: Framing, seed: int
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Different tiles of images, (n, 3, size, size), with the numbers of image and tile.

    Tiles of one image do not overlap: each tile is compared with the others, and would find itself in its neighbours.
    So every second one is taken, and of every second image the others.
    """
    side = framing.tile_px or framing.height_px
    down, across = tile_starts(framing.height_px, side), tile_starts(framing.width_px, side)
    places: list[tuple[int, int, int]] = []
    for turn, image in enumerate(rows):
        for row in range(turn // 2 % 2 if len(down) > 1 else 0, len(down), 2):
            places += [(image, row, column) for column in range(turn % 2 if len(across) > 1 else 0, len(across), 2)]
    if len(places) > MOST_IMAGES:
        drawn = torch.randperm(len(places), generator=generator_for(seed, "tiles of the memory"))[:MOST_IMAGES]
        places = [places[index] for index in drawn.sort().values.tolist()]
    tiles = torch.empty(len(places), 3, side, side)
    whole, loaded = torch.empty(0), -1
    for index, (image, row, column) in enumerate(places):
        if image != loaded:
            whole, loaded = images.batch([image])[0], image
        tiles[index] = whole[:, down[row] : down[row] + side, across[column] : across[column] + side]
    groups = groups_of(tiles)
    different = sorted(set(groups.tolist()))
    if len(different) < 2:
        raise DataError("images: all tiles of the normal images look the same; nothing can be learned from them")
    labels = [(image, row * len(across) + column) for image, row, column in places]
    return tiles[different], [labels[index] for index in different]
