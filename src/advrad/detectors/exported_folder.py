"""The folder of an export: ``detector.json``, the graph and the card. Every file is known by its hash."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from advrad.detectors.exported_config import ExportedConfig
from advrad.errors import CheckpointError, ConfigError
from advrad.utils.files import write_json
from advrad.utils.output_folders import EXPORT_FORMAT, EXPORT_NAME

FORMAT_VERSION = 1
_HEADER = ("format", "format_version", "sha256")


def is_export(folder: Path) -> bool:
    """Whether a folder holds an export.

    Args:
        folder: Folder; it may be missing.

    Example:
        >>> is_export(Path("missing"))
        False
    """
    return (folder / EXPORT_NAME).is_file()


def file_digest(path: Path) -> str:
    """SHA-256 of a file.

    Args:
        path: File.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(values: dict[str, Any]) -> str:
    """SHA-256 of JSON values, whatever the order of their names."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_export_config(folder: Path, config: ExportedConfig) -> None:
    """Write ``detector.json``, with a digest of its own values. The files that it names lie in the folder already.

    Args:
        folder: Folder of the export.
        config: Everything about the export.

    Raises:
        OutputError: The file cannot be written; the present one stays.
    """
    values = config.model_dump(mode="json")
    header = {"format": EXPORT_FORMAT, "format_version": FORMAT_VERSION, "sha256": _digest(values)}
    write_json(folder / EXPORT_NAME, header | values)


def read_export_config(folder: Path) -> ExportedConfig:
    """Read ``detector.json``; the other files are not looked at.

    Args:
        folder: Folder of the export.

    Raises:
        CheckpointError: It is missing, damaged, changed, of another program, or of a newer format.
    """
    path = folder / EXPORT_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {_FIX}") from None
    if not isinstance(values, dict) or values.get("format") != EXPORT_FORMAT:
        raise CheckpointError(f"{path}: does not describe an export of advrad; name a folder that 'advrad export' made")
    header = {name: values.pop(name, None) for name in _HEADER}
    version = header["format_version"]
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: has format {version}, this advrad reads up to {FORMAT_VERSION}; install a newer advrad"
        )
    if header["sha256"] != _digest(values):
        raise CheckpointError(f"{path}: was changed after the export (its hash differs); {_FIX}")
    try:
        return ExportedConfig.parse(values, str(path))
    except ConfigError as error:
        raise CheckpointError(f"{error}; {_FIX}") from None


_FIX = "copy the folder again, or export again"


def check_files(folder: Path, config: ExportedConfig) -> None:
    """Check that the files of an export are those that ``detector.json`` describes.

    Args:
        folder: Folder of the export.
        config: Everything about the export.

    Raises:
        CheckpointError: A file is missing, cannot be read, or was changed.
    """
    for name, wanted in config.files.items():
        path = folder / name
        if Path(name).name != name:
            raise CheckpointError(f"{folder / EXPORT_NAME}: names the file {name!r} outside of the folder; {_FIX}")
        try:
            found = file_digest(path)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: is missing; {_FIX}") from None
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror}); {_FIX}") from None
        if found != wanted:
            raise CheckpointError(f"{path}: was changed after the export (its hash differs); {_FIX}")
