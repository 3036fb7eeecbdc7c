"""What people see of a guarded detector: predict, evaluate, info and report."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import guarded_run
import pytest
from PIL import Image
from trained_run import Cli

from advrad.detectors.verdicts import Verdict


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return guarded_run.write_product(tmp_path_factory.mktemp("product"))


@pytest.fixture(scope="module")
def guarded_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("guarded")
    return guarded_run.write(place / "run", place / "half.py")


@pytest.fixture
def terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process write as to a terminal; after `cli`, which captures what is written."""
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)


@pytest.mark.usefixtures("terminal")
def test_each_line_says_the_verdict_and_who_spoke(cli: Cli, product: Path, guarded_folder: Path) -> None:
    done = cli("predict", guarded_folder, product / "test")
    lines = done.out.splitlines()
    starts = {
        "dent": "DEFECTIVE, proven    memory p 0.017, features p 0.017  ",
        "haze": "SUSPECTED            features p 0.017",
    }
    for line in lines:
        kind = Path(line.split()[-1]).parent.name
        if kind in starts:
            assert line.startswith(starts[kind]), line
        assert line.index(str(product)) == 55, "the paths are below each other"
    assert any(re.match(r"good(, memory proven)? +least: \w+ p 0\.\d+ ", line) for line in lines)
    defective = sum(not line.startswith("good") for line in lines)
    first, second = done.err.splitlines()
    assert first.startswith(f"advrad: {defective} of 12 images are defective: 3 proven, ")
    assert "suspected by features alone" in first
    assert re.fullmatch(rf"advrad: {12 - defective} are good: the memory is proven for (\d+|none)", second)


@pytest.mark.usefixtures("terminal")
def test_the_reason_of_a_failed_half_is_told(cli: Cli, guarded_folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "black.png")
    done = cli("predict", guarded_folder, tmp_path)
    assert re.match(r"DEFECTIVE, proven +memory p [\d.]+, features failed +\S+black.png  \(features failed: ", done.out)
    assert "the image is black" in done.out
    assert "a half failed on 1 image, called defective; " in done.err


def test_json_and_table_hold_every_half(cli: Cli, product: Path, guarded_folder: Path, tmp_path: Path) -> None:
    done = cli("predict", guarded_folder, product / "test" / "haze", "--csv", tmp_path / "v.csv")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert {row["verdict"] for row in rows} == {"suspected"} and all(row["defective"] for row in rows)
    assert [half["name"] for half in rows[0]["halves"]] == ["memory", "features"]
    with (tmp_path / "v.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert table[0]["verdict"] == "suspected" and table[0]["features_speaks"] == "True"
    assert float(table[0]["memory_score"]) == rows[0]["halves"][0]["score"]
    assert done.err == "advrad: 3 of 3 images are defective: 3 suspected by features alone\n"


@pytest.mark.usefixtures("terminal")
def test_certify_adds_how_far_the_memory_is_proven(cli: Cli, product: Path, guarded_folder: Path) -> None:
    done = cli("predict", guarded_folder, product / "test" / "dent", "--certify", "--norm", "linf", "--radius", "2/255")
    assert done.status == 0 and "at the threshold under attack" not in done.out
    assert all("memory proven to linf " in line for line in done.out.splitlines())
    row = json.loads(cli("predict", guarded_folder, product / "test" / "dent" / "000.png", "--certify", "--json").out)
    assert (row["certified"], row["certified_half"]) == ("proven defective", "memory")


def test_a_threshold_is_refused_in_one_line(cli: Cli, product: Path, guarded_folder: Path) -> None:
    done = cli("predict", guarded_folder, product / "test", "--threshold", "3")
    line = done.one_error_line()
    assert done.status == 2 and "--threshold 3: cannot be used with a guarded detector" in line
    assert "advrad calibrate RUN DATA -o NEW" in line


def test_evaluate_shows_each_half_beside_its_promise(cli: Cli, product: Path, guarded_folder: Path) -> None:
    shown = cli("evaluate", guarded_folder, product, "--save").out
    for words in ("Each half alone", "memory", "features", "promised", "at most 5 %", "defects found by both halves"):
        assert words in shown, words
    assert "of the defects are certainly found" in " ".join(shown.split()) and "good, memory proven" in shown
    assert "threshold" not in shown and max(map(len, shown.splitlines())) <= 80
    values = json.loads(cli("evaluate", guarded_folder, product, "--json").out)
    assert set(values["guarded"]["halves"]) == {"memory", "features"}
    shown = cli("info", guarded_folder).out
    for verdict in Verdict:
        assert str(verdict) in shown
    for words in ("What the verdicts mean", "Test of memory", "Ceiling", "Each half alone", "by either half"):
        assert words in shown, words
    everything = cli("info", guarded_folder, "--all").out
    assert "tests.features.threshold" in everything and "tests.memory.scores" not in everything
    card = (guarded_folder / "README.md").read_text()
    assert "| Half | AUROC |" in card and "| Verdict | Anomalous images | Normal images |" in card


def test_the_report_has_the_section(cli: Cli, product: Path, guarded_folder: Path, tmp_path: Path) -> None:
    assert cli("report", guarded_folder, product, "-o", tmp_path / "r.html").status == 0
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Two halves" in text and "of the defects are certainly found" in text
