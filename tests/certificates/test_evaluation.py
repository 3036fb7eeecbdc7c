"""Certificates of a set of images, on a score whose worst case is known, and on a small detector under attack."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from analytic_scores import SIGMA, Line, OneByOne, number
from scipy.stats import norm
from torch import Tensor
from toy_models import FAR, detector, generator

from advrad.certificates import sequential
from advrad.certificates.bounds_evaluation import BoundsPlan
from advrad.certificates.evaluation import (
    CertifiedImages,
    CertifyPlan,
    ImageCertificate,
    check_reach,
    evaluate_certificates,
)
from advrad.certificates.order_statistics import interim_sizes
from advrad.certificates.sequential import RADIUS_GRID, certify_sequential
from advrad.certificates.two_path import TwoPath
from advrad.data.transforms import resize
from advrad.denoisers.sampling import reconstruct
from advrad.detectors.score_config import ScoreConfig
from advrad.detectors.scoring import combine_scales, mean_filter, scale_errors, standardise
from advrad.errors import ConfigError, DataError, OutputError
from advrad.utils.progress import CallbackReporter
from advrad.utils.seeding import seed_of


def numbers(values: Sequence[float], labels: Sequence[int] | None = None) -> CertifiedImages:
    labelled = np.array(labels if labels is not None else [x > 0 for x in values], dtype=np.int64)
    return CertifiedImages(
        lambda i: number(values[i]), labelled, tuple(f"{i}.png" for i in range(len(values))), "numbers"
    )


def plan_of(**values: object) -> CertifyPlan:
    return CertifyPlan(**{"radii": (0.1, 0.2), "n_samples": 60, "threshold": 0.0, "confidence": 0.99} | values)


def without_time(rows: Sequence[ImageCertificate]) -> list[dict[str, object]]:
    return [{name: value for name, value in row.to_dict().items() if name != "seconds"} for row in rows]


@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.7])
def test_bounds_and_verdicts_are_those_of_the_smoothing_quantile(quantile: float, tmp_path: Path) -> None:
    """The score at which an image's own quantile lies, and how far it moves, are known."""
    at, radius, alpha = SIGMA * float(norm.ppf(quantile)), 0.1, 0.1
    sampler = Line(quantile=quantile)
    values = np.random.default_rng(1).uniform(-1, 1, 40)
    plan = plan_of(radii=(radius,), n_samples=400, confidence=1 - alpha)
    rows = evaluate_certificates(sampler, numbers(values), plan, tmp_path)
    index = plan.radius_grid.index(radius)
    for row, x in zip(rows, values, strict=True):
        low, high = row.lower[index], row.upper[index]
        assert low is not None and high is not None
        # All hold together but for a probability of a tenth; the seed is fixed, and they do.
        assert low <= 2 * (x - radius) + at and 2 * (x + radius) + at <= high
        assert high - low < 4 * radius + 2 * SIGMA
        assert row.score == pytest.approx(2 * x + at, abs=0.05)
    # Far enough from the threshold a verdict comes, near it none, wherever the quantile has moved it to.
    for x, wanted in ((0.2, "certified anomalous"), (-0.2, "certified normal"), (0.0, "abstain")):
        assert certify_sequential(sampler, number(x), radius, 2 * 0.0 + at, 3000, alpha, generator(3)).verdict == wanted
        row = evaluate_certificates(
            sampler, numbers([x, 9]), plan_of(radii=(radius,), n_samples=3000, threshold=at), tmp_path / f"{x}"
        )[0]
        assert row.verdicts[index] == row.early[0] == wanted


# --- the runner -----------------------------------------------------------------------------------------------------


