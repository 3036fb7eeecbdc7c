"""What `performance/scale.py` computes from what it measures, and that the page shows what was measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import scale
import scale_command
import scale_tables
from scale_command import Taken
from scale_tables import Folder, Row, cost_of, row_of, share_of_ideal

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scale.md"

#: 100 pictures in 12 s, 1,100 in 62 s: 20 pictures per second after 7 s.
SHORT = Folder(100, 5_000, 3_000, Taken(12.0, 1.1, 200.0, 400.0, 2))
LONG = Folder(1100, 55_000, 22_000, Taken(62.0, 2.1, 210.0, 500.0, 2))
ROW = row_of("closed form", "local", 2, SHORT, LONG, 25.0)


def test_a_rate_does_not_count_the_start() -> None:
    assert (ROW.pictures_per_s, ROW.start_s) == (20.0, 7.0)
    assert ROW.driver_s == pytest.approx(1e-3)
    assert (ROW.driver_growth, ROW.worker_growth) == pytest.approx((0.05, 0.25))
    assert (ROW.driver_mb, ROW.worker_mb, ROW.bytes_read, ROW.bytes_row) == (210.0, 500.0, 50.0, 20.0)


def test_one_process_has_no_workers_that_could_grow() -> None:
    short, long = (
        dataclasses.replace(folder, taken=dataclasses.replace(folder.taken, worker_mb=0.0)) for folder in (SHORT, LONG)
    )
    assert row_of("closed form", "local", 1, short, long, 25.0).worker_growth == 0


def test_folders_that_give_no_rate_are_refused() -> None:
    for long in (dataclasses.replace(LONG, taken=SHORT.taken), dataclasses.replace(LONG, pictures=100)):
        with pytest.raises(SystemExit, match="gives no rate; use more pictures"):
            row_of("closed form", "local", 2, SHORT, long, 25.0)


def test_the_share_of_ideal_is_of_one_process_of_the_same_detector() -> None:
    alone = dataclasses.replace(ROW, jobs=1, pictures_per_s=12.5)
    other = dataclasses.replace(alone, detector="another", pictures_per_s=99.0)
    ray = dataclasses.replace(ROW, engine="ray", jobs=1, pictures_per_s=11.25)
    assert share_of_ideal(ROW, [other, ray, alone, ROW]) == 0.8
    assert share_of_ideal(ray, [other, ray, alone, ROW]) == 0.9
    assert share_of_ideal(alone, [other, alone, ROW]) == 1
    assert share_of_ideal(ROW, [other, ROW]) is None


def test_what_a_large_archive_costs() -> None:
    cost = cost_of(ROW, ROW.driver_s)
    assert cost.core_hours == pytest.approx(1e8 / 20 * 2 / 3600)
    assert cost.driver_hours == pytest.approx(1e8 * 1e-3 / 3600)
    assert cost.most_cores == pytest.approx(0.1 / 1e-3)
    assert (cost.read_tb, cost.rows_gb) == pytest.approx((0.005, 2.0))
    assert (cost.parts, cost_of(ROW, 1.0, 257).parts) == (390_625, 2)
    assert cost_of(ROW, 1.0, 10**6).core_hours == pytest.approx(cost.core_hours / 100)
    assert cost_of(ROW, 0.0).most_cores is None


def test_memory_that_grows_is_named() -> None:
    flat = dataclasses.replace(ROW, worker_growth=0.1, driver_growth=-0.5)
    assert scale_tables.broken([flat]) == []
    assert scale_tables.broken([flat, ROW]) == [
        "closed form, local, 2 processes: the memory of a worker grew by 25.0%",
    ]
    assert len(scale_tables.broken([dataclasses.replace(ROW, driver_growth=0.11)])) == 2


def test_what_a_driver_computes_is_read_from_the_row_of_most_pictures() -> None:
    most = dataclasses.replace(ROW, detector="stand-in", pictures=9999, driver_s=5e-4)
    ray, alone = dataclasses.replace(ROW, engine="ray", driver_s=2e-3), dataclasses.replace(most, jobs=1)
    rows = [ROW, ray, most, dataclasses.replace(alone, pictures=99_999)]
    assert scale_tables.driver_of(rows, "local") == most and scale_tables.driver_of(rows, "ray") == ray
    assert "| closed form | local | 2,778 | 13.9 | 200 |" in scale_tables.table_of_costs(rows)
    assert [line.split("|")[9].strip() for line in scale_tables.table_of_rates(rows).splitlines()[2:]] == [
        *("-", "2.000", "0.500", "-"),
    ]


def test_each_entry_of_a_table_has_a_heading() -> None:
    assert scale_tables.table(["a", "b", "c"], [["1", "2", "3"]]).splitlines()[1] == "| --- | --- | ---: |"
    with pytest.raises(ValueError, match="2 columns, but 3 entries: 1, 2, 3"):
        scale_tables.table(["a", "b"], [["1", "2"], ["1", "2", "3"]])


def test_equal_scores_do_not_make_results_small(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    from advrad.archive.rows import WRITING

    names = [f"{number:08}.png" for number in range(4000)]
    rows = pa.table({"path": names, "score": [0.1] * 4000})
    parquet.write_table(rows, tmp_path / "rows.parquet", **WRITING)
    size = (tmp_path / "rows.parquet").stat().st_size
    assert size + 4000 * 5 < scale.size_with_different_scores(tmp_path / "rows.parquet") < size + 4000 * 9
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


def result_of(*rows: Row) -> dict[str, object]:
    about = {"processor": "a processor", "date": "2026-11-27", "images": "256 px, made"}
    return about | {"rows": scale_tables.as_values(rows)}


def test_a_page_shows_what_was_measured(tmp_path: Path) -> None:
    page = tmp_path / "scale.md"
    page.write_text(
        "A\n\n<!-- table: rates -->\n<!-- end -->\n\nB\n\n<!-- table: costs -->\nof before\n<!-- end -->\n", "utf-8"
    )
    assert scale_tables.with_tables(page.read_text("utf-8"), scale_tables.stored(page)).count("Not measured yet.") == 2
    alone = dataclasses.replace(ROW, jobs=1, pictures_per_s=12.5)
    result = result_of(alone, dataclasses.replace(ROW, jobs=1, engine="ray"), ROW)
    scale_tables.write_page(page, result)
    text = page.read_text("utf-8")
    assert "| closed form | local | 2 | 1,100 | 20.0 | 80% | 80% | 7.0 | 1.000 | 210 | 500 | +5.0%; +25.0% |" in text
    assert "| closed form | local | 1 | 1,100 | 12.5 | 100% | - | 7.0 | - | 210 | - | +5.0% |" in text
    assert "| closed form | ray | 1 | 1,100 | 20.0 | 160% | 80% | 7.0 | 1.000 | 210 | 500 | +5.0%; +25.0% |" in text
    assert "| closed form | local | 2,778 | 27.8 | 100 | 0.0 | 2.0 | 390,625 |" in text
    assert "| closed form | ray | 1,389 | 27.8 | 50 | 0.0 | 2.0 | 390,625 |" in text
    assert text.count("| closed form |") == 5, "one process alone does not tell what its driver costs"
    assert "of before" not in text and text.startswith("A\n") and "\nB\n" in text
    assert scale_tables.stored(page) == result
    assert scale_tables.with_tables(text, result) == text


def test_the_page_of_the_repository_shows_what_is_stored_beside_it() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count("<!-- table: ") == page.count("<!-- end -->") == 2
    assert scale_tables.with_tables(page, scale_tables.stored(PAGE)) == page


def test_pictures_are_all_different_and_show_the_same_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from advrad.data.images import read_resized

    monkeypatch.setattr(scale, "PER_FOLDER", 2)
    images = list(scale.made_images(32))
    assert len(set(images)) == len(images) == scale.IMAGES
    folder = scale.write_pictures(tmp_path / "pictures", images[:2], 5)
    files = sorted(folder.rglob("*.png"))
    assert len({path.read_bytes() for path in files}) == 5
    assert [path.parent.name for path in files] == ["00000"] * 2 + ["00001"] * 2 + ["00002"]
    first, second, third = (read_resized(path, 32) for path in files[:3])
    assert (first == third).all() and 0 < (first - second).abs().mean() < 0.05
    again = list(scale.given_images(folder))
    assert len(again) == 5 and len(set(again)) == 2, "their pixels alone are kept"
    with pytest.raises(SystemExit, match="0 images in it; give a folder of at least 4"):
        list(scale.given_images(tmp_path / "missing"))


def test_a_command_is_watched_with_the_processes_that_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    # In place of advrad: holds 60 MB and computes for 0.3 s, beside a child that holds 120 MB and computes for 1 s.
    program = """
