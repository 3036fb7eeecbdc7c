"""Figures of ``performance/scale.py``, what follows from them for a large archive, and both as tables of a page."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scale_command import Taken

from advrad.archive.pieces import PIECE_IMAGES
from advrad.utils.files import write_text

#: Pictures of the archive whose cost is computed.
ARCHIVE = 100_000_000
#: Memory that a process may hold more on the long folder than on the short one, as a share.
MOST_GROWTH = 0.10
#: What stands in a page until there are figures.
NOT_MEASURED = "Not measured yet.\n"
_MARKED = re.compile(r"(?<=<!-- table: )(?P<name>\w+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """What a detector took with a number of processes.

    Attributes:
        detector: Its name.
        engine: Engine, ``local`` or ``ray``.
        jobs: Number of processes that judge, each on one processor.
        pictures: Pictures of the long folder.
        pictures_per_s: Rate of the command, without its start.
        start_s: What its start and end take, whatever the number of pictures.
        bare_per_s: Rate of so many processes without an engine, at the same time.
        driver_s: Computing of the first process for each picture, in seconds; where it is the only one, it judges too.
            With few pictures it drowns in the computing of its start, see :func:`driver_of`.
        driver_mb: Most memory of the first process, MB.
        driver_growth: What it holds more on the long folder than on the short one, as a share.
        worker_mb: Most memory of any other process, MB; 0 without others.
        worker_growth: What such a process holds more, as a share.
        bytes_read: Bytes of the file of a picture.
        bytes_row: Bytes of the results for a picture, if all scores differ.
    """

    detector: str
    engine: str
    jobs: int
    pictures: int
    pictures_per_s: float
    start_s: float
    bare_per_s: float
    driver_s: float
    driver_mb: float
    driver_growth: float
    worker_mb: float
    worker_growth: float
    bytes_read: float
    bytes_row: float

    @property
    def alone(self) -> bool:
        """Whether the first process is the only one."""
        return self.jobs == 1 and self.engine == "local"


@dataclass(frozen=True)
class Folder:
    """A folder of pictures, and what judging it took.

    Attributes:
        pictures: Number of pictures.
        bytes_read: Size of their files together.
        bytes_rows: Size of the results.
        taken: What the command took.
    """

    pictures: int
    bytes_read: int
    bytes_rows: int
    taken: Taken


def row_of(detector: str, engine: str, jobs: int, short: Folder, long: Folder, bare_per_s: float) -> Row:
    """Figures from a short and a long folder.

    Args:
        detector: Name of the detector.
        engine: Engine, ``local`` or ``ray``.
        jobs: Number of processes that judge.
        short: The short folder.
        long: The long folder.
        bare_per_s: Rate of so many processes without an engine.

    Raises:
        SystemExit: The long folder took no longer than the short one, so there is no rate.
    """
    few, many, more = short.taken, long.taken, long.pictures - short.pictures
    seconds = many.seconds - few.seconds
    if more <= 0 or seconds <= 0:
        raise SystemExit(
            f"{detector}: {long.pictures} pictures took {many.seconds:.1f} s and {short.pictures} took"
            f" {few.seconds:.1f} s, which gives no rate; use more pictures"
        )
    return Row(
        detector,
        engine,
        jobs,
        long.pictures,
        more / seconds,
        few.seconds - short.pictures * seconds / more,
        bare_per_s,
        (many.driver_cpu_s - few.driver_cpu_s) / more,
        many.driver_mb,
        many.driver_mb / few.driver_mb - 1,
        many.worker_mb,
        many.worker_mb / few.worker_mb - 1 if few.worker_mb else 0.0,
        long.bytes_read / long.pictures,
        long.bytes_rows / long.pictures,
    )


def share_of_ideal(row: Row, rows: Sequence[Row]) -> float | None:
    """The rate by that of one process alone times the number of processes; None if one alone was not measured.

    Args:
        row: Figures of some processes.
        rows: All figures.
    """
    alone = [one.pictures_per_s for one in rows if one.alone and one.detector == row.detector]
    return row.pictures_per_s / (row.jobs * alone[0]) if alone else None


def broken(rows: Sequence[Row]) -> list[str]:
    """Where memory is not flat, in words.

    Args:
        rows: Figures.
    """
    return [
        f"{row.detector}, {row.engine}, {row.jobs} processes: the memory of a {who} grew by {growth:.1%}"
        for row in rows
        for who, growth in (("driver", row.driver_growth), ("worker", row.worker_growth))
        if growth > MOST_GROWTH
    ]


@dataclass(frozen=True)
class Cost:
    """What an archive costs.

    Attributes:
        core_hours: Hours of one processor, workers and driver together.
        driver_hours: Hours that the driver alone computes, which is the least time that the run takes.
        most_cores: Number of processors for which one driver is enough; None if its computing is too short to measure.
        read_tb: Bytes of the pictures, 10^12.
        rows_gb: Bytes of the results, 10^9.
        parts: Files of finished pieces that are there before they are joined.
    """

    core_hours: float
    driver_hours: float
    most_cores: float | None
    read_tb: float
    rows_gb: float
    parts: int


def driver_of(rows: Sequence[Row], engine: str) -> Row:
    """The figures that tell best what a driver computes for each picture, whatever the detector: of most pictures.

    Args:
        rows: Figures; some of the engine with a driver of its own.
        engine: The engine.
    """
    return max((row for row in rows if row.engine == engine and not row.alone), key=lambda row: row.pictures)


def cost_of(row: Row, driver_s: float, pictures: int = ARCHIVE) -> Cost:
    """What an archive costs, if its pictures are like those that were measured.

    Args:
        row: Figures in which the driver is a process of its own.
        driver_s: Computing of the driver for each picture, in seconds.
        pictures: Number of pictures.
    """
    core_s = row.jobs / row.pictures_per_s
    return Cost(
        pictures * core_s / 3600,
        pictures * driver_s / 3600,
        core_s / driver_s if driver_s > 0 else None,
        pictures * row.bytes_read / 1e12,
        pictures * row.bytes_row / 1e9,
        math.ceil(pictures / PIECE_IMAGES),
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; all columns but the first two are numbers."""
    if wrong := [row for row in rows if len(row) != len(head)]:
        raise ValueError(f"{len(head)} columns, but {len(wrong[0])} entries: {', '.join(wrong[0])}")
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def table_of_rates(rows: Sequence[Row]) -> str:
    """Images per second, share of ideal, memory and the driver's work."""
    head = [
        "detector",
        "engine",
        "processes",
        "images",
        "images/s",
        "of ideal",
        "of the machine",
        "start, s",
        "driver, ms per image",
    ]
    head += ["driver, MB", "worker, MB", "growth of driver; worker"]
    body = []
    for row in rows:
        share = share_of_ideal(row, rows)
        body.append(
            [
                row.detector,
                row.engine,
                str(row.jobs),
                f"{row.pictures:,}",
                f"{row.pictures_per_s:.1f}",
                "-" if share is None else f"{share:.0%}",
                "-" if row.alone else f"{row.pictures_per_s / row.bare_per_s:.0%}",
                f"{row.start_s:.1f}",
                "-" if row.alone or row != driver_of(rows, row.engine) else f"{1e3 * row.driver_s:.3f}",
                f"{row.driver_mb:.0f}",
                "-" if row.alone else f"{row.worker_mb:.0f}",
                f"{row.driver_growth:+.1%}" + ("" if row.alone else f"; {row.worker_growth:+.1%}"),
            ]
        )
    return table(head, body)


