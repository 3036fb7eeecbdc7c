"""The choice of the score: the right winner, the statistics, determinism."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_models import Linear, generator, random_denoiser, random_images, stack

import advrad.training.score_selection
import advrad.training.selection_certificate
from advrad.data.synthetic import SELECTION
from advrad.denoisers.base import Denoiser
from advrad.denoisers.sampling import reconstruct
from advrad.detectors.score_config import NoiseView, ScoreConfig, paper_score
from advrad.detectors.scoring import error_map, map_statistics, normalise, pool
from advrad.metrics import auroc, auroc_standard_error
from advrad.training.error_statistics import fit_statistics, measure_errors
from advrad.training.score_candidates import SEARCH_SPACES, Candidate, ScoreObjective, Style
from advrad.training.score_selection import Selection, fixed_score, most_robust, safest, select_score
from advrad.utils.progress import CallbackReporter

SIZE_PX = 32


@pytest.fixture(autouse=True)
def _few_defects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advrad.training.score_selection, "DEFECTS_PER_SELECTION", 48)


# --- the winner ----------------------------------------------------------------------------------------------------


class Prototype(Denoiser):
    """Returns one fixed image for any input."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = nn.Parameter(image)

    def denoise(self, z: Tensor, sigma: Tensor, window: Tensor | None = None) -> Tensor:
        return self.image.expand_as(z)


def squares(rise: float, left: int = 0) -> object:
    """A stand-in for the synthetic defects: a square a little brighter, right of a column."""

    def paste(images: Tensor, donors: Tensor, seeds: list[int], kinds: object) -> tuple[Tensor, Tensor]:
        out, masks = images.clone(), torch.zeros(len(images), 1, SIZE_PX, SIZE_PX, dtype=torch.bool)
        for i, seed in enumerate(seeds):
            y, x = np.random.default_rng(seed).integers((0, left), SIZE_PX - 6)
            masks[i, 0, y : y + 6, x : x + 6] = True
        return torch.where(masks, out + rise, out), masks

    return paste