def test_rows_bound_the_worst_case(tmp_path: Path) -> None:
    values = [-1.0, -0.3, 0.02, 0.3, 1.0]
    plan = plan_of(n_samples=400, radii=(0.2, 0.1))
    rows = evaluate_certificates(Line(), numbers(values), plan, tmp_path)
    grid = plan.radius_grid
    assert grid[0] == 0 and {0.1, 0.2, *RADIUS_GRID} < set(grid)
    for x, row in zip(values, rows, strict=True):
        assert row.label == (x > 0)
        assert row.score == pytest.approx(2 * x, abs=0.1)
        for radius, low, high in zip(grid, row.lower, row.upper, strict=True):
            # An attack of this length moves the smoothed score by twice as much.
            assert low is None or low <= 2 * (x - radius)
            assert high is None or high >= 2 * (x + radius)
        for side, sign in ((row.lower, -1), (row.upper, 1)):
            found = [sign * bound for bound in side if bound is not None]
            assert found == sorted(found)  # further away, further out
            assert len(found) < len(grid) and all(bound is None for bound in side[len(found) :])
        reached = grid.index(row.radius)
        if row.verdicts[0] != "abstain":
            assert row.radius < abs(x)
            assert set(row.verdicts[: reached + 1]) == {"certified anomalous" if x > 0 else "certified normal"}
        assert set(row.verdicts[reached + 1 :]) <= {"abstain"}
        assert len(row.early) == len(row.early_n_samples) == 2
        assert set(row.early_n_samples) <= set(interim_sizes(400))
    assert [row.radius > 0 for row in rows] == [True, True, False, True, True]
    # For an easy image a few samples suffice; the larger radius takes no fewer.
    assert rows[0].early == ("certified normal",) * 2 and rows[4].early == ("certified anomalous",) * 2
    assert rows[0].early_n_samples[0] <= rows[0].early_n_samples[1] < 400


def test_a_row_contains_the_result_of_early_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequential, "RADIUS_GRID", ())
    values, plan = np.linspace(-0.3, 0.3, 25).tolist(), plan_of(n_samples=300)
    images, sampler = numbers(values), OneByOne()
    used = set()
    for index, row in enumerate(evaluate_certificates(sampler, images, plan, tmp_path)):
        for radius, verdict, draws in zip(plan.radii, row.early, row.early_n_samples, strict=True):
            noise = generator(seed_of(plan.seed, images.names[index]))
            found = certify_sequential(sampler, images.load(index), radius, 0.0, plan.n_samples, plan.alpha, noise)
            assert (found.verdict, found.n_samples) == (verdict, draws)
            used.add(draws)
    assert len(used) > 3


def test_without_a_threshold_there_are_bounds_alone(tmp_path: Path) -> None:
    (row,) = evaluate_certificates(Line(), numbers([1.0]), plan_of(threshold=None), tmp_path)
    assert row.verdicts == row.early == row.early_n_samples == () and row.radius == 0
    assert row.lower[0] is not None


def test_bounds_of_all_images_hold_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequential, "RADIUS_GRID", ())
    values, alpha, runs = np.linspace(-1, 1, 10).tolist(), 0.3, 120
    missed = 0
    for seed in range(runs):
        plan = plan_of(radii=(0.1,), confidence=1 - alpha, seed=seed, threshold=None)
        rows = evaluate_certificates(Line(), numbers(values), plan, tmp_path / str(seed))
        missed += any(
            row.lower[1] > 2 * (x - 0.1) or row.upper[1] < 2 * (x + 0.1) for x, row in zip(values, rows, strict=True)
        )
    assert 0 < missed / runs <= alpha + 3 * math.sqrt(alpha / runs)


def test_more_samples_tighten_bounds_and_more_images_hardly_widen_them(tmp_path: Path) -> None:
    def width(draws: int, count: int) -> float:
        plan = plan_of(n_samples=draws, threshold=None)
        rows = evaluate_certificates(Line(), numbers([0.5] * count), plan, tmp_path / f"{draws}-{count}")
        index = plan.radius_grid.index(0.1)
        return float(np.mean([row.upper[index] - row.lower[index] for row in rows]))

    few, more, many = (width(draws, 4) for draws in (60, 300, 3000))
    assert few > more > many > 4 * 0.1
    assert width(300, 4) < width(300, 12) < 1.3 * width(300, 4)


