"""Read TIFF files: any number of bits, integers and floats, tiles, planes, and all usual compressions.

The tags say what the values mean: how many bits a value has, whether zero is white, whether values are signed or
floats, and which channels are colour. What cannot be shown without a choice is refused: raw mosaics, several pages,
complex numbers, more channels than a colour has. Smaller copies of the image (thumbnails, pyramids) do not count as
pages.

Files of up to 8 bits become images of Pillow, so that palettes, CMYK and transparency are treated as in other formats.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from advrad.data.completeness import check_rows, check_segments
from advrad.data.pieces import MOST_PAGES, check_piece_count
from advrad.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image
    from tifffile import TiffFile, TiffPage

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF files."""

#: Numbers of colour channels by photometric interpretation.
_COLOURS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}
_WHITE_IS_ZERO, _PALETTE, _CMYK, _YCBCR = 0, 3, 5, 6
_RAW = (32803, 34892)
_RAW_TAGS = (33421, 50706)
_UNCOMPRESSED, _OLD_JPEG, _JPEG, _PACKBITS, _WEBP = 1, 6, 7, 32773, 50001
_FAX = (2, 3, 4)
_JPEG_2000 = (33003, 33004, 33005, 34712)
_MAX_SAMPLE_VALUE = 281

RAW_REASON = "is a raw file of a camera, without colours yet; develop it, and save it as TIFF or PNG"
"""What is wrong with a raw mosaic."""


@dataclass(frozen=True, slots=True)
class RawPixels:
    """Pixels as they are stored.

    Attributes:
        values: Values, (h, w) or (h, w, 3), of any type.
        white: Value of white; None if the file does not say it.
        inverted: Whether zero is white.
    """

    values: npt.NDArray[Any]
    white: float | None
    inverted: bool = False


@contextmanager
def open_tiff(path: Path, zeros_from: int | None) -> Iterator[TiffImage]:
    """Open a TIFF file that holds one image.

    Args:
        path: TIFF file.
        zeros_from: Position from which the file holds zeros only; None if it ends in few of them.

    Raises:
        ImageError: The file holds several images, none, or one that cannot be shown.
    """
    import tifffile

    # Doubts about a file are told by an error or by nothing, not in a log.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    with tifffile.TiffFile(path) as file:
        yield TiffImage(path, file, zeros_from)


