"""Load a detector from a model folder of any kind, or from a Python file of the user.

The ``kind`` in a folder's ``config.json`` says which detector it holds; :data:`KINDS` has a row for each kind.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from advrad.detectors.advrad import AdvRAD
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.config import CERTIFIED_FIGURES, DetectorConfig, RecordedFigures, TestedFigures
from advrad.detectors.model_card import render
from advrad.detectors.model_folder import CONFIG_NAME, read_config, replace_config, write_card
from advrad.detectors.saved import SavedConfig, SavedDetector, SupportsPrediction
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.detectors.wrappers import as_detector
from advrad.errors import CheckpointError, ConfigError
from advrad.utils.imports import is_file_name, load_name


@dataclass(frozen=True)
class Kind:
    """A kind of detector that a model folder may hold.

    Attributes:
        words: Name of the kind in messages.
        parse: Function that reads the configuration from JSON values and the name of their file.
        load: Function that loads a folder onto a device.
        gpu: Whether it can compute on a GPU.
    """

    words: str
    parse: Callable[[dict[str, Any], str], SavedConfig]
    load: Callable[[Path, str], SavedDetector]
    gpu: bool = False


def _parse_closed_form(values: dict[str, Any], source: str) -> SavedConfig:
    from advrad.detectors.closed_form import ClosedFormConfig

    return ClosedFormConfig.parse(values, source)


def _load_closed_form(folder: Path, device: str) -> SavedDetector:
    from advrad.detectors.closed_form import ClosedFormDetector

    return ClosedFormDetector.from_pretrained(folder)


def _parse_combined(values: dict[str, Any], source: str) -> SavedConfig:
    from advrad.detectors.combined import CombinedConfig

    return CombinedConfig.parse(values, source)


def _parse_tiled(values: dict[str, Any], source: str) -> SavedConfig:
    from advrad.detectors.tiled_config import TiledConfig

    return TiledConfig.parse(values, source)


def _load_tiled(folder: Path, device: str) -> SavedDetector:
    from advrad.detectors.tiled import TiledDetector

    return TiledDetector.from_pretrained(folder)


def _load_combined(folder: Path, device: str) -> SavedDetector:
    from advrad.detectors.combined import CombinedDetector

    return CombinedDetector.from_pretrained(folder)


def _parse_features(values: dict[str, Any], source: str) -> SavedConfig:
    from advrad.detectors.feature_config import FeatureConfig

    return FeatureConfig.parse(values, source)


def _load_features(folder: Path, device: str) -> SavedDetector:
    from advrad.detectors.feature_memory import FeatureDetector

    return FeatureDetector.from_pretrained(folder).to(device)


def _parse_guarded(values: dict[str, Any], source: str) -> SavedConfig:
    from advrad.detectors.guarded_config import GuardedConfig

    return GuardedConfig.parse(values, source)


def _load_guarded(folder: Path, device: str) -> SavedDetector:
    from advrad.detectors.guarded import GuardedDetector

    return GuardedDetector.from_pretrained(folder)


def _load_advrad(folder: Path, device: str) -> SavedDetector:
    return AdvRAD.from_pretrained(folder, map_location=device)


#: The kinds of detectors, by the ``kind`` in ``config.json``. A folder without one holds an AdvRAD.
KINDS: Mapping[str, Kind] = {
    "advrad": Kind("a learned denoiser (AdvRAD)", DetectorConfig.parse, _load_advrad, gpu=True),
    "closed_form": Kind("a closed-form detector", _parse_closed_form, _load_closed_form),
    "tiled": Kind("a closed-form detector of tiles", _parse_tiled, _load_tiled),
    "features": Kind("a detector on features", _parse_features, _load_features, gpu=True),
    "combined": Kind("a closed-form detector and a learned denoiser", _parse_combined, _load_combined),
    "guarded": Kind("a guarded detector", _parse_guarded, _load_guarded),
}


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
        self.check_folder()
        digest = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:8]
        return cast(Path, self.folder) / kind / f"{label}-{digest}"

    def check_folder(self) -> None:
        """Refuse a detector without a model folder, in which results are stored by default.

        Raises:
            ConfigError: The detector has no model folder.
        """
        if self.folder is None:
            raise ConfigError(
                "is needed, because this detector has no folder; name a folder for the results", option="output"
            )


def load_target(name: str, device: str = "auto") -> LoadedDetector:
    """Load a detector by name.

    Args:
        name: Model folder; or ``FILE.py:NAME``, where NAME in that file is an
            :class:`advrad.detectors.base.AnomalyDetector`, or a function or module that :func:`advrad.wrap` takes. The
            file is run.
        device: Device of a model from a model folder; ``auto`` is the GPU if there is one and the detector can use it.

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
        return LoadedDetector(as_detector(detector), hashlib.sha256(json.dumps(config).encode()).hexdigest(), folder)
    return LoadedDetector(load_name(name, as_detector), Path(name).name, None)


