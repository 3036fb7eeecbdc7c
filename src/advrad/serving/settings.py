"""Settings of the service: where it keeps its data, whom it lets in, and every limit."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from pydantic import Field, field_validator

from advrad.errors import ConfigError
from advrad.utils.config import Config

PRODUCT_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""Regular expression of a product's name: it stands in addresses, in labels of metrics and in names of files."""


class ServeSettings(Config):
    """How the service runs; each field's description says what it is. One MB is 1,000,000 bytes.

    Example:
        >>> ServeSettings(port=9000).deadline_s
        10
    """

    db: str | None = Field(
        None,
        description="Address of the database: sqlite:///FILE or postgresql://USER@HOST/NAME.",
        json_schema_extra={"when_none": "a SQLite file in the data folder"},
    )
    data: Path = Field(
        Path("advrad-data"), description="Folder for the history and the images, made if missing; keep it to itself."
    )
    host: str = Field("127.0.0.1", description="Address to listen on; another than this machine's own needs keys.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    keys: Path | None = Field(None, description="File of keys, made by 'advrad keys add'.")
    wrong_keys: int = Field(
        20, ge=1, description="Wrong keys from one address within a minute, after which it must wait."
    )
    sinks: Path | None = Field(None, description="TOML file that names where verdicts are sent.")
    tls_certificate: Path | None = Field(None, description="Certificate chain (PEM), to speak HTTPS.")
    tls_key: Path | None = Field(None, description="Private key of the certificate (PEM).")
    hosts: tuple[str, ...] | None = Field(
        None,
        description="Names under which browsers may open the service, separated by commas.",
        json_schema_extra={"when_none": "this machine's own without keys, any with keys"},
    )
    device: str = Field("auto", description="Device that computes: auto (a GPU if there is one), cpu, cuda or cuda:N.")

    max_body_mb: float = Field(50, gt=0, le=2000, description="Largest body of a request, in MB.")
    max_pixels: int = Field(40_000_000, ge=1, description="Refuse images with more pixels (width times height).")
    max_images: int = Field(32, ge=1, le=1024, description="Most images of one request.")
    queue: int = Field(64, ge=1, description="Most images that wait; further ones are refused for a moment.")
    queue_mb: float = Field(256, gt=0, description="Most bytes of requests in memory at once, in MB.")
    batch: int = Field(8, ge=1, le=256, description="Most images that are judged together.")
    workers: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Threads that read, judge and store images.",
        json_schema_extra={"when_none": "one more than threads compute"},
    )
    deadline_s: float = Field(10, gt=0, le=600, description="Seconds within which a request is answered.")
    body_s: float = Field(20, gt=0, le=600, description="Seconds within which the body of a request must arrive.")
    stop_s: float = Field(30, gt=0, le=600, description="Seconds that a stop waits for what was taken.")
    connections: int = Field(512, ge=1, description="Most open connections.")
    keep_days: float | None = Field(
        None, gt=0, description="Delete images after this many days; what was decided stays."
    )
    keep_gb: float | None = Field(
        None,
        gt=0,
        description="Delete the oldest images above this size in GB; what was decided stays.",
    )

    @field_validator("hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(part.strip().lower() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @property
    def max_body(self) -> int:
        """Largest body of a request, in bytes."""
        return int(self.max_body_mb * 1e6)

    def deliverer(self, program: str) -> str:
        """Name of a program that delivers the verdicts of this history, unlike that of any other beside it.

        Args:
            program: ``serve`` or ``watch``.

        Example:
            >>> ServeSettings(data=Path("/srv/line-3")).deliverer("watch")
            'watch-6622260b'
        """
        history = self.db or str(self.data.absolute())
        return f"{program}-{sha256(history.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"

    @property
    def max_held(self) -> int:
        """Most bytes of requests in memory at once: never below the largest body, or no such body could be taken."""
        return max(int(self.queue_mb * 1e6), self.max_body)


def named_runs(runs: list[str]) -> dict[str, Path]:
    """Give each model a product name: ``NAME=RUN``, or the name of the folder.

    Args:
        runs: Folders of models, each with its name before an equals sign or without one.

    Returns:
        Folders by product name.

    Raises:
        ConfigError: A name cannot be used, or two products have the same one.

    Example:
        >>> named_runs(["screws=models/run-7", "bottle"])
        {'screws': PosixPath('models/run-7'), 'bottle': PosixPath('bottle')}
    """
    named: dict[str, Path] = {}
    for run in runs:
        before, equals, after = run.partition("=")
        folder = Path(after if equals else run)
        name = before if equals else folder.resolve().name
        if not re.fullmatch(PRODUCT_NAME, name):
            raise ConfigError(
                f"{run}: {name!r} cannot be the name of a product; write NAME={folder}, with letters, digits,"
                " points, hyphens and underscores"
            )
        if name in named:
            raise ConfigError(f"{run}: two products are named {name}; write NAME={folder} to give it another name")
        named[name] = folder
    return named
