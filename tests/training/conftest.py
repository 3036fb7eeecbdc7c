"""Fixtures of the tests of training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from short_runs import small
from toy_datasets import make_folder


@pytest.fixture
def small_networks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiny networks, on one thread."""
    with small(monkeypatch):
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread, as in the child processes: the order of sums depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twenty normal images; tests must not change it."""
    return make_folder(tmp_path_factory.mktemp("product"), good=20, size=64)
