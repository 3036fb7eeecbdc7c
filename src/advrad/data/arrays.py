"""The border for images that are given in Python: arrays, tensors, images of Pillow and paths become working images.

What is unambiguous is accepted and read as from a file: uint8 and uint16 arrays, float in [0, 1], grey and colour,
channels last or first, images of Pillow of any mode. The rest is refused with its shape, type, values, and the fix.

Images are brought to the working size like files, except float tensors of PyTorch, which keep their size: a detector
takes them as they are. Four channels are colour with transparency, see :mod:`advrad.data.transparency`.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from advrad.data.array_checks import TOLERANCE, Described, channels_last, check_range, order_of, white_of
from advrad.data.framing import Framing, as_framing
from advrad.data.images import MIN_SIDE_PX, at_working_size, examine, read_resized, values_of_picture
from advrad.data.records import MAX_PIXELS
from advrad.data.shapes import check_shape
from advrad.data.transforms import to_tensor
from advrad.data.transparency import values_on_grey
from advrad.data.value_range import ImageLevels, check_values
from advrad.errors import ConfigError, DataError, ImageWarning

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    OneImage = Tensor | npt.NDArray[Any] | Image | str | os.PathLike[str]
    ImageInput = OneImage | Iterable[OneImage]
    """One image or a batch: a path, an image of Pillow, an array or a tensor; or any iterable of these."""

Array = npt.NDArray[Any]

_GIVE = "give paths, arrays, tensors or images of Pillow"
#: An image whose brightest value is no larger was probably divided by 255 twice.
_NEARLY_BLACK = (1 + TOLERANCE) / 255


@dataclass(frozen=True, slots=True, eq=False)
class GivenImage:
    """One image that was given in Python.

    Attributes:
        pixels: Image, (3, h, w), float32 in [0, 1], on the CPU; or (h, w, 3) uint8, of
            :func:`advrad.data.pixel_arrays.images_in_8_bits`.
        name: Name of the image for errors: its path, or its place such as ``images[3]``.
        path: Its file; None for an image in memory.
        sides_px: Height and width before it was scaled; None for a file that fills the working image.
    """

    pixels: Tensor
    name: str
    path: Path | None = None
    sides_px: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ImageBatch:
    """Images of one size.

    Attributes:
        pixels: Images, (b, 3, h, w), float32 in [0, 1], on the CPU.
        images: The same images, b, with their names.
    """

    pixels: Tensor
    images: tuple[GivenImage, ...]


def image_batches(
    inputs: ImageInput, size_px: Framing | int, batch_size: int = 8, max_pixels: int = MAX_PIXELS
) -> Iterator[ImageBatch]:
    """Read images and collect them in batches, as few at a time as a batch needs.

    Args:
        inputs: Images: a path, an image of Pillow, an array or a tensor of one or more images, or an iterable of these.
        size_px: How all images but float tensors become working images, or the side of a square to which they are
            stretched. Images of another shape than those of the training are refused.
        batch_size: Largest number of images of a batch, >= 1.
        max_pixels: Largest number of pixels of a file or an image of Pillow.

    Yields:
        Batches, in order; images of different sizes are not in one batch.

    Raises:
        DataError: An image is not what :mod:`advrad.data.arrays` accepts.
        ConfigError: ``batch_size`` is below 1.

    Example:
        >>> frames = np.zeros((3, 40, 60, 3), dtype=np.uint8)
        >>> [batch.pixels.shape for batch in image_batches(frames, size_px=32, batch_size=2)]
        [torch.Size([2, 3, 32, 32]), torch.Size([1, 3, 32, 32])]
    """
    if batch_size < 1:
        raise ConfigError("must be 1 or more", option="batch_size", value=batch_size)
    waiting: list[GivenImage] = []
    for image in ImageReader(as_framing(size_px), max_pixels).read(inputs):
        if waiting and waiting[0].pixels.shape != image.pixels.shape:
            yield _batch(waiting)
            waiting = []
        waiting.append(image)
        if len(waiting) == batch_size:
            yield _batch(waiting)
            waiting = []
    if waiting:
        yield _batch(waiting)


def _batch(images: list[GivenImage]) -> ImageBatch:
    import torch

    return ImageBatch(torch.stack([image.pixels for image in images]), tuple(images))


def pixels_of(images: Any, *, colour: bool = True, framing: Framing | int | None = None) -> Tensor:
    """Read images of one size, which they keep.

    Args:
        images: Images in memory, as for :func:`image_batches`, of one size.
        colour: Whether one channel is repeated to three and other numbers are refused. If not, the channels stay, and
            (n, c, h, w) may have any number of them.
        framing: How a detector reads images; which values are white and which ranges it refuses count here. None for
            none.

    Returns:
        Images, (n, c, h, w), float32 in [0, 1], on the CPU.

    Raises:
        DataError: An image is not what :mod:`advrad.data.arrays` accepts, the sizes differ, or there are no images.

    Example:
        >>> pixels_of(np.zeros((2, 40, 60), dtype=np.uint8)[0]).shape
        torch.Size([1, 3, 40, 60])
    """
    import torch

    known = None if framing is None else as_framing(framing)
    found = list(ImageReader(known, colour=colour, own_size=True).read(images))
    if not found:
        raise DataError("images: there are none; give at least one")
    first = found[0].pixels.shape
    for image in found:
        if image.pixels.shape != first:
            (height, width), (wanted_height, wanted_width) = image.pixels.shape[1:], first[1:]
            raise DataError(
                f"{image.name}: is {width} x {height} px with {image.pixels.shape[0]} channels, but the first image is"
                f" {wanted_width} x {wanted_height} px with {first[0]}; give images of one size"
            )
    return torch.stack([image.pixels for image in found])


class ImageReader:
    """Reads images one by one.

    Args:
        framing: How all images but float tensors become working images; None if it is not known, to keep every size.
        max_pixels: Largest number of pixels of a file or an image of Pillow.
        colour: Whether one channel is repeated to three, and other numbers are refused.
        own_size: Whether all images keep their size, and files are refused.
    """

    def __init__(
        self,
        framing: Framing | None,
        max_pixels: int = MAX_PIXELS,
        *,
        colour: bool = True,
        own_size: bool = False,
    ) -> None:
        self.framing, self.max_pixels, self.colour = framing, max_pixels, colour
        self.own_size = own_size or framing is None
        self.warned: set[str] = set()

    def read(self, inputs: Any) -> Iterator[GivenImage]:
        """Read the images of whatever was given."""
        for name, item in _items(inputs):
            if isinstance(item, (str, os.PathLike)):
                yield self._file(Path(item))
            elif _is_picture(item):
                value_range = None if self.framing is None else self.framing.value_range
                values, white = values_of_picture(item, name, self.max_pixels, value_range)
                self._check_white(white, name)
                yield self._finished(np.atleast_3d(values), white, name, self.own_size)
            elif isinstance(item, np.ndarray) or hasattr(item, "__array__"):
                yield from self._array(item, name)
            else:
                raise DataError(f"{name}: is {_kind_of(item)}; {_GIVE}")

    def _file(self, path: Path) -> GivenImage:
        """Read one image file."""
        if self.framing is None or self.own_size:
            raise DataError(f"images: {path} is a path; give the folder of the images in place of images and labels")
        warning = check_shape(path, self.framing.trained, self.max_pixels)
        if warning is not None:
            self._warn("shape", f"{path}: {warning}")
        sides_px = None
        if self.framing.pad:
            info = examine(path, self.max_pixels)
            sides_px = (info.height_px, info.width_px)
        return GivenImage(read_resized(path, self.framing, self.max_pixels), os.fspath(path), path, sides_px)

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self.warned:  # once for all images of a call
            self.warned.add(kind)
            warnings.warn(text, ImageWarning, stacklevel=2)

    def _white_of(self, array: Array, given: Described) -> float:
        """The value of white of an array; whole numbers are read as a file that the detector was trained on."""
        value_range = None if self.framing is None else self.framing.value_range
        if value_range is not None and array.dtype.kind in "iu" and array.size:
            own = {"uint8": 255.0, "uint16": 65535.0}.get(array.dtype.name)
            return check_values(Path(given.name), array, own, given.dtype, value_range).white
        white = white_of(array, given)
        if array.dtype.kind == "u":
            self._check_white(white, given.name)
        return white

    def _check_white(self, white: float, name: str) -> None:
        """Refuse an image of another range than those of the training; float arrays are scaled by the user."""
        known = None if self.framing is None else self.framing.trained_range
        if known is not None and (reason := known.refusal(ImageLevels(white, 0, white))) is not None:
            raise DataError(f"{name}: {reason}")

    def _check_shape(self, height_px: int, width_px: int, name: str) -> None:
        """Refuse an image in memory whose shape differs too much from those of the training images."""
        trained = None if self.framing is None else self.framing.trained
        doubt = None if trained is None else trained.doubt(width_px, height_px)
        if doubt is None:
            return
        if doubt.refused:
            raise DataError(f"{name}: {doubt.reason}")
        self._warn("shape", f"{name}: {doubt.reason}")

    def _array(self, item: Any, name: str) -> Iterator[GivenImage]:
        """Read the images of one array or tensor."""
        array = _tensor_as_array(item, name) if _is_tensor(item) else _as_array(item, name)
        keeps_size = self.own_size or (_is_tensor(item) and item.is_floating_point())
        dtype = str(item.dtype).removeprefix("torch.") if _is_tensor(item) else str(array.dtype)
        given = Described(name, dtype, tuple(array.shape))
        white = self._white_of(array, given)
        rows = channels_last(array, order_of(given, (1, 3) if self.colour else None))
        for index, row in enumerate(rows):
            one = given.row(index if array.ndim == 4 else None)
            if not keeps_size and min(row.shape[:2]) < MIN_SIDE_PX:
                one.refuse(f"; at least {MIN_SIDE_PX} px on each side are needed")
            values, shown_white = _opaque(_in_range(row, one) if white == 1 else row, white, one)
            yield self._finished(values, shown_white, one.name, keeps_size)

    def _finished(self, values: Array, white: float, name: str, keeps_size: bool = False) -> GivenImage:
        """The working image of decoded pixels, (h, w, c)."""
        brightest = float(values.max()) / white
        if 0 < brightest <= _NEARLY_BLACK:
            self._warn(
                "black",
                f"{name}: is nearly black, its brightest value is {brightest:.2g} where white is 1; was it divided by"
                " 255 twice, or rounded to whole numbers after it was divided?",
            )
        height_px, width_px = values.shape[:2]
        scaled = self.framing is not None and not keeps_size
        # A square tensor was probably scaled before; its shape tells nothing.
        known = None if self.own_size else self.framing
        if scaled or (known is not None and height_px != width_px and not known.holds(height_px, width_px)):
            self._check_shape(height_px, width_px, name)
        return GivenImage(self._pixels(values, white, scaled), name, sides_px=(height_px, width_px))

    def _pixels(self, values: Array, white: float, scaled: bool) -> Tensor:
        """The pixels of an image, (h, w, c): at the working size, or at their own."""
        if scaled and self.framing is not None:
            return at_working_size(values[:, :, 0] if values.shape[2] == 1 else values, white, self.framing)
        pixels = to_tensor(np.divide(values, np.float32(white), dtype=np.float32))
        return pixels.expand(3, -1, -1) if self.colour and len(pixels) == 1 else pixels


def _items(inputs: Any) -> Iterator[tuple[str, Any]]:
    """The parts of what was given, with their names."""
    if isinstance(inputs, (str, os.PathLike)) or _is_picture(inputs):
        yield "images", inputs
        return
    if isinstance(inputs, (bytes, bytearray, memoryview, Mapping)) or hasattr(inputs, "read"):
        raise DataError(f"images: are {_kind_of(inputs)}; {_GIVE}")
    if hasattr(inputs, "__array__") and not _is_tensor(inputs):
        inputs = _as_array(inputs, "images")
        if inputs.ndim == 1 and (inputs.dtype.kind in "UO" or not inputs.size):  # a column of paths, or of images
            inputs = inputs.tolist()
    if isinstance(inputs, np.ndarray) or _is_tensor(inputs):
        yield "images", inputs
        return
    try:
        parts = iter(inputs)
    except TypeError:
        raise DataError(f"images: are {_kind_of(inputs)}; {_GIVE}") from None
    for index, part in enumerate(parts):
        yield f"images[{index}]", part


def _kind_of(item: object) -> str:
    """The type of something that is not an image, with a hint."""
    if isinstance(item, (bytes, bytearray, memoryview)):
        return "bytes, to be opened with PIL.Image.open(io.BytesIO(data))"
    if isinstance(item, (list, tuple)):
        return f"a {type(item).__name__} (a batch with labels, or numbers that are no array yet)"
    return f"of the type {type(item).__name__}"


def _is_picture(item: object) -> bool:
    module = sys.modules.get("PIL.Image")  # without it there is no such image
    return module is not None and isinstance(item, module.Image)


def _is_tensor(item: object) -> bool:
    module = sys.modules.get("torch")
    return module is not None and isinstance(item, module.Tensor)


def _as_array(item: Any, name: str) -> Array:
    """An array, or something that can become one, as a plain array."""
    if isinstance(item, np.ma.MaskedArray):
        if np.ma.is_masked(item):
            raise DataError(f"{name}: {int(item.mask.sum())} values are masked; fill them, with array.filled(...)")
        return np.asarray(item.data)
    try:
        return np.asarray(item)
    except Exception as error:  # whatever a library raises where its array cannot be read
        raise DataError(f"{name}: the {type(item).__name__} cannot become an array ({error}); convert it") from None


def _tensor_as_array(tensor: Tensor, name: str) -> Array:
    """The values of a tensor, float32 for any float."""
    import torch

    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_complex():
        kind = "meta" if tensor.is_meta else str(tensor.layout).removeprefix("torch.")
        raise DataError(f"{name}: is a {kind} tensor of {tensor.dtype}; give a usual tensor of uint8 or float")
    values = tensor.detach().to("cpu")
    values = values.float() if values.is_floating_point() else values
    found: Array = values.resolve_neg().numpy()
    return found


def _in_range(row: Array, given: Described) -> Array:
    """One float image as float32, checked, and clipped where rounding leaves [0, 1]."""
    low, high = float(row.min()), float(row.max())  # NaN if there is one
    if not (low >= 0 and high <= 1):
        check_range(low, high, int((~np.isfinite(row)).sum()), given)
        return np.clip(row.astype(np.float32), 0, 1)
    # PyTorch warns of arrays that cannot be written.
    return row.astype(np.float32, copy=not row.flags.writeable)


def _opaque(values: Array, white: float, given: Described) -> tuple[Array, float]:
    """An image, (h, w, c), without its fourth channel: transparent pixels become mid-grey."""
    if values.shape[2] != 4:
        return values, white
    alpha = values[:, :, 3:]
    if not alpha.any():
        given.refuse(
            " is transparent everywhere (its fourth channel is 0); give three channels, such as array[..., :3]"
        )
    if white == 255:
        from PIL import Image

        return values_of_picture(Image.fromarray(np.ascontiguousarray(values)), given.name, sys.maxsize)
    return values_on_grey(Path(given.name), values[:, :, :3], alpha, white), white
