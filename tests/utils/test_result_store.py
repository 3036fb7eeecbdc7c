"""Rows of a run: claimed once, written whole, read back in order or refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from advrad.errors import OutputError
from advrad.utils.config import Config
from advrad.utils.progress import CallbackReporter
from advrad.utils.result_store import ResultStore

NAMES = ("a.png", "b.png", "c.png")


class Plan(Config):
    radii: tuple[float, ...] = (0.1, 1 / 3)
    seed: int = 0


class Square(Config):
    side: int
    area: int


def opened(folder: Path, **other: object) -> ResultStore:
    values = {"plan": Plan(), "names": NAMES, "digest": "1", "identity": "mine"} | other
    return ResultStore.open(folder, **values)  # type: ignore[arg-type]


def test_rows_come_back_in_order_whoever_wrote_them(tmp_path: Path) -> None:
    rows = opened(tmp_path)
    for index in (2, 0, 1):
        rows.write(index, {"name": NAMES[index], "score": index / 3})
    assert opened(tmp_path).read_all() == [{"name": name, "score": index / 3} for index, name in enumerate(NAMES)]


def test_what_is_missing_is_told_for_a_share(tmp_path: Path) -> None:
    rows = opened(tmp_path)
    rows.write(1, {})
    assert rows.missing(range(3)) == [0, 2]
    assert rows.missing(range(1, 3)) == [2]


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"plan": Plan(seed=1)}, "seed"),
        ({"plan": Plan(radii=(0.1, 0.3))}, "radii"),
        ({"names": ("a.png", "c.png", "b.png")}, "names"),
        ({"digest": "2"}, "pictures"),
        ({"identity": "another"}, "detector"),
    ],
)
def test_a_folder_of_another_run_is_refused(tmp_path: Path, other: dict[str, object], word: str) -> None:
    opened(tmp_path)
    with pytest.raises(OutputError, match=f"holds a run with other {word}; choose another output folder"):
        opened(tmp_path, **other)
    opened(tmp_path)


def test_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    opened(tmp_path)
    (tmp_path / "plan.json").write_text('{"radii": [0.1')
    with pytest.raises(OutputError, match="is damaged"):
        opened(tmp_path)
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(OutputError, match="holds a run with other"):
        opened(tmp_path)


@pytest.mark.parametrize("content", [None, "", '{"score": 0.', "3"])
def test_a_missing_or_damaged_row_is_named(tmp_path: Path, content: str | None) -> None:
    rows = opened(tmp_path)
    for index in range(3):
        rows.write(index, {})
    rows.path(1).unlink()
    if content is not None:
        rows.path(1).write_text(content)
    with pytest.raises(OutputError, match=r"00001.json: a row is damaged .* delete it and run the same command again"):
        rows.read_all()


def test_a_number_that_json_does_not_know_leaves_no_half_a_row(tmp_path: Path) -> None:
    rows = opened(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        rows.write(0, {"upper": float("inf")})
    assert rows.missing(range(1)) == [0]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [".advrad-output", "plan.json"]
    assert json.loads((tmp_path / "plan.json").read_text())["radii"] == [0.1, 1 / 3]


def test_only_the_missing_rows_of_a_share_are_computed(tmp_path: Path) -> None:
    rows = opened(tmp_path)
    rows.write(0, {"side": 0, "area": 0})
    computed: list[int] = []
    seen: list[tuple[int, int]] = []

    def square(side: int) -> Square:
        computed.append(side)
        return Square(side=side, area=side**2)

    def other_process() -> None:
        rows.write(1, {"side": 1, "area": 1})

    progress = CallbackReporter(lambda done, total: seen.append((done, total)))
    found = rows.complete(Square, square, process=(0, 2), progress=progress, wait=other_process)
    assert found == tuple(Square(side=side, area=side**2) for side in range(3))
    assert computed == [2] and seen == [(1, 2), (2, 2)]
    assert rows.complete(Square, square) == found and computed == [2]


def test_a_row_of_another_kind_is_named(tmp_path: Path) -> None:
    rows = opened(tmp_path)
    rows.write(1, {"side": 1})
    with pytest.raises(OutputError, match=r"00001\.json: a row is damaged .*area"):
        rows.complete(Square, lambda side: Square(side=side, area=0))
