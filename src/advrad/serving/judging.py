"""From the content of an image file to what the history and the sender get: facts as JSON values, images as PNG.

It takes the path of :mod:`advrad.inference.judging`, as ``advrad predict`` does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from advrad.data.images import at_working_size, averaged
from advrad.data.picture_statistics import PictureStatistics, picture_statistics
from advrad.data.png import png_of
from advrad.errors import AdvradError, OutputError
from advrad.inference.heatmaps import heat_scale
from advrad.inference.judging import ImageJudge, Judged, LoadedImage
from advrad.inference.prediction import PredictionRecord
from advrad.serving.errors import ModelFailed, StoreUnavailable

#: Images that can be drawn of an inspection.
ARTEFACTS = ("map", "overlay", "reconstruction")
#: Pixels of the image on which an overlay is drawn, at most; larger ones are averaged over squares.
DRAWN_PIXELS = 4_000_000
#: Level that normal maps hardly exceed, as a share of white in a drawn map.
MAP_LEVEL = 1 / 4


def shown_name(file_name: str) -> str:
    r"""A file's name as it is told to people: without control characters, and not too long.

    Args:
        file_name: Name that the sender gave the file; may be empty.

    Example:
        >>> shown_name("part\n1.png"), shown_name("")
        ('part?1.png', 'the image')
    """
    plain = "".join(char if char.isprintable() else "?" for char in file_name[:200])
    return plain or "the image"


def read_picture(judge: ImageJudge, picture: bytes, file_name: str = "", *, keep_full: bool = False) -> LoadedImage:
    """Read the content of an image file.

    Args:
        judge: Reads it as its detector needs it.
        picture: Content of the file.
        file_name: Name that the sender gave the file.
        keep_full: Whether the image is wanted at its own size as well, to be drawn or certified.

    Returns:
        The image; its path is the name, and there is no such file.

    Raises:
        ImageError: It cannot be read, is too large, or does not suit the training images.
        StoreUnavailable: The disk of temporary files does not work.
    """
    try:
        return judge.read_content(picture, shown_name(file_name), keep_full=keep_full)
    except OutputError as error:
        what, _, fix = str(error).partition("; ")
        raise StoreUnavailable(what, fix) from None


def decide_all(judge: ImageJudge, images: Sequence[LoadedImage], threshold: float | None) -> list[Judged | ModelFailed]:
    """Decide about images together; where that fails, about each alone, so that one does not spoil the others.

    Args:
        judge: Decides.
        images: Images.
        threshold: Threshold in place of the calibrated one; None for that one.

    Returns:
        For each image what the detector says, or why it says nothing.
    """
    try:
        return list(judge.decide(images, threshold))
    except (AdvradError, RuntimeError, MemoryError, ValueError) as error:
        if len(images) > 1:
            return [one for image in images for one in decide_all(judge, [image], threshold)]
        return [ModelFailed(_one_line(error), "check the model folder, and send the image again")]


def statistics_of(judge: ImageJudge, image: LoadedImage) -> PictureStatistics:
    """Brightness and sharpness of an image at the working size, as those of the calibration images were taken.

    Args:
        judge: Judge that read the image.
        image: The image.
    """
    if isinstance(image.scored, Tensor):
        return picture_statistics(image.scored)
    return picture_statistics(at_working_size(image.scored, 255, judge.framing))


def details_of(judged: Judged) -> dict[str, Any]:
    """What is said about an image besides score, threshold and verdict, as JSON values.

    Args:
        judged: The image and what the detector says.

    Returns:
        ``halves`` and ``reason`` of a guarded detector, ``warning``, and ``certificate``, each only if there is one;
        named as in the JSON lines of ``advrad predict``.
    """
    record = PredictionRecord.of(replace(judged, certificate=None)).to_dict()
    details: dict[str, Any] = {name: record[name] for name in ("halves", "reason", "warning") if name in record}
    if judged.certificate is not None:
        details["certificate"] = judged.certificate.to_dict()
    return details


def draw_artefacts(judge: ImageJudge, judged: Judged, names: Collection[str]) -> dict[str, bytes]:
    """Draw images of a judged image.

    ``map`` is grey and has the working size without padding: stretched over the image it lies on it. Black is the usual
    maximum of a normal map, a quarter of white the level that normal maps hardly exceed, and white four times that
    distance. ``overlay`` is the image with the map and the lines around it, ``reconstruction`` the image as it would be
    without anomalies.

    Args:
        judge: Judge that decided.
        judged: Image that was read with ``keep_full``, with what the detector says.
        names: Wanted ones of :data:`ARTEFACTS`.

    Returns:
        PNG files by name. One that the detector does not make is missing.
    """
    drawn: dict[str, bytes] = {}
    if "map" in names:
        drawn["map"] = png_of(_scaled_map(judge, judged) * MAP_LEVEL)
    if "overlay" in names:
        image = judged.image
        side_px = math.ceil(math.sqrt(max(1.0, image.held_pixels / DRAWN_PIXELS)))
        full = None if image.full is None else averaged(image.full, side_px)
        drawn["overlay"] = png_of(judge.draw(replace(judged, image=replace(image, full=full)), legend=False).heat_map)
    if "reconstruction" in names and (found := judge.without_padding(judged).reconstruction) is not None:
        drawn["reconstruction"] = png_of(found)
    return drawn


def _scaled_map(judge: ImageJudge, judged: Judged) -> npt.NDArray[np.float32]:
    """The anomaly map, where 0 is the usual maximum of a normal map and 1 the level that normal maps hardly exceed."""
    prediction = judge.without_padding(judged)
    if prediction.half_maps:
        return np.asarray(np.max(np.stack(prediction.half_maps), axis=0), dtype=np.float32)
    low, high = heat_scale(judge.calibration)
    return (prediction.anomaly_map - np.float32(low)) / np.float32(high - low)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
