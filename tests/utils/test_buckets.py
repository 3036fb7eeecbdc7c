"""Buckets: what is a URL, which may be written to, and what is said where one cannot be reached."""

from __future__ import annotations

import sys
import uuid

import pytest

from advrad.errors import ConfigError, DataError, OutputError
from advrad.utils.buckets import bucket_errors, check_whole, is_url, open_bucket


@pytest.mark.parametrize("text", ["s3://bucket/a", "memory://a", "gs://b", "s3a://x"])
def test_urls_are_known(text: str) -> None:
    assert is_url(text)


@pytest.mark.parametrize("text", ["results", "/a/b", "C:/results", "C:\\results", "s3:/bucket", "a.py:fit", ""])
def test_paths_are_no_urls(text: str) -> None:
    assert not is_url(text)


def test_a_file_that_another_writes_is_seen_at_once() -> None:
    url = f"memory://{uuid.uuid4().hex}"
    files, path = open_bucket(url)
    files.pipe_file(f"{path}/a", b"1")
    assert [name.rpartition("/")[2] for name in files.ls(path, detail=False)] == ["a"]
    other, _ = open_bucket(url)
    other.pipe_file(f"{path}/b", b"2")
    assert len(files.ls(path, detail=False)) == 2


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(ConfigError, match=r"foo://x: foo is unknown; name a folder, or a URL such as s3://"):
        open_bucket("foo://x")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec  # noqa: F401

    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)  # it was loaded before
    with pytest.raises(ConfigError, match=r"s3://bucket/a: a package is missing; .* pip install 'advrad\[s3\]'"):
        open_bucket("s3://bucket/a")


def test_places_that_show_half_a_file_are_refused() -> None:
    check_whole("memory://a")
    with pytest.raises(ConfigError, match="others could find half of a file"):
        check_whole("sftp://host/a")


def test_whatever_a_package_raises_becomes_one_line() -> None:
    with pytest.raises(DataError, match=r"s3://b/x: the .* as it should: it broke; check"), bucket_errors("s3://b/x"):
        raise RuntimeError("it\n broke")
    with pytest.raises(OutputError, match="PermissionError"), bucket_errors("s3://b/x", OutputError):
        raise PermissionError
    with pytest.raises(FileNotFoundError), bucket_errors("s3://b/x"):
        raise FileNotFoundError("gone")
    with pytest.raises(ConfigError, match="own"), bucket_errors("s3://b/x"):
        raise ConfigError("own")
