"""The hub, replaced by a folder: uploads, downloads, and models that are missing."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from toy_models import detector, random_images

from advrad.detectors.advrad import AdvRAD
from advrad.errors import CheckpointError


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that takes uploads under `owner/name` and gives them back."""
    shelf = tmp_path / "hub"

    class Api:
        def __init__(self, **options: object) -> None:
            pass

        def create_repo(self, repo_id: str, **options: object) -> SimpleNamespace:
            (shelf / repo_id).mkdir(parents=True, exist_ok=True)
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, repo_id: str, folder_path: Path, **options: object) -> str:
            shutil.copytree(folder_path, shelf / repo_id, dirs_exist_ok=True)
            return f"hub:{repo_id}"

    def snapshot_download(repo_id: str, *, allow_patterns: list[str], **options: object) -> str:
        if not (shelf / repo_id).is_dir():
            raise LocalEntryNotFoundError(f"{repo_id} is not here\nand never was")
        return str(shelf / repo_id)

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return shelf


def test_a_pushed_detector_comes_back_bit_by_bit(hub: Path) -> None:
    made = detector()
    assert made.push_to_hub("owner/widget") == "hub:owner/widget"
    assert sorted(path.name for path in (hub / "owner" / "widget").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    card = (hub / "owner" / "widget" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n") and "library_name: advrad" in card
    images = random_images(3)
    for where in ("owner/widget", hub / "owner" / "widget"):
        loaded = AdvRAD.from_pretrained(where)
        assert torch.equal(loaded.predict_batch(images)[0], made.predict_batch(images)[0])
        assert loaded.calibration == made.calibration


def test_what_the_hub_lacks_is_one_plain_line(hub: Path) -> None:
    with pytest.raises(CheckpointError, match="nobody/nothing") as caught:
        AdvRAD.from_pretrained("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_one_plain_line(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nowhere"), "nobody/nothing", "not a name!"):
        with pytest.raises(CheckpointError) as caught:
            AdvRAD.from_pretrained(name, local_files_only=True)
        assert "there is no such model folder" in str(caught.value) and "\n" not in str(caught.value)
