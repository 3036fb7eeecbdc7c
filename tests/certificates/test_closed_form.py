"""A real closed-form detector: what is certified holds against attacks and stickers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from closed_form_run import fitted
from toy_datasets import make_mvtec
from trained_run import SIZE_PX, Cli

import advrad
from advrad.data.labelled import load_labelled
from advrad.detectors.closed_form import ClosedFormDetector


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    return make_mvtec(root, "nut", train=20, good=3, defects={"scratch": 3}, size=SIZE_PX)


@pytest.fixture(scope="module")
def detector(data: Path) -> ClosedFormDetector:
    return fitted(data)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 2 / 255), ("l2", 0.3)])
def test_no_attack_leaves_less_than_is_certified(
    norm: str, eps: float, detector: ClosedFormDetector, data: Path
) -> None:
    proven = advrad.certify(detector, data, norm=norm, radii=(eps,))  # type: ignore[arg-type]
    attacked = advrad.attack(detector, data, norm=norm, eps=eps, attack="pgd", steps=8)
    assert attacked.bounds is not None and not attacked.bounds.violations and attacked.bounds.reached > 0.3
    certified = proven.certified_auroc[eps]
    assert certified is not None and attacked.robust_auroc is not None and certified <= attacked.robust_auroc
    for row, found in zip(proven.rows, attacked.rows, strict=True):
        low, high = row.lower[0], row.upper[0]
        assert low is not None and high is not None and low <= found.worst <= high
        if row.verdicts[0] != "not proven":
            assert (row.verdicts[0] == "proven defective") == (found.worst > detector.calibration.threshold)


def test_no_sticker_leaves_less_than_its_bound(detector: ClosedFormDetector, data: Path) -> None:
    images = load_labelled(data, SIZE_PX, limit=4).images
    normal = images[0]
    draws = torch.Generator().manual_seed(0)
    for side in (4, SIZE_PX // 4):
        bounds = detector.sticker_bounds(images, side)
        assert torch.isfinite(bounds).all()
        for place in torch.randint(SIZE_PX - side + 1, (12, 2), generator=draws).tolist():
            y, x = place
            square = (slice(None), slice(y, y + side), slice(x, x + side))
            for show in (torch.zeros_like(normal), torch.rand(normal.shape, generator=draws), normal):
                stuck = images.clone()
                for one in stuck:
                    one[square] = show[square]
                assert (detector.predict_batch(stuck).scores >= bounds).all()


def test_the_command_certifies_and_attacks_a_model_folder(cli: Cli, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fitted(data).save_pretrained(run)
    assert cli("attack", run, data, "--attack", "pgd", "--steps", 3, "--eps", "1/255").status == 0
    done = cli("certify", run, data, "--norm", "linf", "--radius", "1/255,2/255", "--sticker", 4)
    assert done.status == 0, done.err
    (folder,) = (run / "certificates").iterdir()
    assert folder.name.startswith("bounds-linf-")
    result = json.loads((folder / "result.json").read_text())
    assert result["warnings"] == [] and len(result["attacked"]) == 1 and result["attacked"][0]["same_pictures"]
    for words in ("1/255", "2/255", "sticker of 4 px", "hold for every attack"):
        assert words in done.out, words
    smoothed = cli(
        "certify", run, data, "--method", "percentile", "--radius", 0.1, "--draws", 60, "--limit", 2, "--json"
    )
    assert smoothed.status == 0, smoothed.err
    assert json.loads(smoothed.out)["method"] == "percentile"
