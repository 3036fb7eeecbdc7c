"""Load the images and masks of records at the working size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from advrad.data import cache
from advrad.data.framing import Framing, as_framing
from advrad.data.images import Array, ImageInfo, examine, read_and_examine, read_mask
from advrad.data.mask_files import mask_paths
from advrad.data.options import DataOptions
from advrad.data.records import Record
from advrad.data.transforms import to_tensor
from advrad.data.value_range import ImageLevels, RangeRecord, doubts
from advrad.errors import DataError, ImageError, OutputError
from advrad.utils.progress import SILENT, ProgressReporter
from advrad.utils.threads import thread_count

if TYPE_CHECKING:
    from torch import Tensor

"""Called with the number of images done and of all images."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, slots=True, eq=False)
class ImageStack:
    """Images at the working size.

    Attributes:
        values: Images, (n, 3, height, width) uint16, where 65535 is white; read-only, often mapped from the cache.
        records: Records of the images, n, in the requested order.
        skipped: Errors of the images that were left out.
        notes: Messages for the user, such as a cache that cannot be written.
        levels: Values of the image files, n; empty if they are not known.
    """

    values: npt.NDArray[np.uint16]
    records: tuple[Record, ...]
    skipped: tuple[ImageError, ...] = ()
    notes: tuple[str, ...] = ()
    levels: tuple[ImageLevels, ...] = ()

    def at(self, rows: Sequence[int]) -> ImageStack:
        """Some of the images, in memory.

        Args:
            rows: Positions of the images.
        """
        values = self.values[list(rows)]
        values.flags.writeable = False
        levels = tuple(self.levels[row] for row in rows) if self.levels else ()
        return replace(self, values=values, records=tuple(self.records[row] for row in rows), levels=levels)

    def range_record(self, given: float | None = None) -> RangeRecord | None:
        """The range of the values, to keep with a model; None if it is not known.

        Args:
            given: Value of white that the user gave; None if the files told it.
        """
        return RangeRecord.of(self.levels, given) if self.levels else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Doubts about the range of the values, see :func:`advrad.data.value_range.doubts`."""
        return doubts(self.levels)

    def __len__(self) -> int:
        return len(self.records)

    def batch(self, indices: Sequence[int] | npt.NDArray[Any] | Tensor | slice) -> Tensor:
        """Copy some images into a tensor.

        Args:
            indices: Positions of the images.

        Returns:
            The images, (b, 3, height, width), float32 in [0, 1].
        """
        import torch

        index: slice | npt.NDArray[Any] = indices if isinstance(indices, slice) else np.asarray(indices)
        if not isinstance(index, slice) and index.size == 0:
            index = index.astype(np.int64)  # an empty list becomes a float array
        values = np.array(self.values[index], dtype=np.float32)
        values /= 65535
        return torch.from_numpy(values)


def load_images(
    records: Iterable[Record],
    size_px: Framing | int,
    options: DataOptions = DataOptions(),
    *,
    cache_dir: Path | Literal[False] | None = None,
    progress: ProgressReporter = SILENT,
) -> ImageStack:
    """Load images at the working size, from the cache if possible.

    The values are those of :func:`advrad.data.images.read_resized`, rounded to 16 bits. While decoding, all images are
    in memory, 6 bytes for each pixel: 0.4 GB for 1,000 images of 256 px. Cache entries are checked before use; a
    damaged entry is made again. If the cache cannot be written, the images stay in memory, and a note says so.

    Args:
        records: Records of the images, in the wanted order.
        size_px: How an image becomes the working image, or the side of a square to which it is stretched.
        options: Limit of the image size, the value of white, and whether images that cannot be read are left out.
        cache_dir: Folder of the cache; None for :func:`advrad.data.cache.default_folder`, False for no cache.
        progress: Receives the number of decoded images.

    Raises:
        ImageError: An image cannot be read, or has another range of values than the training images of the framing,
            unless ``options.skip_bad``.
        DataError: There are no images, or none of them can be read.
    """
    wanted = tuple(records)
    if not wanted:
        raise DataError("no images to load: the list is empty")
    framing = as_framing(size_px).with_white(options.value_range)
    folder = None if cache_dir is False else (cache_dir or cache.default_folder())
    notes: tuple[str, ...] = ()
    path = None
    if folder is not None:
        digests = map_ahead(cache.digest, [record.path for record in wanted])
        with closing(digests):
            path = cache.entry_path(folder, digests, framing, options.max_pixels)
    entry = None if path is None else cache.read_entry(path, len(wanted), framing)
    if entry is None:
        entry = _decoded(wanted, framing, options, progress)
        if path is not None and len(entry.values):
            try:
                cache.write_entry(path, entry)
                entry = cache.read_entry(path, len(wanted), framing) or entry
            except OutputError as error:
                notes = (f"decoded images are not kept for the next run: {error}",)
    else:
        progress.update(len(wanted), len(wanted))
    entry = _without_other_ranges(entry, framing)
    skipped = tuple(ImageError(wanted[i].path, reason) for i, reason in sorted(entry.bad.items()))
    if skipped and not options.skip_bad:
        raise skipped[0]
    if not len(entry.values):
        raise DataError(f"none of the {len(wanted)} images can be read; the first is {skipped[0]}")
    kept = tuple(record for i, record in enumerate(wanted) if i not in entry.bad)
    return ImageStack(entry.values, kept, skipped, notes, entry.levels)


def _without_other_ranges(entry: cache.Entry, framing: Framing) -> cache.Entry:
    """The entry without images of another range of values than the training images."""
    known = framing.trained_range
    reasons = [None if known is None else known.refusal(level) for level in entry.levels]
    if not any(reasons):
        return entry
    good = [i for i in range(len(reasons) + len(entry.bad)) if i not in entry.bad]
    bad = entry.bad | {i: reason for i, reason in zip(good, reasons, strict=True) if reason is not None}
    kept = [row for row, reason in enumerate(reasons) if reason is None]
    return cache.Entry(entry.values[kept], tuple(entry.levels[row] for row in kept), bad)


def load_masks(
    records: Sequence[Record], size_px: Framing | int, options: DataOptions = DataOptions()
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Load ground-truth masks at the working size.

    A pixel of the small mask is anomalous if the large mask covers at least half as much of it as of the pixel that it
    covers most. For all but tiny defects this is half of the pixel, which neither grows nor shrinks them. Scratches
    thinner than half a pixel are kept, too; with the nearest pixel or a fixed half they would vanish or break up.

    Args:
        records: Records of images that can be read, such as ``ImageStack.records``.
        size_px: How images, and so masks, become working images, or the side of a square to which they are stretched.
        options: Limit of the mask size, and whether masks that cannot be used count as unknown.

    Returns:
        Masks, (n, height, width) bool; and whether each is known, (n,) bool: False for an anomalous image without a
        mask. The mask of a normal image is known and empty.

    Raises:
        ImageError: A mask cannot be read or has another size than its image, unless ``options.skip_bad``.
    """
    framing = as_framing(size_px)
    masks = np.zeros((len(records), framing.height_px, framing.width_px), dtype=np.bool_)
    known = np.array([record.label == 0 for record in records], dtype=np.bool_)
    with_mask = [(i, r.path, r.mask) for i, r in enumerate(records) if r.label == 1 and r.mask is not None]
    work = map_ahead(
        lambda item: read_checked_mask(item[1], item[2], options.max_pixels),
        with_mask,
    )
    with closing(work):
        for (i, _, _), mask in zip(with_mask, work, strict=True):
            if not isinstance(mask, ImageError):
                small = _shrunk(mask, framing.scaled_size(*mask.shape))
                masks[(i, *framing.window(*mask.shape))], known[i] = small, True
            elif not options.skip_bad:
                raise mask
    return masks, known


