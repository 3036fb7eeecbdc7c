from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from advrad.data.spooling import spooled


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "a\0.png", "x" * 5000, ".", "a.nef/../../b.png", "a.py", "NUL", "\u00e9\u202e.png", ""],
)
def test_a_name_says_nothing_about_where_the_content_goes(name: str) -> None:
    with spooled(b"content", name) as path:
        assert path.parent == Path(tempfile.gettempdir()) and path.suffix == "" and path.read_bytes() == b"content"
    assert not path.exists()


def test_only_the_ending_of_raw_files_counts() -> None:
    with spooled(b"content", "camera.NEF") as path:
        assert path.suffix == ".nef"


def test_a_file_that_is_gone_already_is_no_error() -> None:
    with spooled(b"content", "a.png") as path:
        path.unlink()
