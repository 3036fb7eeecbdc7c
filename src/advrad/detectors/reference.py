"""A detector that stays in its own file: a model folder stores where the file is, and what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from advrad.utils.config import Config

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class ReferenceConfig(Config):
    """Where a detector is that was not made by advrad, and what tells whether it is still the same.

    Attributes:
        kind: Name of this kind of detector in files.
        what: ``python`` for an object of a Python file, ``anomalib`` for a checkpoint of anomalib.
        target: Absolute path of the checkpoint, or ``FILE.py:NAME`` with the absolute path of the file.
        sha256: SHA-256 of the file, as hexadecimal digits.
        file_bytes: Size of the file in bytes.
        imports: SHA-256 of the Python files that a Python file imports from its own folder, by their path there.
        model: Name of the class of a model of anomalib; empty for a Python file.
        version: Version of anomalib with which the checkpoint was read; empty for a Python file.
        image_size_px: Side of the square images that the detector takes, in pixels; None for images of any size.
        probe_px: Side of the test image whose score is stored, in pixels; None if none is.
        probe_score: Score of the test image; None for a detector with noise of its own.

    Example:
        >>> ReferenceConfig(what="python", target="/parts/mine.py:score", sha256="0" * 64, file_bytes=80).path.name
        'mine.py'
    """

    kind: Literal["reference"] = "reference"
    what: Literal["python", "anomalib"]
    target: str
    sha256: Digest
    file_bytes: int = Field(ge=0)
    imports: dict[str, Digest] = Field(default_factory=dict)
    model: str = ""
    version: str = ""
    image_size_px: Annotated[int, Field(gt=0)] | None = None
    probe_px: Annotated[int, Field(gt=0)] | None = None
    probe_score: float | None = None

    @property
    def path(self) -> Path:
        """Path of the file."""
        return Path(self.target.rpartition(":")[0] if self.what == "python" else self.target)

    def describe(self) -> list[str]:
        """Describe the detector in plain lines."""
        if self.what == "anomalib":
            return [f"{self.model} of anomalib {self.version}, in {self.target}"]
        return [f"{self.target}, a Python file that is run"]
