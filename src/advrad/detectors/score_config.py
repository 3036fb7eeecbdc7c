"""Settings of the anomaly score. The score of the AdvRAD paper is one of them, see :func:`paper_score`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_serializer, field_validator

from advrad.denoisers.base import SCALES
from advrad.utils.config import Config

Normalisation = Literal["none", "mean", "spread", "noise_tolerant"]
Scales = Literal["averaged", "separate"]

#: Names in stored configurations, where they differ from the names in Python.
_STORED_SCALES = {"separate": "apart"}
_STORED_NORMALISATIONS = {"noise_tolerant": "tolerant"}
_STORED_LEVELS = {False: "absolute", True: "relative"}


def _from_stored(value: object, stored: Mapping[Any, str]) -> object:
    """The Python value of a stored name; anything else is left for pydantic to check."""
    return next((name for name, text in stored.items() if text == value), value)


class NoiseView(Config):
    """One view of the image: the size at which it is reconstructed, and the noise level.

    Attributes:
        view_px: Side of the square to which the image is resized, in pixels.
        sigma: Noise level, the standard deviation in [0, 1] pixel units.

    Example:
        >>> NoiseView(view_px=128, sigma=0.2)
        NoiseView(view_px=128, sigma=0.2)
    """

    view_px: int = Field(gt=0)
    sigma: float = Field(gt=0)


class ScoreConfig(Config):
    """Settings of the anomaly score.

    Attributes:
        views: Views of the image. Each gives one error map or several; the score is the mean over all maps, each
            standardised by its mean and spread on normal images. Stored as ``looks``.
        scales: ``averaged``: the errors of a view at its four scales are averaged into one map, as in the paper;
            ``separate``: each scale is a map of its own, so that unavoidable error at one scale does not hide what
            another shows. The latter is stored as ``apart``.
        normalise_by_image_mean: Whether each error map is divided by its own mean, see
            :func:`advrad.detectors.scoring.divide_by_image_mean`. Stored as ``level``, ``absolute`` or ``relative``.
        normalisation: ``none``; ``mean``: ``|E - mu|``, as in the paper; ``spread``: ``(E - mu) / s`` per position;
            ``noise_tolerant``: the same with a spread no smaller than what harmless changes cause, see
            :func:`advrad.detectors.scoring.spread_floor`. The last is stored as ``tolerant``.
        filter_px: Width of the mean filter over each error map, odd, in cells of that map; 1 disables it.
        pooling: Share of the map's largest values that is averaged, 0 to 1; 0 takes the maximum.
        draws: Number of independent noise draws whose error maps are averaged.
        steps: Number of denoiser calls per reconstruction; 1 is one-step reconstruction.
        quantile: Quantile of the score over its noise that certificates bound. It does not change the plain score.
        map_filter_px: Width of the smoothing of the anomaly map, odd, in pixels at the detector's size; 1 disables it.
            It changes where an anomaly is shown, never the score.

    Example:
        >>> config = ScoreConfig(views=(NoiseView(view_px=64, sigma=0.2),), scales="separate")
        >>> config.map_sizes
        (64, 32, 16, 8)
    """

    views: tuple[NoiseView, ...] = Field(min_length=1, alias="looks")
    scales: Scales = "averaged"
    normalise_by_image_mean: bool = Field(False, alias="level")
    normalisation: Normalisation = "none"
    filter_px: int = Field(3, gt=0)
    pooling: float = Field(0.0, ge=0, le=1)
    draws: int = Field(1, gt=0)
    steps: int = Field(1, gt=0)
    quantile: float = Field(0.5, gt=0, lt=1)
    map_filter_px: int = Field(1, gt=0)

    @field_validator("filter_px", "map_filter_px")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd, so that the window has a centre")
        return value

    @field_validator("scales", mode="before")
    @classmethod
    def _read_scales(cls, value: object) -> object:
        return _from_stored(value, _STORED_SCALES)

    @field_serializer("scales")
    def _store_scales(self, value: Scales) -> str:
        return _STORED_SCALES.get(value, value)

    @field_validator("normalisation", mode="before")
    @classmethod
    def _read_normalisation(cls, value: object) -> object:
        return _from_stored(value, _STORED_NORMALISATIONS)

    @field_serializer("normalisation")
    def _store_normalisation(self, value: Normalisation) -> str:
        return _STORED_NORMALISATIONS.get(value, value)

    @field_validator("normalise_by_image_mean", mode="before")
    @classmethod
    def _read_level(cls, value: object) -> object:
        found = _from_stored(value, _STORED_LEVELS)
        if not isinstance(found, bool):
            raise ValueError("must be 'absolute' or 'relative'")
        return found

    @field_serializer("normalise_by_image_mean")
    def _store_level(self, value: bool) -> str:
        return _STORED_LEVELS[value]

    @property
    def maps_per_view(self) -> int:
        """Number of error maps that each view gives."""
        return SCALES if self.scales == "separate" else 1

    @property
    def map_sizes(self) -> tuple[int, ...]:
        """Side of every error map in cells, view by view, the finest map of a view first."""
        return tuple(view.view_px // 2**scale for view in self.views for scale in range(self.maps_per_view))

    def map_index(self, view: NoiseView, scale: int) -> int:
        """Position of an error map among all maps of the score.

        Args:
            view: View of the map.
            scale: Index of the map among those of the view, finest first.
        """
        return self.views.index(view) * self.maps_per_view + scale


def paper_score(size_px: int, sigma: float = 0.26, filter_px: int = 3) -> ScoreConfig:
    """Make the score of the AdvRAD paper: the maximum of ``|E - mu|`` at one noise level.

    Args:
        size_px: Side of the images in pixels.
        sigma: Noise level; 0.26 is the paper's k = 150.
        filter_px: Width of the mean filter over the error map, odd.

    Example:
        >>> paper_score(256).normalisation
        'mean'
    """
    view = NoiseView(view_px=size_px, sigma=sigma)
    return ScoreConfig(views=(view,), normalisation="mean", filter_px=filter_px, map_filter_px=map_filter_px(size_px))


def map_filter_px(size_px: int) -> int:
    """Width of the anomaly map's smoothing for images of ``size_px``.

    Applied twice, it is close to a Gaussian with a standard deviation of 4 px at 256 px, which is usual in the field.
    """
    return 2 * round(size_px * 4 / 256) + 1


def describe(config: ScoreConfig) -> str:
    """Describe a score in one line, with the names of the stored configuration.

    Example:
        >>> describe(paper_score(256))
        'scales averaged, level absolute, normalisation mean, filter 3 px, maximum; 256 px; noise 0.26'
    """
    stored = config.model_dump(mode="json")
    views = "+".join(str(size) for size in sorted({view.view_px for view in config.views}))
    sigmas = ", ".join(f"{sigma:g}" for sigma in sorted({view.sigma for view in config.views}))
    pooling = f"mean of the top {config.pooling:.1%}" if config.pooling else "maximum"
    maps = ", ".join(f"{name} {stored[name]}" for name in ("scales", "level", "normalisation"))
    return f"{maps}, filter {config.filter_px} px, {pooling}; {views} px; noise {sigmas}"
