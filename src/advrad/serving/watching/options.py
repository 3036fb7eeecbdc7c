"""Options of a watched folder."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from advrad.utils.config import Config


class WatchOptions(Config):
    """What is inspected in a watched folder, when, and what becomes of the files."""

    patterns: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Names of files to inspect, separated by commas, such as '*.png,cam1/*'; capitals do not count.",
        json_schema_extra={"when_none": "every image"},
    )
    station: str | None = Field(None, max_length=200, description="Place of the inspection, kept with each.")
    certify: bool = Field(False, description="Also certify each verdict, if the service can do so for this model.")
    move_to: Path | None = Field(
        None,
        description="Move inspected files into this folder, and unreadable ones to the others like them.",
        json_schema_extra={"when_none": "files stay"},
    )
    settle_s: float = Field(2.0, ge=0, le=3600, description="Seconds for which a file must not change.")
    give_up_s: float = Field(
        60.0, ge=0, le=86400, description="Seconds after which an unchanged file that is no whole image is set aside."
    )
    poll_s: float = Field(1.0, gt=0, le=3600, description="Seconds between two looks at the folder.")
    max_file_mb: float = Field(300.0, gt=0, le=4000, description="Largest file that is read, in MB.")
    once: bool = Field(False, description="End when everything that is there is inspected or set aside.")

    @field_validator("patterns", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @property
    def max_file_bytes(self) -> int:
        """Largest file that is read, in bytes."""
        return int(self.max_file_mb * 1e6)
