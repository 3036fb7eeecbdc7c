"""Metrics against slow oracles, scikit-learn, anomalib and their own laws."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from advrad.errors import ConfigError, DataError
from advrad.metrics import (
    aupro,
    auroc,
    auroc_interval,
    auroc_standard_error,
    pixel_auroc,
    rates,
    roc_curve,
    share_above,
)


def auroc_oracle(labels: np.ndarray, scores: np.ndarray) -> float:
    """Every pair of an anomalous and a normal sample, one by one."""
    wins = 0.0
    for anomalous in scores[labels == 1]:
        for normal in scores[labels == 0]:
            wins += 1.0 if anomalous > normal else 0.5 if anomalous == normal else 0.0
    return wins / (int((labels == 1).sum()) * int((labels == 0).sum()))


def aupro_oracle(masks: np.ndarray, maps: np.ndarray, fpr_limit: float) -> float:
    """Every threshold, every region, then trapezoids up to the interpolated limit."""
    regions = []
    for image, mask in enumerate(masks):
        found, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(image, found == region) for region in range(1, count + 1)]
    fpr, pro = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        flagged = maps >= threshold
        fpr.append(flagged[~masks].mean())
        pro.append(np.mean([flagged[image][region].mean() for image, region in regions]))
    area = 0.0
    for f0, f1, p0, p1 in zip(fpr, fpr[1:], pro, pro[1:], strict=False):
        if f0 >= fpr_limit or f1 == f0:
            continue
        stop = min(f1, fpr_limit)
        area += (stop - f0) * (p0 + p0 + (p1 - p0) * (stop - f0) / (f1 - f0)) / 2
    return area / fpr_limit


@st.composite
def samples(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels of both classes and coarse scores, so that ties are common."""
    count = draw(st.integers(2, 30))
    labels = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count).filter(lambda x: len(set(x)) == 2))
    levels = draw(st.sampled_from([2, 5, 1000]))
    scores = draw(st.lists(st.integers(-levels, levels), min_size=count, max_size=count))
    return np.array(labels), np.array(scores) / 7.0


