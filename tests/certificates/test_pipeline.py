"""The command that certifies, as it is typed, and the figures that it reckons up."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from robust_threshold import set_robust_threshold
from toy_datasets import make_mvtec, write_defect, write_good
from trained_run import MAIN, Cli
from two_processes import run_in_two

from advrad import metrics
from advrad.attacks.base import AttackInput
from advrad.attacks.objectives import make_objective
from advrad.attacks.registry import ATTACKS
from advrad.attacks.threat import Threat
from advrad.certificates.inputs import load_test_images
from advrad.certificates.options import CertifyOptions
from advrad.certificates.pipeline import prepare, run_job
from advrad.certificates.two_path import TwoPath
from advrad.detectors.loading import load_target

#: Detectors of somebody else, in a file of theirs.
OTHERS = """
import torch
from advrad import wrap

def brightness(images):
    return images.flatten(1).topk(60, dim=1).values.mean(1)

def noisy(images):
    return brightness(images) + 0.01 * torch.randn(len(images))

def broken(images):
    return images.reshape(-1)[:3]

sized = wrap(brightness, size_px=32, deterministic=True, threshold=0.9)
"""

QUICK = ("--radius", "0.02,0.05", "--draws", 64, "--limit", 4)


@pytest.fixture
def others(tmp_path: Path) -> Path:
    path = tmp_path / "others.py"
    path.write_text(OTHERS)
    return path


def rows_of(folder: Path) -> dict[Path, int]:
    """When each row was written."""
    return {path: path.stat().st_mtime_ns for path in (folder / "rows").iterdir()}


def last(done: Any) -> str:
    """The last line on standard error, which must be an error; before it there may be warnings and progress."""
    line = str(done.err.splitlines()[-1])
    assert line.startswith("advrad: error: "), done.err
    return line


# --- the command -----------------------------------------------------------------------------------------------------


def test_certify_prints_one_object_and_reuses_finished_rows(cli: Cli, run: Path, data: Path) -> None:
    done = cli("certify", run, data, *QUICK, "--json")
    assert done.status == 0, done.err
    result = json.loads(done.out)
    assert result["method"] == "two-path" and result["sigma"] is None and result["size"] == [32, 32]
    assert (result["n_good"], result["n_defect"]) == (2, 2)
    assert list(result["certified_auroc"]) == list(result["verdicts"]) == ["0.02", "0.05"]
    assert result["certified_auroc"]["0.05"] <= result["certified_auroc"]["0.02"] <= result["clean_auroc"]
    shares = result["verdicts"]["0.05"]
    assert shares["right"] + shares["wrong"] + shares["abstained"] == pytest.approx(1)
    assert 0 <= shares["draws_saved"] < 1 and result["median_radius"] >= 0
    np.testing.assert_allclose(result["rounding_l2"], (3 * 32 * 32 / 12) ** 0.5 / 255)
    assert "all 4 images hold together with a confidence of 99.9 %" in result["meaning"][0]
    assert "rounding a whole image of this size to 8 bits changes it by an l2 of about 0.063" in result["meaning"][-1]
    folder = Path(result["folder"])
    assert folder.parent == run / "certificates" and folder.name.startswith("two-path-")
    assert json.loads((folder / "result.json").read_text()) == result
    assert (folder / "certificates.png").stat().st_size > 1000
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows].count(1) == 2 and all(row["name"].startswith("test/") for row in rows)
    written = rows_of(folder)
    shown = cli("certify", run, data, *QUICK)
    assert shown.status == 0 and rows_of(folder) == written
    for words in ("Certified", "abstained", "draws saved", "median certified radius", "hold together", "8 bits"):
        assert words in shown.out, words
    assert shown.out.splitlines()[-1] == str(folder / "certificates.png")


def test_an_interrupted_certification_continues_to_the_same_result(
    cli: Cli, run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from advrad.cli.screen import Screen

    whole = json.loads(cli("certify", run, data, *QUICK, "--json", "-o", tmp_path / "whole").out)
    update = Screen.update

    def interrupted(self: Screen, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Screen, "update", interrupted)
    stopped = cli("certify", run, data, *QUICK, "-o", tmp_path / "out")
    assert stopped.status == 130 and stopped.out == ""
    assert stopped.err.splitlines()[-1] == "interrupted; finished images are kept, and the same command continues", (
        stopped.err
    )
    written = rows_of(tmp_path / "out")
    assert len(written) == 2
    monkeypatch.setattr(Screen, "update", update)
    result = json.loads(cli("certify", run, data, *QUICK, "--json", "-o", tmp_path / "out").out)
    assert written.items() <= rows_of(tmp_path / "out").items()
    other = ("folder", "seconds")
    assert {n: v for n, v in result.items() if n not in other} == {n: v for n, v in whole.items() if n not in other}


def test_two_processes_share_a_certification(cli: Cli, others: Path, data: Path, tmp_path: Path) -> None:
    command = ["certify", f"{others}:sized", str(data), "--radius", "0.1", "--draws", "60", "--json", "-o"]
    two = json.loads(run_in_two([sys.executable, "-c", MAIN, *command, str(tmp_path / "two")]))
    done = cli(*command, tmp_path / "one")
    assert done.status == 0, done.err
    one = json.loads(done.out)
    same = ("certified_auroc", "clean_auroc", "curve", "verdicts", "n_good", "n_defect")
    assert {name: two[name] for name in same} == {name: one[name] for name in same}


def test_a_detector_in_a_python_file_is_certified_by_percentile(
    cli: Cli, others: Path, data: Path, tmp_path: Path
) -> None:
    done = cli("certify", f"{others}:sized", data, "--radius", "0.1,0.3", "-o", tmp_path / "out")
    assert done.status == 0, done.err
    assert "percentile; " not in done.out and "percentile, noise 0.3" in done.out
    assert "so percentile is used" in " ".join(done.out.replace("│", " ").split())
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["certified_auroc"]["0.1"] == 1 and result["sigma"] == 0.3
    assert any("promises no false-alarm rate" in note for note in result["notes"])


def test_a_detector_without_a_threshold_has_no_verdicts(cli: Cli, others: Path, data: Path, tmp_path: Path) -> None:
    options = ("--radius", 0.1, "--draws", 60, "--size", 24, "-o", tmp_path / "out")
    done = cli("certify", f"{others}:noisy", data, *options, "--json")
    assert done.status == 0, done.err
    result = json.loads(done.out)
    assert "verdicts" not in result and result["size"] == [24, 24]
    assert "there are no verdicts to certify" in done.err and len(result["meaning"]) == 2
    shown = cli("certify", f"{others}:noisy", data, *options)
    assert shown.status == 0 and "median certified radius" not in shown.out and "not measured" in shown.out


def test_percentile_certifies_advrad_too(cli: Cli, run: Path, data: Path) -> None:
    options = ("--method", "percentile", "--radius", 0.1, "--sigma", 0.2, "--draws", 30, "--limit", 2, "--json")
    done = cli("certify", run, data, *options)
    assert done.status == 0, done.err
    result = json.loads(done.out)
    assert (result["method"], result["sigma"]) == ("percentile", 0.2)
    assert "adds a second noise" in done.err and "calibrate" not in done.err


def test_default_radii_that_need_more_samples_are_left_out(cli: Cli, run: Path, data: Path) -> None:
    done = cli("certify", run, data, "--limit", 2, "--json")
    assert done.status == 0, done.err
    result = json.loads(done.out)
    assert list(result["certified_auroc"]) == ["0.1", "0.2"]
    assert any(note.startswith("radius 0.5: cannot be certified with 200 noise samples") for note in result["notes"])
    assert "radius 0.5: cannot be certified" in done.err
    few = cli("certify", run, data, "--limit", 2, "--draws", 3)
    assert few.status == 2 and "--radius 0.1: cannot be certified with 3 noise samples" in last(few)


def test_the_sample_size_in_the_error_suffices(cli: Cli, run: Path, data: Path) -> None:
    done = cli("certify", run, data, "--limit", 2, "--radius", 0.3, "--draws", 20)
    needed = int(last(done).partition("(draws ")[2].split(")")[0])
    assert done.status == 2 and needed > 20
    assert not (run / "certificates").exists(), "nothing is left that another number of draws would contradict"
    assert cli("certify", run, data, "--limit", 2, "--radius", 0.3, "--draws", needed).status == 0


def test_larger_images_allow_larger_radii(cli: Cli, run: Path, tmp_path: Path) -> None:
    data = make_mvtec(tmp_path, "large", good=1, defects={"scratch": 1}, size=96)
    write_good(data / "test" / "good" / "wide.png", 128, 5)
    options = ("--radius", 0.3, "--draws", 40, "--json")
    assert "cannot be certified" in last(cli("certify", run, data, *options))
    own = json.loads(cli("certify", run, data, *options, "--own-size").out)
    assert own["size"] == "own"
    np.testing.assert_allclose(own["rounding_l2"], (3 * 96 * 96 / 12) ** 0.5 / 255)
    sized = json.loads(cli("certify", run, data, *options, "--size", 96).out)
    assert sized["size"] == [96, 96] and sized["folder"] != own["folder"]
    write_defect(data / "test" / "scratch" / "small.png", None, 32, 7)
    assert "cannot be certified" in last(cli("certify", run, data, *options, "--own-size")), "of the smallest image"


@pytest.mark.parametrize("threshold", [-1e6, 1e6])
def test_the_threshold_that_holds_under_attack_is_used(cli: Cli, run: Path, data: Path, threshold: float) -> None:
    set_robust_threshold(run, threshold)
    result = json.loads(cli("certify", run, data, *QUICK, "--json").out)
    assert result["threshold"] == threshold and result["notes"] == []
    assert result["verdicts"]["0.05"]["right"] == result["verdicts"]["0.05"]["wrong"] == 0.5
    # A wrong verdict counts as none, however far it holds.
    rows = [json.loads(line) for line in (Path(result["folder"]) / "rows.jsonl").read_text().splitlines()]
    reached = [row["radius"] * ((threshold < 0) == row["label"]) for row in rows]
    assert min(row["radius"] for row in rows) >= 0.05 and result["median_radius"] == np.median(reached)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--radius", "-0.1"), "--radius -0.1: must be 0 or more"),
        (("--radius", "inf"), "--radius inf: must be a number or a fraction"),
        (("--radius", "nan"), "--radius nan: must be a number or a fraction"),
        (("--radius", "0.1,some"), "--radius some: must be a number or a fraction"),
        (("--radius", ""), "--radius: holds no radius; give some"),
        (("--radius", "2", "--draws", "50"), "--radius 2: is 10 standard deviations of the noise"),
        (("--radius", "0.4", "--draws", "50"), "--radius 0.4: cannot be certified with 50 noise samples"),
        (("--draws", "1"), "--draws 1: must be at least 2"),
        (("--draws", "-5"), "--draws -5: must be at least 2"),
        (("--confidence", "1"), "--confidence 1: must be above 0 and below 1"),
        (("--confidence", "0"), "--confidence 0: must be above 0 and below 1"),
        (("--confidence", "nan"), "confidence"),
        (("--method", "guess"), "--method guess: is unknown; choose auto, bounds, percentile, two-path"),
        (("--sigma", "0.2"), "--sigma: applies to method percentile"),
        (("--method", "two-path", "--sigma", "0"), "--sigma: applies to method percentile"),
        (("--method", "percentile", "--sigma", "0"), "--sigma 0: must be above 0"),
        (("--method", "percentile", "--sigma", "-1"), "--sigma -1: must be above 0"),
        (("--method", "percentile", "--radius", "0"), "--sigma: is needed if the only radius is 0"),
        (("--size", "64", "--own-size"), "give one of them"),
        (("--limit", "1"), "--limit"),
    ],
)
def test_options_that_make_no_sense(arguments: tuple[str, ...], words: str, cli: Cli, run: Path, data: Path) -> None:
    done = cli("certify", run, data, *arguments)
    assert done.status == 2 and words in done.one_error_line(), done.err
    assert not (run / "certificates").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("sized", ("--method", "two-path"), "--method two-path: certifies AdvRAD detectors only"),
        ("sized", ("--size", "64"), "--size 64: this detector takes images of 32 px only"),
        ("sized", ("--own-size",), "--own-size: this detector takes images of 32 px only"),
        ("broken", ("--size", "32"), "scores of shape"),
        ("missing", (), "does not define 'missing'"),
    ],
)
def test_what_other_detectors_cannot_do(
    name: str, arguments: tuple[str, ...], words: str, cli: Cli, others: Path, data: Path, tmp_path: Path
) -> None:
    done = cli("certify", f"{others}:{name}", data, *arguments, "-o", tmp_path / "out")
    assert done.status == 2 and words in done.one_error_line(), done.err
    assert not (tmp_path / "out").exists()


def test_a_detector_without_a_folder_needs_an_output(cli: Cli, others: Path, data: Path) -> None:
    done = cli("certify", f"{others}:sized", data)
    assert done.status == 2 and "--output: is needed" in done.one_error_line()


def test_missing_folders_and_one_class_are_refused(cli: Cli, run: Path, data: Path, tmp_path: Path) -> None:
    done = cli("certify", tmp_path / "none", data)
    assert done.status == 2 and "no such model folder" in done.one_error_line()
    done = cli("certify", run, tmp_path / "none")
    assert done.status == 2 and "there is no such folder" in done.one_error_line()
    one = make_mvtec(tmp_path, "one", defects={})
    done = cli("certify", run, one)
    assert (
        done.status == 2
        and f"{one}: there is no anomalous test image; both classes are needed" in done.one_error_line()
    )


def test_a_folder_that_holds_another_run_is_left_alone(cli: Cli, run: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli("certify", run, data, *QUICK, "-o", out).status == 0
    written = rows_of(out)
    for changed, words in ((("--draws", 80), "plan"), (("--seed", 1), "plan"), (("--limit", 6), "names")):
        done = cli("certify", run, data, *QUICK, *changed, "-o", out)
        assert done.status == 2 and "holds a run with other" in last(done), words
    done = cli("certify", run, data, *QUICK, "--method", "percentile", "-o", out)
    assert done.status == 2 and "holds a run with other detector" in last(done)
    assert rows_of(out) == written


def test_a_broken_image_is_named(cli: Cli, run: Path, data: Path) -> None:
    path = data / "test" / "scratch" / "001.png"
    path.write_bytes(path.read_bytes()[:200])
    for options in ((), ("--own-size",)):
        done = cli("certify", run, data, "--radius", 0.02, "--draws", 30, *options)
        assert done.status == 2 and "001.png: is cut short" in done.one_error_line()


# --- against attacks -------------------------------------------------------------------------------------------------


def test_no_attack_within_the_radius_leaves_the_bounds(run: Path, data: Path, tmp_path: Path) -> None:
    """PGD at exactly the radius, on every image: bounds, verdicts and AUROC of the smoothed score hold."""
    set_robust_threshold(run, 0.0)
    options = CertifyOptions(radius="0.1", n_samples=100, limit=6)
    case = load_target(str(run))
    result = run_job(prepare(case, data, options, tmp_path / "out"))
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    shown = load_test_images(case.detector, data, options)
    images = torch.stack([shown.load(index) for index in range(len(rows))])
    signs = torch.where(torch.from_numpy(shown.labels) == 0, 1.0, -1.0)
    climbed = make_objective(case.detector, signs, "score", torch.Generator().manual_seed(1), eot=4)
    threat = Threat.of("l2", "0.1")
    own = [torch.Generator().manual_seed(index) for index in range(len(rows))]
    found = threat.project(ATTACKS["pgd"](AttackInput(climbed, images, threat, own, 15)).images.detach(), images)
    assert threat.distance(images, found).min() > 0.09, "the attack goes to the border"
    sampler = TwoPath(case.detector.detector)  # type: ignore[attr-defined]

    def smoothed(image: torch.Tensor, seed: int) -> float:
        drawn = sampler.sample(image, (0.0,), 400, torch.Generator().manual_seed(seed))[0]
        return float(np.median(drawn[:, 0], axis=1).mean())

    index = result.curve.radii.index(0.1)
    scores = np.array([smoothed(image, index) for index, image in enumerate(found)])
    harm = np.array([sign * (score - row["score"]) for sign, score, row in zip(signs, scores, rows, strict=True)])
    assert (harm > 0).mean() > 0.7, "the attack does harm"
    for row, score in zip(rows, scores, strict=True):
        assert row["lower"][index] <= score <= row["upper"][index]
        if row["verdicts"][index] != "abstain":
            assert row["verdicts"][index] == ("certified anomalous" if score > 0 else "certified normal")
    certified = result.certified_auroc[0.1]
    assert certified is not None and certified <= metrics.auroc(shown.labels, scores)


def test_an_attack_that_contradicts_the_certificate_is_a_warning(cli: Cli, run: Path, data: Path) -> None:
    for eps, limit in ((0.05, 4), (0.05, 2)):
        options = ("--attack", "pgd", "--norm", "l2", "--eps", eps, "--steps", 2, "--limit", limit)
        assert cli("attack", run, data, *options).status == 0
    assert cli("attack", run, data, "--attack", "pgd", "--steps", 2, "--limit", 4).status == 0
    damaged = run / "attacks" / "damaged" / "result.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    result = json.loads(cli("certify", run, data, *QUICK, "--json").out)
    points = result["attacked"]
    assert [(point["eps"], point["attack"]) for point in points] == [(0.05, "pgd")] * 2, "in l2 only"
    assert sorted(point["same_pictures"] for point in points) == [False, True]
    for path in (run / "attacks").glob("pgd-l2-*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"robust_auroc": -0.1}))
    done = cli("certify", run, data, *QUICK, "--json")
    (warning,) = json.loads(done.out)["warnings"]
    assert "certified at radius 0.05, but pgd at l2 0.05 left -0.1000 of the same images" in warning
    assert f"advrad: warning: {warning}" in done.err
    assert "WARNING" in cli("certify", run, data, *QUICK).out
    larger = json.loads(cli("certify", run, data, *QUICK, "--size", 48, "--json").out)
    assert larger["attacked"] == larger["warnings"] == [], "a length means something else there"


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_report_shows_certificates_of_its_product(cli: Cli, run: Path, data: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert cli("report", run, data, "-o", page).status == 0
    assert "Nothing was certified yet" in page.read_text()
    folder = Path(json.loads(cli("certify", run, data, *QUICK, "--json").out)["folder"])
    assert cli("report", run, data, "-o", page).status == 0
    assert (
        "Nothing was certified yet" not in page.read_text()
        and "two-path, 64 noise samples, 4 images" in page.read_text()
    )
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"category": "another"}))
    assert cli("report", run, data, "-o", page).status == 0
    assert "Nothing was certified yet" in page.read_text()
    path.write_text("{")
    done = cli("report", run, data, "-o", page)
    assert done.status == 2 and "result.json: is damaged" in last(done)
