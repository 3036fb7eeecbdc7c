"""Settings of the score: names in stored configurations, sizes of the maps, and values that are refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from toy_models import FAR, NEAR

from advrad.detectors.score_config import NoiseView, ScoreConfig, map_filter_px, paper_score
from advrad.errors import ConfigError


def test_scores_are_stored_under_the_names_of_older_releases() -> None:
    config = ScoreConfig(views=(NEAR,), scales="separate", normalise_by_image_mean=True, normalisation="noise_tolerant")
    stored = config.model_dump(mode="json")
    assert stored["looks"] == [{"view_px": NEAR.view_px, "sigma": NEAR.sigma}]
    assert (stored["scales"], stored["level"], stored["normalisation"]) == ("apart", "relative", "tolerant")
    assert ScoreConfig.parse(stored, "file") == config
    plain = ScoreConfig(views=(NEAR,))
    assert plain.model_dump(mode="json")["level"] == "absolute"
    assert ScoreConfig.parse(plain.model_dump(mode="json"), "file") == plain
    with pytest.raises(ConfigError, match="must be 'absolute' or 'relative'"):
        ScoreConfig.parse(stored | {"level": "loud"}, "file")


def test_every_map_of_a_score_has_a_place() -> None:
    config = ScoreConfig(views=(NEAR, FAR), scales="separate")
    assert [config.map_index(view, scale) for view in config.views for scale in range(4)] == list(range(8))


def test_the_sizes_of_the_maps_follow_from_the_views() -> None:
    views = (NoiseView(view_px=32, sigma=0.1), NoiseView(view_px=64, sigma=0.1))
    assert ScoreConfig(views=views).map_sizes == (32, 64)
    assert ScoreConfig(views=views, scales="separate").map_sizes == (32, 16, 8, 4, 64, 32, 16, 8)


def test_paper_score_is_the_papers() -> None:
    config = paper_score(128)
    assert config == ScoreConfig(
        views=(NoiseView(view_px=128, sigma=0.26),),
        scales="averaged",
        normalise_by_image_mean=False,
        normalisation="mean",
        filter_px=3,
        pooling=0.0,
        draws=1,
        steps=1,
        map_filter_px=5,
    )
    assert paper_score(64, 0.1, 5).filter_px == 5


def test_the_smoothing_is_close_to_the_usual_gaussian() -> None:
    """A mean filter of width w has the variance (w^2 - 1) / 12; applied twice, twice that."""
    for size_px in (128, 256, 512):
        deviation = ((map_filter_px(size_px) ** 2 - 1) / 6) ** 0.5
        assert deviation == pytest.approx(4 * size_px / 256, rel=0.15)


@pytest.mark.parametrize("filter_px", [0, 2, 4, -1])
def test_filters_have_a_centre(filter_px: int) -> None:
    with pytest.raises(ValidationError):
        ScoreConfig(views=(NEAR,), filter_px=filter_px)


def test_an_even_filter_is_named_with_its_place() -> None:
    values = ScoreConfig(views=(NEAR,)).model_dump(mode="json") | {"filter_px": 4}
    with pytest.raises(ConfigError, match=r"^file: filter_px: .*odd"):
        ScoreConfig.parse(values, "file")


@pytest.mark.parametrize("wrong", [{"views": ()}, {"draws": 0}, {"steps": 0}, {"clamp": True}, {"pooling": 2}])
def test_scores_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    values: dict[str, object] = {"views": (NEAR,)}
    with pytest.raises(ValidationError):
        ScoreConfig(**values | wrong)
