"""A service in this process, with a small detector."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import closed_form_run
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from advrad.serving.access import Role, add_key
from advrad.serving.api.logs import set_up_logs
from advrad.serving.app import create_app
from advrad.serving.settings import ServeSettings

PRODUCT = "widget"
POST = f"/v1/products/{PRODUCT}/inspections"


@pytest.fixture(autouse=True, scope="session")
def log() -> io.StringIO:
    """The log of all services of these tests."""
    stream = io.StringIO()
    set_up_logs(stream)
    return stream


@pytest.fixture(scope="session")
def closed_run(widgets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return closed_form_run.write(widgets, tmp_path_factory.mktemp("served") / "run")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def client(closed_run: Path, folder: Path) -> Iterator[TestClient]:
    """A service without keys, which a whole module shares."""
    app = create_app(ServeSettings(data=folder, max_pixels=200_000, max_images=4, deadline_s=60), {PRODUCT: closed_run})
    with TestClient(app, base_url="http://localhost") as found:
        yield found


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Role, str]]:
    path = tmp_path_factory.mktemp("keys") / "keys"
    return path, {role: add_key(path, f"{role}-key", role) for role in Role}


@pytest.fixture(scope="module")
def locked(
    closed_run: Path, keys: tuple[Path, dict[Role, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """A service with keys, which a whole module shares."""
    settings = ServeSettings(data=tmp_path_factory.mktemp("locked"), keys=keys[0], wrong_keys=100_000, deadline_s=60)
    with TestClient(create_app(settings, {PRODUCT: closed_run}), base_url="http://plant.example") as found:
        yield found


@pytest.fixture(scope="session")
def picture(widgets: Path) -> bytes:
    return (widgets / "train" / "good" / "000.png").read_bytes()


def png(height: int = 64, width: int = 64, seed: int = 0) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()
