"""Scores that point the wrong way, or nowhere: found where the images prove it, in every result, not by chance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import advrad
from advrad import metrics
from advrad.detectors.direction import BELOW, LEVEL, doubt_scores


def deal(normal: int, anomalous: int) -> np.ndarray:
    return np.repeat([0, 1], [normal, anomalous])


@pytest.mark.parametrize("ties", [False, True])
def test_the_probability_counts_all_ways_to_deal_out_the_labels(ties: bool) -> None:
    draws = np.random.default_rng(0)
    for _ in range(4):
        scores = draws.integers(0, 4, 9).astype(float) if ties else draws.random(9)
        labels = deal(5, 4)
        area = metrics.auroc(labels, scores)
        areas = []
        for chosen in itertools.combinations(range(9), 4):
            other = np.zeros(9, dtype=int)
            other[list(chosen)] = 1
            areas.append(metrics.auroc(other, scores))
        expected = np.mean(np.array(areas) <= area + 1e-9)
        assert metrics.auroc_by_chance(labels, scores) == pytest.approx(expected)


def test_many_samples_need_no_counting() -> None:
    draws = np.random.default_rng(1)
    scores, labels = draws.random(100), deal(60, 40)
    scores[60:] -= 0.15
    exact = metrics.auroc_by_chance(labels, scores)
    many = metrics.auroc_by_chance(deal(61, 40), np.append(np.median(scores), scores))
    assert many == pytest.approx(exact, rel=0.2)
    assert metrics.auroc_by_chance(deal(200, 100), np.zeros(300)) > 0.4


@pytest.mark.parametrize(("normal", "anomalous", "found"), [(4, 4, True), (3, 3, False), (2, 20, True), (1, 30, False)])
def test_few_images_prove_nothing(normal: int, anomalous: int, found: bool) -> None:
    labels = deal(normal, anomalous)
    doubt = doubt_scores(labels, -labels.astype(float) - 0.01 * np.arange(len(labels)), from_folder=False)
    assert (doubt is not None) is found
    if doubt is not None:
        assert doubt.name == "wrong direction" and "negate it" in doubt.words and "mean nothing" in doubt.note


def test_a_score_without_information_is_doubted_as_rarely_as_the_level_says() -> None:
    draws, labels = np.random.default_rng(2), deal(15, 15)
    found = [doubt_scores(labels, draws.normal(size=30), from_folder=False) is not None for _ in range(200)]
    assert np.mean(found) <= LEVEL + 3 * (LEVEL / 200) ** 0.5


def test_a_bad_score_on_many_images_is_not_doubted() -> None:
    draws, labels = np.random.default_rng(3), deal(2000, 2000)
    scores = draws.normal(size=4000) - 0.15 * labels
    assert BELOW < metrics.auroc(labels, scores) < 0.47
    assert doubt_scores(labels, scores, from_folder=False) is None


def test_a_model_folder_doubts_the_labels_alone() -> None:
    labels = deal(6, 6)
    doubt = doubt_scores(labels, 1.0 - labels, from_folder=True)
    assert doubt is not None and "swapped" in doubt.words and "negate" not in doubt.words


def test_equal_scores_and_one_class_alone() -> None:
    doubt = doubt_scores(deal(3, 3), np.full(6, 0.25), from_folder=False)
    assert doubt is not None and doubt.name == "constant score" and "0.25" in doubt.words
    assert doubt_scores(deal(6, 0), np.zeros(6), from_folder=False) is None


@pytest.fixture(scope="module")
def spots() -> tuple[torch.Tensor, list[int]]:
    images = 0.5 * torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images[5:, :, 4:8, 4:8] = 1.0
    return images, [0] * 5 + [1] * 5


@pytest.mark.parametrize(("sign", "name"), [(1, None), (-1, "wrong direction"), (0, "constant score")])
def test_evaluation_attack_and_certificate_say_it(
    spots: tuple[torch.Tensor, list[int]], sign: int, name: str | None
) -> None:
    detector = advrad.wrap(lambda x: sign * x.amax((1, 2, 3)), deterministic=True)
    said = {"wrong direction": "larger for normal images", "constant score": "the same score"}
    evaluated = advrad.evaluate(detector, spots)
    attacked = advrad.attack(detector, spots, attack="square", eps="1/255", steps=2)
    certified = advrad.certify(detector, spots, radii=0.01, sigma=0.01, n_samples=60)
    flags = {flag.name: flag.words for flag in attacked.flags}
    if name is None:
        assert not flags.keys() & said.keys() and attacked.note is None and not certified.warnings
        assert not any(words in text for text in evaluated.warnings for words in said.values())
        return
    assert said[name] in flags[name] and "these figures mean nothing" in attacked.to_dict()["note"]
    assert any(said[name] in text for text in evaluated.to_dict()["warnings"])
    assert any(said[name] in text and "mean nothing" in text for text in certified.to_dict()["warnings"])
