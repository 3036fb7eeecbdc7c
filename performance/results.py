"""Copy the result rows of a bench to ``docs/results``, and write the tables of ``docs/results.md`` from these rows.

    python performance/results.py bench-cpu      # copy, then write the tables
    python performance/results.py                # write the tables only

The tables of the page are between ``<!-- tables: NAME -->`` and ``<!-- end -->``; this part is not edited by hand.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from advrad.benchmark.cells import read_bench
from advrad.benchmark.formats import markdown
from advrad.benchmark.overview import make_tables
from advrad.utils.files import make_folder, write_text

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, ROWS = DOCS / "results.md", DOCS / "results"
_MARKED = re.compile(r"(?<=<!-- tables: )(?P<name>\w+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)


def keep(bench: Path, rows: Path = ROWS) -> Path:
    """Copy the grid of a bench and its cells, which is all that a report needs."""
    results = read_bench(bench)
    folder = make_folder(rows / results.name)
    for old in (folder / "cells").glob("*.json"):
        old.unlink()
    make_folder(folder / "cells")
    for name in ("grid.json", *(f"cells/{key}.json" for key in results.cells)):
        write_text(folder / name, (bench / name).read_text(encoding="utf-8"))
    return folder


def tables_of(folder: Path) -> str:
    """Write the tables of a bench as Markdown."""
    return "\n".join(markdown(table) for table in make_tables(read_bench(folder)).all)


def with_tables(page: str, rows: Path = ROWS) -> str:
    """Replace the tables of a page."""
    return _MARKED.sub(lambda found: f"{found['name']} -->\n\n{tables_of(rows / found['name'])}\n", page)


def main() -> None:
    """Copy the rows of the benches named on the command line, and write the tables."""
    parser = argparse.ArgumentParser(description="Copy the rows of benches to docs/results, and write the tables.")
    parser.add_argument(
        "benches", nargs="*", type=Path, help="folders of 'advrad bench'; none to write the tables only"
    )
    for bench in parser.parse_args().benches:
        print(keep(bench))
    write_text(PAGE, with_tables(PAGE.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
