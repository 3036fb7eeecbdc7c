"""Candidates for the anomaly score: the settings that are compared for each aim."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from advrad.detectors.score_config import NoiseView, Normalisation, Scales, ScoreConfig, map_filter_px

#: What the score is chosen for: accuracy on clean images, accuracy under attack, or certified accuracy.
Aim = Literal["clean", "robust", "certified"]

#: Noise draws per view of the chosen score. The candidates are compared with one draw, which costs half.
DRAWS = 2


@dataclass(frozen=True, slots=True)
class ScoreObjective:
    """What the score is chosen for.

    Attributes:
        aim: Accuracy on clean images, under attack, or as it can be certified.
        radius: Radius of the certificates, l2, for pixel values in [0, 1] and images of the detector's size; 0 for the
            other aims.

    Example:
        >>> ScoreObjective("certified", radius=0.2).aim
        'certified'
    """

    aim: Aim = "clean"
    radius: float = 0.0


CLEAN = ScoreObjective()
"""The default objective: accuracy on clean images."""


@dataclass(frozen=True, slots=True)
class MapKind:
    """A kind of error map.

    Attributes:
        scales: One map for all scales, or one for each.
        normalise_by_image_mean: Whether each map is divided by its own mean.
        filters_px: Widths of the mean filter to try, in cells of the map.
    """

    scales: Scales
    normalise_by_image_mean: bool
    filters_px: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The settings that are tried for an aim.

    Attributes:
        kinds: Kinds of error maps. On the coarsest scale a filter of 7 cells would cover half the image.
        normalisations: Normalisations of the maps.
        sigmas: Noise levels.
        poolings: Shares of the largest values that are averaged; never 0, because the noise in a single cell would
            decide.
        smallest_view_only: Whether only the smallest view is tried.
    """

    kinds: tuple[MapKind, ...]
    normalisations: tuple[Normalisation, ...]
    sigmas: tuple[float, ...]
    poolings: tuple[float, ...] = (0.002, 0.01)
    smallest_view_only: bool = False

    def view_sizes(self, sizes_px: Sequence[int]) -> list[int]:
        """Give the view sizes to try.

        Args:
            sizes_px: View sizes at which the denoiser was trained, pixels.
        """
        return [min(sizes_px)] if self.smallest_view_only else list(sizes_px)


SEARCH_SPACES: dict[Aim, SearchSpace] = {
    # The maps of the paper, and maps for products with varying texture or lighting. Separate scales are only tried
    # relative to the image's mean: the held-out images cannot show a change of the lighting after training.
    "clean": SearchSpace(
        (MapKind("averaged", False, (3, 7)), MapKind("separate", True, (1, 3))),
        ("none", "mean", "spread"),
        (0.05, 0.1, 0.2, 0.4),
    ),
    # Not relative to the image's mean, which an attack could change.
    "robust": SearchSpace(
        (MapKind("averaged", False, (3, 7)), MapKind("separate", False, (3,))), ("noise_tolerant",), (0.2, 0.4, 0.6)
    ),
    # The wider the filter and the pooling, the less a perturbation of a given l2 length changes the score. Resizing to
    # a smaller view shortens the perturbation.
    "certified": SearchSpace(
        (MapKind("averaged", False, (3, 7, 11)), MapKind("separate", False, (3, 7))),
        ("noise_tolerant",),
        (0.2, 0.4, 0.6),
        (0.002, 0.01, 0.03),
        smallest_view_only=True,
    ),
}


@dataclass(frozen=True, slots=True)
class Style:
    """How the error maps of a view are turned into a number; the names are those of :class:`ScoreConfig`.

    Attributes:
        scales: One map for all scales, or one for each.
        normalise_by_image_mean: Whether each map is divided by its own mean.
        normalisation: Normalisation of the maps.
        filter_px: Width of the mean filter, in cells of the map.
        pooling: Share of the largest values that is averaged.
    """

    scales: Scales
    normalise_by_image_mean: bool
    normalisation: Normalisation
    filter_px: int
    pooling: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate score.

    Attributes:
        style: How the error maps are turned into a number.
        views: View sizes and noise levels.
    """

    style: Style
    views: tuple[NoiseView, ...]

    def config(self, size_px: int) -> ScoreConfig:
        """Make the configuration of the score.

        Args:
            size_px: Side of the detector's images, pixels.
        """
        return ScoreConfig(views=self.views, draws=DRAWS, map_filter_px=map_filter_px(size_px), **asdict(self.style))


def view_subsets(sizes_px: Sequence[int], sigmas: Sequence[float]) -> Iterator[tuple[NoiseView, ...]]:
    """Give every set of view sizes combined with every range of neighbouring noise levels.

    Args:
        sizes_px: View sizes, pixels.
        sigmas: Noise levels, rising.

    Example:
        >>> [len(subset) for subset in view_subsets([128], [0.1, 0.2])]
        [1, 2, 1]
    """
    runs = [sigmas[i:j] for i in range(len(sigmas)) for j in range(i + 1, len(sigmas) + 1)]
    for count in range(1, len(sizes_px) + 1):
        for sizes, run in itertools.product(itertools.combinations(sizes_px, count), runs):
            yield tuple(NoiseView(view_px=size, sigma=sigma) for size in sizes for sigma in run)
