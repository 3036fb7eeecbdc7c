"""Buckets: places for files that are named by a URL, such as ``s3://bucket/folder``, reached through fsspec."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from advrad.errors import AdvradError, ConfigError, DataError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

#: The package that reaches each kind of bucket, as pip is given it.
_PACKAGES = {
    "s3": "'advrad[s3]'",
    "s3a": "'advrad[s3]'",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}
#: Kinds whose files appear whole or not at all, since a file is put by one request.
_WHOLE = frozenset({*_PACKAGES, "memory"})
#: Seconds in which a server must accept a connection, and attempts to reach it.
_CONNECT_S, _ATTEMPTS = 10, 3


def is_url(place: object) -> bool:
    """Whether a place is named by a URL, and not by a path.

    Args:
        place: Path or text.

    Example:
        >>> is_url("s3://bucket/results"), is_url("results"), is_url("C:/results")
        (True, False, False)
    """
    return isinstance(place, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", place) is not None


def open_bucket(url: str) -> tuple[AbstractFileSystem, str]:
    """Find the file system of a URL. Nothing is sent yet.

    Args:
        url: URL of a file or a folder. Names and keys for access come from the environment, as the package of the
            protocol reads them.

    Returns:
        The file system, which looks at the bucket itself each time, and the path in it.

    Raises:
        ConfigError: The protocol is unknown, or its package is not installed.

    Example:
        >>> open_bucket("memory://results/cells")[1]
        '/results/cells'
    """
    import fsspec

    protocol = url.partition("://")[0].lower()
    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol in ("s3", "s3a"):
        options["config_kwargs"] = {"connect_timeout": _CONNECT_S, "retries": {"max_attempts": _ATTEMPTS}}
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError:
        package = _PACKAGES.get(protocol, f"the package that fsspec needs for {protocol}")
        raise ConfigError(f"{url}: a package is missing; install it: pip install {package}") from None
    except ValueError:
        raise ConfigError(f"{url}: {protocol} is unknown; name a folder, or a URL such as s3://bucket/folder") from None
    with bucket_errors(url):
        files, path = fsspec.core.url_to_fs(url, **options)
    return files, str(path)


def check_whole(url: str) -> None:
    """Refuse a URL where a reader could find half of a file.

    Args:
        url: URL of a folder that is to be written to.

    Raises:
        ConfigError: Files of this protocol do not appear whole or not at all.

    Example:
        >>> check_whole("s3://bucket/results")
    """
    if url.partition("://")[0].lower() not in _WHOLE:
        raise ConfigError(
            f"{url}: is not written to, since others could find half of a file there; name a folder, or a URL of s3,"
            " gs or az"
        )


@contextmanager
def bucket_errors(place: str, kind: type[AdvradError] = DataError) -> Iterator[None]:
    """Turn whatever a bucket's package raises inside this block into one line.

    A missing file stays a FileNotFoundError, a lack of memory a MemoryError, and advrad's own errors what they are.

    Args:
        place: URL that is read or written.
        kind: Class of the error.

    Raises:
        AdvradError: Of the class: the bucket is away, refuses the access, or answers with an error.
    """
    try:
        yield
    except (AdvradError, FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # each package has errors of its own
        text = " ".join(str(error).split()) or type(error).__name__
        fix = "check the address, the network and the keys for access"
        raise kind(f"{place}: the bucket does not answer as it should: {text}; {fix}") from error
