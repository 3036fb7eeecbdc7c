"""Heat maps of a guarded detector: one image that shows which half sees what, with a legend in words.

What the memory sees is surrounded by a white line, what the other halves see by a dotted blue one; both differ without
their colour, too. Where both see the same, one line runs around the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from advrad.inference.heatmaps import GAP, GREEN, WHITE, colour_image, line_of, map_on, outline, tinted

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.ImageFont import FreeTypeFont, ImageFont

Image = npt.NDArray[np.float32]

#: Colour of the line around what attackable halves see: light blue, which no kind of colour blindness takes for white,
#: amber or magenta.
BLUE = (0.30, 0.68, 1.0)
_DOTS = 2
# The dotted line runs outside the white one: its distance, in thicknesses of a line.
_OUTSIDE = GAP + 3
_BACKGROUND = 0.13
_INK = (236, 236, 236)


def draw_half_maps(image: ArrayLike, half_maps: Sequence[ArrayLike]) -> Image:
    """Draw the anomaly maps of all halves on their image, and a line around what each sees.

    The colours show the largest of the maps, on the scale of :func:`advrad.inference.heatmaps.heat_overlay`.

    Args:
        image: Image, (h, w, 3), in [0, 1].
        half_maps: Anomaly maps, (h', w') each, that of the memory first; 0 is the usual maximum of a normal map, and 1
            the level that normal maps hardly exceed.

    Returns:
        The image with its maps, (h, w, 3), in [0, 1].

    Raises:
        DataError: A shape is wrong, or a map has a value that is NaN or infinite.

    Example:
        >>> memory, features = np.zeros((8, 8)), np.zeros((8, 8))
        >>> features[2:5, 2:5] = 1.5
        >>> draw_half_maps(np.zeros((32, 32, 3)), [memory, features]).shape
        (32, 32, 3)
    """
    base = colour_image(image)
    memory, *others = (map_on(base, one) for one in half_maps)
    attackable = np.maximum.reduce(others) if others else np.full_like(memory, -np.inf)
    drawn = tinted(base, np.maximum(memory, attackable))
    drawn = outline(drawn, attackable > 1.0, BLUE, broken=True, gap=_OUTSIDE, dash=_DOTS)
    return outline(drawn, memory > 1.0, WHITE, gap=GAP)


@dataclass(frozen=True, slots=True)
class LegendLine:
    """One line of a legend.

    Attributes:
        words: What the line surrounds.
        kind: Look of the line: ``memory`` is white, ``attackable`` is dotted and blue, ``proven`` is broken and green.
    """

    words: str
    kind: str


def half_legend(names: Sequence[str], proven: str = "") -> tuple[LegendLine, ...]:
    """Say in words what the lines of :func:`draw_half_maps` surround.

    Args:
        names: Names of the halves, the memory first.
        proven: Norm and radius of a proven area that is drawn as well, such as ``linf 2/255``; empty for none.

    Example:
        >>> [line.words for line in half_legend(("memory", "features"))]
        ['seen by the memory', 'seen by features']
    """
    lines = [LegendLine("seen by the memory", "memory")]
    if len(names) > 1:
        lines.append(LegendLine(f"seen by {' or '.join(names[1:])}", "attackable"))
    if proven:
        lines.append(LegendLine(f"proven within {proven}", "proven"))
    return tuple(lines)


def with_legend(image: ArrayLike, lines: Sequence[LegendLine]) -> Image:
    """Add a legend below an image; the pixels of the image stay where they are.

    Args:
        image: Image, (h, w, 3), in [0, 1].
        lines: Lines of the legend.

    Returns:
        The image with the legend, (h + rows, w, 3), in [0, 1].

    Example:
        >>> with_legend(np.zeros((64, 64, 3)), half_legend(("memory", "features"))).shape[1:]
        (64, 3)
    """
    base = colour_image(image)
    width = base.shape[1]
    font, rows = _fitting([line.words for line in lines], width)
    row_px = _row_px(font)
    strip = np.full((row_px * len(rows), width, 3), _BACKGROUND, dtype=np.float32)
    sample = _sample_px(font)
    words: list[tuple[int, int, str]] = []
    for index, row in enumerate(rows):
        left = row_px // 2
        for place in row:
            line = lines[place]
            strip = _with_sample(strip, line.kind, (index * row_px, left), sample)
            words.append((left + sample + row_px // 3, index * row_px, line.words))
            left += sample + row_px + int(font.getlength(line.words))
    return np.concatenate([base, _with_words(strip, words, font, row_px)])


def _fitting(texts: Sequence[str], width: int) -> tuple[FreeTypeFont | ImageFont, list[list[int]]]:
    """The font, and the rows into which texts are put: as many beside each other as the image is wide for."""
    from PIL import ImageFont

    size = max(9, round(width / 26))
    while True:
        font: Any = ImageFont.load_default(size=size)
        row_px, sample = _row_px(font), _sample_px(font)
        lengths = [sample + row_px + int(font.getlength(text)) for text in texts]
        if max(lengths) <= width or size <= 6:
            break
        size -= 1
    rows: list[list[int]] = [[]]
    used = row_px // 2
    for place, length in enumerate(lengths):
        if rows[-1] and used + length > width:
            rows.append([])
            used = row_px // 2
        rows[-1].append(place)
        used += length
    return font, rows


def _row_px(font: Any) -> int:
    return int(1.9 * font.size)


def _sample_px(font: Any) -> int:
    return int(2.2 * font.size)


#: How each kind of line is drawn around a mask.
_LOOKS: dict[str, Callable[[Image, npt.NDArray[np.bool_]], Image]] = {
    "memory": lambda strip, mask: outline(strip, mask, WHITE),
    "attackable": lambda strip, mask: outline(strip, mask, BLUE, broken=True, dash=_DOTS),
    "proven": lambda strip, mask: outline(strip, mask, GREEN, broken=True),
}


def _with_sample(strip: Image, kind: str, place: tuple[int, int], width: int) -> Image:
    """Draw a piece of a line as it looks around a region."""
    top, left = place
    height = int(0.45 * width)
    drawn = strip.copy()
    line_px = line_of(*strip.shape[:2])
    margin = 3 * line_px
    box = np.zeros(strip.shape[:2], dtype=bool)
    above = top + max(margin, int(0.2 * width))
    box[above : above + max(1, height - margin // 2), left + margin : left + width - margin] = True
    drawn = _LOOKS[kind](drawn, box)
    return drawn


def _with_words(strip: Image, words: Sequence[tuple[int, int, str]], font: Any, row_px: int) -> Image:
    """Write words on a strip, at (left, top) each."""
    from PIL import Image as PillowImage
    from PIL import ImageDraw

    picture = PillowImage.fromarray((strip * 255).round().astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for left, top, text in words:
        pen.text((left, top + row_px // 2), text, fill=_INK, font=font, anchor="lm")
    return np.asarray(picture, dtype=np.float32) / np.float32(255)
