"""The signature of a webhook: who holds the secret sees that a message is from advrad, unchanged and recent.

The header ``X-Advrad-Timestamp`` holds the seconds since 1970 at which the message was sent, ``X-Advrad-Signature``
holds ``sha256=`` and the HMAC-SHA256, in hexadecimal, of the timestamp, a full stop and the body.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping

TIMESTAMP_HEADER = "X-Advrad-Timestamp"
SIGNATURE_HEADER = "X-Advrad-Signature"
DELIVERY_HEADER = "X-Advrad-Delivery"

TOLERANCE_S = 300.0
"""Age at which a message counts as replayed, in seconds."""


def sign(secret: bytes, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that sign a body.

    Args:
        secret: Secret that sender and receiver share.
        timestamp: Seconds since 1970.
        body: Body of the message.
    """
    return {TIMESTAMP_HEADER: str(timestamp), SIGNATURE_HEADER: f"sha256={_digest(secret, str(timestamp), body)}"}


def verify_signature(
    secret: bytes,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now_s: float | None = None,
    tolerance_s: float = TOLERANCE_S,
) -> bool:
    """Whether a message was signed with the secret, and recently. For receivers of a webhook.

    Args:
        secret: Secret that sender and receiver share; not empty.
        headers: Headers of the request; capitals do not count.
        body: Body as it arrived, before any decoding.
        now_s: Time in seconds since 1970; None for now.
        tolerance_s: Largest distance between the timestamp and now, in seconds.

    Returns:
        False too where a header is missing or has another form.

    Raises:
        ValueError: The secret is empty.

    Example:
        >>> from advrad.serving.sinks import verify_signature
        >>> secret, body = b"a long random secret", b'{"delivery": "1f", "inspections": []}'
        >>> headers = sign(secret, 1_800_000_000, body)
        >>> verify_signature(secret, headers, body, now_s=1_800_000_010)
        True
        >>> verify_signature(secret, headers, body + b" ", now_s=1_800_000_010)
        False
    """
    if not secret:
        raise ValueError("the secret is empty; give the one that the sender has")
    found = {name.lower(): value for name, value in headers.items()}
    timestamp = found.get(TIMESTAMP_HEADER.lower(), "")
    given = found.get(SIGNATURE_HEADER.lower(), "")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return False
    right = hmac.compare_digest(given.encode(), f"sha256={_digest(secret, timestamp, body)}".encode())
    return right and abs((time.time() if now_s is None else now_s) - int(timestamp)) <= tolerance_s


def _digest(secret: bytes, timestamp: str, body: bytes) -> str:
    return hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
