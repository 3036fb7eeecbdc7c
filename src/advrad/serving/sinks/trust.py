"""What an encrypted connection of a sink trusts, and what it shows of itself."""

from __future__ import annotations

import ssl
from pathlib import Path

from advrad.errors import ConfigError


def trusted(
    ca_file: Path | None, where: str, cert_file: Path | None = None, key_file: Path | None = None
) -> ssl.SSLContext:
    """The settings of an encrypted connection; names are always checked.

    Args:
        ca_file: Certificates to trust, in PEM form; None for those of the system.
        where: Place in the configuration, for errors.
        cert_file: Certificate that is shown to the other side; None for none.
        key_file: Its key; None if it is in the same file.

    Raises:
        ConfigError: A file cannot be read, or holds something else.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(f"{where}: ca_file: {ca_file}: {_reason(error)}; name a file in PEM form") from None
    if cert_file is not None:
        try:
            context.load_cert_chain(cert_file, key_file, password=_no_password)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{where}: cert_file: {cert_file}: {_reason(error)}; name files in PEM form") from None
    return context


def _no_password() -> bytes:
    """Refuse a key with a password, rather than ask at a terminal that is not there."""
    raise ValueError("the key needs a password")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return "holds no certificate and key that fit"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error)