def test_an_interrupted_run_continues(tmp_path: Path) -> None:
    values = [-1.0, -0.4, 0.3, 1.0]
    whole = evaluate_certificates(Line(), numbers(values), plan_of(), tmp_path)
    for index in (1, 2):
        (tmp_path / "rows" / f"{index:05}.json").unlink()
    sampler, told = Line(), list[tuple[int, int]]()
    again = evaluate_certificates(
        sampler, numbers(values), plan_of(), tmp_path, progress=CallbackReporter(lambda *done: told.append(done))
    )
    assert without_time(again) == without_time(whole)
    assert sampler.drawn == 2 * 60
    assert told == [(2, 4), (3, 4), (4, 4)]
    finished = Line()
    assert evaluate_certificates(finished, numbers(values), plan_of(), tmp_path) == again
    assert finished.drawn == 0


@pytest.mark.parametrize(
    ("plan", "identity", "values", "word"),
    [
        (plan_of(n_samples=61), "", [1.0], "draws"),
        (plan_of(threshold=0.1), "", [1.0], "threshold"),
        (plan_of(), "another", [1.0], "detector"),
        (plan_of(), "", [1.0, 2.0], "names"),
    ],
)
def test_another_run_is_not_continued(
    tmp_path: Path, plan: CertifyPlan, identity: str, values: list[float], word: str
) -> None:
    evaluate_certificates(Line(), numbers([1.0]), plan_of(), tmp_path)
    with pytest.raises(OutputError, match=f"other {word}"):
        evaluate_certificates(Line(), numbers(values), plan, tmp_path, identity=identity)


@pytest.mark.parametrize("content", ["{}", '{"name": "0.png"', "[1]"])
def test_a_damaged_row_is_named(tmp_path: Path, content: str) -> None:
    evaluate_certificates(Line(), numbers([1.0]), plan_of(), tmp_path)
    (tmp_path / "rows" / "00000.json").write_text(content)
    with pytest.raises(OutputError, match=r"00000.json: a row is damaged .* delete it and run the same command again"):
        evaluate_certificates(Line(), numbers([1.0]), plan_of(), tmp_path)


def test_processes_that_share_the_images_make_the_same_rows(tmp_path: Path) -> None:
    values = [-1.0, -0.4, 0.1, 0.3, 1.0]
    alone = evaluate_certificates(Line(), numbers(values), plan_of(), tmp_path / "alone")
    samplers = [Line(), Line()]

    def other() -> None:
        evaluate_certificates(samplers[1], numbers(values), plan_of(), tmp_path / "shared", process=(1, 2))

    together = evaluate_certificates(
        samplers[0], numbers(values), plan_of(), tmp_path / "shared", process=(0, 2), wait=other
    )
    assert without_time(together) == without_time(alone)
    assert [sampler.drawn for sampler in samplers] == [3 * 60, 2 * 60]


def test_a_process_that_does_not_wait_finds_rows_missing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"00001\.json"):
        evaluate_certificates(Line(), numbers([1.0, 2.0]), plan_of(), tmp_path, process=(0, 2))


def test_seed_and_name_determine_the_noise_of_an_image(tmp_path: Path) -> None:
    first, second = evaluate_certificates(Line(), numbers([1.0, 1.0]), plan_of(), tmp_path / "a")
    again, _ = evaluate_certificates(Line(), numbers([1.0, 1.0]), plan_of(), tmp_path / "b")
    other, _ = evaluate_certificates(Line(), numbers([1.0, 1.0]), plan_of(seed=1), tmp_path / "c")
    (alone,) = evaluate_certificates(Line(), numbers([1.0]), plan_of(), tmp_path / "d")
    assert without_time([first]) == without_time([again])
    assert len({first.score, second.score, other.score}) == 3  # each noise its own
    assert alone.score == first.score  # whatever other images there are


def test_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image to certify"):
        evaluate_certificates(Line(), numbers([]), plan_of(), tmp_path)


def test_a_radius_that_needs_more_samples_is_refused_with_their_number(tmp_path: Path) -> None:
    images = numbers([1.0, -1.0, 0.5])
    sampler = Line()
    with pytest.raises(
        ConfigError, match=r"radius 0.4: cannot be certified with 60 noise samples .* or more noise"
    ) as refused:
        evaluate_certificates(sampler, images, plan_of(radii=(0.1, 0.4)), tmp_path / "few")
    assert sampler.drawn == 0
    needed = int(re.findall(r"draws (\d+)", str(refused.value))[0])
    with pytest.raises(ConfigError, match="cannot be certified"):
        check_reach(sampler, (1, 1), plan_of(radii=(0.4,), n_samples=needed - 1), 3)
    enough = plan_of(radii=(0.1, 0.4), n_samples=needed)
    index = enough.radius_grid.index(0.4)
    for row in evaluate_certificates(sampler, images, enough, tmp_path / "enough"):
        assert row.lower[index] is not None and row.upper[index] is not None


