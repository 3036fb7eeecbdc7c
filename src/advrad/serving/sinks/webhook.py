"""A webhook: inspections as JSON, by POST, signed.

The body is ``{"delivery": ID, "inspections": [...]}``; each inspection has the fields of the history. The identity of
the delivery follows from the inspections in it. It stays the same when they are sent again, also after a restart,
because the outbox keeps what was sent together. The receiver answers
with any status of 200 to 299 when it holds them. Redirects are not followed, no proxy is used, and what the receiver
answers beyond its status is not read.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx
from pydantic import Field, field_validator

from advrad.serving.records import Inspection
from advrad.serving.sinks.base import Rejected, SinkConfig, Unavailable
from advrad.serving.sinks.secret import Secret
from advrad.serving.sinks.signature import DELIVERY_HEADER, sign
from advrad.serving.sinks.trust import trusted

#: Statuses below 500 that say "not now" rather than "never".
_LATER = (408, 425, 429)


class WebhookConfig(SinkConfig):
    """Description of a webhook.

    The secret is in the environment variable ``secret_env`` or in the file ``secret_file``.
    """

    kind: Literal["webhook"] = "webhook"
    url: str = Field(description="Where to POST to, http or https.")
    secret_env: str | None = Field(None, description="Environment variable that holds the secret.")
    secret_file: Path | None = Field(None, description="File that holds the secret.")
    batch: int = Field(1, ge=1, le=100, description="Largest number of inspections for each POST.")
    timeout_s: float = Field(10.0, gt=0, le=300, description="Seconds from the call to the answer.")
    ca_file: Path | None = Field(None, description="Certificates to trust, in place of those of the system (PEM).")

    @field_validator("url")
    @classmethod
    def _is_plain(cls, url: str) -> str:
        parts = urlsplit(url)  # a wrong port or bracket raises ValueError
        if parts.scheme not in ("http", "https") or not parts.hostname or (parts.port == 0):
            raise ValueError("must be an address such as https://mes.example/advrad")
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not hold a password; the messages are signed with the secret")
        if parts.fragment or not url.isprintable() or " " in url:
            raise ValueError("must not hold blanks or a part behind '#'")
        return url


class Webhook:
    """Sends inspections to an address.

    Args:
        config: Description.
        secret: Secret that signs the messages.
        folder: Folder at which relative paths of the description start.
        where: Place of the description, for errors.

    Raises:
        ConfigError: The certificates cannot be read.
    """

    kind = "webhook"

    def __init__(self, config: WebhookConfig, secret: Secret, folder: Path, where: str) -> None:
        self.config = config
        self.name, self.batch, self.wants = config.name, config.batch, config.wants
        self.keeps_batches = config.batch > 1
        self._secret = secret
        self._trusted = trusted(config.ca_file and folder / config.ca_file, where)
        # One message at a time in the loop of this sink, so that the time limit holds for all of it.
        self._runner: asyncio.Runner | None = None
        self._client: httpx.AsyncClient | None = None

    def open(self) -> None:
        """Do nothing: a connection is made when there is something to send."""

    def send(self, inspections: Sequence[Inspection]) -> None:
        """POST inspections.

        Raises:
            Unavailable: There was no answer in time, or one that says "not now".
            Rejected: The answer says "never".
        """
        delivery = delivery_of(inspections)
        values = {"delivery": delivery, "inspections": [inspection.to_dict() for inspection in inspections]}
        body = json.dumps(values, allow_nan=False).encode()
        headers = {
            "Content-Type": "application/json",
            DELIVERY_HEADER: delivery,
            **sign(self._secret.value, int(time.time()), body),
        }
        if self._runner is None:
            self._runner = asyncio.Runner()
        self._runner.run(self._post(body, headers))

    async def _post(self, body: bytes, headers: Mapping[str, str]) -> None:
        if self._client is None:
            self._client = httpx.AsyncClient(
                verify=self._trusted, timeout=self.config.timeout_s, follow_redirects=False, trust_env=False
            )
        try:
            async with (
                asyncio.timeout(self.config.timeout_s),
                self._client.stream("POST", self.config.url, content=body, headers=dict(headers)) as response,
            ):
                status, answered = response.status_code, response.headers
        except TimeoutError:
            raise Unavailable(f"no answer within {self.config.timeout_s:g} s") from None
        except httpx.HTTPError as error:
            words = " ".join(str(error).split())
            raise Unavailable(f"{type(error).__name__}: {words}" if words else type(error).__name__) from None
        if 200 <= status < 300:
            return
        if 300 <= status < 400:
            raise Rejected(f"answered {status}, a redirect, which is not followed; configure the final address")
        message = f"answered {status}"
        if status in _LATER or status >= 500:
            raise Unavailable(message, retry_after(answered))
        raise Rejected(message, retry_after(answered))

    def close(self) -> None:
        """Close the connection."""
        if self._runner is None:
            return
        if self._client is not None:
            self._runner.run(self._client.aclose())
        self._runner.close()
        self._runner = self._client = None


def delivery_of(inspections: Sequence[Inspection]) -> str:
    """The identity of a delivery: the same inspections have the same, whenever they are sent.

    Args:
        inspections: What is sent together.
    """
    return hashlib.sha256("\n".join(inspection.id for inspection in inspections).encode()).hexdigest()[:32]


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that an answer asks to wait.

    Args:
        headers: Headers of the answer, by names in small letters.
        now: Time; None for the answer's own, or that of this machine.

    Returns:
        Seconds, >= 0; None if the header is missing or has another form.

    Example:
        >>> retry_after({"retry-after": "120"}), retry_after({"retry-after": "soon"})
        (120.0, None)
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    then = _time(text)
    if then is None:
        return None
    now = now or _time(headers.get("date", "")) or datetime.now(UTC)
    return max(0.0, (then - now).total_seconds())


def _time(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
