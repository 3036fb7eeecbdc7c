"""A detector of the grid beside the closed form: which images each half learns from, and which set the thresholds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from toy_models import detector, generator, random_images, stack

from advrad.baselines import guarded
from advrad.baselines.base import FitContext
from advrad.baselines.feature_memory import FeaturesOptions, fit_feature_baseline
from advrad.baselines.guarded import OTHER, GuardedOptions, fit_guarded
from advrad.data.loading import ImageStack
from advrad.data.splits import rate_in_reach
from advrad.detectors.base import AnomalyDetector, SupportsScoreBounds
from advrad.detectors.conformal import calibration_from
from advrad.detectors.feature_config import NetworkConfig
from advrad.detectors.feature_memory import FeatureDetector
from advrad.detectors.feature_network import build_network
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.detectors.wrappers import wrap
from advrad.errors import ConfigError
from advrad.training import feature_fit, guard_trial, score_selection
from advrad.training.closed_form import ClosedFormFit, fit_with_plans
from advrad.training.closed_form_plan import MemberPlan

PLAN = MemberPlan(name="small", size_px=32, cell_px=4, patch_cells=3)
OPTIONS = GuardedOptions()


def fit_small(context: FitContext, images: ImageStack, false_alarm_rate: float) -> ClosedFormFit:
    """A closed form with one small member, in place of the search for the best ones."""
    rate = max(false_alarm_rate, rate_in_reach(len(images)))
    return fit_with_plans(images.batch(slice(None)), [PLAN], false_alarm_rate=rate, seed=context.seed)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "fit_memory", fit_small)
    monkeypatch.setattr(guard_trial, "MOST_JUDGED", 4)
    monkeypatch.setattr(score_selection, "DEFECTS_PER_SELECTION", 8)


def deviation(images: Tensor) -> Tensor:
    """A detector whose score is smooth."""
    return (images - images.mean((1, 2, 3), keepdim=True)).square().mean(1)


class Inner:
    """Remembers the names of the images from which the other detector learns."""

    def __init__(self, fit: Callable[[FitContext], AnomalyDetector] | None = None) -> None:
        self.fit = fit or (lambda context: wrap(deviation, deterministic=True))
        self.names: list[str] = []

    def __call__(self, context: FitContext) -> AnomalyDetector:
        self.names = [record.path.name for record in context.normal_images.records]
        return self.fit(context)


def test_of_many_images_part_b_sets_both_thresholds() -> None:
    inner, images = Inner(), stack(80)
    found = fit_guarded(FitContext(images), OPTIONS, inner)
    held = [images.records[row].path.name for row in found.memory.config.held_out]
    assert set(inner.names).isdisjoint(held) and len(inner.names) + len(held) == 80
    assert [test.n for test in found.tests] == [len(held)] * 2 == [39, 39]
    assert sum(test.false_alarm_rate for test in found.tests) <= OPTIONS.false_alarm_rate
    assert found.config.joint
    scores = torch.cat([deviation(image[None]).amax((1, 2)) for image in images.batch(found.memory.config.held_out)])
    assert found.tests[1].threshold == float(scores.max())


def test_of_few_images_all_are_in_the_memory_and_half_set_the_other_threshold() -> None:
    inner, images = Inner(), stack(48)
    found = fit_guarded(FitContext(images), OPTIONS, inner)
    assert len(inner.names) == len(set(inner.names)) == 24
    assert [test.n for test in found.tests] == [48, 24]
    assert [test.false_alarm_rate for test in found.tests] == pytest.approx([1 / 49, 1 / 25])
    others = [row for row, record in enumerate(images.records) if record.path.name not in inner.names]
    assert found.tests[1].threshold == float(deviation(images.batch(others)).amax((1, 2)).max())
    again, other = Inner(), Inner()
    fit_guarded(FitContext(images), OPTIONS, again)
    fit_guarded(FitContext(images, seed=1), OPTIONS, other)
    assert again.names == inner.names != other.names


def test_copies_set_no_threshold() -> None:
    images = stack(48)
    twice = images.at([*range(48), *range(10)])
    inner = Inner()
    found = fit_guarded(FitContext(twice), OPTIONS, inner)
    assert len(inner.names) == len(set(inner.names)) == 24
    assert [test.n for test in found.tests] == [48, 24]


def test_features_of_few_images_leave_one_out_as_the_memory_does(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network(NetworkConfig(name="lite0", layers=(0,)))
    monkeypatch.setattr(feature_fit, "pretrained_network", lambda name, layers: network)
    inner = Inner(lambda context: fit_feature_baseline(context, FeaturesOptions(network="lite0", layers=(0,))))
    images = stack(48)
    found = fit_guarded(FitContext(images), OPTIONS, inner)
    features = found.others[OTHER]
    assert isinstance(features, FeatureDetector) and features.config.leaves_one_out
    assert features.groups.unique().tolist() == list(range(48))
    assert [test.n for test in found.tests] == [48, 48]
    assert not found.config.joint
    row = torch.tensor([5])
    with torch.no_grad():
        alone = float(features.scores(images.batch([5]), exclude=row))
    assert any(abs(score - alone) < 1e-6 for score in found.tests[1].scores)


def test_advrad_keeps_its_own_threshold_images() -> None:
    learned = detector()
    scores = [float(value) for value in torch.rand(39, generator=generator())]
    learned.update_config(calibration=calibration_from(scores, scores, 0.05))
    context = FitContext(stack(48), diffusion=lambda: learned)
    found = fit_guarded(context, OPTIONS, lambda given: WhiteBoxAdvRAD(learned))
    assert [test.n for test in found.tests] == [48, 39]
    assert found.tests[1].scores == tuple(sorted(scores))
    assert not found.deterministic
    learned.update_config(calibration=None)
    with pytest.raises(ConfigError, match="has no threshold; calibrate it"):
        fit_guarded(context, OPTIONS, lambda given: WhiteBoxAdvRAD(learned))


def test_bounds_hold_whatever_the_other_half_says() -> None:
    found = fit_guarded(FitContext(stack(48)), OPTIONS, Inner())
    assert isinstance(found, SupportsScoreBounds)
    images, eps = random_images(4, 32), 2 / 255
    bounds = found.score_bounds(images, eps, "linf")
    moved = (images + eps * torch.sign(torch.randn(images.shape, generator=generator()))).clamp(0, 1)
    scores = found.infer(moved, generator()).scores
    assert ((bounds.lower <= scores) & (scores <= bounds.upper)).all()
