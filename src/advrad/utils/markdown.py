"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def plain(text: object) -> str:
    r"""The text on one line, escaped for a cell of a table.

    Args:
        text: Anything that can be written as text.

    Example:
        >>> print(plain("a|b"))
        a\|b
    """
    line = " ".join(str(text).split())
    for character in ("\\", "|", "<", "`", "*", "["):
        line = line.replace(character, f"\\{character}")
    return line


def table(rows: Sequence[Sequence[str]], heads: Sequence[str] = ("", "")) -> str:
    """Write a table; the first column is text, and with heads the others are numbers.

    Args:
        rows: Cells by row.
        heads: Heads of the columns.

    Example:
        >>> print(table([("a", "1")], ("name", "count")), end="")
        | name | count |
        |---|---:|
        | a | 1 |
    """
    rule = "---:" if any(heads) else "---"
    lines = ["| " + " | ".join(heads) + " |" if any(heads) else "| " * len(heads) + "|"]
    lines.append("|---|" + "|".join([rule] * (len(heads) - 1)) + "|")
    lines += ["| " + " | ".join(map(plain, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"
