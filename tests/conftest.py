"""What all tests share."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trained_run

# A shell that starts the tests in the background makes them ignore Ctrl-C, and so would the programs that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``anomalib`` run where it is installed."""
    if item.get_closest_marker("anomalib") and importlib.util.find_spec("anomalib") is None:
        pytest.skip("anomalib is not installed here; `make test` runs this in .venv-anomalib")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets next to the checkout, for tests marked ``real``."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the public data sets are not here: ../shared/data is missing")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test touches the user's cache or the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVRAD_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def widgets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny product in the layout of MVTec AD; to be read only."""
    from toy_datasets import make_mvtec

    defects = {"dent": 2, "scratch": 3}
    return make_mvtec(tmp_path_factory.mktemp("data"), train=48, good=6, defects=defects, size=trained_run.SIZE_PX)


@pytest.fixture(scope="session")
def widget_run(tmp_path_factory: pytest.TempPathFactory, widgets: Path) -> Path:
    """A run trained on `widgets` for a few steps; to be read only."""
    from advrad.training.options import RunOptions
    from advrad.training.run import train

    folder = tmp_path_factory.mktemp("runs") / "widget"
    with pytest.MonkeyPatch.context() as patch:
        trained_run.shrink(patch)
        train(widgets, folder, RunOptions(steps=trained_run.STEPS, size_px=trained_run.SIZE_PX, score="paper"))
    return folder


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> trained_run.Cli:
    """Runs `advrad ARGS` in this process."""
    return trained_run.call(capsys, monkeypatch)
