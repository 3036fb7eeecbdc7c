"""Trained networks in int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import toy_feature_detectors

import advrad
from advrad.data.images import read_resized
from advrad.exporting.run import export


@pytest.mark.slow
def test_a_network_in_int8_keeps_the_promise_of_the_threshold(product: Path, tmp_path: Path) -> None:
    normals = sorted((product / "train" / "good").iterdir())
    fitted_on = torch.stack([read_resized(path, 32) for path in sorted((product / "test" / "good").iterdir())])
    detector = toy_feature_detectors.quick_detector(images=fitted_on)
    detector.calibrate(normals, 0.05)
    detector.save_pretrained(tmp_path / "run")
    config = export(tmp_path / "run", tmp_path / "out", precision="int8", data=product)
    text = (tmp_path / "out" / "model.xml").read_text()
    assert 'type="FakeQuantize"' in text
    # 14 of the 44 images set the ranges, the others the threshold.
    assert config.calibration.n == 30 and config.parity is not None and config.parity.n == 44
    assert 0 < config.parity.score_difference <= config.parity.score_tolerance == 0.28
    assert "nncf" in config.versions and config.inference_precision == "f32"
    found = [one.score for one in advrad.load_detector(tmp_path / "out").predict(normals)]
    expected = [one.score for one in detector.predict(normals)]
    assert np.corrcoef(found, expected)[0, 1] > 0.9
