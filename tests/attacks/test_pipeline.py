"""The commands attack, checks and curve."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from toy_datasets import make_mvtec
from toy_models import TWO_VIEWS, detector
from trained_run import MAIN, Cli, call
from two_processes import run_in_two

from advrad.data.records import Record
from advrad.data.splits import sample_test_records
from advrad.errors import DataError

#: Detectors of a user, in a Python file.
OTHERS = """
import torch
from advrad import wrap

def brightness(images):
    return images.flatten(1).topk(60, dim=1).values.mean(1), images.mean(1, keepdim=True)

def broken(images):
    return images.reshape(-1)[:3]

def not_a_number(images):
    return images.mean((1, 2, 3)) * float("nan")

def blind(images):
    return images.mean((1, 2, 3)).detach()

sized = wrap(brightness, size_px=32, deterministic=True, threshold=0.9)
number = 3
"""


@pytest.fixture
def advrad(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    return call(capsys, monkeypatch)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_mvtec(tmp_path, good=4, defects={"scratch": 3, "dent": 2})


@pytest.fixture
def others(tmp_path: Path) -> Path:
    path = tmp_path / "others.py"
    path.write_text(OTHERS)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    detector(TWO_VIEWS).save_pretrained(folder)
    return folder


def test_attack_prints_one_object_and_resumes_from_its_rows(advrad: Cli, run: Path, data: Path) -> None:
    options = ("attack", run, data, "--attack", "pgd", "--steps", 3, "--norm", "l2", "--eps", 0.2, "--limit", 4)
    done = advrad(*options, "--json")
    assert done.status == 0, done.err
    result = json.loads(done.out)
    wanted = {
        "clean_auroc",
        "robust_auroc",
        "robust_auroc_ci",
        "robust_auroc_anomalous_only",
        "robust_auroc_normal_only",
        "robust_auroc_8bit",
        "clean_tpr",
        "clean_fpr",
        "robust_tpr",
        "robust_fpr",
        "robust_pixel_auroc",
        "robust_aupro",
        "gradients",
        "seconds",
        "flags",
    }
    assert wanted <= set(result)
    assert (result["n_good"], result["n_defect"]) == (2, 2) and result["gradients"] == 12
    folder = Path(result["folder"])
    assert folder.parent == run / "attacks"
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows].count(1) == 2 and all(row["name"].startswith("test/") for row in rows)
    assert json.loads((folder / "result.json").read_text()) == result
    written = {path: path.stat().st_mtime_ns for path in (folder / "rows").iterdir()}
    shown = advrad(*options)
    assert shown.status == 0 and "->" in shown.out and "By attack" in shown.out
    assert {path: path.stat().st_mtime_ns for path in (folder / "rows").iterdir()} == written


def test_the_suite_names_its_version_and_budget(advrad: Cli, run: Path, data: Path) -> None:
    done = advrad("attack", run, data, "--budget", "quick", "--limit", 2, "--json")
    assert done.status == 0, done.err
    result = json.loads(done.out)
    assert result["suite_version"] == 3 and result["budget"] == "quick"
    assert list(result["robust_auroc_after"]) == result["members"] and len(result["members"]) == 4


def test_any_detector_in_a_python_file_can_be_attacked(advrad: Cli, others: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = advrad(
        "attack",
        f"{others}:sized",
        data,
        "--attack",
        "apgd",
        "--eps",
        0.5,
        "--steps",
        5,
        "-o",
        out,
        "--save-pictures",
        "--json",
    )
    assert done.status == 0, done.err
    result = json.loads(done.out)
    assert result["robust_auroc"] < result["clean_auroc"] == 1
    assert len(list((out / "pictures").glob("*.png"))) == 9


def test_a_black_box_is_attacked_by_its_scores(advrad: Cli, others: Path, data: Path, tmp_path: Path) -> None:
    done = advrad(
        "attack",
        f"{others}:blind",
        data,
        "--attack",
        "pgd",
        "--steps",
        4,
        "--limit",
        2,
        "--size",
        32,
        "-o",
        tmp_path / "o",
    )
    assert done.status == 0, done.err
    assert "left out" in done.out and "no gradient" in done.out and "WARNING" in done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--eps", "-1"), "--eps -1: must be between 0 and 1"),
        (("--eps", "2"), "--eps 2: must be between 0 and 1"),
        (("--eps", "2/0"), "--eps 2/0: must be a number or a fraction"),
        (("--eps", "some"), "--eps some: must be a number or a fraction"),
        (("--norm", "l1"), "--norm l1: is unknown; choose linf or l2"),
        (("--attack", "nuke"), "--attack nuke: is unknown; choose pgd"),
        (("--attack", "pgd", "--surrogate", "fog"), "--surrogate fog: is unknown here; choose score"),
        (("--budget", "endless"), "--budget endless: is unknown; choose quick"),
        (("--noise", "loud"), "noise"),
        (("--gradients", "half"), "--gradients half: is unknown; choose auto, float32"),
        (("--attack", "transfer"), "--from"),
        (("--attack", "pgd", "--from", "x"), "--from"),
    ],
)
def test_options_that_make_no_sense(arguments: tuple[str, ...], words: str, advrad: Cli, run: Path, data: Path) -> None:
    done = advrad("attack", run, data, *arguments)
    assert done.status == 2
    assert words in done.err.splitlines()[-1] and done.err.splitlines()[-1].startswith("advrad: error: ")
    assert not (run / "attacks").exists()


def test_the_precision_of_the_gradients_is_chosen_and_stored(
    advrad: Cli, run: Path, data: Path, others: Path, tmp_path: Path
) -> None:
    short = ("--attack", "pgd", "--steps", 1, "--limit", 2, "--json")
    for choice in ("float32", "bfloat16"):
        done = advrad("attack", run, data, *short, "--gradients", choice, "-o", tmp_path / choice)
        assert done.status == 0, done.err
        assert json.loads(done.out)["arithmetic"] == choice
    done = advrad("attack", run, data, *short, "--gradients", "float32", "-o", tmp_path / "bfloat16")
    assert done.status == 2 and "other arithmetic" in done.err, "rows of one are no rows of the other"
    done = advrad("attack", f"{others}:sized", data, *short, "--gradients", "bfloat16", "-o", tmp_path / "theirs")
    assert done.status == 2 and "only AdvRAD detectors" in done.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken", "scores of shape"),
        ("not_a_number", "not a finite number"),
        ("missing", "does not define 'missing'"),
        ("number", "cannot be called"),
    ],
)
def test_detectors_that_are_not_valid(
    name: str, words: str, advrad: Cli, others: Path, data: Path, tmp_path: Path
) -> None:
    done = advrad("attack", f"{others}:{name}", data, "--size", 32, "-o", tmp_path / "out")
    assert done.status == 2 and words in done.err.splitlines()[-1], done.err


def test_a_file_that_fails_or_is_not_there(advrad: Cli, data: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("1 / 0")
    done = advrad("attack", f"{tmp_path / 'bad.py'}:x", data, "-o", tmp_path / "out")
    assert done.status == 2 and "ZeroDivisionError" in done.one_error_line()
    done = advrad("attack", f"{tmp_path / 'none.py'}:x", data, "-o", tmp_path / "out")
    assert done.status == 2 and "there is no such file" in done.one_error_line()
    done = advrad("attack", tmp_path / "none", data)
    assert done.status == 2 and "no such model folder" in done.one_error_line()


def test_another_detector_needs_a_place_for_its_results(advrad: Cli, others: Path, data: Path) -> None:
    done = advrad("attack", f"{others}:sized", data)
    assert done.status == 2 and "--output: is needed" in done.err


def test_one_class_and_no_images_are_refused(advrad: Cli, run: Path, tmp_path: Path) -> None:
    one = make_mvtec(tmp_path, "one", defects={})
    done = advrad("attack", run, one)
    assert done.status == 2 and "no anomalous test image" in done.one_error_line()
    (tmp_path / "empty").mkdir()
    done = advrad("attack", run, tmp_path / "empty")
    assert done.status == 2


def test_checks_end_with_1_if_there_is_a_flag(advrad: Cli, others: Path, data: Path, tmp_path: Path) -> None:
    honest = advrad("checks", f"{others}:sized", data, "--steps", 5, "--limit", 4, "-o", tmp_path / "a", "--json")
    assert honest.status == 0, honest.out
    assert json.loads(honest.out)["flags"] == []
    blind = advrad("checks", f"{others}:blind", data, "--steps", 2, "--limit", 4, "--size", 32, "-o", tmp_path / "b")
    assert blind.status == 1 and "no gradient" in blind.out.replace("\n", " ")
    assert (tmp_path / "b" / "checks.json").is_file()


def test_a_curve_is_stored_as_data_and_as_a_plot(advrad: Cli, others: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "curve"
    done = advrad("curve", f"{others}:sized", data, "--values", "0, 16/255,128/255", "--steps", 5, "-o", out, "--json")
    assert done.status == 0, done.err
    points = json.loads(done.out)["points"]
    assert [point["typed"] for point in points] == ["0", "16/255", "128/255"]
    areas = [point["robust_auroc"] for point in points]
    assert areas[0] == 1 and areas == sorted(areas, reverse=True) and areas[-1] < 0.1
    assert (out / "curve-eps.json").is_file() and (out / "curve-eps.png").stat().st_size > 1000
    steps = advrad("curve", f"{others}:sized", data, "--over", "steps", "--values", "1,4", "-o", tmp_path / "s")
    assert steps.status == 0 and "robust AUROC" in steps.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--over", "time"), "--over time: is unknown; choose eps"),
        (("--values", ","), "--values: holds no value"),
        (("--over", "steps", "--values", "many"), "--values many"),
        (("--values", "1/255,nonsense"), "--values nonsense: must be a number or a fraction"),
        (("--over", "steps", "--attack", "suite", "--values", "1"), "the suite has fixed ones"),
    ],
)
def test_curves_that_make_no_sense(arguments: tuple[str, ...], words: str, advrad: Cli, run: Path, data: Path) -> None:
    done = advrad("curve", run, data, *arguments)
    assert done.status == 2 and words in done.err.splitlines()[-1], done.err
    assert not (run / "attacks").exists(), "nothing was attacked"


def test_two_processes_share_an_attack(advrad: Cli, others: Path, data: Path, tmp_path: Path) -> None:
    command = [
        "attack",
        f"{others}:sized",
        str(data),
        "--attack",
        "pgd",
        "--steps",
        "5",
        "--eps",
        "0.2",
        "--json",
    ]
    two = json.loads(run_in_two([sys.executable, "-c", MAIN, *command, "-o", str(tmp_path / "two")]))
    done = advrad(*command, "-o", tmp_path / "one")
    assert done.status == 0, done.err
    one = json.loads(done.out)
    same = ("robust_auroc", "clean_auroc", "gradients", "n_good", "n_defect", "found_by")
    assert {name: two[name] for name in same} == {name: one[name] for name in same}


# --- which images ----------------------------------------------------------------------------------------------------


def records(good: int, **defects: int) -> list[Record]:
    made = [Record(Path(f"test/good/{i}.png"), "test", 0, "good") for i in range(good)]
    for kind, count in defects.items():
        made += [Record(Path(f"test/{kind}/{i}.png"), "test", 1, kind) for i in range(count)]
    return made


def test_a_limit_takes_half_good_ones_and_every_kind_of_defect() -> None:
    all_of_them = records(20, dent=9, scratch=2, rust=1)
    some = sample_test_records(all_of_them, 12, 0)
    kinds = [record.defect for record in some]
    assert kinds.count("good") == 6 and kinds.count("rust") == 1 and kinds.count("scratch") == 2
    assert some == sample_test_records(all_of_them, 12, 0) != sample_test_records(all_of_them, 12, 1)
    assert sample_test_records(all_of_them, None, 0) == tuple(all_of_them) == sample_test_records(all_of_them, 99, 0)


def test_a_limit_is_filled_up_where_one_kind_is_scarce() -> None:
    assert len(sample_test_records(records(2, dent=30), 12, 0)) == 12
    assert len(sample_test_records(records(30, dent=2), 12, 0)) == 12


def test_both_kinds_must_be_there() -> None:
    with pytest.raises(DataError, match="no normal test image"):
        sample_test_records(records(0, dent=3), None, 0)