def to_loaded(detector: Any) -> LoadedDetector:
    """Make a :class:`LoadedDetector` of any detector in memory.

    Args:
        detector: :class:`LoadedDetector`, a detector of a model folder, :class:`advrad.detectors.base.AnomalyDetector`,
            or anything that :func:`advrad.wrap` takes.

    Raises:
        ConfigError: It is none of these.
    """
    if isinstance(detector, LoadedDetector):
        return detector
    found = as_detector(detector)
    saved = found.detector if isinstance(found, WhiteBoxAdvRAD) else found
    if not isinstance(saved, SupportsPrediction) or not isinstance(saved, nn.Module):
        return LoadedDetector(found, type(detector).__name__, None)
    # A detector of a model folder: what it computes follows from its configuration and its tensors.
    config = cast(SavedDetector, saved).config.model_dump(mode="json")
    config.pop("figures", None)
    digest = hashlib.sha256(json.dumps(config).encode())
    for name, tensor in saved.state_dict().items():
        digest.update(name.encode() + tensor.cpu().flatten().view(torch.uint8).numpy().tobytes())
    return LoadedDetector(found, digest.hexdigest(), None)


def load_detector(folder: str | Path, device: str = "auto") -> SavedDetector:
    """Load a model folder of any kind. A name that is not a folder is not searched for on the hub.

    Args:
        folder: Model folder, as ``advrad train`` makes it.
        device: Device of the model; ``auto`` is the GPU if PyTorch has one and the kind of detector can use it.

    Raises:
        CheckpointError: The model is missing, damaged, of an unknown kind, or of a newer format.
        ConfigError: The device cannot be used.

    Example:
        Needs a trained model folder.

        >>> load_detector("bottle").image_size_px  # doctest: +SKIP
        256
    """
    folder = Path(folder)
    if folder.is_file():
        raise CheckpointError(f"{folder}: is a file, not a model folder; name the folder that 'advrad train' made")
    kind = kind_of(read_config(folder), str(folder / CONFIG_NAME))
    name = usable_device("cpu" if device == "auto" and not kind.gpu else device)
    if name != "cpu" and not kind.gpu:
        raise ConfigError(f"cannot be used by {kind.words}, which computes on the CPU", option="device", value=device)
    return kind.load(folder, name)


def load_advrad(folder: Path, device: str = "auto") -> AdvRAD:
    """Load a model folder that must hold an AdvRAD, for what needs its denoiser.

    Args:
        folder: Model folder, as ``advrad train --minutes M`` makes it.
        device: Device of the model; ``auto`` is the GPU if PyTorch has one.

    Raises:
        CheckpointError: The model is missing, damaged, of another kind, or of a newer format.
        ConfigError: The device cannot be used.
    """
    detector = load_detector(folder, device)
    if not isinstance(detector, AdvRAD):
        found = kind_of(read_config(folder), str(folder / CONFIG_NAME))
        raise CheckpointError(f"{folder}: holds {found.words}, and this needs {KINDS['advrad'].words}; name another")
    return detector


def kind_of(values: Mapping[str, Any], source: str) -> Kind:
    """Find the kind of a detector in its configuration.

    Args:
        values: Configuration as JSON values.
        source: File of the configuration, for error messages.

    Raises:
        CheckpointError: This version does not know the kind.
    """
    name = values.get("kind", "advrad")
    if not isinstance(name, str) or name not in KINDS:
        raise CheckpointError(
            f"{source}: holds a detector of kind {name!r}, which this advrad does not know; install a newer advrad"
        )
    return KINDS[name]


def load_config(folder: Path) -> SavedConfig:
    """Read the configuration of a model folder, without its tensors.

    Args:
        folder: Model folder.

    Raises:
        CheckpointError: The configuration is missing, damaged, of an unknown kind, or of a newer format.
        ConfigError: A key of the configuration is unknown, or a value is out of range.
    """
    values, source = read_config(folder), str(folder / CONFIG_NAME)
    return kind_of(values, source).parse(values, source)


def save_figures(folder: Path, figures: RecordedFigures) -> SavedConfig:
    """Store measured figures in a model folder: in its ``config.json`` and its model card.

    Args:
        folder: Model folder.
        figures: Measured figures. Those of an evaluation replace the earlier evaluation, those of a certification the
            earlier ones in the same norm; the others stay.

    Returns:
        The new configuration.

    Raises:
        CheckpointError: The configuration cannot be read.
        OutputError: The folder cannot be written; no file is left incomplete.
    """
    values, source = read_config(folder), str(folder / CONFIG_NAME)
    kept, new = values.get("figures") or {}, figures.to_dict()
    if figures.model_fields_set & TestedFigures.model_fields.keys():
        kept = {name: value for name, value in kept.items() if name in CERTIFIED_FIGURES}
    values["figures"] = kept | new
    config = kind_of(values, source).parse(values, source)
    replace_config(folder, values)
    write_card(folder, render(config))
    return config


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
