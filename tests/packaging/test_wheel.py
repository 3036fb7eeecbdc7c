"""The wheel holds all that the package needs, and serves in an environment that holds nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest
import torch
from soak_service import Service

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_every_file_of_the_package_is_in_it(wheel: Path) -> None:
    files = {path.relative_to(SOURCE).as_posix() for path in (SOURCE / "advrad").rglob("*") if path.is_file()}
    wanted = {name for name in files if "__pycache__" not in name}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == wanted


@pytest.mark.parametrize("kind", ["templates/", "static/", "store/migrations/versions/"])
def test_it_holds_what_the_service_reads_beside_its_code(wheel: Path, kind: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = [name for name in archive.namelist() if name.startswith("advrad/serving/") and kind in name]
    assert held


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_it_serves_where_nothing_else_is_installed(
    wheel: Path, closed_form_run: Path, widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "environment" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "environment"], check=True)
    pinned = ["-c", ROOT / "constraints.txt", f"torch=={torch.__version__.partition('+')[0]}"]
    subprocess.run([python, "-m", "pip", "install", "-qq", *pinned, f"{wheel}[serve]"], check=True)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    with Service(closed_form_run, "widget", tmp_path / "data", python=str(python)) as service:
        with httpx.Client(base_url=service.address, timeout=60) as client:
            page = client.get("/", headers={"Accept": "text/html"})
            assert page.status_code == 200, page.text
            used = set(re.findall(r"(?:src|href)=\"([^#\"][^\"]*)\"", page.text))
            assert used and all(address.startswith("/") for address in used)
            assert {address: client.get(address).status_code for address in used} == dict.fromkeys(used, 200)
            picture = next((widgets / "test" / "good").iterdir()).read_bytes()
            sent = client.post(
                "/v1/products/widget/inspections", content=picture, headers={"Content-Type": "image/png"}
            )
            assert sent.status_code == 201, sent.text
            (inspection,) = sent.json()["inspections"]
            stored = client.get(f"/v1/inspections/{inspection['id']}")
            assert stored.json()["score"] == inspection["score"]
        assert service.stop() == 0