def test_a_radius_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"radius 2: .*no number of noise samples can certify"):
        check_reach(Line(), (1, 1), plan_of(radii=(2.0,)), 1)
    for plan in (CertifyPlan, BoundsPlan):
        for radius in (-0.1, float("nan"), float("inf")):
            with pytest.raises(ConfigError, match="radii"):
                plan.parse({"radii": (radius,), "norm": "l2"} if plan is BoundsPlan else {"radii": (radius,)})


def test_more_parts_need_more_samples() -> None:
    class Twice(Line):
        def shifts(self, height_px: int, width_px: int) -> tuple[float, ...]:
            return 2 * super().shifts(height_px, width_px)

    def refused(sampler: Line) -> int:
        with pytest.raises(ConfigError) as error:
            check_reach(sampler, (1, 1), plan_of(radii=(0.4,)), 3)
        return int(re.findall(r"draws (\d+)", str(error.value))[0])

    assert refused(Twice()) > refused(Line())


def test_the_radius_grid_contains_every_radius_once() -> None:
    grid = plan_of(radii=(0.0, 0.1, RADIUS_GRID[2])).radius_grid
    assert all(one < next for one, next in pairwise(grid))
    assert {0.0, 0.1, *RADIUS_GRID} == set(grid)


# --- no attack does better than the certificate says ----------------------------------------------------------------


def area(lower: Sequence[float], upper: Sequence[float]) -> float:
    """Share of pairs in which the anomalous image's score is above the good one's."""
    return float(np.mean(np.array(lower)[:, None] > np.array(upper)[None]))


def test_an_attack_on_the_smoothed_score_stays_within_the_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequential, "RADIUS_GRID", ())
    config = ScoreConfig(views=(FAR,), normalisation="noise_tolerant", filter_px=3, pooling=0.1)
    model = detector(config, calibrated=False)
    each, radius = 5, 0.3
    images = 0.5 + 0.02 * torch.randn(2 * each, 3, 32, 32, generator=generator())
    images[each:, :, 8:20, 8:20] += torch.linspace(0.1, 0.4, each).view(-1, 1, 1, 1)
    labels = np.arange(2 * each) // each
    test_images = CertifiedImages(images.__getitem__, labels, tuple(f"{i}.png" for i in range(2 * each)), "")
    rows = evaluate_certificates(
        TwoPath(model), test_images, plan_of(radii=(radius,), n_samples=64, threshold=None), tmp_path
    )
    certified = area([row.lower[1] for row in rows[each:]], [row.upper[1] for row in rows[:each]])
    clean = area([row.score for row in rows[each:]], [row.score for row in rows[:each]])

    def smoothed(image: Tensor, seed: int, draws: int) -> Tensor:
        view = resize(image[None], FAR.view_px).expand(draws, -1, -1, -1)
        recon = reconstruct(model.denoiser, view, FAR.sigma, generator(seed), independent=True)
        maps = mean_filter(combine_scales(scale_errors(view, recon), config.scales)[0], config.filter_px)
        return standardise(maps, model.statistics(FAR, 0), config)[0].median()

    attacked = []
    for row, image, label in zip(rows, images, labels, strict=True):
        sign = -1 if label else 1
        move = torch.randn(image.shape, generator=generator(5))
        for step in range(12):
            move = (radius * move / move.norm()).requires_grad_()
            (slope,) = torch.autograd.grad(smoothed(image + move, step, 16), move)
            move = (move + sign * 0.5 * radius * slope / slope.norm()).detach()
        with torch.no_grad():
            attacked.append(float(smoothed(image + radius * move / move.norm(), 99, 128)))
        assert row.lower[1] <= attacked[-1] <= row.upper[1]
    left = area(attacked[each:], attacked[:each])
    assert 0 < certified <= left <= clean
