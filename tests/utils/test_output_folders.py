"""Folders for results: files of others are never touched, and folders of advrad are known."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from advrad.errors import OutputError
from advrad.utils.output_folders import (
    ALL,
    MARKER,
    check_output,
    check_output_file,
    claim_folder,
    contents_of,
    is_own_image,
)


def write(path: Path, text: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def old_results(folder: Path) -> None:
    write(folder / "plan.json", json.dumps({"names": [], "pictures": "", "detector": ""}))


MADE_BEFORE: dict[str, Callable[[Path], None]] = {
    "model": lambda folder: write(folder / "config.json", '{"format": "advrad"}'),
    "unfinished model": lambda folder: write(folder / "training" / "plan.json", "{}"),
    "benchmark": lambda folder: write(folder / "grid.json", '{"format": 1, "cells": []}'),
    "results": old_results,
    "results of several": lambda folder: old_results(folder / "suite-linf-2-255-0123abcd"),
    "checks": lambda folder: write(folder / "checks.json", '{"flags": [], "auroc": {}}'),
    "heat maps": lambda folder: write(folder / "part.png-0123456789-heat.png"),
}
KINDS = {"unfinished model": "model", "results of several": "results", "checks": "results"}


@pytest.mark.parametrize("made", MADE_BEFORE)
def test_folders_of_earlier_versions_are_known_by_their_files(made: str, tmp_path: Path) -> None:
    MADE_BEFORE[made](tmp_path / "out")
    assert contents_of(tmp_path / "out") == KINDS.get(made, made)


def test_a_report_and_a_demonstration_are_known(tmp_path: Path) -> None:
    for name in ("index.html", "tables.md", "tables.tex", "results.csv"):
        write(tmp_path / "report" / name)
    write(tmp_path / "demo" / "config.json", '{"format": "advrad"}')
    write(tmp_path / "demo" / "flange" / "product.json", "{}")
    assert contents_of(tmp_path / "report") == "report"
    assert contents_of(tmp_path / "demo") == "demonstration"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"model_type": "vit"}'),
        ("config.json", "no JSON"),
        ("grid.json", '{"rows": 3}'),
        ("plan.json", '["monday"]'),
        ("checks.json", "{}"),
        ("part-heat.png", ""),
        ("flange/product.json", "{}"),
        ("results/a.txt", "a"),
    ],
)
def test_files_of_others_make_no_folder_of_ours(name: str, text: str, tmp_path: Path) -> None:
    write(tmp_path / "out" / name, text or "x")
    assert contents_of(tmp_path / "out") is None
    with pytest.raises(OutputError, match="advrad did not write; name a new or empty folder, such as"):
        check_output(tmp_path / "out", "model")


def test_a_missing_file_or_folder_holds_nothing(tmp_path: Path) -> None:
    write(tmp_path / "file")
    assert contents_of(tmp_path / "none") is None and contents_of(tmp_path / "file") is None


@pytest.mark.parametrize("contents", ALL)
def test_a_claimed_folder_is_known_and_may_be_claimed_again(contents: str, tmp_path: Path) -> None:
    folder = claim_folder(tmp_path / "deep" / "out", contents)  # type: ignore[arg-type]
    assert contents_of(folder) == contents
    write(folder / "anything.txt")
    assert claim_folder(folder, contents) == folder  # type: ignore[arg-type]
    other = next(name for name in ALL if name != contents)
    with pytest.raises(OutputError, match=r"holds .*; name a new or empty folder"):
        check_output(folder, other)
    check_output(folder, other, also=(contents,))  # type: ignore[arg-type]


def test_a_marker_of_a_newer_version_still_marks(tmp_path: Path) -> None:
    write(tmp_path / MARKER, "films\n")
    assert contents_of(tmp_path) is not None


def test_files_of_others_are_listed_and_nothing_is_made(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt", "d.txt"):
        write(tmp_path / name)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError) as caught:
        claim_folder(tmp_path, "results")
    assert "holds a.txt, b.txt, c.txt and 1 more" in str(caught.value)
    assert str(tmp_path / "results") in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", ".gitkeep", ".0123.part.json"])
def test_clutter_and_hidden_files_do_not_count(name: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    check_output(tmp_path, "model")


def test_an_empty_file_does_not_count(tmp_path: Path) -> None:
    """A shell makes the file of a redirected output before the command runs."""
    write(tmp_path / "train.log", "")
    check_output(tmp_path, "model")


def test_a_file_and_a_folder_below_a_file_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "file")
    with pytest.raises(OutputError, match="is a file; name a folder"):
        check_output(tmp_path / "file", "model")
    with pytest.raises(OutputError, match="is a file"):
        check_output(tmp_path / "file" / "out", "model")


def test_only_guarded_files_keep_results_out(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt")
    check_output(tmp_path, "heat maps", guards=lambda path: path.suffix == ".png")
    write(tmp_path / "part.png")
    with pytest.raises(OutputError, match=r"holds part\.png, which"):
        check_output(tmp_path, "heat maps", guards=lambda path: path.suffix == ".png")


def test_own_images_are_known_by_their_names() -> None:
    assert is_own_image("good-part-0123456789-heat.png") and is_own_image("a-abcdef0123-reconstruction.png")
    assert not is_own_image("part-heat.png") and not is_own_image("part-0123456789-heat.jpg")


def test_texts_may_be_replaced_and_other_files_not(tmp_path: Path) -> None:
    write(tmp_path / "old.html", "<html>")
    check_output_file(tmp_path / "old.html")
    check_output_file(tmp_path / "new" / "page.html")
    assert (tmp_path / "new").is_dir()
    (tmp_path / "part.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    with pytest.raises(OutputError, match=r"part\.png: is not a text"):
        check_output_file(tmp_path / "part.png")
    with pytest.raises(OutputError, match="is a folder"):
        check_output_file(tmp_path / "new")


@pytest.mark.parametrize("name", ["config.json", "README.md", "training/plan.json"])
def test_the_files_of_a_model_are_kept(name: str, tmp_path: Path) -> None:
    write(tmp_path / "config.json", '{"format": "advrad"}')
    write(tmp_path / "README.md")
    write(tmp_path / "training" / "plan.json", "{}")
    with pytest.raises(OutputError, match="belongs to a model; name another file"):
        check_output_file(tmp_path / name)
    check_output_file(tmp_path / "report.html")


@pytest.mark.skipif(os.name != "posix", reason="needs devices")
def test_devices_may_be_written_to() -> None:
    check_output_file(Path("/dev/stdout"))
    check_output_file(Path(os.devnull))


def test_two_processes_may_begin_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import advrad.utils.output_folders

    folder = tmp_path / "results"
    folder.mkdir()
    plain = advrad.utils.output_folders.contents_of

    def while_another_begins(asked: Path) -> str | None:
        found = plain(asked)
        write(asked / MARKER, "results\n")
        write(asked / "rows" / "00000.json")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(advrad.utils.output_folders, "contents_of", while_another_begins)
        check_output(folder, "results")
    assert plain(folder) == "results"