import subprocess, sys, time
busy = "while time.process_time() < {}: pass"
child = subprocess.Popen([sys.executable, "-c", "import time; held = bytearray(120 << 20)\\n" + busy.format(1)])
held = bytearray(60 << 20)
exec(busy.format(0.3))
child.wait()
"""
    monkeypatch.setattr(scale_command, "_ADVRAD", program)
    taken = scale_command.advrad([], [0])
    assert 0.25 < taken.driver_cpu_s < 0.95, "without the time of the child"
    assert taken.seconds > 1 and taken.processes == 1
    assert 60 < taken.driver_mb < 120 < taken.worker_mb


def test_a_command_that_fails_is_named_with_what_it_said() -> None:
    with pytest.raises(SystemExit, match=r"advrad no-such-command: exit status 2\n(.|\n)*no-such-command"):
        scale_command.advrad(["no-such-command"], [0])


def test_options_that_cannot_be_measured_are_refused(tmp_path: Path) -> None:
    for jobs in ("1", "1000"):
        with pytest.raises(SystemExit, match="the number of processors"):
            scale.main(["--jobs", jobs])
    with pytest.raises(SystemExit, match="are given together"):
        scale.main(["--run", str(tmp_path)])


def test_the_stand_in_judges_pictures_of_any_size(tmp_path: Path) -> None:
    import advrad

    images = list(scale.made_images(64))[: scale.LEAST]
    detector = advrad.load_detector(scale.write_stand_in(tmp_path / "stand-in", images))
    pictures = scale.write_pictures(tmp_path / "pictures", images[:3], 3)
    scores = [one.score for one in detector.predict(sorted(pictures.rglob("*.png")))]
    assert len(set(scores)) == 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_measured_from_end_to_end(closed_form_run: Path, widgets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--run", closed_form_run, "--images", widgets / "test" / "good", "--seconds", "1"]
    # Enough for the long folder to take longer than the short one, however busy the machine is.
    result = scale.main([*map(str, given), "--judged", "4000", "--pictures", "5000"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    ways = [("local", 1), ("local", 2), ("ray", 2)]
    assert [(row["engine"], row["jobs"]) for row in result["rows"]] == ways * 2
    assert [row["pictures"] for row in result["rows"]] == [4000] * 3 + [5000] * 3
    for row in result["rows"]:
        assert row["pictures_per_s"] > 0 and row["bare_per_s"] > 0
        assert row["bytes_row"] > 8 and row["bytes_read"] > 100 and row["driver_mb"] > 10
    assert [row["worker_mb"] > 10 for row in result["rows"]] == [False, True, True] * 2
