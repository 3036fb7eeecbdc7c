"""Certification with exact bounds, from Python and from the command line."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_brightness import Brightness, flat
from toy_datasets import make_mvtec
from trained_run import Cli

import advrad
from advrad.certificates.results import CertificationResult
from advrad.certificates.threshold import robust_threshold_of_bounds
from advrad.detectors.base import ScoreBounds
from advrad.detectors.config import RobustCalibration
from advrad.detectors.loading import LoadedDetector
from advrad.errors import ConfigError, DetectorError, OutputError

DATA = (flat(0.4, 0.45, 0.52, 0.6), [0, 0, 1, 1])
RADII = (0.02, 0.04, 0.08)

#: The detector in a file of its user.
FILE = """
import sys
sys.path.insert(0, {helpers!r})
import time
from pathlib import Path
from toy_brightness import Brightness

detector = Brightness(threshold=0.5)

class Slow(Brightness):
    # After the second row it waits as long as the file `wait` is there.
    def score_bounds(self, images, radius, norm):
        home = Path(__file__).parent
        while (home / "wait").exists() and len(list(home.glob("out/rows/0*.json"))) >= 2:
            time.sleep(0.02)
        return super().score_bounds(images, radius, norm)

slow = Slow(threshold=0.5)

def plain(images):
    return images.mean((1, 2, 3))
