"""Scores and maps in whatever a foreign detector returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advrad.detectors.base import DetectorOutput
from advrad.errors import DetectorError

#: Names under which a mapping or an object holds scores and maps, the first that is there counts.
SCORE_NAMES = ("pred_score", "pred_scores", "anomaly_score", "anomaly_scores", "score", "scores")
MAP_NAMES = ("anomaly_map", "anomaly_maps", "map", "maps")
_NAMES = (SCORE_NAMES, MAP_NAMES)

_MUST = "it must return one score per image, or one map"


def to_output(answer: object, images: Tensor) -> DetectorOutput:
    """Find scores and maps in the answer of a detector.

    Scores may be a tensor, an array, a list of numbers or, for one image, a number, of any real type; see
    :func:`advrad.wrap`. Types of less than 32 bits become float32, whole numbers float64. Gradients are kept.

    Args:
        answer: What the detector returned.
        images: The images, (b, c, h, w).

    Returns:
        Scores, (b,), and maps, (b, 1, h, w), on the device of the images.

    Raises:
        DetectorError: There is no score for each image, or more than one.

    Example:
        >>> to_output([1, 0], torch.zeros(2, 3, 8, 8)).scores
        tensor([1., 0.], dtype=torch.float64)
    """
    if isinstance(answer, DetectorOutput):
        found = _sorted_out([answer.scores, answer.anomaly_maps], len(images))
        return _on(images.device, DetectorOutput(found.scores, found.anomaly_maps, answer.reconstructions))
    return _on(images.device, _found(answer, len(images)))


def _found(answer: object, count: int) -> DetectorOutput:
    """Scores and maps of ``count`` images."""
    named = _named(answer)
    if named is not None:
        return _sorted_out(list(named), count)
    if not isinstance(answer, list | tuple):
        return _sorted_out([answer], count)
    if answer and all(_is_number(part) for part in answer):
        return _sorted_out([_joined(answer)], count)
    if len(answer) == count and all(_named(part) is not None for part in answer):  # one mapping for each image
        return _in_one([_found(part, 1) for part in answer])
    return _sorted_out(answer, count)


def _named(answer: object) -> tuple[object, object] | None:
    """Scores and maps of a mapping or an object that names them; None if it names neither.

    Raises:
        DetectorError: A mapping names neither.
    """
    if isinstance(answer, Tensor | np.ndarray | int | float):
        return None
    if isinstance(answer, Mapping):
        scores, maps = ([answer[name] for name in names if answer.get(name) is not None] for names in _NAMES)
        if not scores and not maps:
            keys = ", ".join(map(repr, answer)) or "no keys"
            raise DetectorError(
                f"the detector returned a mapping with {keys}, neither scores nor maps that we know; name the scores"
                f" '{SCORE_NAMES[0]}' and the maps '{MAP_NAMES[0]}'"
            )
    else:
        values = [[getattr(answer, name, None) for name in names] for names in _NAMES]
        scores, maps = ([value for value in some if value is not None and not callable(value)] for some in values)
        if not scores and not maps:
            return None
    return (scores or [None])[0], (maps or [None])[0]


def _is_number(part: object) -> bool:
    return isinstance(part, Real | np.generic) or (isinstance(part, Tensor | np.ndarray) and part.ndim == 0)


def _joined(numbers: Sequence[Any]) -> Tensor:
    """One tensor of many numbers; gradients are kept."""
    return torch.stack([_to_tensor(number).reshape(()) for number in numbers])


def _in_one(outputs: Sequence[DetectorOutput]) -> DetectorOutput:
    """The outputs of single images as one."""
    maps = [output.anomaly_maps for output in outputs if output.anomaly_maps is not None]
    whole = torch.cat(maps) if len(maps) == len(outputs) else None
    return DetectorOutput(torch.cat([output.scores for output in outputs]), whole)


def _sorted_out(parts: Sequence[object], count: int) -> DetectorOutput:
    """Scores and maps among some parts, in any order."""
    scores: list[Tensor] = []
    maps: list[Tensor] = []
    for part in parts:
        if part is None:
            continue
        values = _to_tensor(_joined(part) if isinstance(part, list | tuple) and all(map(_is_number, part)) else part)
        as_scores = _as_scores(values, count)
        if as_scores is not None:
            scores.append(as_scores)
        else:
            maps.append(_as_maps(values, count))
    for found, what, name in ((scores, "scores", SCORE_NAMES[0]), (maps, "maps", MAP_NAMES[0])):
        if len(found) > 1:
            raise DetectorError(
                f"the detector returned {len(found)} tensors that could be {what}; return one of them, or a mapping"
                f" that names it '{name}'"
            )
    if scores:
        return DetectorOutput(scores[0], maps[0] if maps else None)
    if maps:
        return DetectorOutput(maps[0].flatten(1).amax(1), maps[0])
    raise DetectorError(f"the detector returned neither scores nor maps; {_MUST}")


def _to_tensor(part: object) -> Tensor:
    """A part of an answer as a float tensor: float64 for float64 and whole numbers, else float32.

    Raises:
        DetectorError: It holds no real numbers.
    """
    if not isinstance(part, Tensor):
        part = _from_array(part)
    if part.is_complex():
        raise DetectorError(f"the detector returned complex numbers ({part.dtype}); {_MUST}")
    if part.device.type == "meta":
        raise DetectorError("the detector returned a tensor on device meta, which holds no values; load its weights")
    if part.is_quantized:
        part = part.dequantize()
    if part.layout != torch.strided:
        part = part.to_dense()
    if not part.is_floating_point():
        return part.double()
    return part if part.dtype in (torch.float32, torch.float64) else part.float()


def _from_array(part: object) -> Tensor:
    if isinstance(part, Real):
        return torch.tensor(float(part), dtype=torch.float64)
    try:
        if not isinstance(part, list | tuple | np.generic) and not hasattr(part, "__array__"):
            raise TypeError
        array = np.asarray(part)
        if array.dtype.kind not in "biuf":
            raise TypeError
    except Exception:  # whatever an array of another library raises
        raise DetectorError(f"the detector returned {type(part).__name__}, not numbers; {_MUST}") from None
    kept = np.float32 if array.dtype == np.float32 else np.float64
    return torch.from_numpy(np.array(array, dtype=kept, order="C"))


def _as_scores(values: Tensor, count: int) -> Tensor | None:
    """Scores, (count,), if the values have a shape that means scores; None if they may be maps.

    Raises:
        DetectorError: They are scores of another number of images, or several for each image.
    """
    shape = tuple(values.shape)
    if values.numel() == count and sum(side != 1 for side in shape) <= 1:
        return values.reshape(-1)
    if len(shape) >= 3 or (len(shape) == 2 and count == 1 and shape[0] > 1):
        return None
    if len(shape) == 2 and shape[0] == count:
        raise DetectorError(
            f"the detector returned {shape[1]} numbers for each image, as a classifier does; it must return one score,"
            " larger for anomalous images"
        )
    what = "one number" if not shape else f"scores of shape {shape}"
    raise DetectorError(
        f"the detector returned {what} for {count} image{'s' if count > 1 else ''}; it must be of shape ({count},)"
    )


def _as_maps(values: Tensor, count: int) -> Tensor:
    """Maps, (count, 1, h, w).

    Raises:
        DetectorError: The values have another shape.
    """
    shape = tuple(values.shape)
    maps = values
    if len(shape) == 2:  # of a single image, without the axis of the batch
        maps = values[None, None]
    elif len(shape) == 3:
        maps = values[:, None]
    elif len(shape) == 4 and shape[1] != 1 and shape[3] == 1:
        maps = values.movedim(3, 1)
    if maps.ndim != 4 or maps.shape[:2] != (count, 1):
        raise DetectorError(
            f"the detector returned maps of shape {shape} for {count} image{'s' if count > 1 else ''}; it must be"
            f" ({count}, 1, h, w)"
        )
    return maps


def _on(device: torch.device, output: DetectorOutput) -> DetectorOutput:
    maps = None if output.anomaly_maps is None else output.anomaly_maps.to(device)
    return DetectorOutput(output.scores.to(device), maps, output.reconstructions)
