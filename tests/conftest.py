"""Fixtures and settings of all tests."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trained_run

# A shell that starts the tests in the background makes them, and the programs they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked ``anomalib`` where anomalib is not installed."""
    if item.get_closest_marker("anomalib") and importlib.util.find_spec("anomalib") is None:
        pytest.skip("anomalib is not installed here; `make test` runs this in .venv-anomalib")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of public data sets beside the checkout, for tests marked ``real``."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the public data sets are missing: ../shared/data")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests away from the user's cache and the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVRAD_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def widgets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny data set in the layout of MVTec AD; tests must not change it."""
    from toy_datasets import make_mvtec

    defects = {"dent": 2, "scratch": 3}
    return make_mvtec(tmp_path_factory.mktemp("data"), train=48, good=6, defects=defects, size=trained_run.SIZE_PX)


@pytest.fixture(scope="session")
def widget_run(tmp_path_factory: pytest.TempPathFactory, widgets: Path) -> Path:
    """A model folder trained on `widgets` for a few steps; tests must not change it."""
    from advrad.training.options import RunOptions
    from advrad.training.run import train

    folder = tmp_path_factory.mktemp("runs") / "widget"
    with pytest.MonkeyPatch.context() as patch:
        trained_run.shrink(patch)
        train(widgets, folder, RunOptions(steps=trained_run.STEPS, size_px=trained_run.SIZE_PX, score="paper"))
    return folder


@pytest.fixture(scope="session")
def closed_form_run(tmp_path_factory: pytest.TempPathFactory, widgets: Path) -> Path:
    """A model folder with a closed-form detector of `widgets`; tests must not change it."""
    import closed_form_run

    return closed_form_run.write(widgets, tmp_path_factory.mktemp("runs") / "closed")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> trained_run.Cli:
    """A function that runs `advrad ARGS` in this process."""
    return trained_run.call(capsys, monkeypatch)
