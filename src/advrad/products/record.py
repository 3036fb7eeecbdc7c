"""What is known of a product: the file of each product, by which its training is resumed and shown."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from advrad.detectors.config import RecordedFigures
from advrad.detectors.exported_folder import is_export, read_export_config
from advrad.detectors.identity import identity_of
from advrad.errors import DataError
from advrad.products.table import ExportForm
from advrad.utils.config import Config
from advrad.utils.files import make_folder, write_json
from advrad.utils.output_folders import contents_of

#: Format of the file.
FORMAT = 1


class Seconds(Config):
    """Seconds that the steps took on the clock; None for what was not done.

    Attributes:
        train: Fit and threshold.
        evaluate: Figures on the test images.
        export: Export.
        in_all: Everything, with looking at the images.
    """

    train: float | None = None
    evaluate: float | None = None
    export: float | None = None
    in_all: float = 0.0


class ProductRecord(Config):
    """A product whose training has begun, with what came of it.

    Attributes:
        format: Format of the file.
        name: Name of the product.
        state: ``begun``, ``finished`` or ``failed``.
        error: Why it failed; empty otherwise.
        settings: Options of the training.
        export: Form of the export; None for none.
        images: Digest of all images and masks; empty if they could not be listed.
        trained_on: Digest of the normal images for training alone.
        advrad: Version of advrad that made the model.
        n_normal: Number of different normal images that were used.
        kind: Kind of the detector.
        threshold: Threshold of the score.
        false_alarm_rate: Largest probability that a normal image exceeds it.
        figures: Figures on the test images; None without test images.
        model_bytes: Size of the model folder.
        export_bytes: Size of the export; None without one.
        warnings: What a person should look at, in words.
        notes: What the training said, in words.
        seconds: Seconds that the steps took.

    Example:
        >>> ProductRecord(name="bottle", state="failed", error="no images").finished
        False
    """

    model_config = ConfigDict(extra="ignore")

    format: int = FORMAT
    name: str
    state: Literal["begun", "finished", "failed"]
    error: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    export: ExportForm | None = None
    images: str = ""
    trained_on: str = ""
    advrad: str = ""
    n_normal: int | None = None
    kind: str = ""
    threshold: float | None = None
    false_alarm_rate: float | None = None
    figures: RecordedFigures | None = None
    model_bytes: int = 0
    export_bytes: int | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: Seconds = Seconds()

    @property
    def finished(self) -> bool:
        """Whether everything that the table asks for is done."""
        return self.state == "finished"


class Places:
    """Where the files of products lie in their folder.

    Args:
        folder: Folder of all products.

    Example:
        >>> Places(Path("models")).model("bottle").as_posix()
        'models/models/bottle'
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def model(self, name: str) -> Path:
        """Model folder of a product."""
        return self.folder / "models" / name

    def export(self, name: str) -> Path:
        """Folder of a product's export."""
        return self.folder / "exports" / name

    def holds_model(self, name: str) -> bool:
        """Whether the model of a product is there, finished or not."""
        try:
            return contents_of(self.model(name)) is not None
        except OSError:  # a name that this disk cannot hold
            return False

    def holds_export(self, name: str) -> bool:
        """Whether an export of the model that is there now is there. One of an earlier model counts as none.

        Args:
            name: Name of the product.

        Raises:
            CheckpointError: The description of the export or of the model cannot be read.
        """
        place = self.export(name)
        if not is_export(place):
            return False
        # The identity covers the digest of the weights, which is in the description of the model.
        return read_export_config(place).provenance.config_sha256 == identity_of(self.model(name))

    def report(self, name: str) -> Path:
        """HTML report of a product."""
        return self.folder / "reports" / f"{name}.html"

    def record(self, name: str) -> Path:
        """File of a product's record."""
        return self.folder / "records" / f"{name}.json"

    def lock(self, name: str) -> Path:
        """File that is locked while a product is made."""
        return self.folder / "records" / f".{name}.lock"

    def read(self, name: str) -> ProductRecord | None:
        """Read the record of a product; None if there is none.

        Args:
            name: Name of the product.

        Raises:
            DataError: The record is damaged, or cannot be read.
        """
        path = self.record(name)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # so there can be none
                return None
            raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions and the disk") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: is damaged ({error}); delete it and the model of {name}") from None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise DataError(f"{path}: is of another version of advrad; delete it and the model of {name}")
        return ProductRecord.parse(values, str(path))

    def write(self, record: ProductRecord) -> None:
        """Write the record of a product.

        Args:
            record: The record.

        Raises:
            OutputError: The file cannot be written.
        """
        path = self.record(record.name)
        make_folder(path.parent)
        write_json(path, record.model_dump(mode="json"))
