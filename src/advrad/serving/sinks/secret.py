"""Secrets of sinks: named in the configuration, and kept in an environment variable or a file."""

from __future__ import annotations

import os
from pathlib import Path

from advrad.errors import ConfigError


class Secret:
    """A secret that no text shows.

    Args:
        value: The secret.

    Example:
        >>> print(Secret(b"abc"), repr(Secret(b"abc")))
        (hidden) Secret(hidden)
    """

    __slots__ = ("value",)

    def __init__(self, value: bytes) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "Secret(hidden)"

    def __str__(self) -> str:
        return "(hidden)"


def read_secret(variable: str | None, file: Path | None, folder: Path, *, where: str, what: str) -> Secret | None:
    """Read a secret from where the configuration says it is.

    Args:
        variable: Name of an environment variable, or None.
        file: File whose content is the secret, or None; a relative path starts at ``folder``. Blanks and line breaks at
            its end do not count.
        folder: Folder of the configuration file.
        where: Place in the configuration, for errors.
        what: Name of the two keys without their endings, such as ``secret`` for ``secret_env`` and ``secret_file``.

    Returns:
        The secret; None if none is named.

    Raises:
        ConfigError: Both are named, or what is named is missing or empty.
    """
    if variable is not None and file is not None:
        raise ConfigError(f"{where}: names {what}_env and {what}_file; leave one out")
    if variable is not None:
        value = os.environ.get(variable, "").encode(errors="surrogateescape")
        if not value:
            raise ConfigError(f"{where}: {what}_env: the environment variable {variable} is not set; set it")
        return Secret(value)
    if file is not None:
        path = folder / file
        try:
            value = path.read_bytes().rstrip()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ConfigError(f"{where}: {what}_file: {path}: cannot be read ({reason}); check the path") from None
        if not value:
            raise ConfigError(f"{where}: {what}_file: {path}: is empty; write the secret into it")
        return Secret(value)
    return None
