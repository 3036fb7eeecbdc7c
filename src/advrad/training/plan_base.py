"""What the plans of all trainings hold: the images, and what the threshold and the score are made for."""

from __future__ import annotations

from pydantic import Field

from advrad.data.options import DataOptions
from advrad.data.records import MAX_PIXELS
from advrad.training.options import ScoreAim
from advrad.utils.config import Config


class PlanBase(Config):
    """Base of the plans: the normal images, and the aims.

    Attributes:
        data: Folder of the images.
        layout: Layout of that folder.
        category: Name of the product.
        false_alarm_rate: Largest share of normal images that may be called anomalous.
        score: How the score is chosen: ``auto`` for clean images, ``robust`` for images under attack, or ``paper``.
        optimise_for_radius: Radius for which the score is chosen by its certified results, and for which a threshold
            under attack is set; l2, for pixel values in [0, 1] and images of the detector's size. None for neither.
        max_pixels: Largest number of pixels of an image file.
        value_range: Value of white in the image files; None if they tell it.
        skip_bad: Whether unreadable images are left out.
        leaves_out_copies: Whether images that are copies of others are left out; older versions did not.
        names: Names of the training images, by which changed data are noticed.
    """

    data: str
    layout: str
    category: str
    false_alarm_rate: float = Field(0.05, gt=0, lt=1)
    score: ScoreAim = "auto"
    optimise_for_radius: float | None = Field(None, gt=0)
    max_pixels: int = MAX_PIXELS
    value_range: float | None = Field(None, gt=0)
    skip_bad: bool = False
    leaves_out_copies: bool = False
    names: tuple[str, ...]

    @property
    def data_options(self) -> DataOptions:
        """How the images are found and read."""
        return DataOptions(
            layout=self.layout,
            category=self.category,
            skip_bad=self.skip_bad,
            max_pixels=self.max_pixels,
            value_range=self.value_range,
        )
