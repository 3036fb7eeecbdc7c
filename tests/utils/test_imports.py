"""Files of users: what they hold, and what is said where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from advrad.errors import ConfigError, DataError
from advrad.utils.imports import is_file_name, load_name


def test_the_form_of_a_name() -> None:
    assert is_file_name("a/b.py:c")
    assert not any(is_file_name(name) for name in ("run", "a.py", "a:b", "a.py:", "C:/runs/one"))


def test_a_name_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from dataclasses import dataclass\n@dataclass\nclass Thing:\n    size: int = 3\nmade = Thing()\n")
    assert load_name(f"{path}:made").size == 3
    assert load_name(f"{path}:Thing")(5).size == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no such file"),
        ("other = 1", "does not define 'made'"),
        ("1 / 0", r"cannot be run \(ZeroDivisionError: division by zero; mine.py, line 1\)"),
        ("def", r"cannot be run \(SyntaxError"),
        ("import no_such_package", r"cannot be run \(ModuleNotFoundError"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_name(f"{path}:made")


def test_an_error_of_ours_in_a_file_stays_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from advrad.errors import DataError\nraise DataError('no images here')")
    with pytest.raises(DataError, match="no images here"):
        load_name(f"{path}:made")