@st.composite
def images(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Small masks with some regions, and maps with more or fewer ties."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 4)), draw(st.integers(2, 9)), draw(st.integers(2, 9)))
    masks = generator.random(shape) < draw(st.sampled_from([0.05, 0.2, 0.6]))
    masks[0, 0, 0], masks[0, 1, 1] = True, False
    levels = draw(st.sampled_from([2, 6, 10**6]))
    maps = generator.integers(0, levels, shape) + draw(st.sampled_from([0.0, 0.3])) * levels * masks
    return masks, (maps / (2 * levels)).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(samples())
def test_auroc_equals_every_pair_counted(sample: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = sample
    assert auroc(labels, scores) == auroc_oracle(labels, scores)
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(samples(), st.integers(0, 2**32 - 1))
def test_auroc_laws(sample: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    labels, scores = sample
    value = auroc(labels, scores)
    order = np.random.default_rng(seed).permutation(len(labels))
    assert auroc(labels[order], scores[order]) == value
    assert auroc(labels, np.unique(scores, return_inverse=True)[1]) == value  # any increasing map
    assert auroc(1 - labels, -scores) == value
    assert auroc(labels, -scores) == pytest.approx(1 - value, abs=1e-12)
    assert auroc(labels == 1, scores) == value
    assert auroc(labels, np.zeros(len(labels))) == 0.5


@settings(max_examples=100, deadline=None)
@given(samples())
def test_roc_curve_equals_sklearn(sample: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = sample
    fpr, tpr = roc_curve(labels, scores)
    expected_fpr, expected_tpr, thresholds = sklearn_roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(fpr, expected_fpr, atol=1e-12)
    np.testing.assert_allclose(tpr, expected_tpr, atol=1e-12)
    area = np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2)
    assert area == pytest.approx(auroc(labels, scores), abs=1e-12)
    for threshold, f, t in zip(thresholds[1:], fpr[1:], tpr[1:], strict=True):
        # The verdict is strict, so the point of a level is the verdict just below it.
        assert rates(labels, scores, np.nextafter(threshold, -np.inf)) == (pytest.approx(t), pytest.approx(f))


@settings(max_examples=100, deadline=None)
@given(samples())
def test_roc_curve_equals_every_threshold_counted(sample: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = sample
    levels = np.unique(scores)[::-1]
    normal, anomalous = scores[labels == 0], scores[labels == 1]
    fpr, tpr = roc_curve(labels, scores)
    np.testing.assert_array_equal(fpr, [0.0, *((normal >= level).mean() for level in levels)])
    np.testing.assert_array_equal(tpr, [0.0, *((anomalous >= level).mean() for level in levels)])


@settings(max_examples=100, deadline=None)
@given(samples())
def test_rates_are_the_shares_of_each_class(sample: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = sample
    for threshold in np.unique(scores):
        expected = (share_above(scores[labels == 1], threshold), share_above(scores[labels == 0], threshold))
        assert rates(labels, scores, threshold) == expected


def test_a_share_without_threshold_or_scores_is_none() -> None:
    assert share_above([], 0.5) is None
    assert share_above([0.1], None) is None
    assert share_above([0.5, 0.6], 0.5) == 0.5


def test_rates_are_strict() -> None:
    labels, scores = [0, 0, 1, 1], [0.1, 0.5, 0.5, 0.9]
    assert rates(labels, scores, 0.5) == (0.5, 0.0)
    assert rates(labels, scores, 0.49) == (1.0, 0.5)
    assert rates(labels, scores, -np.inf) == (1.0, 1.0)
    assert rates(labels, scores, np.inf) == (0.0, 0.0)


def test_interval() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], [30, 50])
    scores = generator.normal(labels * 1.2)
    low, high = auroc_interval(labels, scores, seed=3)
    assert 0.0 < low < auroc(labels, scores) < high < 1.0
    assert (low, high) == auroc_interval(labels, scores, seed=3)
    assert (low, high) != auroc_interval(labels, scores, seed=4)
    narrow = auroc_interval(labels, scores, seed=3, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high
    # Width against the large-sample formula of Hanley and McNeil (1982).
    area = auroc(labels, scores)
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + 49 * (q1 - area**2) + 29 * (q2 - area**2)) / (30 * 50)
    assert auroc_standard_error(area, 30, 50) == pytest.approx(variance**0.5)
    assert high - low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.3)
    assert auroc_interval([0, 0, 1], [0.0, 0.1, 0.2], seed=0, n_resamples=5) == (1.0, 1.0)


def test_interval_equals_plain_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    labels = np.repeat([0, 1], [7, 9])
    scores = generator.integers(0, 6, 16) / 3.0
    monkeypatch.setattr("advrad.metrics._CHUNK", 16)  # one draw at a time, as below
    replay = np.random.default_rng(5)
    areas = []
    for _ in range(40):
        normal = scores[labels == 0][replay.integers(0, 7, 7)]
        anomalous = scores[labels == 1][replay.integers(0, 9, 9)]
        areas.append(auroc_oracle(labels, np.concatenate([normal, anomalous])))
    expected = np.quantile(areas, [0.025, 0.975])
    assert auroc_interval(labels, scores, seed=5, n_resamples=40) == pytest.approx(tuple(expected), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(images())
def test_pixel_auroc_equals_sklearn(sample: tuple[np.ndarray, np.ndarray]) -> None:
    masks, maps = sample
    expected = roc_auc_score(masks.ravel(), maps.ravel())
    assert pixel_auroc(masks, maps) == pytest.approx(expected, abs=1e-9)
    assert pixel_auroc(masks.astype(np.uint8), maps.astype(np.float64)) == pixel_auroc(masks, maps)


@settings(max_examples=60, deadline=None)
@given(images(), st.sampled_from([0.01, 0.05, 0.3, 0.5, 1.0]))
def test_aupro_equals_oracle(sample: tuple[np.ndarray, np.ndarray], fpr_limit: float) -> None:
    masks, maps = sample
    value = aupro(masks, maps, fpr_limit)
    assert value == pytest.approx(aupro_oracle(masks, maps, fpr_limit), abs=1e-9)
    assert 0.0 <= value <= 1.0 + 1e-12


@settings(max_examples=40, deadline=None)
@given(images(), st.integers(0, 2**32 - 1))
def test_pixel_laws(sample: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    masks, maps = sample
    order = np.random.default_rng(seed).permutation(len(masks))
    ranks = np.unique(maps, return_inverse=True)[1].reshape(maps.shape)
    for metric in (pixel_auroc, aupro):
        value = metric(masks, maps)
        assert metric(masks[order], maps[order]) == pytest.approx(value, abs=1e-12)
        assert metric(masks, ranks) == pytest.approx(value, abs=1e-12)
        assert metric(masks.transpose(0, 2, 1), maps.transpose(0, 2, 1)) == pytest.approx(value, abs=1e-12)


def test_aupro_by_hand() -> None:
    masks = np.zeros((2, 10, 10), dtype=bool)
    masks[0, :2, :2] = True  # found at once
    masks[1, 4, 4] = masks[1, 5, 5] = True  # corners touch: one region of two pixels, one of them found
    maps = np.linspace(0.0, 0.1, 200).reshape(2, 10, 10)
    maps[0, :2, :2], maps[1, 4, 4], maps[1, 5, 5] = 1.0, 1.0, -1.0
    assert aupro(masks, maps) == pytest.approx(0.75)
    assert aupro(masks, maps, 1.0) == pytest.approx(0.75)
    assert aupro(masks, np.zeros((2, 10, 10))) == pytest.approx(0.15)  # all tied: a straight line to (1, 1)
    assert aupro(masks, masks.astype(float)) == 1.0


def test_large_maps_are_exact_in_float32() -> None:
    generator = np.random.default_rng(0)
    masks = np.zeros((30, 64, 64), dtype=bool)
    masks[:20, 10:30, 20:40] = True
    maps = generator.random(masks.shape, dtype=np.float32) + 0.2 * masks.astype(np.float32)
    assert pixel_auroc(masks, maps) == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-9)


LABELS, SCORES = np.array([0, 1]), np.array([0.0, 1.0])
MASKS, MAPS = np.array([[[True, False]]]), np.array([[[1.0, 0.0]]])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: auroc(LABELS, SCORES[:1]), DataError, "do not match"),
        (lambda: auroc(LABELS[:, None], SCORES[:, None]), DataError, r"shape \(n,\)"),
        (lambda: auroc([], []), DataError, "no anomalous sample among 0"),
        (lambda: auroc([0, 0], SCORES), DataError, "no anomalous sample"),
        (lambda: auroc([1, 1], SCORES), DataError, "no normal sample"),
        (lambda: auroc([0, 2], SCORES), DataError, "neither 0 nor 1"),
        (lambda: auroc(["0", "1"], SCORES), DataError, "neither 0 nor 1"),
        (lambda: auroc(LABELS, [0.0, np.nan]), DataError, "NaN or infinite"),
        (lambda: auroc(LABELS, [0.0, np.inf]), DataError, "NaN or infinite"),
        (lambda: auroc(LABELS, [0j, 1j]), DataError, "real numbers"),
        (lambda: roc_curve([1, 1], SCORES), DataError, "no normal sample"),
        (lambda: auroc_interval(LABELS, SCORES, seed=0, n_resamples=0), ConfigError, "n_resamples 0: must be"),
        (lambda: auroc_interval(LABELS, SCORES, seed=0, confidence=1.0), ConfigError, "confidence"),
        (lambda: auroc_interval([0, 0], SCORES, seed=0), DataError, "no anomalous sample"),
        (lambda: rates([0, 0], SCORES, 0.5), DataError, "no anomalous sample"),
        (lambda: rates(LABELS, SCORES, np.nan), ConfigError, "threshold"),
        (lambda: pixel_auroc(MASKS[0], MAPS[0]), DataError, r"shape \(n, h, w\)"),
        (lambda: pixel_auroc(MASKS, MAPS[:, :, :1]), DataError, "do not match"),
        (lambda: pixel_auroc(~MASKS & False, MAPS), DataError, "no anomalous pixel"),
        (lambda: pixel_auroc(MASKS | True, MAPS), DataError, "no normal pixel"),
        (lambda: pixel_auroc(MASKS * 255, MAPS), DataError, "neither 0 nor 1"),
        (lambda: aupro(MASKS, MAPS * np.nan), DataError, "NaN or infinite"),
        (lambda: aupro(MASKS, MAPS, 0.0), ConfigError, "fpr_limit"),
        (lambda: aupro(MASKS, MAPS, 1.1), ConfigError, "fpr_limit"),
        (lambda: aupro(MASKS, MAPS, np.nan), ConfigError, "fpr_limit"),
    ],
)
def test_refusals(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_inputs_are_left_alone() -> None:
    labels, scores = np.array([1, 0, 1, 0]), np.array([0.4, 0.3, 0.2, 0.1])
    masks, maps = labels.reshape(1, 2, 2) == 1, scores.reshape(1, 2, 2).copy()
    auroc(labels, scores), roc_curve(labels, scores), pixel_auroc(masks, maps), aupro(masks, maps)
    np.testing.assert_array_equal(scores, [0.4, 0.3, 0.2, 0.1])
    np.testing.assert_array_equal(maps.ravel(), [0.4, 0.3, 0.2, 0.1])


@pytest.fixture(scope="module")
def anomalib_metrics() -> Any:
    return importlib.import_module("anomalib.metrics")


def anomalib_value(metric: Any, masks: np.ndarray, maps: np.ndarray) -> float:
    """One value of an anomalib metric; its values must lie in [0, 1], or it applies a sigmoid."""
    import torch

    # The part of the class below its own batches takes plain tensors.
    bare = type(metric).__mro__[2]
    assert bare.__name__.startswith("_AU")
    bare.update(metric, torch.from_numpy(maps.copy()), torch.from_numpy(masks.astype(np.int64)))
    return float(bare.compute(metric))


@pytest.mark.anomalib
@pytest.mark.parametrize("case", ["smooth", "ties", "tiny", "inverted", "perfect"])
def test_equal_to_anomalib(anomalib_metrics: Any, case: str) -> None:
    generator = np.random.default_rng(7)
    masks = ndimage.gaussian_filter(generator.normal(size=(12, 48, 40)), (0, 3, 3)) > 0.25
    masks[:4] = False
    if case == "tiny":
        masks = generator.random((12, 48, 40)) < 0.01
    maps = ndimage.gaussian_filter(generator.normal(size=masks.shape) + 1.0 * masks, (0, 1, 1))
    maps = {"inverted": -maps, "perfect": 1.0 * masks}.get(case, maps)
    maps = ((maps - maps.min()) / (maps.max() - maps.min())).astype(np.float32)
    if case == "ties":
        maps = np.round(maps * 12).astype(np.float32) / 12
    labels, scores = masks.any(axis=(1, 2)), maps.max(axis=(1, 2))

    fields = ["anomaly_map", "gt_mask"]
    for limit in (0.05, 0.3, 1.0):
        theirs = anomalib_value(anomalib_metrics.AUPRO(fields, fpr_limit=limit), masks, maps)
        assert aupro(masks, maps, limit) == pytest.approx(theirs, abs=1e-6)
    theirs = anomalib_value(anomalib_metrics.AUROC(fields), masks, maps)
    assert pixel_auroc(masks, maps) == pytest.approx(theirs, abs=1e-6)
    if 0 < labels.sum() < len(labels):
        theirs = anomalib_value(anomalib_metrics.AUROC(fields), labels, scores)
        assert auroc(labels, scores) == pytest.approx(theirs, abs=1e-6)