class TiffImage:
    """The image of an open TIFF file.

    Args:
        path: TIFF file.
        file: The open file.
        zeros_from: Position from which the file holds zeros only; None if it ends in few of them.

    Attributes:
        width: Width before the rotation of the orientation tag.
        height: Height before the rotation.
        orientation: The orientation tag, 1 to 8.
        kind: Pixel type in words.
        lossy: Whether values may have changed a little when they were compressed.
        doubt: After reading, a sign of damage in words; empty for none.
    """

    format = "TIFF"

    def __init__(self, path: Path, file: TiffFile, zeros_from: int | None) -> None:
        self.path = path
        self.page = page = _one_page(path, file)
        self.zeros_from = zeros_from
        self.doubt = ""
        self.width, self.height = int(page.imagewidth), int(page.imagelength)
        turned = page.tags.valueof(274)
        self.orientation = int(turned) if turned in range(1, 9) else 1
        self.lossy = page.compression in (_OLD_JPEG, _JPEG, _WEBP, *_JPEG_2000)
        self.channels = _channels(path, page)
        self.kind = self._kind()

    @property
    def only_pillow(self) -> bool:
        """Whether the image is of one of the old kinds that Pillow's library reads: fax, the first JPEG, YCbCr."""
        plain_ycbcr = self.page.photometric == _YCBCR and self.page.compression not in (_JPEG, _WEBP)
        return self.page.compression in (_OLD_JPEG, *_FAX) or plain_ycbcr

    @property
    def is_jpeg(self) -> bool:
        """Whether the values are compressed as JPEG."""
        return self.page.compression in (_OLD_JPEG, _JPEG)

    @property
    def _bits(self) -> int:
        return int(self.page.bitspersample)

    @property
    def _has_own_white(self) -> bool:
        """Whether the largest value that fits is white."""
        return self.page.sampleformat in (1, 4) and self._bits <= 16

    def check_parts(self, max_pixels: int) -> None:
        """Refuse an image whose tiles, channels or strips take far more memory or time than its pixels do.

        Args:
            max_pixels: Largest accepted width times height, of the image and of a tile, for up to four channels.

        Raises:
            ImageError: They do.
        """
        page = self.page
        channels = int(page.samplesperpixel)
        tile = int(page.tilewidth) * int(page.tilelength) if page.is_tiled else 0
        if max(tile, self.width * self.height) * max(1, channels / 4) > max_pixels:
            parts = f"tiles of {page.tilewidth} x {page.tilelength} px and " if tile else ""
            raise ImageError(self.path, f"has {parts}{channels} channels, more than the limit allows; save it again")
        check_piece_count(self.path, len(page.dataoffsets))

    def _kind(self) -> str:
        alpha = " with transparency" if self.channels.alpha is not None else ""
        if self.page.photometric == _PALETTE:
            return f"palette{alpha}"
        shown = {1: "grey", 3: "colour", 4: "CMYK"}[self.channels.colours]
        if self.page.sampleformat == 3:
            return f"{'float' if shown == 'grey' else f'float {shown}'}{alpha}"
        if self._has_own_white:
            if self._bits == 1:
                return f"1-bit{alpha}"
            return f"CMYK{alpha}" if shown == "CMYK" and self._bits == 8 else f"{self._bits}-bit {shown}{alpha}"
        sign = "signed " if self.page.sampleformat == 2 else ""
        return f"{sign}{self._bits}-bit integer{'' if shown == 'grey' else f' {shown}'}{alpha}"

    def read(self, *, judge_zeros: bool = True) -> Image.Image | RawPixels:
        """Decode the image, before the rotation.

        Args:
            judge_zeros: Whether zeros at the end of uncompressed data may be a sign of damage.

        Returns:
            An image of Pillow for up to 8 bits, else the values.

        Raises:
            ImageError: The data are damaged or incomplete.
        """
        self._check_data()
        page = self.page
        values = page.asarray(maxworkers=1).reshape(page.shaped)
        # (planes, depth, height, width, channels) with channels in planes or beside each other
        values = np.moveaxis(values[:, 0, :, :, 0], 0, -1) if page.shaped[0] > 1 else values[0, 0]
        if judge_zeros and self.zeros_from is not None and page.compression == _UNCOMPRESSED:
            self.doubt = self._doubt(values, self.zeros_from)
        whole = values.dtype.kind in "bu" and self._bits <= 8 and self._has_own_white
        if page.photometric == _PALETTE:
            return _palette_image(values[:, :, 0], page.colormap) if whole else self._deep_palette(values)
        return self._pillow(values) if whole else self._deep(values)

    def _check_data(self) -> None:
        page = self.page
        if not page.dataoffsets:
            raise ImageError(self.path, "is cut short (truncated)")
        if page.compression not in (_UNCOMPRESSED, _PACKBITS):
            mark = b"\xff\xd9" if page.compression in (_JPEG, *_JPEG_2000) else b""
            check_segments(self.path, page.dataoffsets, page.databytecounts, mark)
        elif any(count == 0 for count in page.databytecounts):
            raise ImageError(self.path, "is cut short (truncated)")

    def _doubt(self, values: npt.NDArray[Any], zeros_from: int) -> str:
        """Judge zeros at the end of uncompressed data, in the order in which they are stored."""
        page = self.page
        if list(page.dataoffsets) != sorted(page.dataoffsets):
            return ""
        planes = np.moveaxis(values, -1, 0)[..., None] if page.shaped[0] > 1 else values[None]
        rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (self.height, self.width)
        pieces = [
            plane[top : top + rows, left : left + columns]
            for plane in planes
            for top in range(0, self.height, rows)
            for left in range(0, self.width, columns)
        ]
        padded = [np.pad(p, ((0, rows - len(p)), (0, columns - p.shape[1]), (0, 0)), mode="edge") for p in pieces]
        return check_rows(self.path, np.concatenate(padded), zeros_from)

    def _pillow(self, values: npt.NDArray[Any]) -> Image.Image:
        """An image of Pillow of up to 8 bits."""
        from PIL import Image

        values = _to_eight_bits(values, self._bits)
        colours, alpha = values[:, :, : self.channels.colours], self.channels.alpha
        if self.page.photometric == _WHITE_IS_ZERO:
            colours = 255 - colours
        if alpha is not None and self.channels.colours != 4:
            whole = np.concatenate([colours, values[:, :, alpha : alpha + 1]], axis=2)
            mode = "LA" if self.channels.colours == 1 else "RGBa" if self.channels.associated else "RGBA"
        else:
            whole, mode = colours, {1: "L", 3: "RGB", 4: "CMYK"}[self.channels.colours]
        size = (self.width, self.height)
        return Image.frombytes(mode, size, np.ascontiguousarray(whole).tobytes())

    def _deep(self, values: npt.NDArray[Any]) -> RawPixels:
        """Values of more than 8 bits."""
        white = float(self._white(values)) if self._has_own_white else 1.0 if self.page.sampleformat == 3 else None
        shown = values[:, :, : self.channels.colours]
        inverted = self.page.photometric == _WHITE_IS_ZERO
        if self.channels.colours == 4:
            if white is None:
                raise ImageError(self.path, f"is {self.kind}; save it as colour of 8 or 16 bits")
            ink = np.float32(white) - shown.astype(np.float32)
            shown = ink[:, :, :3] * (ink[:, :, 3:] / np.float32(white))
        elif self.channels.alpha is not None:
            if white is None:
                raise ImageError(self.path, f"is {self.kind}; save it without transparency")
            alpha = values[:, :, self.channels.alpha : self.channels.alpha + 1]
            shown = self._opaque(shown, alpha, white, inverted)
        return RawPixels(shown[:, :, 0] if shown.shape[2] == 1 else shown, white, inverted)

    def _opaque(
        self, shown: npt.NDArray[Any], alpha: npt.NDArray[Any], white: float, inverted: bool
    ) -> npt.NDArray[Any]:
        from advrad.data.transparency import values_on_grey

        if inverted:
            raise ImageError(self.path, f"is {self.kind}, with zero as white; save it without transparency")
        return values_on_grey(self.path, shown, alpha, white, premultiplied=self.channels.associated)

    def _white(self, values: npt.NDArray[Any]) -> int:
        """Value of white of unsigned integers: by the number of bits, or by the tag for the largest value.

        The tag counts only if it names another number of bits, such as 4095; else it is a mere statistic.
        """
        full = int(2**self._bits) - 1
        tag = self.page.tags.valueof(_MAX_SAMPLE_VALUE)
        largest = max(tag) if isinstance(tag, tuple) and tag else tag
        if not isinstance(largest, int) or not 255 < largest < full or largest & (largest + 1):
            return full
        return int(largest) if int(values.max()) <= largest else full

    def _deep_palette(self, values: npt.NDArray[Any]) -> RawPixels:
        """Colours of a palette of 16 bits."""
        table = _palette(self.page.colormap)
        return RawPixels(table[np.minimum(values[:, :, 0].astype(np.int64), len(table) - 1)], 255.0)


