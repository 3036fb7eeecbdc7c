"""Values as text."""

from __future__ import annotations

from pathlib import Path

from advrad.utils.formatting import flat, number, percent, quoted, text


def test_figures_and_shares() -> None:
    assert (number(0.98765), number(12345.678, ".4g"), number(None)) == ("0.9877", "1.235e+04", "not measured")
    assert (percent(0.0), percent(1 / 3), percent(1.0)) == ("0 %", "33.3 %", "100 %")
    assert number(None, missing="-") == percent(None, missing="-") == "-"


def test_every_kind_of_value_is_readable() -> None:
    shown = {None: "none", True: "yes", False: "no", 3: "3", 0.1234567: "0.123457", "a b": "a b"}
    assert {value: text(value) for value in shown} == shown
    assert text([1, [2.0, None]]) == "1, 2, none"
    assert text({"view_px": 64, "sigma": 0.1}) == "view_px 64, sigma 0.1"


def test_nested_values_get_dotted_names() -> None:
    values = {"score": {"looks": [{"view_px": 64}, {"view_px": 32}], "pooling": 0.01}, "notes": [], "seed": 0}
    assert list(flat(values, "; ")) == [
        ("score.looks", "view_px 64; view_px 32"),
        ("score.pooling", "0.01"),
        ("notes", "none"),
        ("seed", "0"),
    ]


def test_paths_are_quoted_for_the_shell() -> None:
    assert (quoted(Path("a/b")), quoted(Path("a b"))) == ("a/b", "'a b'")
