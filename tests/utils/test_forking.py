"""Forked children: they predict and read images, whatever the parent did before."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from advrad.data.images import read_image
from advrad.data.pillow_limits import PILLOW_LIMITS
from advrad.detectors.loading import load_detector
from advrad.utils.forking import ForkSafeLock

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
]

LIMIT_S = 60.0


def in_child(function: Callable[[], bool]) -> str:
    """Run a function in a forked child; ``right``, ``wrong`` or ``hangs``."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            status = 0 if function() else 1
        finally:
            os._exit(status)
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "right" if status == 0 else "wrong"
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"


@pytest.mark.parametrize("kind", ["widget_run", "closed_form_run"])
def test_a_child_predicts_what_its_parent_predicted(kind: str, request: pytest.FixtureRequest, widgets: Path) -> None:
    detector = load_detector(request.getfixturevalue(kind))
    images = sorted((widgets / "test" / "good").iterdir())[:2]
    scores = [prediction.score for prediction in detector.predict(images)]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.exp(torch.ones(1000, 1000))  # starts the threads of the parent, for which a child would wait

    def same() -> bool:
        again = [prediction.score for prediction in detector.predict(images)]
        return torch.get_num_threads() == 1 and again == pytest.approx(scores, rel=1e-5)

    found = in_child(same)
    threads = torch.get_num_threads()
    torch.set_num_threads(before)
    assert found == "right"
    assert threads == 2  # the parent keeps its threads


def test_a_lock_that_another_thread_held_is_free_in_a_child() -> None:
    reset: list[bool] = []
    lock, held, done = ForkSafeLock(lambda: reset.append(True)), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()

    def take() -> bool:
        with lock:
            return lock.locked() and reset == [True]

    assert in_child(take) == "right"
    assert lock.locked() and not reset
    done.set()
    thread.join()
    assert not lock.locked()


def test_a_child_reads_images_while_a_thread_of_the_parent_reads(widgets: Path) -> None:
    from PIL import Image

    image = min((widgets / "test" / "good").iterdir())
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    held, done = threading.Event(), threading.Event()

    def read_slowly() -> None:
        with PILLOW_LIMITS.off():
            held.set()
            done.wait()

    thread = threading.Thread(target=read_slowly)
    thread.start()
    held.wait()

    def read() -> bool:
        kept = limit == Image.MAX_IMAGE_PIXELS and list(warnings.filters) == filters
        return kept and read_image(image).ndim == 3 and limit == Image.MAX_IMAGE_PIXELS

    assert Image.MAX_IMAGE_PIXELS is None
    assert in_child(read) == "right"
    done.set()
    thread.join()
    assert limit == Image.MAX_IMAGE_PIXELS
