"""From records to tensors: splitting the normals, pictures and masks at the working size, and a summary."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from advrad import cache, shortcuts
from advrad.errors import ConfigError, DataError, OutputError, PictureError
from advrad.layouts import Dataset
from advrad.pictures import PictureInfo, examine, read_and_examine, read_mask, read_picture, resize, to_tensor
from advrad.types import MAX_PIXELS, Record

if TYPE_CHECKING:
    from torch import Tensor

MIN_NORMALS = 8
"""Fewer normals cannot be split into training, selection and calibration."""

Progress = Callable[[int, int], None]
"""Called with the number of pictures done and of all pictures."""

_WORKERS = min(os.cpu_count() or 1, 16)

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, slots=True)
class Split:
    """The normals of the train split in three parts that share no picture.

    Attributes:
        train: what the networks learn from.
        selection: for choosing between scores.
        calibration: for the threshold alone, so that its promise holds.
    """

    train: tuple[Record, ...]
    selection: tuple[Record, ...]
    calibration: tuple[Record, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PictureStack:
    """Pictures at the working size.

    Attributes:
        values: (n, 3, size, size) uint16, 65535 is white; read-only, often mapped from the cache.
        records: the n records, in the order asked for.
        skipped: one error for each picture that was left out.
        notes: what is worth telling, such as a cache that could not be written.
    """

    values: npt.NDArray[np.uint16]
    records: tuple[Record, ...]
    skipped: tuple[PictureError, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def batch(self, indices: Sequence[int] | npt.NDArray[Any] | Tensor | slice) -> Tensor:
        """Return a copy of the pictures at ``indices`` as (b, 3, size, size) float32 in [0, 1]."""
        import torch

        index: slice | npt.NDArray[Any] = indices if isinstance(indices, slice) else np.asarray(indices)
        if not isinstance(index, slice) and index.size == 0:
            index = index.astype(np.int64)  # numpy takes an empty list for floats
        values = np.array(self.values[index], dtype=np.float32)
        values /= 65535
        return torch.from_numpy(values)


def split_normals(records: Iterable[Record], seed: int, *, false_alarm_rate: float = 0.05) -> Split:
    """Divide the normals of the train split into training, selection and calibration.

    Calibration gets a fifth, but at least what a conformal threshold at ``false_alarm_rate`` needs, which is
    ``ceil(1 / rate) - 1`` (19 at 5 %). Selection gets a tenth, but at least 8. Training keeps at least half:
    where the normals are too few, selection shrinks first, to 2, then calibration, also below what the rate
    needs.

    Who goes where follows from the seed and the file's path below the pictures' common folder, not from the
    order of the records or where the data lie. Removing one picture moves only few others.

    Args:
        records: all or some records of a data set; those of the test split and defects are ignored.
        seed: another seed, another split.
        false_alarm_rate: in (0, 1).

    Raises:
        DataError: fewer than 8 normals.
        ConfigError: the rate is outside (0, 1).
    """
    if not 0 < false_alarm_rate < 1:
        raise ConfigError(f"false_alarm_rate: {false_alarm_rate} is not between 0 and 1")
    normals = [record for record in records if record.split == "train" and record.label == 0]
    n = len(normals)
    if n < MIN_NORMALS:
        raise DataError(
            f"{n} good {'picture' if n == 1 else 'pictures'} to train on; at least {MIN_NORMALS} are needed, "
            "and several dozen for a good detector: add good pictures"
        )
    # 1 / 0.05 may come out a hair above 20.
    needed = math.ceil(1 / false_alarm_rate - 1e-9) - 1
    spare = n // 2
    calibration = max(math.ceil(n / 5), needed)
    selection = max(2, min(max(round(n / 10), 8), spare - calibration))
    calibration = min(calibration, spare - selection)
    common = Path(os.path.commonpath([record.path.parent for record in normals]))

    def place(record: Record) -> bytes:
        name = record.path.relative_to(common).as_posix()
        return hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogateescape"), digest_size=16).digest()

    normals.sort(key=place)
    parts = (
        normals[:calibration],
        normals[calibration : calibration + selection],
        normals[calibration + selection :],
    )
    held, chosen, train = (tuple(sorted(part, key=lambda record: record.path.as_posix())) for part in parts)
    return Split(train, chosen, held)


def load_pictures(
    records: Iterable[Record],
    size_px: int,
    *,
    skip_bad: bool = False,
    cache_dir: Path | Literal[False] | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> PictureStack:
    """Decode pictures at the working size, or take them from the cache.

    The numbers are those of `advrad.pictures.read_resized`, rounded to 16 bits. While decoding, all pictures
    are in memory: 6 x size_px^2 bytes each, 0.4 GB for 1,000 pictures of 256 px. Entries of the cache are checked
    before use; a damaged one is made anew. Where the cache cannot be written, the pictures stay in memory and
    a note says so.

    Args:
        records: the pictures, in the order wanted.
        size_px: side of the square.
        skip_bad: leave out pictures that cannot be read instead of raising.
        cache_dir: None for :func:`advrad.cache.default_folder`, False for no cache.
        max_pixels: bound on each picture as it lies in its file.
        progress: called after each picture.

    Raises:
        PictureError: the first picture that cannot be read, unless ``skip_bad``.
        DataError: there is nothing to load, or with ``skip_bad`` nothing is left.
    """
    wanted = tuple(records)
    if not wanted:
        raise DataError("no pictures to load: the list is empty")
    folder = None if cache_dir is False else (cache_dir or cache.default_folder())
    notes: tuple[str, ...] = ()
    path = None
    if folder is not None:
        digests = _ahead(cache.digest, [record.path for record in wanted])
        with closing(digests):
            path = cache.entry_path(folder, digests, size_px, max_pixels)
    entry = None if path is None else cache.take(path, len(wanted), size_px)
    if entry is None:
        entry = _decoded(wanted, size_px, skip_bad, max_pixels, progress)
        if path is not None and len(entry[0]):
            try:
                cache.keep(path, entry)
                entry = cache.take(path, len(wanted), size_px) or entry
            except OutputError as error:
                notes = (f"decoded pictures are not kept for the next run: {error}",)
    elif progress is not None:
        progress(len(wanted), len(wanted))
    values, bad = entry
    skipped = tuple(PictureError(wanted[i].path, reason) for i, reason in sorted(bad.items()))
    if skipped and not skip_bad:
        raise skipped[0]
    if not len(values):
        raise DataError(f"none of the {len(wanted)} pictures can be read; the first is {skipped[0]}")
    kept = tuple(record for i, record in enumerate(wanted) if i not in bad)
    return PictureStack(values, kept, skipped, notes)


def load_masks(
    records: Sequence[Record], size_px: int, *, skip_bad: bool = False, max_pixels: int = MAX_PIXELS
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Read the ground truth at the working size.

    A cell of the working size is defective where the mask covers it at least half as much as the cell it
    covers most. For all but tiny defects that is half of the cell, which neither grows nor shrinks them. A
    scratch thinner than half a cell is kept too; with the nearest pixel or a fixed half it would break up or
    vanish.

    Args:
        records: pictures that can be read, such as ``PictureStack.records``.
        size_px: side of the square.
        skip_bad: count a mask that cannot be used as unknown instead of raising.
        max_pixels: bound on each mask as it lies in its file.

    Returns:
        masks (n, size_px, size_px) bool, and known (n,) bool: False for a defect without a mask. The mask of
        a good picture is known and empty.

    Raises:
        PictureError: a mask cannot be read or has another size than its picture, unless ``skip_bad``.
    """
    masks = np.zeros((len(records), size_px, size_px), dtype=np.bool_)
    known = np.array([record.label == 0 for record in records], dtype=np.bool_)
    with_mask = [i for i, record in enumerate(records) if record.label == 1 and record.mask is not None]
    work = _ahead(partial(_mask, max_pixels=max_pixels), [records[i] for i in with_mask])
    with closing(work):
        for i, mask in zip(with_mask, work, strict=True):
            if not isinstance(mask, PictureError):
                masks[i], known[i] = _shrunk(mask, size_px), True
            elif not skip_bad:
                raise mask
    return masks, known


