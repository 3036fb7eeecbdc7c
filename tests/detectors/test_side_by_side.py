"""Several threads may score with one detector at once: each gets what it would get alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import toy_graphs

from advrad.data.transforms import to_tensor
from advrad.detectors.outputs import Prediction
from advrad.inference.judging import ImageJudge, LoadedImage

THREADS = 4
ROUNDS = 3


def judged(judge: ImageJudge, images: list[LoadedImage]) -> list[Prediction]:
    return [found.prediction for image in images for found in judge.decide([image])]


@pytest.mark.parametrize("kind", toy_graphs.KINDS)
def test_threads_that_score_at_once_get_what_each_would_get_alone(kind: str) -> None:
    judge = ImageJudge(toy_graphs.made(kind))
    images = []
    for number in range(THREADS):
        pixels = toy_graphs.pixels(32, 32, number)
        working = judge.framing.apply(to_tensor(np.divide(pixels, np.float32(255)))[None])[0]
        images.append(LoadedImage(Path(f"{number}.png"), working, None, 32, 32))
    alone = judged(judge, images)
    together = Barrier(THREADS)

    def at_once(first: int) -> list[Prediction]:
        """Score all images, each thread from another one on, so that different ones are in work at a time."""
        together.wait(30)
        order = [*images[first:], *images[:first]] * ROUNDS
        found = judged(judge, order)
        return [
            found[(number - first) % THREADS + THREADS * turn] for turn in range(ROUNDS) for number in range(THREADS)
        ]

    with ThreadPoolExecutor(THREADS) as pool:
        found = [prediction for one in pool.map(at_once, range(THREADS)) for prediction in one]
    assert len({prediction.score for prediction in alone}) == THREADS
    assert len(found) == THREADS * ROUNDS * THREADS
    for place, prediction in enumerate(found):
        wanted = alone[place % THREADS]
        assert prediction.score == wanted.score
        assert prediction.defective == wanted.defective
        assert np.array_equal(prediction.anomaly_map, wanted.anomaly_map)
