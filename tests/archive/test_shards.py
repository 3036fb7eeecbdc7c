"""Tar files: cut into parts, compressed, damaged in every way."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from toy_archives import images, tar_bytes

from advrad.archive.listing import PassedOver, pieces_of
from advrad.archive.pieces import PIECE_IMAGES, Content
from advrad.archive.reading import contents_of_piece

N = PIECE_IMAGES + 40


@pytest.fixture(scope="module")
def shard() -> bytes:
    return tar_bytes(images(N))


def read(data: bytes, path: Path, most_bytes: int | None = None) -> list[Content]:
    path.write_bytes(data)
    found: list[Content] = []
    for piece in pieces_of([str(path)], "image", PassedOver()):
        found += contents_of_piece(piece, "/", most_bytes)
    return found


def test_a_shard_is_cut_and_nothing_is_lost_at_the_cut(shard: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    found = read(shard, path)
    assert [(content.name, content.data) for content in found] == [
        (f"{path}/{name}", data) for name, data in images(N).items()
    ]
    assert len(list(pieces_of([str(path)], "image", PassedOver()))) == 2


@pytest.mark.parametrize("ending", ["tar.gz", "tgz", "tar.bz2", "tar.xz"])
def test_a_compressed_shard_holds_the_same(ending: str, tmp_path: Path) -> None:
    mode = f"w:{ending.removeprefix('tar.').replace('tgz', 'gz')}"
    found = read(tar_bytes(images(5), mode=mode), tmp_path / f"s.{ending}")
    assert [content.data for content in found] == list(images(5).values())


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_and_other_members_are_read(format: int, tmp_path: Path) -> None:
    file = io.BytesIO()
    long = f"{'folder/' * 12}{'n' * 60}.png"
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name in ("._00.png", long, "__MACOSX/x.png", "label.json"):
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    found = read(file.getvalue(), tmp_path / "s.tar")
    assert [(content.name, content.data) for content in found] == [(f"{tmp_path}/s.tar/{long}", b"abc")]


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        (
            lambda data: data[: len(data) // 2 + 700],
            "cannot be read any further (unexpected end of data); copy it again",
        ),
        (
            lambda data: data[: data.index(b"00020.png")],
            "ends without the end mark of a tar, so it is probably cut off; copy it again",
        ),
        (lambda data: b"", "cannot be read any further (empty file); copy it again"),
        (lambda data: b"no tar at all" * 100, "cannot be read any further (invalid header); copy it again"),
        (lambda data: bytes(10240), "holds no images; name a tar of image files"),
    ],
    ids=["middle", "member", "empty", "other", "zeros"],
)
def test_a_shard_that_is_cut_off_gives_what_it_holds_and_one_error(
    cut: object, reason: str, shard: bytes, tmp_path: Path
) -> None:
    found = read(cut(shard), tmp_path / "s.tar")  # type: ignore[operator]
    *good, last = found
    assert (last.name, last.reason) == (f"{tmp_path}/s.tar", reason)
    assert [content.data for content in good] == list(images(N).values())[: len(good)]


@pytest.mark.parametrize("member", [3, PIECE_IMAGES + 3])
def test_a_damaged_header_ends_the_shard_in_an_error(member: int, shard: bytes, tmp_path: Path) -> None:
    start = shard.index(f"{member:05}.png".encode())
    damaged = shard[:start] + b"x" * 512 + shard[start + 512 :]
    *good, last = read(damaged, tmp_path / "s.tar")
    assert last.reason == f"is damaged at byte {start}; the images behind it cannot be read; copy it again"
    assert len(good) == member


def test_a_compressed_shard_that_is_cut_off_is_told(tmp_path: Path) -> None:
    data = tar_bytes(images(40), mode="w:gz")
    *good, last = read(data[: len(data) // 2], tmp_path / "s.tar.gz")
    assert 0 < len(good) < 40
    assert last.reason.startswith("cannot be read any further (")


def test_the_same_name_twice_is_two_images(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for data in (b"one", b"two"):
            member = tarfile.TarInfo("same.png")
            member.size = 3
            tar.addfile(member, io.BytesIO(data))
    assert [content.data for content in read(file.getvalue(), tmp_path / "s.tar")] == [b"one", b"two"]


def test_links_and_devices_are_rows_with_an_error(tmp_path: Path) -> None:
    file = io.BytesIO()
    kinds = {"hard.png": tarfile.LNKTYPE, "soft.png": tarfile.SYMTYPE, "pipe.png": tarfile.FIFOTYPE, "x.png": b"Z"}
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, kind in {"a.png": tarfile.REGTYPE, **kinds, "label.cls": tarfile.SYMTYPE}.items():
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "a.png" if kind in (tarfile.LNKTYPE, tarfile.SYMTYPE) else ""
            member.size = 3 if kind in (tarfile.REGTYPE, b"Z") else 0
            tar.addfile(member, io.BytesIO(b"abc"))
    reason = "is a link to a.png, which is not followed; write the tar with the files in place of links"
    for ending in ("tar", "tar.gz"):
        data = file.getvalue() if ending == "tar" else gzip.compress(file.getvalue())
        found = read(data, tmp_path / f"s.{ending}")
        assert [(content.name.rpartition("/")[2], content.data, content.reason) for content in found] == [
            ("a.png", b"abc", ""),
            ("hard.png", None, reason),
            ("soft.png", None, reason),
            ("pipe.png", None, "is not a file"),
            ("x.png", b"abc", ""),
        ]


def test_a_member_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    large, good = read(tar_bytes({"a.png": b"abc", "b.png": b"ab"}), tmp_path / "s.tar", most_bytes=2)
    assert (large.data, good.data) == (None, b"ab")
    assert "more than an image of the accepted size takes" in large.reason
