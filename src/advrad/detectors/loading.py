"""Load a detector from a model folder of any kind, from an export, or from a Python file of the user.

The ``kind`` in a folder's ``config.json`` says which detector it holds; :data:`KINDS` has a row for each kind. An
export has a ``detector.json`` instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import nn

from advrad.detectors.advrad import AdvRAD
from advrad.detectors.base import AnomalyDetector
from advrad.detectors.config import CERTIFIED_FIGURES, DetectorConfig, RecordedFigures, TestedFigures
from advrad.detectors.devices import usable_device
from advrad.detectors.exported_config import EngineName, ExportedConfig
from advrad.detectors.exported_folder import file_digest, is_export, read_export_config, write_export_config
from advrad.detectors.identity import identity_of, identity_of_values
from advrad.detectors.model_card import render
from advrad.detectors.model_folder import CONFIG_NAME, read_config, replace_config, write_card
from advrad.detectors.saved import SavedConfig, SavedDetector, SupportsPrediction
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.detectors.wrappers import as_detector
from advrad.errors import CheckpointError, ConfigError
from advrad.utils.imports import is_file_name, load_name
from advrad.utils.output_folders import EXPORT_NAME


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


def _load_exported(folder: Path, device: str) -> SavedDetector:
    from advrad.detectors.exported import ExportedDetector

    return ExportedDetector.from_pretrained(folder)


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
    "exported": Kind("an exported detector", ExportedConfig.parse, _load_exported),
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


def load_target(name: str, device: str = "auto", engine: str | None = None) -> LoadedDetector:
    """Load a detector by name.

    Args:
        name: Model folder or export; or ``FILE.py:NAME``, where NAME in that file is an
            :class:`advrad.detectors.base.AnomalyDetector`, or a function or module that :func:`advrad.wrap` takes. The
            file is run.
        device: Device of a model from a model folder; ``auto`` is the GPU if there is one and the detector can use it.
        engine: What computes, see :func:`load_detector`.

    Raises:
        CheckpointError: The folder holds no model.
        ConfigError: The file cannot be run, or does not define the name; or the engine does not suit.

    Example:
        >>> _ = Path("mine.py").write_text("def score(images): return images.mean((1, 2, 3))")
        >>> load_target("mine.py:score").identity
        'mine.py:score'
    """
    if not is_file_name(name):
        folder = Path(name)
        detector = load_detector(folder, device, engine)
        return LoadedDetector(as_detector(detector), identity_of(folder), folder)
    if engine not in (None, "torch"):
        raise ConfigError("computes exports only; leave it out", option="engine", value=engine)
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
    if isinstance(config := getattr(found, "config", None), ExportedConfig):
        return LoadedDetector(found, identity_of_values(config.model_dump(mode="json")), None)
    saved = found.detector if isinstance(found, WhiteBoxAdvRAD) else found
    if not isinstance(saved, SupportsPrediction) or not isinstance(saved, nn.Module):
        return LoadedDetector(found, type(detector).__name__, None)
    # A detector of a model folder: what it computes follows from its configuration and its tensors.
    facts = cast(SavedDetector, saved).config.model_dump(mode="json")
    facts.pop("figures", None)
    digest = hashlib.sha256(json.dumps(facts).encode())
    for name, tensor in saved.state_dict().items():
        digest.update(name.encode() + tensor.cpu().flatten().view(torch.uint8).numpy().tobytes())
    return LoadedDetector(found, digest.hexdigest(), None)


def load_detector(folder: str | Path, device: str = "auto", engine: str | None = None) -> SavedDetector:
    """Load a model folder of any kind, or an export. A name that is not a folder is not searched for on the hub.

    Args:
        folder: Model folder, as ``advrad train`` makes it, or a folder of ``advrad export``.
        device: Device of the model; ``auto`` is the GPU if PyTorch has one and the kind of detector can use it.
        engine: What computes: ``torch`` for a model folder, ``openvino`` or ``onnxruntime`` for an export; None for
            what the folder was made for.

    Raises:
        CheckpointError: The model is missing, damaged, changed, of an unknown kind, or of a newer format.
        ConfigError: The device or the engine cannot be used.

    Example:
        Needs a trained model folder.

        >>> load_detector("bottle").image_size_px  # doctest: +SKIP
        256
    """
    folder = Path(folder)
    if folder.is_file():
        raise CheckpointError(f"{folder}: is a file, not a model folder; name the folder that 'advrad train' made")
    exported = is_export(folder)
    _check_engine(engine, folder, exported)
    kind = KINDS["exported"] if exported else kind_of(read_config(folder), str(folder / CONFIG_NAME))
    name = usable_device("cpu" if device == "auto" and not kind.gpu else device)
    if name != "cpu" and not kind.gpu:
        raise ConfigError(f"cannot be used by {kind.words}, which computes on the CPU", option="device", value=device)
    if exported and engine is not None:
        from advrad.detectors.exported import ExportedDetector

        return ExportedDetector.from_pretrained(folder, engine=cast(EngineName, engine))
    return kind.load(folder, name)


def _check_engine(engine: str | None, folder: Path, exported: bool) -> None:
    """Refuse an engine that does not compute what a folder holds."""
    if engine is None:
        return
    names = ("torch", *get_args(EngineName))
    if engine not in names:
        raise ConfigError(f"is unknown; choose {', '.join(names)}", option="engine", value=engine)
    if exported and engine == "torch":
        raise ConfigError(
            f"{folder} is an export and holds no PyTorch model; give the model folder that was exported",
            option="engine",
            value=engine,
        )
    if not exported and engine != "torch":
        raise ConfigError(
            f"{folder} is no export; make one with 'advrad export RUN -o DIR'", option="engine", value=engine
        )


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
    if is_export(folder):
        return read_export_config(folder)
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
    if is_export(folder):
        return _save_export_figures(folder, figures)
    values, source = read_config(folder), str(folder / CONFIG_NAME)
    values["figures"] = _joined_figures(values.get("figures") or {}, figures)
    config = kind_of(values, source).parse(values, source)
    replace_config(folder, values)
    write_card(folder, render(config))
    return config


def _save_export_figures(folder: Path, figures: RecordedFigures) -> ExportedConfig:
    """Store measured figures in an export: in its card, and in its ``detector.json`` with the card's new hash."""
    config = read_export_config(folder)
    joined = _joined_figures(config.figures.to_dict(), figures)
    config = config.model_copy(update={"figures": RecordedFigures.parse(joined, str(folder / EXPORT_NAME))})
    card = write_card(folder, render(config))
    config = config.model_copy(update={"files": config.files | {card.name: file_digest(card)}})
    write_export_config(folder, config)
    return config


def _joined_figures(kept: dict[str, Any], new: RecordedFigures) -> dict[str, Any]:
    """New figures beside those that they do not replace."""
    if new.model_fields_set & TestedFigures.model_fields.keys():
        kept = {name: value for name, value in kept.items() if name in CERTIFIED_FIGURES}
    return kept | new.to_dict()