def table_of_costs(rows: Sequence[Row]) -> str:
    """What the archive costs with each detector and engine, from their row with the most processes."""
    most = {(row.detector, row.engine): row for row in sorted(rows, key=lambda row: row.jobs) if not row.alone}
    head = ["detector", "engine", "core hours", "of these the driver", "cores that one driver feeds"]
    head += ["read, TB", "results, GB", "parts"]
    body = []
    for (detector, engine), row in most.items():
        cost = cost_of(row, driver_of(rows, engine).driver_s)
        cores = "-" if cost.most_cores is None else f"{cost.most_cores:,.0f}"
        numbers = [f"{cost.core_hours:,.0f}", f"{cost.driver_hours:,.1f}", cores]
        body.append([detector, engine, *numbers, f"{cost.read_tb:,.1f}", f"{cost.rows_gb:,.1f}", f"{cost.parts:,}"])
    return table(head, body)


def tables(result: dict[str, Any]) -> dict[str, str]:
    """The tables of a page, by name.

    Args:
        result: What ``performance/scale.py`` prints as JSON.
    """
    rows = [Row(**row) for row in result["rows"]]
    about = f"{result['processor']}, {result['date']}; images: {result['images']}.\n\n"
    return {"rates": about + table_of_rates(rows), "costs": table_of_costs(rows)}


def with_tables(page: str, result: dict[str, Any] | None) -> str:
    """Replace the tables of a page.

    Args:
        page: Its text.
        result: What was measured; None if nothing was.
    """
    found = {} if result is None else tables(result)
    return _MARKED.sub(lambda mark: f"{mark['name']} -->\n\n{found.get(mark['name'], NOT_MEASURED)}\n", page)


def stored(page: Path) -> dict[str, Any] | None:
    """What was measured for a page; None if nothing was."""
    path = page.with_suffix(".json")
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_page(page: Path, result: dict[str, Any]) -> None:
    """Store what was measured beside a page, and write the tables of the page.

    Args:
        page: Markdown file with places for tables.
        result: What was measured.
    """
    write_text(page.with_suffix(".json"), json.dumps(result, indent=1) + "\n")
    write_text(page, with_tables(page.read_text(encoding="utf-8"), result))


def as_values(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as JSON values."""
    return [asdict(row) for row in rows]