def map_ahead(
    function: Callable[[_In], _Out], items: Iterable[_In], threads: int | None = None
) -> Generator[_Out, None, None]:
    """Map a function over items in threads, in order, a little ahead of the caller.

    Args:
        function: Function of one item.
        items: Items.
        threads: Number of threads, >= 1; None for as many as compute. One thread is one item ahead.

    Yields:
        Results, in the order of the items; only a few are computed in advance, so that they do not fill the memory. As
        many threads read as compute, see :mod:`advrad.utils.threads`.
    """
    waiting: deque[Future[_Out]] = deque()
    workers = thread_count() if threads is None else threads
    most = 1 if threads == 1 else 2 * workers
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _decoded(
    records: tuple[Record, ...], framing: Framing, options: DataOptions, progress: ProgressReporter
) -> cache.Entry:
    """Decode all images; with ``skip_bad`` some may be missing."""
    values = np.empty((len(records), 3, framing.height_px, framing.width_px), dtype=np.uint16)
    bad: dict[int, str] = {}
    levels: list[ImageLevels] = []
    # The cache holds images of every range.
    plain = replace(framing, trained_range=None)
    work = map_ahead(partial(_read, framing=plain, max_pixels=options.max_pixels), records)
    with closing(work):
        for i, read in enumerate(work):
            if not isinstance(read, ImageError):
                image, info = read
                values[i - len(bad)] = np.rint(resize_array(image, framing) * 65535)
                levels += [] if info.levels is None else [info.levels]
            elif options.skip_bad:
                bad[i] = read.reason
            else:
                raise read
            progress.update(i + 1, len(records))
    values = values[: len(records) - len(bad)]
    values.flags.writeable = False
    return cache.Entry(values, tuple(levels), bad)


