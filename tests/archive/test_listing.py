"""From names of sources to pieces: every kind of source, patterns, and what is wrong with a source."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import fsspec
import pytest
from toy_archives import images, tar_bytes, write_folder

from advrad.archive.listing import PassedOver, is_archive, pieces_of
from advrad.archive.pieces import PIECE_IMAGES, Piece
from advrad.archive.reading import contents_of_piece
from advrad.archive.sources import NameSet
from advrad.errors import AdvradError, DataError


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def listed(*sources: str, output: Path | None = None) -> list[Piece]:
    return list(pieces_of(sources, "image", PassedOver(), output))


def names(pieces: Sequence[Piece]) -> list[str]:
    return [content.name for piece in pieces for content in contents_of_piece(piece, os.getcwd())]


def test_a_folder_is_cut_at_its_folders_and_names_what_is_no_image() -> None:
    write_folder(Path("in"), images(PIECE_IMAGES + 1))
    write_folder(Path("in/below"), images(2))
    Path("in/notes.md").write_text("no image")
    Path("in/.hidden.png").write_bytes(b"")
    passed_over = PassedOver()
    pieces = list(pieces_of(["in"], "image", passed_over))
    assert [piece.images for piece in pieces] == [PIECE_IMAGES, 1, 2]
    assert names(pieces)[-3:] == [f"in/{PIECE_IMAGES:05}.png", "in/below/00000.png", "in/below/00001.png"]
    assert (passed_over.count, passed_over.first) == (1, [Path("in/notes.md")])


def test_a_piece_survives_being_written_down() -> None:
    write_folder(Path("in"), images(2))
    [piece] = listed("in")
    assert Piece.from_json(piece.to_json()) == piece


def test_another_file_in_a_folder_changes_only_its_last_piece() -> None:
    write_folder(Path("in"), images(PIECE_IMAGES + 1))
    before = listed("in")
    Path("in/99999.png").write_bytes(b"...")
    after = listed("in")
    assert [piece.fingerprint for piece in after[:1]] == [piece.fingerprint for piece in before[:1]]
    assert after[1].fingerprint != before[1].fingerprint


def test_a_changed_file_changes_the_fingerprint() -> None:
    write_folder(Path("in"), images(2))
    [before] = listed("in")
    os.utime("in/00000.png", (1, 1))
    [after] = listed("in")
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize("pattern", ["s-{0..2}.tar", "s-*.tar", "s-{0,1,2}.tar", "s-[012].tar"])
def test_patterns_stand_for_shards_in_order(pattern: str) -> None:
    for number in range(3):
        Path(f"s-{number}.tar").write_bytes(tar_bytes(images(2)))
    expected = [f"s-{shard}.tar/{image:05}.png" for shard in range(3) for image in range(2)]
    assert names(listed(pattern)) == expected


def test_a_file_whose_name_looks_like_a_pattern_is_that_file() -> None:
    Path("{1}[x].png").write_bytes(b"...")
    assert names(listed("{1}[x].png")) == ["{1}[x].png"]


def test_lists_may_name_what_is_not_there_and_lie_in_a_bucket() -> None:
    write_folder(Path("in"), images(1))
    Path("list.txt").write_bytes(b"\xef\xbb\xbfin/00000.png\r\n\r\nin/none.png\r\n")
    files = fsspec.filesystem("memory")
    files.pipe("/names/list.txt", b"in/00000.png\nmemory://names/x.png\n")
    files.pipe("/names/x.png", b"...")
    [local], [remote] = listed("list.txt"), listed("memory://names/list.txt")
    assert [(found.name, found.reason) for found in contents_of_piece(local, os.getcwd())] == [
        ("in/00000.png", ""),
        ("in/none.png", "cannot be read (there is no such file or folder)"),
    ]
    assert [found.data for found in contents_of_piece(remote, os.getcwd())] == [images(1)["00000.png"], b"..."]
    files.pipe("/names/x.png", b"another")
    [changed] = listed("memory://names/list.txt")
    assert changed.fingerprint != remote.fingerprint


def test_a_bucket_is_listed_like_a_folder() -> None:
    files = fsspec.filesystem("memory")
    for name in ("2.png", "1.png", "below/3.png", "notes.md", ".hidden/4.png"):
        files.pipe(f"/bucket/{name}", name.encode())
    passed_over = PassedOver()
    pieces = list(pieces_of(["memory://bucket"], "image", passed_over))
    assert [name.rpartition("bucket/")[2] for name in names(pieces)] == ["1.png", "2.png", "below/3.png"]
    assert passed_over.count == 1


def test_a_folder_that_may_not_be_listed_is_told_as_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(Path("in"), images(1))
    Path("in/closed").mkdir()
    scan = os.scandir

    def refused(path: object) -> object:
        if str(path) == "in/closed":
            raise PermissionError(13, "Permission denied")
        return scan(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refused)  # root may list every folder
    found = [content for piece in listed("in") for content in contents_of_piece(piece, ".")]
    assert [(content.name, content.data is None) for content in found] == [("in/00000.png", False), ("in/closed", True)]
    assert "Permission denied" in found[1].reason


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["none"], "none: cannot be read (there is no such file or folder); name images, folders or archives"),
        (["in", "in"], "in: is named twice, so its images would be counted twice; name it once"),
        (["*.zip"], "*.zip: matches no file; check the pattern"),
        (["s{1}.tar"], "s{1}.tar: the braces are neither a range such as {000..099} nor names such as {a,b}"),
        (["s{9..1}.tar"], "s{9..1}.tar: the range must go up, and hold at most 1000000 names"),
        (["s{1..3}.tar"], "s1.tar: cannot be read (there is no such file or folder); name images, folders or archives"),
        (["empty"], "empty: holds no images; name a folder of images, or its archives by a pattern"),
        (
            ["shards"],
            "shards: holds no images, but 1 other file: s.tar (.tar); name a folder of images, or its archives by a"
            " pattern",
        ),
        (["empty.txt"], "empty.txt: names no image; write one path on each line"),
        (
            ["memory://none"],
            "memory://none: cannot be read (there is no such file or folder); name images, folders or archives",
        ),
    ],
)
def test_a_source_that_cannot_be_used_is_named(sources: list[str], message: str) -> None:
    write_folder(Path("in"), images(1))
    write_folder(Path("shards"), {"s.tar": b"..."})
    Path("empty").mkdir()
    Path("empty.txt").write_text("\n\n")
    with pytest.raises(AdvradError) as caught:
        listed(*sources)
    assert str(caught.value) == message


COUNTED_TWICE = {
    "in ./in": "./in: is named twice, so its images would be counted twice; name it once",
    "in linked": "linked: is named twice, so its images would be counted twice; name it once",
    "in file://{here}/in": "file://{here}/in: is named twice, so its images would be counted twice; name it once",
    "in/1.png {here}/in/1.png": "{here}/in/1.png: is named twice, so its images would be counted twice; name it once",
    "linked/1.png in/1.png": "in/1.png: is named twice, so its images would be counted twice; name it once",
    "s.tar ./s.tar": "./s.tar: is named twice, so its images would be counted twice; name it once",
    "s.tar last.tar": "last.tar: is named twice, so its images would be counted twice; name it once",
    "in in/1.png": "in/1.png: lies in in, which is named as well, so it would be counted twice; leave one of them out",
    "in linked/below": (
        "linked/below: lies in in, which is named as well, so it would be counted twice; leave one of them out"
    ),
    "in/1.png in": "in: holds what is named before it, which would be counted twice; leave one of them out",
    "in/below/2.png in": "in: holds what is named before it, which would be counted twice; leave one of them out",
    "in/below in": "in: holds what is named before it, which would be counted twice; leave one of them out",
    "twice.txt": "twice.txt: names ./in/1.png, which is named already, so it would be counted twice; name it once",
    "in/1.png list.txt": "list.txt: names in/1.png, which is named already, so it would be counted twice; name it once",
    "in list.txt": "list.txt: names in/1.png, which lies in in, so it would be counted twice; leave one of them out",
    "list.txt in": "in: holds what is named before it, which would be counted twice; leave one of them out",
    "memory://twice/in memory://twice/in/": (
        "memory://twice/in/: is named twice, so its images would be counted twice; name it once"
    ),
    "memory://twice/in memory://twice/in/1.png": (
        "memory://twice/in/1.png: lies in memory://twice/in, which is named as well, so it would be counted twice;"
        " leave one of them out"
    ),
}


@pytest.mark.parametrize("sources", COUNTED_TWICE)
def test_what_is_named_twice_by_two_paths_is_refused(sources: str) -> None:
    write_folder(Path("in"), {"1.png": b"1"})
    write_folder(Path("in/below"), {"2.png": b"2"})
    Path("linked").symlink_to("in")
    Path("s.tar").write_bytes(tar_bytes(images(1)))
    Path("last.tar").symlink_to("s.tar")
    Path("list.txt").write_text("in/1.png\n")
    Path("twice.txt").write_text("in/1.png\nin/none.png\n./in/1.png\n")
    fsspec.filesystem("memory").pipe("/twice/in/1.png", b"1")
    with pytest.raises(DataError) as caught:
        listed(*sources.format(here=Path.cwd()).split())
    assert str(caught.value) == COUNTED_TWICE[sources].format(here=Path.cwd())


def test_what_a_folder_does_not_read_may_be_named_beside_it() -> None:
    write_folder(Path("in"), {"1.png": b"1", "s.tar": tar_bytes({"2.png": b"2"}), ".hidden.png": b"3"})
    write_folder(Path("in/.hidden"), {"4.png": b"4"})
    Path("link.png").symlink_to("in/1.png")  # in a folder as well, a link to an image is an image
    beside = ["in/s.tar", "in/.hidden.png", "in/.hidden", "link.png"]
    found = names(listed("in", *beside))
    assert found == ["in/1.png", "in/s.tar/2.png", "in/.hidden.png", "in/.hidden/4.png", "link.png"]
    assert sorted(names(listed(*beside, "in"))) == sorted(found)


def test_folders_and_patterns_leave_the_results_out() -> None:
    write_folder(Path("in"), {"1.png": b"1", "r.parquet": b"...", "a.tar": tar_bytes({"2.png": b"2"})})
    write_folder(Path("in/r.parquet.parts"), {"archive.json": b"{}", "x.parquet": b"...", "x.png": b"..."})
    Path("in/link.parquet").symlink_to("r.parquet")
    Path("linked").symlink_to("in")
    for output in (Path("in/r.parquet"), Path("linked/r.parquet"), Path("in/link.parquet")):
        passed_over = PassedOver()
        pieces = list(pieces_of(["in"], "image", passed_over, output))
        assert (names(pieces), passed_over.first) == (["in/1.png"], [Path("in/a.tar")])
        assert names(listed("in/[alr]*", output=output)) == ["in/a.tar/2.png"]
        assert names(listed("in/*", output=output)) == ["in/1.png", "in/a.tar/2.png"]
        with pytest.raises(DataError, match=r"\*\.parquet: matches no file"):
            listed("in/**/*.parquet", output=output)
        with pytest.raises(DataError) as caught:
            listed("./in/r.parquet", output=output)
        assert str(caught.value) == "./in/r.parquet: is where the results are written; leave it out"
    assert names(listed("in/[a]*")) == ["in/a.tar/2.png"]


def test_a_set_of_names_needs_no_memory_for_each() -> None:
    names = NameSet()
    assert [names.add("a"), names.add("b"), names.add("a")] == [True, True, False]
    assert ("a" in names, "c" in names) == (True, False)
    names.close()


def test_an_image_file_that_is_too_large_is_not_read() -> None:
    write_folder(Path("in"), {"1.png": b"1", "2.png": b""})
    os.truncate("in/2.png", 1 << 42)  # holds no blocks on the disk
    [piece] = listed("in")
    good, large = contents_of_piece(piece, os.getcwd(), 1 << 30)
    assert (good.data, large.data) == (b"1", None)
    assert large.reason == (
        "holds 4398.0 GB, more than an image of the accepted size takes (max_pixels); check the file"
    )


def test_what_is_an_archive_by_its_name() -> None:
    Path("folder.tar").mkdir()
    found = ["a.tar", "a.TGZ", "a.parquet", "a.txt", "s3://b/a.png", "a.png", "folder", "folder.tar", "C:/a.png"]
    assert [is_archive(name) for name in found] == [True, True, True, True, True, False, False, False, False]