def test_unavoidable_error_in_one_region_selects_the_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the product varies from image to image, so that errors there mean nothing."""
    prototype = torch.full((1, 3, SIZE_PX, SIZE_PX), 0.5)
    varied = torch.full((SIZE_PX, SIZE_PX), 0.01)
    varied[:, : SIZE_PX // 2] = 0.25
    noise = torch.randn(24, 3, SIZE_PX, SIZE_PX, generator=generator(1))
    normals = (prototype + varied * noise).clamp(0, 1)
    monkeypatch.setattr(advrad.training.score_selection, "paste_defects", squares(0.04, left=SIZE_PX // 2))
    selection = select_score(Prototype(prototype), normals, normals, [SIZE_PX], generator(0), sigmas=[0.1])
    assert selection.config.normalisation == "spread"
    merit = best_by(selection.tried)
    assert merit["spread"] > 0.95 and merit["none"] < 0.8 and merit["mean"] < 0.8


def best_by(tried: tuple[tuple[str, float], ...]) -> dict[str, float]:
    return {
        way: max(value for name, value in tried if f"normalisation {way}," in name)
        for way in ("none", "mean", "spread")
    }


STYLE = Style("separate", True, "spread", 3, 0.01)
VIEWS = [NoiseView(view_px=SIZE_PX, sigma=sigma) for sigma in (0.1, 0.2, 0.3)]


def candidate(*views: int, style: Style = STYLE) -> Candidate:
    return Candidate(style, tuple(VIEWS[i] for i in views))


def test_all_views_are_the_safe_choice_unless_one_is_better() -> None:
    clean = {candidate(0): 0.99, candidate(1): 0.6, candidate(0, 1): 0.8}
    winner, reason = safest(clean, 50, 64)
    assert winner == candidate(0)
    assert reason.startswith("AUROC 0.990, the safest of the candidates within 0.010 of the best (0.990)")


def test_relative_errors_are_the_safe_choice_unless_absolute_ones_are_better() -> None:
    absolute = candidate(0, 1, style=Style("averaged", False, "none", 3, 0.01))
    clean = {absolute: 0.90, candidate(0): 0.88}
    assert safest(clean, 8, 64)[0] == candidate(0)
    assert safest(clean, 5000, 6400)[0] == absolute


def test_the_fewer_normals_the_larger_the_margin() -> None:
    clean = {candidate(0): 0.90, candidate(0, 1): 0.86, candidate(0, 2): 0.87, candidate(0, 1, 2): 0.70}
    assert safest(clean, 500, 640)[0] == candidate(0)
    winner, reason = safest(clean, 8, 64)
    assert winner == candidate(0, 2), "of those with equally many views the best"
    margin = auroc_standard_error(0.90, 8, 64)
    assert margin > 0.04 and f"within {margin:.3f} of the best (0.900)" in reason


def test_all_views_are_used_unless_fewer_are_clearly_better() -> None:
    prototype = torch.full((1, 3, SIZE_PX, SIZE_PX), 0.5)
    normals = prototype + 0.01 * torch.randn(16, 3, SIZE_PX, SIZE_PX, generator=generator(1))
    # The prototype ignores the noise, so all noise levels are equally good.
    selection = select_score(Prototype(prototype), normals, normals, [SIZE_PX], generator(0), sigmas=[0.1, 0.2])
    assert [look.sigma for look in selection.config.views] == [0.1, 0.2]
    assert "the safest of" in selection.reason
    assert selection.winner in dict(selection.tried)


# --- the aim to withstand attacks ----------------------------------------------------------------------------------


def test_under_attack_single_views_compete(normals: Tensor) -> None:
    told = []
    denoiser = random_denoiser()
    selection = select_score(
        denoiser,
        normals,
        normals,
        [SIZE_PX],
        generator(0),
        objective=ScoreObjective("robust"),
        progress=CallbackReporter(lambda *x: told.append(x)),
    )
    config = selection.config
    assert len(config.views) == 1 and config.views[0].sigma in SEARCH_SPACES["robust"].sigmas
    assert (config.normalise_by_image_mean, config.normalisation) == (False, "noise_tolerant")
    assert told == [(1, 3), (2, 3), (3, 3), *((i, 6) for i in range(1, 7))], "three views, then six finalists"
    names, values = zip(*selection.attacked, strict=True)
    assert list(values) == sorted(values, reverse=True) and len(set(names)) == 6
    assert dict(selection.attacked)[selection.winner] == values[0]
    assert (
        f"AUROC {values[0]:.3f} under a quick attack, the highest of 6 candidates at the smallest view that is as good"
        in selection.reason
    )
    assert all(parameter.requires_grad for parameter in denoiser.parameters()), "they were frozen for a while only"


def test_a_larger_view_must_be_clearly_more_robust() -> None:
    small, large, other = (
        Candidate(STYLE, (NoiseView(view_px=px, sigma=sigma),)) for px, sigma in ((128, 0.2), (256, 0.2), (128, 0.4))
    )

    def chosen(values: tuple[float, float, float]) -> Candidate:
        robust = dict(zip((small, large, other), values, strict=True))
        return most_robust(robust, dict.fromkeys(robust, 0.9), 100, 100)

    assert chosen((0.88, 0.90, 0.60)) == small, "so few are attacked that 0.02 is no difference"
    assert chosen((0.60, 0.90, 0.89)) == other, "the best of that size"
    assert chosen((0.60, 0.90, 0.60)) == large


def test_for_a_radius_the_certified_auroc_counts(normals: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advrad.training.selection_certificate, "IMAGES", (9, 12))
    told = []
    denoiser = random_denoiser()

    def chosen(radius: float) -> Selection:
        return select_score(
            denoiser,
            normals,
            normals,
            [SIZE_PX, 16],
            generator(0),
            objective=ScoreObjective("certified", radius),
            progress=CallbackReporter(lambda *x: told.append(x)),
        )

    selection = chosen(0.01)
    config = selection.config
    assert len(config.views) == 1 and config.views[0].view_px == 16, "the smallest view: shrinking shortens a change"
    assert (config.normalise_by_image_mean, config.normalisation) == (False, "noise_tolerant")
    assert told == [(1, 3), (2, 3), (3, 3)] * 2, "each view once for errors, once for bounds"
    values = [value for _, value in selection.attacked]
    space = SEARCH_SPACES["certified"]
    styles = sum(len(kind.filters_px) for kind in space.kinds) * len(space.poolings)
    assert len(values) == styles * len(space.sigmas), "every style of every single view is bounded"
    assert f"certified AUROC {values[0]:.3f} within 0.01, the highest of {len(values)} candidates" in selection.reason
    far = chosen(1.0)
    assert dict(far.attacked)[far.winner] < values[0]
    for name, value in far.attacked:
        assert value <= dict(selection.attacked)[name], "the further an adversary may go, the less can be certified"


def test_for_clean_images_nothing_is_attacked(normals: Tensor) -> None:
    assert select_score(random_denoiser(), normals, normals, [SIZE_PX], generator(0), sigmas=[0.2]).attacked == ()


# --- what is recorded, and what it depends on ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def normals() -> Tensor:
    return stack(9, SIZE_PX).batch(range(9))


def test_the_figures_are_recorded_best_first(normals: Tensor) -> None:
    told = []
    selection = select_score(
        random_denoiser(),
        normals,
        normals,
        [16, SIZE_PX],
        generator(0),
        sigmas=[0.1, 0.3],
        progress=CallbackReporter(lambda *x: told.append(x)),
    )
    names, values = zip(*selection.tried, strict=True)
    assert list(values) == sorted(values, reverse=True)
    assert len(set(names)) == len(names)
    assert all(0 <= value <= 1 for value in values)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    space = SEARCH_SPACES["clean"]
    styles = len(space.normalisations) * sum(len(kind.filters_px) for kind in space.kinds) * len(space.poolings)
    assert len(names) == styles * 3 * 3, "every style on every set of views and every run of noise levels"
    assert len(selection.statistics) == len(selection.config.map_sizes)
    assert {look.view_px for look in selection.config.views} <= {16, SIZE_PX}


def test_the_seed_decides(normals: Tensor) -> None:
    first, again, other = (
        select_score(random_denoiser(), normals, normals, [SIZE_PX], generator(seed), sigmas=[0.2])
        for seed in (0, 0, 1)
    )
    assert first.config == again.config and first.tried == again.tried and first.reason == again.reason
    for a, b in zip(first.statistics, again.statistics, strict=True):
        assert torch.equal(a.mean, b.mean) and torch.equal(a.spread, b.spread)
        assert (a.location, a.scale) == (b.location, b.scale)
    assert first.tried != other.tried


@pytest.mark.parametrize("count", [2, 3])
def test_few_normals_suffice(count: int) -> None:
    few = stack(count, SIZE_PX).batch(range(count))
    selection = select_score(random_denoiser(), few, few, [SIZE_PX], generator(0), sigmas=[0.2])
    assert all(np.isfinite(value) for _, value in selection.tried)
    assert all(part.scale > 0 for part in selection.statistics)


def test_defects_are_of_families_that_training_never_shows(normals: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = advrad.training.score_selection.paste_defects

    def spy(images: Tensor, donors: Tensor, seeds: list[int], kinds: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        asked.append((len(images), len(set(seeds)), kinds))
        return real(images, donors, seeds, kinds)

    monkeypatch.setattr(advrad.training.score_selection, "paste_defects", spy)
    select_score(Linear(), normals, normals, [SIZE_PX], generator(0), sigmas=[0.2])
    assert asked == [(48, 48, tuple(SELECTION))]


# --- statistics ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["none", "mean", "spread", "noise_tolerant"])
def test_which_images_give_which_statistics(normals: Tensor, how: str) -> None:
    denoiser, look = random_denoiser(), NoiseView(view_px=SIZE_PX, sigma=0.2)
    references = stack(7, SIZE_PX, seed=8).batch(range(7))
    config = ScoreConfig(views=(look,), normalisation=how, filter_px=3, pooling=0.01)  # type: ignore[arg-type]
    (got,) = fit_statistics(denoiser, references, normals, config, 77)
    draws = generator(77)
    maps = []
    with torch.no_grad():  # eight images at a time, as the noise is drawn
        for part in torch.split(torch.cat([references, normals]), 8):
            recon = reconstruct(denoiser, part, 0.2, draws, independent=True)
            maps.append(error_map(part, recon, 3))
    every = torch.cat(maps)
    mean, spread = map_statistics(every[:7], how)  # type: ignore[arg-type]
    torch.testing.assert_close(got.mean, mean)
    torch.testing.assert_close(got.spread, spread)
    scores = pool(normalise(every[7:], mean, spread, how), 0.01)  # type: ignore[arg-type]
    assert got.location == pytest.approx(float(scores.mean()), rel=1e-3)
    assert got.scale == pytest.approx(float(scores.std()), rel=1e-3)
    assert got.ceiling == pytest.approx(1.2 * float(every[:7].mean((1, 2, 3)).max()))


def test_maps_do_not_depend_on_the_batches(normals: Tensor) -> None:
    look, denoiser = NoiseView(view_px=16, sigma=0.3), random_denoiser()
    together = measure_errors(denoiser, normals, look, 5)
    singly = measure_errors(denoiser, normals, look, 5, batch_size=1)
    assert [level.shape for level in together] == [(9, 1, px, px) for px in (16, 8, 4, 2)]
    for one, other in zip(singly, together, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_statistics_hold_for_any_noise(normals: Tensor) -> None:
    """Every normal image has its own noise: the mean map must not contain the pattern of one draw."""
    same = normals[:1].expand(64, -1, -1, -1)
    config = ScoreConfig(views=(NoiseView(view_px=SIZE_PX, sigma=0.3),), filter_px=1)
    (got,) = fit_statistics(Linear(0.5), same, same, config, 5)
    assert got.spread.min() > 0.1 * got.mean.mean(), "equal images differ by their noise alone"
    (other,) = fit_statistics(Linear(0.5), same, same, config, 6)
    assert float((got.mean - other.mean).abs().mean() / got.mean.mean()) < 0.2


def test_autocast_of_the_caller_is_used(normals: Tensor) -> None:
    config = paper_score(SIZE_PX)
    seen = []
    denoiser = random_denoiser()
    handle = denoiser.network.stem.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    fit_statistics(denoiser, normals, normals, config, 0, lambda: torch.autocast("cpu", torch.bfloat16))
    assert set(seen) == {torch.bfloat16}
    seen.clear()
    (exact,) = fit_statistics(denoiser, normals, normals, config, 0)
    assert set(seen) == {torch.float32}
    assert exact.mean.dtype == torch.float32
    handle.remove()


def test_a_score_chosen_by_name_is_not_changed(normals: Tensor) -> None:
    config = paper_score(SIZE_PX)
    first, again = (fixed_score(random_denoiser(), normals, normals, config, generator(3)) for _ in range(2))
    assert first.config == config and first.tried == () and first.reason == "chosen by name"
    assert torch.equal(first.statistics[0].mean, again.statistics[0].mean)


def test_candidates_with_equal_scores_have_an_auroc_of_one_half(normals: Tensor) -> None:
    """All images of a candidate have the same score."""

    class Perfect(Linear):
        def denoise(self, z: Tensor, sigma: Tensor, window: Tensor | None = None) -> Tensor:
            return torch.zeros_like(z) + self.a * 0

    flat = torch.zeros(6, 3, SIZE_PX, SIZE_PX)
    selection = select_score(Perfect(), flat, flat, [SIZE_PX], generator(0), sigmas=[0.2])
    assert all(0.5 <= value <= 1 for _, value in selection.tried)
    assert auroc(np.array([0, 0, 1, 1]), np.zeros(4)) == 0.5


def test_images_larger_than_every_view_are_shrunk(normals: Tensor) -> None:
    selection = select_score(
        random_denoiser(), random_images(4, 64), random_images(4, 64), [16], generator(0), sigmas=[0.2]
    )
    assert selection.statistics[0].mean.shape == (1, 1, 16, 16)