@dataclass(frozen=True, slots=True)
class _Channels:
    """The channels of an image: first those of colour, then others."""

    colours: int
    alpha: int | None = None
    associated: bool = field(default=False)


def _one_page(path: Path, file: TiffFile) -> TiffPage:
    """The page of the image; pages that hold a smaller copy or a mask of it do not count."""
    import tifffile

    first = list(islice(file.pages, MOST_PAGES + 1))
    if len(first) > MOST_PAGES:
        raise ImageError(path, f"holds more than {MOST_PAGES} frames; save each as a separate image")
    pages: list[Any] = [page for page in first if isinstance(page, tifffile.TiffPage)]
    if not pages:
        raise ImageError(path, "is damaged: it holds no page")
    if any(_is_raw(page) for page in pages):
        raise ImageError(path, RAW_REASON)
    full = [page for page in pages if not page.subfiletype & 5 and page.tags.valueof(255) != 2]
    if len(full) > 1:
        raise ImageError(path, f"holds {len(full)} frames; save each as a separate image")
    page: TiffPage = full[0] if full else pages[0]
    if (frames := _hidden_frames(file, page)) > 1:
        raise ImageError(path, f"holds {frames} frames; save each as a separate image")
    return page


def _hidden_frames(file: TiffFile, page: Any) -> int:
    """Number of frames that lie behind one page: a volume, or a stack of ImageJ."""
    metadata = file.imagej_metadata if file.is_imagej else None
    stacked = int((metadata or {}).get("images", 1)) if len(file.pages) == 1 else 1
    return max(int(page.imagedepth), stacked)


