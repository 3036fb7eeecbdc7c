"""The folder of an export: made under a temporary name, and renamed when it is complete."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from advrad.detectors.engines import EngineOutput
from advrad.detectors.exported_config import (
    INPUT,
    OUTPUTS,
    EngineName,
    ExportedConfig,
    ExportPrecision,
    FramingRecord,
    GuardedRecord,
    ParityRecord,
    PortRecord,
    ProvenanceRecord,
    RoundingRecord,
)
from advrad.detectors.exported_folder import file_digest, write_export_config
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.model_card import render
from advrad.detectors.model_folder import write_card
from advrad.detectors.saved import SavedDetector
from advrad.errors import OutputError
from advrad.exporting.rounding import rounding_of
from advrad.utils.environment import versions
from advrad.utils.files import PART, explain, make_folder
from advrad.utils.output_folders import EXPORT_NAME, check_output, contents_of

#: Packages that make an export, beside those that :func:`advrad.utils.environment.versions` names.
_PACKAGES = {
    "openvino": ("openvino", "onnx", "onnxscript"),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
}


def check_export_folder(folder: Path) -> None:
    """Refuse a folder that an export must not go into, before any work.

    Args:
        folder: Folder for the export.

    Raises:
        OutputError: It holds something, is a file, or cannot be made.
    """
    check_output(folder, "export")
    if contents_of(folder) is not None:
        raise OutputError(f"{folder}: holds an export; remove it, or give another folder for the new one")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that takes its name when the block ends without an error; otherwise it is removed.

    Args:
        folder: Folder to make: new or empty.

    Yields:
        The temporary folder, beside it.

    Raises:
        OutputError: The folder cannot be made or written.
    """
    place = Path(os.path.abspath(folder))
    make_folder(place.parent)
    temporary = place.with_name(f".{secrets.token_hex(6)}{PART}")
    try:
        temporary.mkdir()
        yield temporary
        _rename(temporary, place)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {explain(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename(temporary: Path, place: Path) -> None:
    """Give a complete folder its name; a folder that is there and holds nothing but hidden files gets the files."""
    with suppress(OSError):
        place.rmdir()
    if not place.exists():
        os.replace(temporary, place)
        return
    for path in sorted(temporary.iterdir(), key=lambda path: path.name == EXPORT_NAME):  # that one last
        os.replace(path, place / path.name)


@dataclass(frozen=True)
class Provenance:
    """What an export is made from, and for.

    Attributes:
        detector: The detector.
        identity: Its identity, see :class:`advrad.detectors.loading.LoadedDetector`.
        weights_sha256: Digest of its tensors; None if it is not known.
        engine: Runtime of the export.
        precision: Arithmetic of the export.
    """

    detector: SavedDetector
    identity: str
    weights_sha256: str | None
    engine: EngineName
    precision: ExportPrecision

    def config(self, output: EngineOutput | None = None) -> ExportedConfig:
        """What ``detector.json`` says before the comparison.

        Args:
            output: What the finished graph gives for any image, for the shapes of its outputs; None before. What is
                proven about rounding, which depends on the threshold, is said with it.
        """
        detector, source = self.detector, self.detector.config
        exported_as = {name: version(name) for name in _PACKAGES[self.engine]}
        if self.precision == "int8":
            exported_as["nncf"] = version("nncf")
        return ExportedConfig(
            source_kind=source.kind,
            description=tuple(source.describe()),
            engine=self.engine,
            precision=self.precision,
            inference_precision="bf16" if self.precision == "bfloat16" else "f32",
            image_size_px=source.image_size_px,
            framing_record=FramingRecord.of(source.framing),
            calibration=detector.calibration,
            guarded=_halves_of(detector),
            noise_seed=getattr(detector, "noise_seed", None),
            inputs=(PortRecord(name=INPUT, type="uint8", shape=(1, None, None, 3)),),
            outputs=() if output is None else _outputs(output),
            # It takes seconds for a large memory, and depends on the threshold, which is the export's own at the end.
            rounding=RoundingRecord(words="") if output is None else rounding_of(detector, self.precision),
            provenance=ProvenanceRecord(
                config_sha256=self.identity,
                weights_sha256=self.weights_sha256,
                data=detector.calibration.source.get("data"),
            ),
            versions=versions() | exported_as,
            training=source.training,
        )


def _halves_of(detector: SavedDetector) -> GuardedRecord | None:
    """The halves of a guarded detector; None for another."""
    if not isinstance(detector, GuardedDetector):
        return None
    return GuardedRecord(names=detector.config.names, tests=detector.tests, joint=detector.config.joint)


def _outputs(output: EngineOutput) -> tuple[PortRecord, ...]:
    """The outputs of the graph, as it gives them."""
    score, anomaly_map, defective, halves = OUTPUTS
    ports = [
        PortRecord(name=score, type="float32", shape=(1,)),
        PortRecord(name=anomaly_map, type="float32", shape=(1, *output.anomaly_map.shape)),
        PortRecord(name=defective, type="bool", shape=(1,)),
    ]
    if output.half_scores is not None:
        ports.append(PortRecord(name=halves, type="float32", shape=(1, len(output.half_scores))))
    return tuple(ports)


def finish(folder: Path, config: ExportedConfig, parity: ParityRecord, *, rescored: bool) -> ExportedConfig:
    """Write the card and ``detector.json`` beside the graph.

    Args:
        folder: Folder that holds the graph.
        config: What ``detector.json`` says before the comparison.
        parity: The comparison.
        rescored: Whether the threshold was set from scores of the exported graph.

    Returns:
        What ``detector.json`` says.

    Raises:
        OutputError: A file cannot be written.
    """
    config = config.model_copy(update={"parity": parity, "rescored": rescored})
    write_card(folder, render(config))
    files = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
    config = config.model_copy(update={"files": files})
    write_export_config(folder, config)
    return config
