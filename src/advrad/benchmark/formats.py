"""Tables as Markdown, LaTeX and CSV, written by pandas and tabulate."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from advrad.benchmark.cells import Cell, CellKey, Results
from advrad.benchmark.tables import READING, Table, entry_text

if TYPE_CHECKING:
    import pandas as pd

_TEX_HEAD = """\
% Written by advrad report. In the preamble: \\usepackage[T1]{fontenc}, \\usepackage{booktabs}, \\usepackage{graphicx}.
% Tables that are too wide for the page are scaled down.
"""


def plain(text: str) -> str:
    """Put a text on one line and remove control characters."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


def _frame(table: Table) -> pd.DataFrame:
    """The texts of a table, without the marks of the best entries. Labels may repeat, so the index is a column."""
    import pandas as pd

    texts = [[row.label, *(entry_text(entry, table.decimals) for entry in row.entries)] for row in table.rows]
    return pd.DataFrame([[plain(text) for text in row] for row in texts], columns=[table.corner, *table.columns])


# --- Markdown ---


def markdown(table: Table) -> str:
    """Format a table with its title and notes as GitHub Markdown."""
    frame = _frame(table).map(escape_markdown)
    frame.columns = [escape_markdown(name) for name in frame.columns]
    for place, row in enumerate(table.rows):
        for column, entry in enumerate(row.entries, start=1):
            if entry.best:
                frame.iloc[place, column] = f"**{frame.iloc[place, column]}**"
    align = ("left", *("right" for _ in table.columns))
    lines = frame.to_markdown(index=False, tablefmt="pipe", colalign=align, disable_numparse=True)
    notes = [f"- {escape_markdown(note)}" for note in table.notes]
    return "\n".join([f"### {escape_markdown(table.title)}", "", lines, *([""] if notes else []), *notes]) + "\n"


def escape_markdown(text: str) -> str:
    """Escape a text so that Markdown shows it as it is. No library in use offers this."""
    return re.sub(r"([\\`*_\[\]<>|&#~$])", r"\\\1", plain(text))


# --- LaTeX ---


def latex(tables: Iterable[Table]) -> str:
    r"""Format tables in the style of booktabs, for the command ``\input``; all texts are escaped."""
    reading = "".join(f"% {line}\n" for line in READING)
    return _TEX_HEAD + reading + "".join(f"\n{_latex(table)}" for table in tables)


def _latex(table: Table) -> str:
    frame = _frame(table).map(escape_latex)
    styles = frame.map(lambda _: "")
    for place, row in enumerate(table.rows):
        for column, entry in enumerate(row.entries, start=1):
            styles.iloc[place, column] = "textbf: --rwrap;" if entry.best else ""
    # Positions in place of the headings, which may repeat; Styler needs unique ones.
    frame.columns = styles.columns = range(len(frame.columns))
    styler = frame.style.apply(lambda _: styles, axis=None).hide(axis="index")
    styler = styler.format_index(lambda column: escape_latex((table.corner, *table.columns)[column]), axis="columns")
    tabular = styler.to_latex(hrules=True, column_format="l" + "r" * len(table.columns))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{' '.join(map(escape_latex, (f'{table.title}.', *table.notes)))}}}",
            rf"\label{{tab:{table.name}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            f"{tabular.rstrip()}}}",
            r"\end{table}",
            "",
        ]
    )


def escape_latex(text: str) -> str:
    """Escape a text with tabulate's rules, so that LaTeX shows it as it is; letters beyond Latin become their codes."""
    from tabulate import LATEX_ESCAPE_RULES

    escaped = plain(text).translate(str.maketrans(LATEX_ESCAPE_RULES | _TEX_SYMBOLS))
    # pdfLaTeX knows the Latin letters of the encoding T1 only.
    escaped = re.sub(r"[^\x00-\u017f]", lambda letter: f"(U+{ord(letter[0]):04X})", escaped)
    escaped = re.sub("-(?=-)", "-{}", escaped)  # hyphens must not become a dash
    # A row that begins with a bracket or a star would become an argument of the line break before it.
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped


_TEX_SYMBOLS = {"\N{PLUS-MINUS SIGN}": r"$\pm$", "\N{DAGGER}": r"$^\dagger$", "\N{EN DASH}": r"\textendash{}"}


# --- CSV ---


def results_csv(results: Results) -> str:
    """One row per cell of the grid, measured or not, with everything that is known of it and numbers in full."""
    import pandas as pd

    rows = [_flat(key, results.cells.get(key.key)) for key in results.planned]
    radii = sorted({name for row in rows for name in row if name.startswith("certified_auroc ")}, key=_radius)
    names = [name for name in max(rows, key=len) if name not in radii]
    # As objects, so that whole numbers stay whole in columns with gaps.
    text: str = pd.DataFrame(rows, columns=[*names, *radii], dtype=object).to_csv(index=False, lineterminator="\n")
    return text


def _radius(name: str) -> float:
    return float(name.rpartition(" ")[2])


def _flat(key: CellKey, cell: Cell | None) -> dict[str, Any]:
    row = key.model_dump()
    if cell is None:
        return row | {"status": "missing"}
    row |= {"status": cell.status, "error": cell.error}
    for name, value in cell.figures.model_dump(exclude={"certified_auroc", "flags", "warnings", "gradients"}).items():
        if name.endswith("_ci"):
            row[f"{name}_low"], row[f"{name}_high"] = value or (None, None)
        else:
            row[name] = value
    row |= {
        "distrusted": "; ".join(f"{reason.name}: {reason.words}".rstrip(": ") for reason in cell.reasons),
        "warnings": "; ".join(cell.figures.warnings),
        "options": json.dumps(cell.options, sort_keys=True),
        "gradients": cell.gradients,
        "seconds": cell.seconds,
        "fit_seconds": cell.fit_seconds,
        "finished": cell.finished,
        "machine": cell.machine.words,
        "code": cell.code,
        "versions": json.dumps(cell.versions, sort_keys=True),
    }
    return row | {f"certified_auroc {radius}": area for radius, area in cell.figures.certified_auroc.items()}