def inspect(
    dataset: Dataset,
    *,
    seed: int = 0,
    false_alarm_rate: float = 0.05,
    size_px: int = 256,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Read every picture and mask of a data set and say what is there, as plain JSON values.

    Args:
        dataset: as of :func:`advrad.layouts.find_records`.
        seed: of the split, and of the resampling behind the warnings.
        false_alarm_rate: for which the normals are split, in (0, 1).
        size_px: side of the square at which pictures are compared with each other, >= 3; sharpness depends on it.
        max_pixels: bound on each picture and mask as it lies in its file.
        progress: called after each picture.

    Returns:
        ``root, layout, category``; ``counts`` by split and defect; ``masks`` (``usable, empty, missing,
        broken``); ``width_px`` and ``height_px`` (``min, median, max``); ``kinds`` of pixels; ``broken``
        pictures and masks (``path, reason``); ``split`` of the readable normals, or None if they are too few;
        ``shortcuts``, the AUROC by which brightness, contrast or sharpness alone tells good from defective test
        pictures, and ``conditions``, that of good training pictures against good test pictures, both empty where
        a group is; ``notes``; ``warnings``, what to know before any figure is believed.

    Raises:
        ConfigError: ``false_alarm_rate`` is out of range.
    """
    counts: dict[str, Counter[str]] = {"train": Counter(), "test": Counter()}
    masks = dict.fromkeys(("usable", "empty", "missing", "broken"), 0)
    infos: list[PictureInfo] = []
    broken: list[PictureError] = []
    readable: list[Record] = []
    seen: dict[str, set[bytes | None]] = {"train": set(), "test": set()}
    measured: list[shortcuts.Statistics] = []
    work = _ahead(partial(_examined, size_px=size_px, max_pixels=max_pixels), dataset.records)
    with closing(work):
        for done, (record, (read, digest, mask)) in enumerate(zip(dataset.records, work, strict=True), start=1):
            counts[record.split][record.defect] += 1
            if isinstance(read, PictureError):
                broken.append(read)
            else:
                picture, info = read
                measured.append(shortcuts.describe(_resized(picture, size_px)[None]))
                infos.append(info)
                readable.append(record)
                seen[record.split].add(digest)
                if isinstance(mask, PictureError):
                    broken.append(mask)
                    masks["broken"] += 1
                elif record.label == 1:
                    masks["missing" if mask is None else "usable" if mask else "empty"] += 1
            if progress is not None:
                progress(done, len(dataset.records))
    notes = list(dataset.notes)
    if shared := len((seen["train"] & seen["test"]) - {None}):
        notes.append(f"pictures that lie in both train and test, byte for byte: {shared}; the test is not fair")
    if len({round(info.width_px / info.height_px, 1) for info in infos}) > 1:
        notes.append("the pictures differ in shape; each is squeezed to a square")
    parts = None
    try:
        split = split_normals(readable, seed, false_alarm_rate=false_alarm_rate)
        parts = {name: len(getattr(split, name)) for name in ("train", "selection", "calibration")}
    except DataError as error:
        notes.append(str(error))
    told_apart, conditions = _separations(readable, measured, seed)
    return {
        "root": str(dataset.root),
        "layout": dataset.layout,
        "category": dataset.category,
        "counts": {split: dict(sorted(count.items())) for split, count in counts.items()},
        "masks": masks,
        "width_px": _range([info.width_px for info in infos]),
        "height_px": _range([info.height_px for info in infos]),
        "kinds": dict(Counter(info.kind for info in infos).most_common()),
        "broken": [{"path": str(error.path), "reason": error.reason} for error in broken],
        "split": parts,
        "shortcuts": shortcuts.areas(told_apart),
        "conditions": shortcuts.areas(conditions),
        "notes": notes,
        "warnings": shortcuts.warn_of_shortcuts(told_apart) + shortcuts.warn_of_conditions(conditions),
    }


def _separations(
    records: Sequence[Record], measured: Sequence[shortcuts.Statistics], seed: int
) -> tuple[tuple[shortcuts.Separation, ...], tuple[shortcuts.Separation, ...]]:
    """How well statistics tell good from defective test pictures, and good test from good training pictures."""
    if not records:
        return (), ()
    statistics = shortcuts.gather(measured)
    bad = np.array([record.label == 1 for record in records])
    test = np.array([record.split == "test" for record in records])

    def apart(second: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> tuple[shortcuts.Separation, ...]:
        return shortcuts.separations(
            second[among], {name: values[among] for name, values in statistics.items()}, seed=seed
        )

    return apart(bad, test), apart(~test, ~bad)


def _ahead(function: Callable[[_In], _Out], items: Iterable[_In]) -> Generator[_Out, None, None]:
    """Map in threads, in order, only a little ahead of the reader, so that results do not pile up."""
    waiting: deque[Future[_Out]] = deque()
    with ThreadPoolExecutor(_WORKERS) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * _WORKERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _decoded(
    records: tuple[Record, ...], size_px: int, skip_bad: bool, max_pixels: int, progress: Progress | None
) -> cache.Entry:
    """Decode all pictures; only with ``skip_bad`` are some of them bad."""
    values = np.empty((len(records), 3, size_px, size_px), dtype=np.uint16)
    bad: dict[int, str] = {}
    work = _ahead(partial(_read, size_px=size_px, max_pixels=max_pixels), records)
    with closing(work):
        for i, picture in enumerate(work):
            if not isinstance(picture, PictureError):
                values[i - len(bad)] = np.rint(_resized(picture, size_px) * 65535)
            elif skip_bad:
                bad[i] = picture.reason
            else:
                raise picture
            if progress is not None:
                progress(i + 1, len(records))
    values = values[: len(records) - len(bad)]
    values.flags.writeable = False
    return values, bad


def _resized(picture: npt.NDArray[np.float32], size_px: int) -> npt.NDArray[np.float32]:
    """(3, size_px, size_px) in [0, 1]. Resizing uses all cores itself: this is not for the reading threads."""
    small: npt.NDArray[np.float32] = resize(to_tensor(picture)[None], size_px)[0].numpy()
    return np.clip(small, 0, 1)


def _read(record: Record, size_px: int, max_pixels: int) -> npt.NDArray[np.float32] | PictureError:
    try:
        return read_picture(record.path, max_pixels, at_least_px=size_px)
    except PictureError as error:
        return error


def _mask(record: Record, max_pixels: int) -> npt.NDArray[np.bool_] | PictureError:
    assert record.mask is not None
    try:
        mask = read_mask(record.mask, max_pixels)
        info = examine(record.path, max_pixels)
    except PictureError as error:
        return error
    height, width = mask.shape
    if (width, height) == (info.width_px, info.height_px):
        return mask
    size = f"{info.width_px} x {info.height_px} px"
    return PictureError(
        record.mask,
        f"is {width} x {height} px, but its picture {record.path.name} is {size}; "
        "a mask must have the size of its picture",
    )


def _examined(
    record: Record, size_px: int, max_pixels: int
) -> tuple[
    tuple[npt.NDArray[np.float32], PictureInfo] | PictureError,
    bytes | None,
    bool | PictureError | None,
]:
    """A picture and what it is, its digest, and whether its mask marks anything."""
    try:
        read = read_and_examine(record.path, max_pixels, at_least_px=size_px)
    except PictureError as error:
        # A mask cannot be judged without its picture; only the picture is named.
        return error, None, None
    if record.mask is None:
        return read, cache.digest(record.path), None
    mask = _mask(record, max_pixels)
    return read, cache.digest(record.path), mask if isinstance(mask, PictureError) else bool(mask.any())


def _shrunk(mask: npt.NDArray[np.bool_], size_px: int) -> npt.NDArray[np.bool_]:
    import torch
    from torch.nn.functional import interpolate

    share = interpolate(torch.from_numpy(mask)[None, None].float(), size=(size_px, size_px), mode="area")[0, 0]
    return np.asarray(((share > 0) & (share >= share.max() / 2)).numpy(), dtype=np.bool_)


def _range(sizes: list[int]) -> dict[str, float] | None:
    return {"min": min(sizes), "median": median(sizes), "max": max(sizes)} if sizes else None
