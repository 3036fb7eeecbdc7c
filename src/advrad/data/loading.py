"""From records to tensors: splitting the normals, images and masks at the working size, and a summary."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from advrad.data import cache
from advrad.data.images import examine, read_image, read_mask
from advrad.data.options import DataOptions
from advrad.data.records import Record
from advrad.data.transforms import resize, to_tensor
from advrad.errors import DataError, ImageError, OutputError
from advrad.utils.progress import SILENT, ProgressReporter

if TYPE_CHECKING:
    from torch import Tensor

"""Called with the number of images done and of all images."""

_WORKERS = min(os.cpu_count() or 1, 16)

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, slots=True, eq=False)
class ImageStack:
    """Images at the working size.

    Attributes:
        values: (n, 3, size, size) uint16, 65535 is white; read-only, often mapped from the cache.
        records: the n records, in the order asked for.
        skipped: one error for each image that was left out.
        notes: what is worth telling, such as a cache that could not be written.
    """

    values: npt.NDArray[np.uint16]
    records: tuple[Record, ...]
    skipped: tuple[ImageError, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def batch(self, indices: Sequence[int] | npt.NDArray[Any] | Tensor | slice) -> Tensor:
        """Return a copy of the images at ``indices`` as (b, 3, size, size) float32 in [0, 1]."""
        import torch

        index: slice | npt.NDArray[Any] = indices if isinstance(indices, slice) else np.asarray(indices)
        if not isinstance(index, slice) and index.size == 0:
            index = index.astype(np.int64)  # numpy takes an empty list for floats
        values = np.array(self.values[index], dtype=np.float32)
        values /= 65535
        return torch.from_numpy(values)


def load_images(
    records: Iterable[Record],
    size_px: int,
    options: DataOptions = DataOptions(),
    *,
    cache_dir: Path | Literal[False] | None = None,
    progress: ProgressReporter = SILENT,
) -> ImageStack:
    """Decode images at the working size, or take them from the cache.

    The numbers are those of `advrad.data.images.read_resized`, rounded to 16 bits. While decoding, all images
    are in memory: 6 x size_px^2 bytes each, 0.4 GB for 1,000 images of 256 px. Entries of the cache are checked
    before use; a damaged one is made anew. Where the cache cannot be written, the images stay in memory and
    a note says so.

    Args:
        records: the images, in the order wanted.
        size_px: side of the square.
        options: Bound on each image, and whether images that cannot be read are left out.
        cache_dir: None for :func:`advrad.data.cache.default_folder`, False for no cache.
        progress: Receives the progress.

    Raises:
        ImageError: the first image that cannot be read, unless ``skip_bad``.
        DataError: there is nothing to load, or with ``skip_bad`` nothing is left.
    """
    wanted = tuple(records)
    if not wanted:
        raise DataError("no images to load: the list is empty")
    folder = None if cache_dir is False else (cache_dir or cache.default_folder())
    notes: tuple[str, ...] = ()
    path = None
    if folder is not None:
        digests = _ahead(cache.digest, [record.path for record in wanted])
        with closing(digests):
            path = cache.entry_path(folder, digests, size_px, options.max_pixels)
    entry = None if path is None else cache.take(path, len(wanted), size_px)
    if entry is None:
        entry = _decoded(wanted, size_px, options, progress)
        if path is not None and len(entry[0]):
            try:
                cache.keep(path, entry)
                entry = cache.take(path, len(wanted), size_px) or entry
            except OutputError as error:
                notes = (f"decoded images are not kept for the next run: {error}",)
    else:
        progress.update(len(wanted), len(wanted))
    values, bad = entry
    skipped = tuple(ImageError(wanted[i].path, reason) for i, reason in sorted(bad.items()))
    if skipped and not options.skip_bad:
        raise skipped[0]
    if not len(values):
        raise DataError(f"none of the {len(wanted)} images can be read; the first is {skipped[0]}")
    kept = tuple(record for i, record in enumerate(wanted) if i not in bad)
    return ImageStack(values, kept, skipped, notes)


def load_masks(
    records: Sequence[Record], size_px: int, options: DataOptions = DataOptions()
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Read the ground truth at the working size.

    A cell of the working size is defective where the mask covers it at least half as much as the cell it
    covers most. For all but tiny defects that is half of the cell, which neither grows nor shrinks them. A
    scratch thinner than half a cell is kept too; with the nearest pixel or a fixed half it would break up or
    vanish.

    Args:
        records: images that can be read, such as ``ImageStack.records``.
        size_px: side of the square.
        options: Bound on each mask, and whether masks that cannot be used count as unknown instead of raising.

    Returns:
        masks (n, size_px, size_px) bool, and known (n,) bool: False for a defect without a mask. The mask of
        a normal image is known and empty.

    Raises:
        ImageError: a mask cannot be read or has another size than its image, unless ``skip_bad``.
    """
    masks = np.zeros((len(records), size_px, size_px), dtype=np.bool_)
    known = np.array([record.label == 0 for record in records], dtype=np.bool_)
    with_mask = [i for i, record in enumerate(records) if record.label == 1 and record.mask is not None]
    work = _ahead(partial(_mask, max_pixels=options.max_pixels), [records[i] for i in with_mask])
    with closing(work):
        for i, mask in zip(with_mask, work, strict=True):
            if not isinstance(mask, ImageError):
                masks[i], known[i] = _shrunk(mask, size_px), True
            elif not options.skip_bad:
                raise mask
    return masks, known


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
    records: tuple[Record, ...], size_px: int, options: DataOptions, progress: ProgressReporter
) -> cache.Entry:
    """Decode all images; only with ``skip_bad`` are some of them bad."""
    values = np.empty((len(records), 3, size_px, size_px), dtype=np.uint16)
    bad: dict[int, str] = {}
    work = _ahead(partial(_read, size_px=size_px, max_pixels=options.max_pixels), records)
    with closing(work):
        for i, image in enumerate(work):
            if not isinstance(image, ImageError):
                values[i - len(bad)] = np.rint(_resized(image, size_px) * 65535)
            elif options.skip_bad:
                bad[i] = image.reason
            else:
                raise image
            progress.update(i + 1, len(records))
    values = values[: len(records) - len(bad)]
    values.flags.writeable = False
    return values, bad


