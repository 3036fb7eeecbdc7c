"""Drawings of where a detector finds the parts of a product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import nn

from advrad.data.transforms import resize, to_tensor
from advrad.detectors.registration import RegisteredView
from advrad.inference.heatmaps import colour_image, outline

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Image = npt.NDArray[np.float32]

#: Colour of the boxes: orange, which differs in lightness from the lines of a heat map.
ORANGE = (1.0, 0.6, 0.0)


@dataclass(frozen=True)
class RegisteredImage:
    """An image with the boxes of the parts that were found in it.

    Attributes:
        name: Displayed file name.
        image: Image with the boxes, (h, w, 3), in [0, 1].
        parts: Number of boxes.
    """

    name: str
    image: Image
    parts: int


def registered_views(detector: object) -> tuple[RegisteredView, ...]:
    """Find the registrations that are part of a detector.

    Args:
        detector: Detector.

    Returns:
        The registrations; none for a detector that compares whole images.
    """
    modules = detector.modules() if isinstance(detector, nn.Module) else ()
    return tuple(module for module in modules if isinstance(module, RegisteredView))


def draw_registration(name: str, image: ArrayLike, view: RegisteredView) -> RegisteredImage:
    """Draw the boxes of the parts that a registration finds in an image.

    Args:
        name: Displayed file name.
        image: Image, (h, w, 3), in [0, 1].
        view: Registration.
    """
    drawn = colour_image(image)
    scored = resize(to_tensor(drawn)[None], view.config.size_px)
    boxes: npt.NDArray[Any] = view.boxes(scored)[0].numpy()
    for corners in boxes:
        drawn = outline(drawn, _filled(corners, drawn.shape[0], drawn.shape[1]), ORANGE)
    return RegisteredImage(name, drawn, len(boxes))


def _filled(corners: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Mask of a quadrilateral from its corners, (4, 2): x and y as shares of width and height."""
    from PIL import Image as PillowImage
    from PIL import ImageDraw

    canvas = PillowImage.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon([(float(x) * width, float(y) * height) for x, y in corners], fill=1)
    return np.asarray(canvas, dtype=np.bool_)
