"""Load a detector from a model folder, or from a Python file of the user."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """A detector with what identifies it and where its results go.

    Attributes:
        detector: Detector.
        identity: Digest of the model's configuration, or the name of the file that defines the detector. Results of
            another identity are not continued.
        folder: Model folder, in which results are stored by default; None for a detector that has none.

    Example:
        >>> loaded = to_loaded(lambda images: images.mean((1, 2, 3)))
        >>> loaded.identity, loaded.folder
        ('function', None)
    """

    detector: AnomalyDetector
    identity: str
    folder: Path | None

    def result_folder(self, kind: str, label: str, depends_on: list[object]) -> Path:
        """Path of a folder for results inside the model folder.

        Args:
            kind: Kind of result: the name of the folder that holds all of the kind.
            label: Readable beginning of the folder's name.
            depends_on: Everything that the results depend on, as plain JSON values; its digest ends the folder's name.

        Raises:
            ConfigError: The detector has no model folder.
        """
        if self.folder is None:
            raise ConfigError(
                "is needed, because this detector has no folder; name a folder for the results", option="output"
            )
        digest = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:8]
        return self.folder / kind / f"{label}-{digest}"


def load_target(name: str, device: str = "auto") -> LoadedDetector:
    """Load a detector by name.

    Args:
        name: Model folder; or ``FILE.py:NAME``, where NAME in that file is an
            :class:`advrad.detectors.base.AnomalyDetector`, or a function or module that :func:`advrad.wrap` takes. The
            file is run.
        device: Device of a model from a model folder; ``auto`` is the GPU if PyTorch has one.

    Raises:
        CheckpointError: The folder holds no model.
        ConfigError: The file cannot be run, or does not define the name.

    Example:
        >>> _ = Path("mine.py").write_text("def score(images): return images.mean((1, 2, 3))")
        >>> load_target("mine.py:score").identity
        'mine.py:score'
    """
    if not is_file_name(name):
        folder = Path(name)
        detector = load_detector(folder, device)
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        config.pop("figures", None)  # a measurement does not change the detector
        return LoadedDetector(WhiteBoxAdvRAD(detector), hashlib.sha256(json.dumps(config).encode()).hexdigest(), folder)
    return LoadedDetector(as_detector(load_name(name)), Path(name).name, None)


def to_loaded(detector: Any) -> LoadedDetector:
    """Make a :class:`LoadedDetector` of any detector in memory.

    Args:
        detector: :class:`LoadedDetector`, :class:`advrad.AdvRAD`, :class:`advrad.detectors.base.AnomalyDetector`, or
            anything that :func:`advrad.wrap` takes.

    Raises:
        ConfigError: It is none of these.
    """
    if isinstance(detector, LoadedDetector):
        return detector
    found = as_detector(detector)
    if isinstance(found, WhiteBoxAdvRAD):
        config = found.detector.detector_config.model_dump(mode="json", exclude={"figures"})
        digest = hashlib.sha256(json.dumps(config).encode())
        for name, tensor in found.detector.state_dict().items():
            digest.update(name.encode() + tensor.cpu().flatten().view(torch.uint8).numpy().tobytes())
        return LoadedDetector(found, digest.hexdigest(), None)
    return LoadedDetector(found, type(detector).__name__, None)


def load_detector(folder: Path, device: str = "auto") -> AdvRAD:
    """Load a model folder. A name that is not a folder is not searched for on the hub.

    Args:
        folder: Model folder, as ``advrad train`` makes it.
        device: Device of the model; ``auto`` is the GPU if PyTorch has one.

    Raises:
        CheckpointError: The model is missing, damaged, of another kind, or of a newer format.
        ConfigError: The device cannot be used.

    Example:
        Needs a trained model folder.

        >>> load_detector(Path("bottle")).size_px  # doctest: +SKIP
        256
    """
    if folder.is_file():
        raise CheckpointError(f"{folder}: is a file, not a model folder; name the folder that 'advrad train' made")
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such model folder; make one with 'advrad train DATA -o {folder}'")
    return AdvRAD.from_pretrained(folder, map_location=usable_device(device))


def usable_device(name: str) -> str:
    """Check that a device can be used.

    Args:
        name: Name of the device, such as ``cpu`` or ``cuda:1``; ``auto`` is the GPU if PyTorch has one.

    Returns:
        Name of the device; never ``auto``.

    Raises:
        ConfigError: There is no such device.

    Example:
        >>> usable_device("cpu")
        'cpu'
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # without CUDA, PyTorch raises an AssertionError
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"cannot be used ({reason}); choose cpu or auto", option="device", value=name) from None
    return name