"""


@pytest.fixture
def others(tmp_path: Path) -> Path:
    path = tmp_path / "others.py"
    path.write_text(FILE.format(helpers=str(Path(__file__).parents[1] / "helpers")))
    return path


def robust(radius: float = 0.04, threshold: float = 0.46) -> RobustCalibration:
    return RobustCalibration(threshold=threshold, false_alarm_rate=0.1, radius=radius, norm="linf", n=9)


# --- from Python -----------------------------------------------------------------------------------------------------


def test_bounds_of_test_images_by_hand() -> None:
    result = advrad.certify(Brightness(), DATA, radii=RADII)
    assert (result.method, result.norm, result.clean_auroc, result.radii) == ("bounds", "linf", 1.0, RADII)
    # 0.45 and 0.52 are certainly in order up to 0.035, 0.4 and 0.52 up to 0.06, 0.45 and 0.6 up to 0.075.
    assert result.certified_auroc == {0.02: 1.0, 0.04: 0.75, 0.08: 0.25}
    assert result.curve.radii == (0.0, *RADII) and result.curve.certified_auroc == (1.0, 1.0, 0.75, 0.25)
    assert result.curve.certified_right == (1.0, 0.75, 0.75, 0.5) and result.curve.certified_wrong == (0.0,) * 4
    assert [row.verdicts[0] for row in result.rows] == ["proven good", "proven good", "not proven", "proven defective"]
    assert result.proven is not None and result.verdicts is not None
    assert result.proven[0.04].model_dump() == {
        "normal": {"defective": 0, "good": 2, "not_proven": 0},
        "anomalous": {"defective": 1, "good": 0, "not_proven": 1},
    }
    shares = result.verdicts[0.04]
    assert (shares.right, shares.wrong, shares.abstained) == (0.75, 0, 0.25) and shares.samples_saved is None
    reached = np.array([row.radius for row in result.rows], dtype=float)
    np.testing.assert_allclose(reached, [0.08, 0.05, 0.02, 0.08], atol=16 / 255 / 256 + 2e-6)
    assert result.median_radius == np.median(reached)
    assert result.certified_auroc_ci is not None and result.certified_auroc_ci[0.02] == (1.0, 1.0)
    assert "confidence" not in repr(result) and "norm='linf'" in repr(result)
    assert result.n_samples is result.confidence is result.quantile is result.sigma is None


def test_a_wrong_verdict_survives_no_radius_in_the_median() -> None:
    result = advrad.certify(Brightness(threshold=0.43), (flat(0.4, 0.45, 0.52), [0, 0, 1]), radii=(0.01,))
    assert result.rows[1].radius is not None and result.rows[1].radius > 0.015 and result.proven is not None
    assert result.proven[0.01].normal.defective == 1 and result.verdicts is not None
    assert result.verdicts[0.01].wrong == pytest.approx(1 / 3)
    right = sorted([0.0, result.rows[0].radius, result.rows[2].radius])  # type: ignore[list-item]
    assert result.median_radius == right[1]


def test_the_norm_decides_the_radii_and_the_meaning() -> None:
    linf = advrad.certify(Brightness(), DATA)
    assert linf.norm == "linf" and linf.radii == (1 / 255, 2 / 255, 4 / 255)
    assert "rounding to 8 bits changes a pixel value by up to 0.5/255" in linf.meaning[-1]
    assert "computed, not estimated" in linf.meaning[0] and "every pixel value" in linf.meaning[0]
    l2 = advrad.certify(Brightness(), DATA, norm="l2")
    assert l2.method == "bounds" and l2.radii == (0.1, 0.2, 0.5) and "l2 of about" in l2.meaning[-1]
    # 768 values: l2 .5 moves the mean by .018.
    assert l2.certified_auroc == {0.1: 1.0, 0.2: 1.0, 0.5: 1.0}
    smoothed = advrad.certify(Brightness(), DATA, radii=(0.1,), method="percentile", n_samples=60)
    assert (smoothed.method, smoothed.norm, smoothed.confidence) == ("percentile", "l2", 0.999)
    for one in ("2/255", 2 / 255, [2 / 255]):
        assert advrad.certify(Brightness(), DATA, radii=one).radii == (2 / 255,)
    plain = advrad.certify(lambda x: x.mean((1, 2, 3)), DATA, radii=("1/10",), n_samples=60)
    assert (plain.method, plain.norm, plain.radii) == ("percentile", "l2", (0.1,))


def test_a_sticker_may_cover_any_square() -> None:
    images = torch.zeros(3, 3, 16, 16)
    images[1, :, 4:8, 4:8] = 1.0  # may be covered wholly
    images[2, :, 4:8, 4:8] = images[2, :, 10:14, 10:14] = 1.0
    result = advrad.certify(Brightness(threshold=0.05), (images, [0, 1, 1]), radii=(0.01,), sticker_px=4)
    assert [row.sticker for row in result.rows] == pytest.approx([0.0, 0.0, 1 / 16])
    assert result.sticker is not None and result.sticker.side_px == 4
    assert (result.sticker.found, result.sticker.clean_found, result.sticker.auroc) == (0.5, 1.0, 0.75)
    assert "Nothing is promised for a good image with a sticker" in result.meaning[-2]


def test_the_threshold_for_attacks_is_used_at_its_radius() -> None:
    held = advrad.certify(Brightness(robust=robust()), DATA, radii=(0.02, 0.04))
    assert held.threshold == 0.46 and "most 0.1, whatever perturbation within that radius" in held.notes[0]
    other = advrad.certify(Brightness(robust=robust(0.03)), DATA, radii=(0.02, 0.04))
    assert other.threshold == 0.5 and "is used if this radius is certified" in other.notes[0]
    l2 = advrad.certify(Brightness(robust=robust()), DATA, radii=(0.02, 0.04), norm="l2")
    assert l2.threshold == 0.5
    none = advrad.certify(Brightness(threshold=None), DATA, radii=(0.02,))
    assert none.threshold is none.verdicts is none.proven is none.median_radius is None
    assert none.rows[0].radius is None and "no verdicts are proven" in none.notes[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "linf", "method": "percentile"}, "norm linf: method percentile certifies l2 only"),
        ({"sigma": 0.1}, "sigma: applies to method percentile"),
        ({"radii": (-0.1,)}, "radius -0.1: must be between 0 and 1, for pixel values in [0, 1]"),
        ({"radii": ("300/255",)}, "radius 300/255: must be between 0 and 1, for pixel values in [0, 1]"),
        ({"norm": "l1"}, "norm l1: is unknown; choose linf, l2"),
        ({"sticker_px": 0}, "sticker_px 0: must be at least 1"),
        ({"method": "two-path"}, "certifies AdvRAD detectors only"),
    ],
)
def test_options_that_contradict_bounds(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        advrad.certify(Brightness(), DATA, **options)  # type: ignore[arg-type]
    assert words in str(caught.value)


@pytest.mark.parametrize("options", [{"norm": "linf"}, {"method": "bounds"}, {"sticker_px": 8}])
def test_a_detector_without_bounds_says_what_has_them(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="closed-form detector"):
        advrad.certify(lambda images: images.mean((1, 2, 3)), DATA, **options)  # type: ignore[arg-type]


def test_noise_options_that_have_no_effect_are_noted() -> None:
    assert any("no noise is drawn" in note for note in advrad.certify(Brightness(), DATA, n_samples=400).notes)
    assert advrad.certify(Brightness(), DATA).notes == ()


def test_bounds_that_do_not_enclose_the_score_are_refused() -> None:
    @dataclasses.dataclass
    class Wrong(Brightness):
        def score_bounds(self, images: torch.Tensor, radius: float, norm: str) -> ScoreBounds:  # type: ignore[override]
            held = super().score_bounds(images, radius, norm)  # type: ignore[arg-type]
            return dataclasses.replace(held, lower=held.upper + 0.1)

    with pytest.raises(DetectorError, match="outside its own bounds"):
        advrad.certify(Wrong(), DATA)


def test_images_without_an_upper_bound_prove_nothing(tmp_path: Path) -> None:
    @dataclasses.dataclass
    class Lost(Brightness):
        """Cannot say where the product lies in images brighter than 0.5."""

        def score_bounds(self, images: torch.Tensor, radius: float, norm: str) -> ScoreBounds:  # type: ignore[override]
            held = super().score_bounds(images, radius, norm)  # type: ignore[arg-type]
            lost = (held.scores > 0.5) & (radius > 0.01)
            return dataclasses.replace(
                held, lower=held.lower.masked_fill(lost, 0.0), upper=held.upper.masked_fill(lost, torch.inf)
            )

        def sticker_bounds(self, images: torch.Tensor, side_px: int) -> torch.Tensor:
            return torch.full((len(images),), -torch.inf)

    data = (flat(0.4, 0.55, 0.6, 0.7), [0, 0, 1, 1])
    result = advrad.certify(Lost(), data, radii=(0.005, 0.05), sticker_px=3, output=tmp_path)
    assert result.certified_auroc == {0.005: 1.0, 0.05: 0.0} and result.clean_auroc == 1.0
    assert result.certified_auroc_ci is not None and result.certified_auroc_ci[0.05] == (0.0, 0.0)
    assert [row.upper[1] for row in result.rows] == [pytest.approx(0.45, abs=1e-4), None, None, None]
    assert result.proven is not None and result.proven[0.05].anomalous.not_proven == 2
    assert result.sticker is not None and (result.sticker.found, result.sticker.auroc) == (0.0, 0.0)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert rows[3]["upper"] == [pytest.approx(0.705, abs=1e-4), None] and "sticker" not in rows[3]


def test_a_robust_threshold_allows_for_images_without_a_bound() -> None:
    upper = [float(value) for value in range(18)] + [float("inf")] * 2
    found = robust_threshold_of_bounds(upper, false_alarm_rate=0.2, radius=0.01, norm="linf")
    assert found.threshold == 16.0 and found.n == 20
    with pytest.raises(ConfigError, match="is too large"):
        robust_threshold_of_bounds(upper, false_alarm_rate=0.1, radius=0.01, norm="linf")


# --- stored ----------------------------------------------------------------------------------------------------------


def test_the_stored_result_is_read_back_with_its_radii(tmp_path: Path) -> None:
    result = advrad.certify(Brightness(), DATA, output=tmp_path / "out", sticker_px=3)
    stored = json.loads((tmp_path / "out" / "result.json").read_text())
    assert stored == json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert not {"draws", "confidence", "seed", "quantile"} & set(stored)
    assert set(stored["verdicts"]["0.00392157"]) == {"right", "wrong", "abstained", "certified"}
    assert stored["radii"] == [1 / 255, 2 / 255, 4 / 255]
    read = CertificationResult.parse(stored, "result.json")
    assert read.to_dict() == result.to_dict() and read.radii == result.radii and read.proven == result.proven
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert set(rows[0]) == {*("name", "label", "score", "lower", "upper", "verdicts", "radius", "sticker", "seconds")}
    assert [len(row["lower"]) for row in rows] == [3] * 4


def test_finished_images_are_kept_and_other_plans_refused(tmp_path: Path) -> None:
    first = Brightness()
    whole = advrad.certify(first, DATA, radii=RADII, output=tmp_path)
    (tmp_path / "rows" / "00002.json").unlink()
    second = Brightness()
    again = advrad.certify(second, DATA, radii=RADII, output=tmp_path)
    assert again.rows[2].lower == whole.rows[2].lower and 0 < len(second.asked) < len(first.asked) / 2
    with pytest.raises(OutputError, match="holds a run with other"):
        advrad.certify(Brightness(), DATA, radii=(0.01,), output=tmp_path)
    (tmp_path / "rows" / "00001.json").write_text("{}")
    with pytest.raises(OutputError, match=r"00001\.json: a row is damaged"):
        advrad.certify(Brightness(), DATA, radii=RADII, output=tmp_path)


def test_results_lie_in_the_model_folder_and_attacks_are_compared(tmp_path: Path) -> None:
    loaded = LoadedDetector(Brightness(), "identity", tmp_path / "run")
    attacked = advrad.attack(loaded, DATA, attack="pgd", eps=0.04, steps=5)
    result = advrad.certify(loaded, DATA, radii=(0.02, 0.04))
    assert result.folder is not None and Path(result.folder).parent == tmp_path / "run" / "certificates"
    assert Path(result.folder).name.startswith("bounds-linf-") and result.warnings == ()
    assert [(point.eps, point.same_images) for point in result.attacked] == [(0.04, True)]
    assert attacked.robust_auroc is not None and attacked.robust_auroc >= result.certified_auroc[0.04]  # type: ignore[operator]
    assert attacked.folder is not None
    path = attacked.folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"robust_auroc": 0.1}))
    (warning,) = advrad.certify(loaded, DATA, radii=(0.02, 0.04)).warnings
    assert "pgd at linf 0.04 left 0.1000" in warning and "this is a bug in advrad" in warning
    # The attack was on another detector, so it says nothing about this one.
    other = LoadedDetector(Brightness(), "another", tmp_path / "run")
    assert advrad.certify(other, DATA, radii=(0.02, 0.04)).warnings == ()


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_what_is_proven(cli: Cli, others: Path, tmp_path: Path) -> None:
    data = make_mvtec(tmp_path, good=2, defects={"scratch": 2})
    options = ("--size", 32, "-o", tmp_path / "out", "--sticker", 8, "--radius", "1/255,2/255")
    done = cli("certify", f"{others}:detector", data, "--norm", "linf", *options)
    assert done.status == 0, done.err
    for words in ("bounds; linf", "2/255", "sticker of 8 px", "proven defective / proven good / not proven", "8 bits"):
        assert words in done.out, words
    assert re.search(r"median proven radius │ [\d.]+/255 ", done.out)
    assert (tmp_path / "out" / "certificates.png").is_file()
    result = json.loads(cli("certify", f"{others}:detector", data, *options, "--json").out)
    assert (
        result["norm"] == "linf"
        and result["method"] == "bounds"
        and list(result["certified_auroc"]) == ["0.00392157", "0.00784314"]
    )
    done = cli("certify", f"{others}:plain", data, "--norm", "linf", "--size", 32, "-o", tmp_path / "plain")
    assert done.status == 2 and "--norm linf: needs exact bounds" in done.one_error_line()
    assert "closed-form" in done.one_error_line() and not (tmp_path / "plain").exists()
    done = cli("certify", f"{others}:plain", data, "--sticker", 8, "--size", 32, "-o", tmp_path / "plain")
    assert done.status == 2 and "--sticker 8: needs a closed-form detector" in done.one_error_line()


def test_a_killed_certification_continues(cli: Cli, others: Path, tmp_path: Path) -> None:
    data = make_mvtec(tmp_path, good=6, defects={"scratch": 6})
    (tmp_path / "wait").touch()
    command = ["certify", f"{others}:slow", str(data), "--size", "32", "--radius", "1/255", "-o", str(tmp_path / "out")]
    running = subprocess.Popen([str(Path(sys.executable).parent / "advrad"), *command], stderr=subprocess.DEVNULL)
    rows = tmp_path / "out" / "rows"
    until = time.monotonic() + 120
    while not (rows.is_dir() and len(list(rows.glob("0*.json"))) >= 2) and time.monotonic() < until:
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    (tmp_path / "wait").unlink()
    kept = {path: path.stat().st_mtime_ns for path in rows.glob("0*.json")}
    assert 2 <= len(kept) < 12
    done = cli(*command, "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["n_good"] == 6 and all(path.stat().st_mtime_ns == at for path, at in kept.items())
