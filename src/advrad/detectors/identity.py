"""What identifies a detector of a model folder or an export."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from advrad.detectors.exported_folder import is_export
from advrad.detectors.model_folder import CARD_NAME, CONFIG_NAME
from advrad.errors import CheckpointError
from advrad.utils.output_folders import EXPORT_NAME


def identity_of(folder: Path) -> str:
    """What identifies the detector of a model folder or an export: it is the same as long as its answers are.

    Args:
        folder: Folder.

    Raises:
        CheckpointError: The folder holds no model, or its description cannot be read.
    """
    path = folder / (EXPORT_NAME if is_export(folder) else CONFIG_NAME)
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); copy the folder again") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: is not a model of advrad; name a folder that 'advrad train' made")
    return identity_of_values(values)


def identity_of_values(values: dict[str, Any]) -> str:
    """Digest of ``config.json`` or ``detector.json``, without what a measurement changes: the detector is the same.

    Args:
        values: Content of the file, as JSON values.

    Example:
        >>> identity_of_values({"kind": "closed_form", "figures": {"auroc": 0.9}})[:8]
        '961c1a73'
    """
    kept = {name: value for name, value in values.items() if name not in ("figures", "sha256")}
    if isinstance(files := kept.get("files"), dict):
        kept["files"] = {name: digest for name, digest in files.items() if name != CARD_NAME}
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()
