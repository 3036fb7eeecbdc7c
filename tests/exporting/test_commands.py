"""Exports of real detectors beside the detectors themselves, through the functions that users call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import toy_graphs
import toy_guarded

import advrad
from advrad.detectors.engines import open_engine
from advrad.detectors.exported import ExportedDetector, ExportedGuardedDetector
from advrad.exporting.folder import Provenance
from advrad.exporting.graph import graph_of
from advrad.exporting.onnx_file import to_onnx


def test_an_export_measures_and_decides_as_its_source(exported: Path, closed_run: Path, product: Path) -> None:
    export, source = advrad.load_detector(exported), advrad.load_detector(closed_run)
    ours, theirs = advrad.evaluate(export, product), advrad.evaluate(source, product)
    # An evaluation rounds the working images of the source to 16 bits.
    assert np.abs(ours.scores - theirs.scores).max() < 1e-3 * np.ptp(theirs.scores)
    assert ours.image_auroc == theirs.image_auroc and ours.pixel_auroc == pytest.approx(theirs.pixel_auroc, abs=1e-3)
    paths = [record.path for record in ours.records]
    decided = [[found.defective for found in detector.predict(paths)] for detector in (export, source)]
    assert decided[0] == decided[1]
    assert [found.score for found in export.predict(paths)] == ours.scores.tolist()


def test_images_that_fool_the_source_are_replayed_and_both_are_reported(
    exported: Path, closed_run: Path, product: Path
) -> None:
    export, source = advrad.load_detector(exported), advrad.load_detector(closed_run)
    result = advrad.attack(export, product, attack="transfer", source=source, eps="4/255", steps=5, limit=4)
    assert isinstance(export, ExportedDetector) and result.original is not None
    assert result.original.attack == "pgd" and result.original.gradients > 0
    for ours, theirs in zip(result.rows, result.original.rows, strict=True):
        sign = 1 if ours.label == 0 else -1
        assert ours.clean == pytest.approx(theirs.clean, abs=1e-3 * abs(theirs.clean) + 1e-4)
        # The images of the source move the export, nearly as far as they move the source.
        assert sign * (ours.worst - ours.clean) > 0.5 * sign * (theirs.worst - theirs.clean) > 0


@pytest.mark.slow
def test_a_guarded_export_speaks_as_the_detector_without_proofs(tmp_path: Path) -> None:
    detector = toy_graphs.guarded()
    detector.update_config(radius=0.0)
    to_onnx(graph_of(detector)).write(tmp_path / "model.onnx")
    config = Provenance(detector, "0", None, "onnxruntime", "float32").config()
    export = ExportedGuardedDetector(config, open_engine(tmp_path, config))
    images = torch.cat([toy_guarded.normals(2, 3), toy_guarded.dents(2, 4), toy_guarded.haze(2, 5)])
    images = (images * 255).round() / 255
    ours, theirs = export.verdicts(images), detector.verdicts(images)
    assert [found.word for found in ours] == [found.word for found in theirs]
    assert len({found.word for found in ours}) > 1
    for one, other in zip(ours, theirs, strict=True):
        for half, wanted in zip(one.halves, other.halves, strict=True):
            assert (half.name, half.speaks) == (wanted.name, wanted.speaks)
            assert half.score == pytest.approx(wanted.score, rel=1e-3, abs=1e-4)
            assert half.p_value == pytest.approx(wanted.p_value, abs=0.02)