def _is_raw(page: Any) -> bool:
    parts = [page, *islice(page.pages or (), MOST_PAGES)]
    return any(part.photometric in _RAW or any(tag in part.tags for tag in _RAW_TAGS) for part in parts)


def _channels(path: Path, page: Any) -> _Channels:
    """The channels of a page; refuses what is no image."""
    if page.photometric not in _COLOURS:
        name = getattr(page.photometric, "name", page.photometric)
        raise ImageError(path, f"has colours of the kind {name}; save it as grey or RGB")
    if page.sampleformat in (5, 6):
        raise ImageError(path, "holds complex numbers; save what shall be seen, such as the absolute value")
    if not isinstance(page.bitspersample, int) or page.dtype is None:
        raise ImageError(path, f"has {page.bitspersample} bits for each value; save it with 8 or 16")
    colours = _COLOURS[page.photometric]
    further = int(page.samplesperpixel) - colours
    extra = tuple(int(kind) for kind in page.extrasamples or ())
    if further < 0 or (colours == 1 and further > 1) or (colours == 1 and further and not extra):
        raise ImageError(path, f"holds {page.samplesperpixel} channels; save it as grey or RGB")
    if further and not extra:
        extra = (2,) if colours == 3 and further == 1 else ()
    alpha = next((place for place, kind in enumerate(extra[:further]) if kind in (1, 2)), None)
    if alpha is None:
        return _Channels(colours)
    return _Channels(colours, colours + alpha, extra[alpha] == 1)


def _to_eight_bits(values: npt.NDArray[Any], bits: int) -> npt.NDArray[np.uint8]:
    """Values of up to 8 bits, so that white is 255."""
    full = 2**bits - 1
    if bits in (1, 2, 4, 8):
        return np.asarray(values.astype(np.uint8) * np.uint8(255 // full), dtype=np.uint8)
    return np.asarray(np.rint(values.astype(np.float32) * (255 / full)), dtype=np.uint8)


def _palette(colormap: npt.NDArray[Any] | None) -> npt.NDArray[np.uint8]:
    """Colours of a palette, (n, 3). Its values have 16 bits; a few programs write 8."""
    if colormap is None:
        raise ValueError("the palette is missing")
    table = np.asarray(colormap, dtype=np.uint16).T
    return (table if table.max() < 256 else table >> 8).astype(np.uint8)


def _palette_image(values: npt.NDArray[Any], colormap: npt.NDArray[Any] | None) -> Image.Image:
    from PIL import Image

    image = Image.frombytes("P", values.shape[::-1], np.ascontiguousarray(values, dtype=np.uint8).tobytes())
    image.putpalette(_palette(colormap)[:256].tobytes())
    return image
