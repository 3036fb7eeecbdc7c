"""The commands on a model folder that holds a detector on features."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trained_run
from trained_run import Cli

import advrad
from advrad.data.images import read_resized
from advrad.detectors.loading import load_detector
from advrad.training.feature_fit import fit_features


@pytest.fixture(scope="module")
def features_run(widgets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder on features of the first half of the normal images, calibrated with the second half."""
    files = sorted((widgets / "train" / "good").iterdir())
    images = torch.stack([read_resized(file, trained_run.SIZE_PX) for file in files])
    detector = fit_features(images[::2], network="lite0", layers=(1,))
    detector.calibrate(images[1::2], 0.05)
    detector.save_pretrained(folder := tmp_path_factory.mktemp("features") / "run")
    return folder


def test_predict_and_evaluate_agree(cli: Cli, widgets: Path, features_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(features_run, tmp_path / "run"))
    done = cli("predict", run, widgets / "test", "-o", tmp_path / "out")
    assert done.status == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    predictions = list(load_detector(run).predict([row["path"] for row in rows]))
    assert [row["score"] for row in rows] == [one.score for one in predictions]
    assert all(Path(row["overlay"]).is_file() for row in rows)
    assert [row["verdict"] for row in rows if "/good/" not in row["path"]] == ["defective"] * 5
    done = cli("evaluate", run, widgets, "--json", "--save")
    figures = json.loads(done.out)
    assert figures["image_auroc"] == 1.0 and figures["pixel_auroc"] > 0.8
    np.testing.assert_array_equal(
        sorted(advrad.evaluate(load_detector(run), widgets).scores), sorted(one.score for one in predictions)
    )
    facts = json.loads(cli("info", run, "--json").out)
    assert facts["kind"] == "features" and facts["figures"]["image_auroc"] == 1.0
    assert facts["description"] == load_detector(run).describe()


def test_report_and_attack_work(cli: Cli, widgets: Path, features_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(features_run, tmp_path / "run"))
    done = cli("report", run, widgets, "-o", tmp_path / "page.html")
    assert done.status == 0, done.err
    assert "EfficientNet-lite0" in (tmp_path / "page.html").read_text()
    done = cli("attack", run, widgets, "--attack", "pgd", "--steps", 4, "--limit", 4, "--eps", "4/255", "--json")
    assert done.status == 0, done.err


def test_certify_says_that_nothing_is_proven(cli: Cli, widgets: Path, features_run: Path) -> None:
    done = cli("certify", features_run, widgets, "--norm", "linf", "--radius", "1/255")
    assert done.status != 0 and "Traceback" not in done.err
    assert "linf" in done.err or "bounds" in done.err
