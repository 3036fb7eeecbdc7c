"""Export a detector, and refuse an export that does not answer as the detector does.

The exported graph is run in its own runtime on the calibration images, read from their files, and compared with the
detector. Its threshold is computed anew from its own scores and written into the graph. Then the verdicts are compared.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np

from advrad.data.trained_images import trained_on
from advrad.detectors.engines import ONNX_NAME, Engine, check_precision, open_engine
from advrad.detectors.exported_config import EngineName, ExportedConfig, ExportPrecision
from advrad.detectors.exported_folder import is_export
from advrad.detectors.loading import load_target
from advrad.detectors.model_folder import CONFIG_NAME
from advrad.detectors.saved import SavedDetector, seen_by
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.errors import ConfigError, DataError, ExportError, NotCalibratedError
from advrad.exporting.calibration import (
    Decision,
    keep_picture_statistics,
    new_decision,
    present_decision,
    rows_for_int8,
    spread_of_scores,
)
from advrad.exporting.comparing import (
    CalibrationFiles,
    Pair,
    compare,
    computes_in_float32,
    score_again,
)
from advrad.exporting.folder import Provenance, check_export_folder, finish, new_folder
from advrad.exporting.graph import graph_of
from advrad.exporting.onnx_file import OnnxGraph, to_onnx
from advrad.exporting.openvino_files import OpenVinoGraph
from advrad.exporting.options import ExportOptions
from advrad.exporting.parity import TOLERANCES, ImageParity, Parity, check_parity
from advrad.training.threshold_images import recorded_data, threshold_images
from advrad.utils.imports import is_file_name
from advrad.utils.progress import SILENT, ProgressReporter

#: What runs each form of an export.
ENGINES: dict[str, EngineName] = {"openvino": "openvino", "onnx": "onnxruntime"}
#: Largest difference of the threshold that the images give and that of the detector, as a share of the spread of
#: scores: arithmetic and the rounding of stored images differ by far less, other images by far more.
_SAME = 0.02


def export(
    run: str | Path,
    output: str | Path,
    *,
    to: Literal["openvino", "onnx"] = "openvino",
    precision: ExportPrecision = "float32",
    data: str | Path | None = None,
    progress: ProgressReporter = SILENT,
) -> ExportedConfig:
    """Write a detector as a folder that runs without PyTorch, and check that it gives the same verdicts.

    Args:
        run: Model folder, as ``advrad train`` makes it.
        output: Folder for the export, new or empty.
        to: Form of the graph: ``openvino``, or ``onnx``, which both runtimes read.
        precision: Arithmetic of the graph: ``float32``, ``bfloat16``, or ``int8`` for trained networks.
        data: Folder of the images on which the detector was trained; None for the one that it records. Of these, the
            normal images that set its threshold are used.
        progress: Receives the progress.

    Returns:
        What ``detector.json`` says about the export.

    Raises:
        CheckpointError: The model folder is missing, damaged, or does not record how it was trained.
        ConfigError: An option does not fit, there are too few images, or a package is missing.
        DataError: The normal images are not those of the training.
        ExportError: The export does not answer as the detector does. Nothing is written.
        NotCalibratedError: The detector has no threshold.
        OutputError: The folder cannot be written, or holds something.

    Example:
        Needs a trained model folder.

        >>> exported = advrad.export("bottle", "bottle-openvino")  # doctest: +SKIP
        >>> exported.parity.flips  # doctest: +SKIP
        0
    """
    ExportOptions.parse({"to": to, "precision": precision})  # refuses others
    if to == "onnx" and precision != "float32":
        raise ConfigError("needs openvino; export to it, or choose float32", option="precision", value=precision)
    engine, folder = ENGINES[to], Path(output)
    check_precision(precision, engine)
    check_export_folder(folder)
    source = _load(Path(run), engine, precision)
    found = Path(data) if data is not None else recorded_data(Path(run))
    return _Export(source, Path(run), found, progress).write(folder)


def _load(run: Path, engine: EngineName, precision: ExportPrecision) -> Provenance:
    """Load the detector that is exported.

    Raises:
        CheckpointError: The folder holds no model.
        ConfigError: It is no model folder.
        NotCalibratedError: The detector has no threshold.
    """
    if is_file_name(str(run)):
        raise ConfigError(f"{run}: is a detector in a Python file, which cannot be exported; name a model folder")
    if is_export(run):
        raise ConfigError(f"{run}: is an export already; name the model folder that it was made from")
    loaded = load_target(str(run), "cpu")
    white_box = isinstance(loaded.detector, WhiteBoxAdvRAD)
    detector = cast(SavedDetector, loaded.detector.detector if white_box else loaded.detector)  # type: ignore[attr-defined]
    if detector.config.calibration is None:
        raise NotCalibratedError(f"{run}: has no threshold, so an export could not decide; train it again")
    digest = json.loads((run / CONFIG_NAME).read_text(encoding="utf-8")).get("weights_sha256")
    computes_in_float32(detector)
    return Provenance(detector, loaded.identity, digest, engine, precision)


@dataclass
class _Export:
    """The steps of an export.

    Attributes:
        source: What is exported, and for what.
        run: Its model folder.
        data: Folder of its images.
        progress: Receives the progress.
    """

    source: Provenance
    run: Path
    data: Path
    progress: ProgressReporter

    def write(self, folder: Path) -> ExportedConfig:
        """Make the folder.

        Args:
            folder: Folder for the export, new or empty.

        Raises:
            ExportError: The export does not answer as the detector does.
        """
        with new_folder(folder) as place:
            return self._write_into(place)

    def _write_into(self, place: Path) -> ExportedConfig:
        """Fill the folder under its temporary name."""
        detector, precision = self.source.detector, self.source.precision
        files, left_out = self._read()
        ranges = rows_for_int8(detector, len(files), left_out=left_out) if precision == "int8" else ()
        others = [row for row in range(len(files)) if left_out or row not in ranges]  # these set the threshold
        self.progress.stage("Making the graph")
        onnx = to_onnx(graph_of(detector))
        self._write_graph(onnx, files.at(ranges), place)
        engine = open_engine(place, self.source.config())
        pairs = self._compare(engine, files)
        keep_picture_statistics(detector, files)
        expected, decision = self._decide(pairs, others, left_out=left_out)
        if not left_out:
            decision.store(detector)
            self._write_graph(self._with_new_threshold(onnx), files.at(ranges), place)
            engine = open_engine(place, self.source.config())
        parity = self._check(engine, files, pairs, expected, left_out=left_out)
        config = self.source.config(engine.run(files.pixels(0)))
        return finish(place, config, parity.record(TOLERANCES[precision]), rescored=not left_out)

    def _read(self) -> tuple[CalibrationFiles, bool]:
        """The files of the images that set the threshold, and whether the detector holds them.

        Raises:
            DataError: The normal images are not those of the training.
        """
        detector = self.source.detector
        found = threshold_images(detector, self.run, self.data, self.progress)
        records, seen = found.images.records, seen_by(detector)
        if found.left_out and seen and len(trained_on(records, seen, found.images.values)) < len(records):
            raise DataError(f"{self.data}: the normal images are not those of the training; name its folder")
        paths = tuple(record.path for record in records)
        names = tuple(
            os.path.relpath(path, self.data) if path.is_relative_to(self.data) else path.name for path in paths
        )
        return CalibrationFiles(paths, names, detector.config.framing, found.max_pixels), found.left_out

    def _write_graph(self, onnx: OnnxGraph, ranges: CalibrationFiles, place: Path) -> None:
        """Write the graph in the form of its runtime, in int8 if there are images for its ranges."""
        if self.source.engine == "onnxruntime":
            onnx.write(place / ONNX_NAME)
            return
        graph = OpenVinoGraph(onnx)
        if ranges.paths:
            self.progress.stage("Finding the ranges of values")
            graph.quantise([ranges.pixels(row) for row in range(len(ranges))])
        graph.write(place)

    def _with_new_threshold(self, onnx: OnnxGraph) -> OnnxGraph:
        """The graph with what the new threshold of the detector changes.

        OpenVINO merges equal constants, so its form is made anew from this one.
        """
        new = graph_of(self.source.detector)
        buffers = dict(new.named_buffers())
        values = {name: buffers[name].numpy() for name in new.calibrated}
        if missing := values.keys() - onnx.constants():
            raise RuntimeError(f"the graph does not hold {', '.join(sorted(missing))}")
        return onnx.with_constants(values)

    def _compare(self, engine: Engine, files: CalibrationFiles) -> list[Pair]:
        """What detector and export say about the calibration images."""
        self.progress.stage("Comparing with the detector")
        pairs = []
        for row in range(len(files)):
            pairs.append(compare(self.source.detector, engine, files, row))
            self.progress.update(row + 1, len(files))
        return pairs

    def _decide(self, pairs: list[Pair], rows: list[int], *, left_out: bool) -> tuple[Decision, Decision]:
        """The thresholds of the detector and of the export, from the scores of some of the images.

        Raises:
            DataError: The images are not those that set the detector's threshold.
            ExportError: A score of the export is not a finite number.
        """
        detector = self.source.detector
        present = present_decision(detector)
        bad = [pair.name for pair in pairs if not np.isfinite(pair.found.numbers).all()]
        if bad:
            raise ExportError(f"the export gives no finite score for {bad[0]}; nothing was written: choose float32")
        if left_out:
            return present, present
        again = new_decision(detector, [pair.expected for pair in pairs])
        spread = np.stack([pair.expected.compared for pair in pairs]).std(axis=0)
        allowed = _SAME * np.maximum(spread, np.abs(present.thresholds))
        if len(pairs) != detector.calibration.n or (np.abs(again.thresholds - present.thresholds) > allowed).any():
            raise DataError(
                f"{self.data}: the normal images are not those that set the threshold (they give"
                f" {again.thresholds[0]:.6g}, the model has {present.thresholds[0]:.6g}); name the folder of the"
                " training"
            )
        chosen = [pairs[row] for row in rows]
        expected = new_decision(detector, [pair.expected for pair in chosen])
        return expected, new_decision(detector, [pair.found for pair in chosen])

    def _check(
        self, engine: Engine, files: CalibrationFiles, pairs: list[Pair], expected: Decision, *, left_out: bool
    ) -> Parity:
        """Compare scores, maps and verdicts of the finished graph.

        Raises:
            ExportError: They differ by more than they may.
        """
        self.progress.stage("Checking verdicts")
        images = []
        for row, pair in enumerate(pairs):
            again = score_again(engine, files, row)
            # Beside new tests, the joint score of a guarded detector is another one; the scores of its halves stay.
            found = pair.found.numbers if len(again.compared) > 1 else again.numbers
            images.append(
                ImageParity(
                    name=pair.name,
                    expected=pair.expected.numbers,
                    found=found,
                    map_difference=pair.map_difference,
                    height=pair.height,
                    expected_defective=expected.is_defective(pair.expected.compared),
                    found_defective=bool(again.defective),
                )
            )
            self.progress.update(row + 1, len(pairs))
        calibration = self.source.detector.calibration
        tolerance = TOLERANCES[self.source.precision]
        heat = abs(calibration.heat_high - calibration.heat_low)
        spread = spread_of_scores(self.source.detector, [pair.expected for pair in pairs], left_out=left_out)
        parity = Parity.of(images, spread, heat, of_score=tolerance.of_score)
        check_parity(parity, tolerance, self.source.precision)
        return parity
