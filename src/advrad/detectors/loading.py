"""Load the detector that a name leads to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from advrad.detectors.advrad import AdvRAD
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.model_folder import CONFIG_NAME
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.detectors.wrappers import as_detector
from advrad.errors import CheckpointError, ConfigError
from advrad.utils.imports import is_file_name, load_name


@dataclass(frozen=True)
class LoadedDetector:
    """A detector that a name led to.

    Attributes:
        detector: as an audit needs it.
        identity: a digest of its weights, or its name.
        home: where results go if nothing else is said; None for a detector that is no model folder.
    """

    detector: AnomalyDetector
    identity: str
    home: Path | None

    def place(self, kind: str, label: str, told: list[object]) -> Path:
        """A folder for results inside the model's, one of its own for everything that they depend on.

        Args:
            kind: of the results: the folder that holds all of them.
            label: for people, before the digest.
            told: what the results depend on, as plain JSON values.

        Raises:
            ConfigError: the detector has no folder.
        """
        if self.home is None:
            raise ConfigError("-o: is needed, because this detector has no folder; name one for the results")
        digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:8]
        return self.home / kind / f"{label}-{digest}"


def load_target(name: str, device: str = "auto") -> LoadedDetector:
    """Find a detector.

    Args:
        name: a model folder, or ``FILE.py:NAME``, where the file's NAME is a
            :class:`advrad.detectors.base.AnomalyDetector`, or a function or module that :func:`advrad.wrap` takes. The
            file is run.
        device: for a model folder.

    Raises:
        CheckpointError: the folder is no model.
        ConfigError: the file cannot be run, or holds no such name.
    """
    if not is_file_name(name):
        folder = Path(name)
        detector = load_detector(folder, device)
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        config.pop("figures", None)  # measuring a detector does not make it another one
        return LoadedDetector(WhiteBoxAdvRAD(detector), hashlib.sha256(json.dumps(config).encode()).hexdigest(), folder)
    return LoadedDetector(as_detector(load_name(name)), Path(name).name, None)


def load_detector(folder: Path, device: str = "auto") -> AdvRAD:
    """Load a local model folder; a name that is no folder is not looked for on the hub.

    Args:
        folder: as ``advrad train`` made it.
        device: ``auto`` takes the GPU if PyTorch has one.

    Raises:
        CheckpointError: missing, damaged, foreign, or of a newer format.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such model folder; make one with 'advrad train DATA -o {folder}'")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return AdvRAD.from_pretrained(folder, map_location=device)
