"""The certificates of single predictions: ``advrad predict --certify``."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from robust_threshold import set_robust_threshold
from toy_datasets import write_good
from trained_run import Cli

from advrad.certificates.inputs import load_test_images
from advrad.certificates.options import CertifyOptions, PredictionCertificateOptions
from advrad.certificates.prediction import prediction_certifier
from advrad.certificates.two_path import TwoPath
from advrad.data import images
from advrad.data.transforms import resize
from advrad.detectors.loading import load_detector, load_target
from advrad.utils.seeding import seed_of


def last(done: Any) -> str:
    """The last line on standard error, which must be an error; before it there may be warnings and progress."""
    line = str(done.err.splitlines()[-1])
    assert line.startswith("advrad: error: "), done.err
    return line


def predictions(done: Any) -> list[dict[str, Any]]:
    assert done.status == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def test_predict_certifies_each_image_and_repeats_itself(cli: Cli, run: Path, data: Path, tmp_path: Path) -> None:
    options, images = ("--certify", "--radius", 0.1, "--draws", 60, "--seed", 3), data / "test" / "scratch"
    done = cli("predict", run, images, *options)
    rows = predictions(done)
    plain = predictions(cli("predict", run, images))
    extra = {"certified", "certified_radius", "certified_threshold", "confidence", "draws", "seed"}
    for certified, bare in zip(rows, plain, strict=True):
        assert set(certified) - set(bare) == extra
        assert {name: certified[name] for name in bare} == bare, "the plain verdict stays as it is"
        assert certified["certified"] in ("certified anomalous", "certified normal", "abstain")
        assert (certified["certified_radius"] >= 0.1) == (certified["certified"] != "abstain")
        assert certified["confidence"] == 0.999 and 16 <= certified["draws"] <= 60
        assert certified["certified_threshold"] == certified["threshold"] and certified["seed"] == 3
    warning, closing = done.err.splitlines()
    assert closing.startswith("advrad: ") and closing.endswith("images are defective")
    assert "promises no false-alarm rate for certified verdicts" in warning and "advrad calibrate" in warning
    # Whatever other images there are, and wherever the file is.
    moved = tmp_path / "elsewhere" / Path(rows[2]["path"]).name
    moved.parent.mkdir()
    shutil.copy(rows[2]["path"], moved)
    (again,) = predictions(cli("predict", run, moved, *options))
    assert {name: again[name] for name in extra} == {name: rows[2][name] for name in extra}


def test_the_noise_of_a_certified_verdict_cannot_be_predicted(cli: Cli, run: Path, data: Path) -> None:
    image_path = data / "test" / "good" / "000.png"
    seeds = {predictions(cli("predict", run, image_path, "--certify", "--draws", 60))[0]["seed"] for _ in range(2)}
    assert len(seeds) == 2


@pytest.mark.parametrize(
    ("threshold", "verdict"), [(-1e6, "certified anomalous"), (1e6, "certified normal"), (None, "abstain")]
)
def test_predict_takes_the_threshold_that_holds_under_attack(
    cli: Cli, run: Path, data: Path, threshold: float | None, verdict: str
) -> None:
    image_path = data / "test" / "good" / "000.png"
    if threshold is None:  # the score itself, on the noise that it is certified on: nothing can be told
        held = load_detector(run)
        image = load_test_images(load_target(str(run)).detector, data, CertifyOptions()).load(0)
        drawn = TwoPath(held).sample(image, (0.0,), 500, torch.Generator().manual_seed(seed_of("other")))[0]
        threshold = float(np.median(drawn[:, 0], axis=1).mean())
    set_robust_threshold(run, threshold)
    done = cli("predict", run, image_path, "--certify", "--radius", 0.1)
    (found,) = predictions(done)
    assert (found["certified"], found["certified_threshold"]) == (verdict, threshold)
    assert done.err.splitlines()[1:] == []  # the closing line alone
    assert found["verdict"] in ("good", "defective")
    low = cli("predict", run, image_path, "--certify", "--radius", 0.1, "--confidence", 0.9)
    assert "confidence 0.9: the false-alarm rate of certified verdicts is promised for 0.999 or more" in low.err


def test_predict_states_the_radius_at_the_size_of_the_file(cli: Cli, run: Path, tmp_path: Path) -> None:
    set_robust_threshold(run, 1e6)
    small, large = write_good(tmp_path / "small.png", 32, 1), write_good(tmp_path / "large.png", 128, 1)
    options = ("--certify", "--radius", 0.1, "--draws", 60)
    (near,), (far,) = (predictions(cli("predict", run, path, *options)) for path in (small, large))
    assert far["draws"] <= near["draws"] and far["certified_radius"] > 0
    done = cli("predict", run, small, "--certify", "--radius", 0.3, "--draws", 60)
    assert done.status == 2 and "--radius 0.3: cannot be certified with 60 noise samples" in last(done)
    assert predictions(cli("predict", run, large, "--certify", "--radius", 0.3, "--draws", 60))


def test_the_sample_size_in_the_error_of_predict_suffices(cli: Cli, run: Path, tmp_path: Path) -> None:
    set_robust_threshold(run, 1e6)
    image_path = write_good(tmp_path / "part.png", 32, 1)
    options = ("predict", run, image_path, "--certify", "--radius", 0.35, "-o", tmp_path / "out")
    done = cli(*options, "--draws", 20)
    needed = int(last(done).partition("(draws ")[2].split(")")[0])
    assert done.status == 2 and done.out == "" and not list((tmp_path / "out").glob("*.png"))
    assert cli(*options, "--draws", needed - 1).status == 2
    assert predictions(cli(*options, "--draws", needed))[0]["certified"] == "certified normal"


def test_predict_on_a_terminal_says_how_far(cli: Cli, run: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_robust_threshold(run, 1e6)
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
    done = cli("predict", run, data / "test" / "good" / "000.png", "--certify", "--radius", 0.1)
    assert "certified normal" in done.out and "radius    0.1" in done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--radius", "0.1"), "--radius: can only be used with certification; add --certify"),
        (("--draws", "50"), "--draws: can only be used with certification; add --certify"),
        (("--confidence", "0.9"), "--confidence: can only be used with certification; add --certify"),
        (("--certify", "--radius", "-1"), "--radius -1: must be 0 or more"),
        (("--certify", "--radius", "nan"), "radius"),
        (("--certify", "--radius", "some"), "--radius"),
        (("--certify", "--draws", "1"), "--draws 1: must be at least 2"),
        (("--certify", "--confidence", "1"), "--confidence 1: must be above 0 and below 1"),
        (("--certify", "--confidence", "0"), "--confidence 0: must be above 0 and below 1"),
        (("--certify", "--radius", "9"), "no number of noise samples can certify"),
    ],
)
def test_predict_options_that_make_no_sense(
    arguments: tuple[str, ...], words: str, cli: Cli, run: Path, data: Path
) -> None:
    done = cli("predict", run, data / "test" / "good" / "000.png", *arguments)
    assert done.status == 2 and words in last(done), done.err
    assert done.out == ""


def test_a_broken_image_does_not_affect_other_certificates(cli: Cli, run: Path, tmp_path: Path) -> None:
    set_robust_threshold(run, 1e6)
    for name in "ac":
        write_good(tmp_path / "in" / f"{name}.png", 32, 1)
    (tmp_path / "in" / "b.png").write_text("no image")
    rows = predictions(cli("predict", run, tmp_path / "in", "--certify", "--radius", 0.1, "--skip-bad"))
    assert ["certified" in row for row in rows] == [True, False, True]


@pytest.mark.parametrize(("norm", "radius"), [("linf", 3 / 255), ("l2", 0.4)])
@pytest.mark.parametrize("size", [(64, 64), (40, 90), (301, 260)])
def test_no_change_of_a_file_leaves_its_interval(
    closed_form_run: Path, norm: Any, radius: float, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random signs, flat shifts and the detector's own gradient, at the size of the file and at exactly the radius."""
    monkeypatch.setattr(images, "REDUCE_ABOVE_PIXELS", 25_000)
    detector: Any = load_detector(closed_form_run)
    certifier, _ = prediction_certifier(detector, PredictionCertificateOptions(norm=norm, radius=radius))
    draws = torch.Generator().manual_seed(0)
    full = 0.5 + 0.2 * torch.rand(3, *size, generator=draws)

    def scored(image: torch.Tensor) -> torch.Tensor:
        """What a file becomes when it is read."""
        reduced = images._reduced(image.permute(1, 2, 0).numpy(), detector.image_size_px)
        return resize(torch.from_numpy(reduced).permute(2, 0, 1)[None], detector.image_size_px)[0]

    found = certifier("part.png", full, scored(full))
    point = full[None].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(detector.infer(resize(point, detector.image_size_px)).scores.sum(), point)
    noise = torch.randn(3, *size, generator=draws)
    lowest = highest = float(detector.predict_batch(scored(full)[None]).scores)
    for direction in (gradient[0], noise, torch.ones_like(full)):
        step = direction.sign() if norm == "linf" else direction / direction.norm()
        for sign in (-1, 1):
            score = float(detector.predict_batch(scored(full + sign * radius * step)[None]).scores)
            assert found.lower <= score <= found.upper
            lowest, highest = min(lowest, score), max(highest, score)
    assert highest - lowest > 0.02 * (found.upper - found.lower), "the changes were not negligible"


def test_a_wrong_scale_of_the_radius_would_be_noticed(closed_form_run: Path) -> None:
    """An enlarged file: a change of its few pixels grows in l2, so the radius must grow with it."""
    detector: Any = load_detector(closed_form_run)
    full = torch.full((3, 16, 16), 0.5)
    large = resize(full[None], detector.image_size_px)[0]
    options = PredictionCertificateOptions(norm="l2", radius=0.5)
    found = prediction_certifier(detector, options)[0]("part.png", full, large)
    naive = detector.score_bounds(large[None], 0.5, "l2")
    assert found.upper - found.lower > 2 * float(naive.upper - naive.lower)
