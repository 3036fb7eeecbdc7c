"""What transparent images show: transparent pixels become mid-grey.

Their stored colours are arbitrary and must not affect the score. White or black would hide the edge of a white or black
product, where defects are common. An image that is transparent everywhere shows nothing and is refused: every image of
such a folder would be the same even grey.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from advrad.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

MID_GREY = 128
"""Value of transparent pixels, where white is 255."""


def is_transparent(image: Image.Image) -> bool:
    """Whether an image of Pillow has transparent pixels, or may have.

    Args:
        image: Image of any mode.
    """
    if image.mode == "P" and image.palette is not None and image.palette.mode == "RGBA":
        return True  # an image in memory; files keep the transparency of a palette in `info`
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or (
        "transparency" in image.info and image.mode in ("1", "L", "P", "RGB")
    )


def on_background(image: Image.Image, level: int) -> Image.Image:
    """Show a transparent image on an even background, (h, w) RGB.

    Args:
        image: Image of Pillow that :func:`is_transparent`.
        level: Grey value of the background, 0 to 255.
    """
    from PIL import Image

    seen = image.convert("RGBA")
    ground = Image.new("RGB", image.size, (level, level, level))
    ground.paste(seen, mask=seen.getchannel("A"))
    return ground


def shown_on_grey(path: Path, image: Image.Image) -> Image.Image:
    """Show a transparent image on mid-grey.

    Args:
        path: Image file, for the error.
        image: Image of Pillow that :func:`is_transparent`.

    Raises:
        ImageError: It is transparent everywhere.
    """
    seen = image.convert("RGBA")
    if seen.getchannel("A").getextrema()[1] == 0:
        colours = image.convert(image.mode[:-1]) if image.mode in ("LA", "RGBA") else seen.convert("RGB")
        _refuse(path, np.asarray(colours))
    return on_background(image, MID_GREY)


def values_on_grey(
    path: Path, colours: npt.NDArray[Any], alpha: npt.NDArray[Any], white: float, *, premultiplied: bool = False
) -> npt.NDArray[np.float32]:
    """Show values of more than 8 bits on mid-grey.

    Args:
        path: Image file, for the error.
        colours: Values, (h, w, c), in [0, white].
        alpha: Opacity, (h, w, 1), in [0, white].
        white: Value of white.
        premultiplied: Whether the values are multiplied by the opacity already.

    Raises:
        ImageError: It is transparent everywhere.
    """
    if not alpha.any():
        _refuse(path, colours)
    share = np.divide(alpha, np.float32(white), dtype=np.float32)
    seen = colours.astype(np.float32)
    if not premultiplied:
        seen *= share
    seen += (1 - share) * np.float32(white * MID_GREY / 255)
    return seen


def _refuse(path: Path, colours: npt.NDArray[Any]) -> None:
    """Refuse an image that is transparent everywhere."""
    behind = ""
    if colours.size and (colours != colours[:1, :1]).any():
        behind = "; there is an image behind it, so the program that saved it probably left its alpha channel at 0"
    raise ImageError(
        path, f"is transparent everywhere, so it shows nothing{behind}; save it without transparency (alpha channel)"
    )
