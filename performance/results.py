"""Keep a bench's result rows in ``docs/results``, and write the tables of ``docs/results.md`` from the rows kept there.

    python performance/results.py bench-cpu      # keep, then write
    python performance/results.py                # write only

The page's tables stand between ``<!-- tables: NAME -->`` and ``<!-- end -->``; nothing between them is typed by hand.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from advrad.benchmark.cells import read_bench
from advrad.benchmark.formats import markdown
from advrad.benchmark.overview import make_tables
from advrad.utils.files import make_folder, write_text

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, ROWS = DOCS / "results.md", DOCS / "results"
_MARKED = re.compile(r"(?<=<!-- tables: )(?P<name>\w+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)


def keep(bench: Path, rows: Path = ROWS) -> Path:
    """Copy plan and cells of a bench that the plan names, which is all that a report needs."""
    results = read_bench(bench)
    folder = make_folder(rows / results.name)
    for old in (folder / "cells").glob("*.json"):
        old.unlink()
    make_folder(folder / "cells")
    for name in ("grid.json", *(f"cells/{key}.json" for key in results.cells)):
        write_text(folder / name, (bench / name).read_text(encoding="utf-8"))
    return folder


def tables_of(folder: Path) -> str:
    """The tables of a bench as Markdown."""
    return "\n".join(markdown(table) for table in make_tables(read_bench(folder)).all)


def with_tables(page: str, rows: Path = ROWS) -> str:
    """A page with its tables written anew."""
    return _MARKED.sub(lambda found: f"{found['name']} -->\n\n{tables_of(rows / found['name'])}\n", page)


def main(arguments: list[str]) -> None:
    """See the module."""
    for bench in arguments:
        print(keep(Path(bench)))
    write_text(PAGE, with_tables(PAGE.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main(sys.argv[1:])