def _resized(image: npt.NDArray[np.float32], size_px: int) -> npt.NDArray[np.float32]:
    """(3, size_px, size_px) in [0, 1]. Resizing uses all cores itself: this is not for the reading threads."""
    small: npt.NDArray[np.float32] = resize(to_tensor(image)[None], size_px)[0].numpy()
    return np.clip(small, 0, 1)


def _read(record: Record, size_px: int, max_pixels: int) -> npt.NDArray[np.float32] | ImageError:
    try:
        return read_image(record.path, max_pixels, at_least_px=size_px)
    except ImageError as error:
        return error


def _mask(record: Record, max_pixels: int) -> npt.NDArray[np.bool_] | ImageError:
    assert record.mask is not None
    try:
        mask = read_mask(record.mask, max_pixels)
        info = examine(record.path, max_pixels)
    except ImageError as error:
        return error
    height, width = mask.shape
    if (width, height) == (info.width_px, info.height_px):
        return mask
    size = f"{info.width_px} x {info.height_px} px"
    return ImageError(
        record.mask,
        f"is {width} x {height} px, but its image {record.path.name} is {size}; a mask must have the size of its image",
    )


def _shrunk(mask: npt.NDArray[np.bool_], size_px: int) -> npt.NDArray[np.bool_]:
    import torch
    from torch.nn.functional import interpolate

    share = interpolate(torch.from_numpy(mask)[None, None].float(), size=(size_px, size_px), mode="area")[0, 0]
    return np.asarray(((share > 0) & (share >= share.max() / 2)).numpy(), dtype=np.bool_)
