"""Where heat maps are written: names that say the folder, and folders without images of others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from advrad.errors import OutputError
from advrad.inference.heat_map_files import check_heat_map_folder, claim_heat_map_folder, stem_of
from advrad.utils.output_folders import MARKER, is_own_image


def test_names_say_the_folder_and_are_unique_and_stable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / name for name in ("good/a.png", "scratch/a.png", "line/good/a.png", "good/a.jpg")]
    stems = [stem_of(path) for path in paths]
    assert [stem.rpartition("-")[0] for stem in stems] == ["good-a", "scratch-a", "good-a", "good-a"]
    assert len(set(stems)) == 4
    (tmp_path / "good").mkdir()
    monkeypatch.chdir(tmp_path / "good")
    assert stem_of(Path("a.png")) == stem_of(Path("../good/a.png")) == stems[0]
    assert is_own_image(f"{stems[0]}-heat.png") and is_own_image(f"{stems[0]}-reconstruction.png")


def test_long_names_are_shortened_to_what_file_systems_allow(tmp_path: Path) -> None:
    for letter in ("x", "検", "🔩", "\udcff"):
        folder, name = letter * (200 // len(os.fsencode(letter))), letter * (240 // len(os.fsencode(letter)))
        stem = stem_of(tmp_path / folder / f"{name}.png")
        assert len(os.fsencode(f"{stem}-reconstruction.png")) <= 255
        assert stem.startswith(letter * 10)


def test_texts_may_lie_beside_heat_maps_and_images_and_folders_not(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    (tmp_path / "part.png-0123456789-heat.png").write_bytes(b"drawn by an earlier version")
    check_heat_map_folder(tmp_path)
    assert not (tmp_path / MARKER).exists()
    assert claim_heat_map_folder(tmp_path) == tmp_path and (tmp_path / MARKER).is_file()
    (tmp_path / MARKER).unlink()
    (tmp_path / "part.jpg").write_bytes(b"an image")
    with pytest.raises(OutputError, match=r"holds part\.jpg, which advrad did not write; .* such as .*heat-maps"):
        check_heat_map_folder(tmp_path)
    (tmp_path / "part.jpg").unlink()
    (tmp_path / "good").mkdir()
    with pytest.raises(OutputError, match="holds good, which"):
        claim_heat_map_folder(tmp_path)