def resize_array(image: npt.NDArray[np.float32], size_px: Framing | int) -> npt.NDArray[np.float32]:
    """Resize an image.

    Args:
        image: Image, (h, w, 3) float32 in [0, 1].
        size_px: How an image becomes the working image, or the side of a square to which it is stretched.

    Returns:
        The image, (3, height, width), in [0, 1]. PyTorch uses all cores for it, so do not call this in many threads.
    """
    small: npt.NDArray[np.float32] = as_framing(size_px).apply(to_tensor(image)[None])[0].numpy()
    return np.clip(small, 0, 1)


def _read(record: Record, framing: Framing, max_pixels: int) -> tuple[Array, ImageInfo] | ImageError:
    try:
        return read_and_examine(record.path, max_pixels, at_least_px=framing)
    except ImageError as error:
        return error


def read_checked_mask(image: Path, mask: Path, max_pixels: int) -> npt.NDArray[np.bool_] | ImageError:
    """Read a ground-truth mask and check that it has the size of its image.

    Args:
        image: Image file.
        mask: Mask file, or a folder of masks of this image, whose union is taken.
        max_pixels: Largest accepted width times height.

    Returns:
        The mask, (h, w) bool, or the error of the mask or the image.
    """
    try:
        masks = {path: read_mask(path, max_pixels) for path in mask_paths(mask)}
        info = examine(image, max_pixels)
    except ImageError as error:
        return error
    for path, marked in masks.items():
        height, width = marked.shape
        if (width, height) != (info.width_px, info.height_px):
            return ImageError(
                path,
                f"is {width} x {height} px, but its image {image.name} is {info.width_px} x {info.height_px} px; a mask"
                " must have the size of its image",
            )
    if not masks:
        return ImageError(mask, "holds no masks; put some into it")
    return np.asarray(np.logical_or.reduce(list(masks.values())), dtype=np.bool_)


def _shrunk(mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """A mask at the working size; see :func:`load_masks`."""
    import torch
    from torch.nn.functional import interpolate

    share = interpolate(torch.from_numpy(mask)[None, None].float(), size=size, mode="area")[0, 0]
    return np.asarray(((share > 0) & (share >= share.max() / 2)).numpy(), dtype=np.bool_)
