"""Lines from and to pipes and terminals."""

from __future__ import annotations

import io
import sys
import webbrowser
from pathlib import Path

import pytest

from advrad.cli import terminal


def test_paths_come_one_per_line_whatever_bytes_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a b.png\r\n\n\xff.png\n  c.png")))
    assert list(terminal.paths_from_stdin()) == [Path("a b.png"), Path("\udcff.png"), Path("  c.png")]
    monkeypatch.setattr(sys, "stdin", io.StringIO("a.png\n"))
    assert list(terminal.paths_from_stdin()) == [Path("a.png")]


def test_what_an_encoding_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert terminal.printable("ä\udcff") == "ä\\udcff"
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    terminal.put("ä.png")
    terminal.put_json({"name": "ä", "n": 1})
    out.seek(0)
    assert out.read() == '\\xe4.png\n{\n  "name": "\\u00e4",\n  "n": 1\n}\n'
    with pytest.raises(ValueError):
        terminal.put_json({"n": float("nan")})


def test_a_path_is_quoted_for_the_shell() -> None:
    assert (terminal.quoted(Path("a/b")), terminal.quoted(Path("a b"))) == ("a/b", "'a b'")


def test_the_first_of_several_processes_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert terminal.is_first_process()
    for rank, first in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert terminal.is_first_process() == first


def test_a_page_is_shown_only_to_somebody_at_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(sys, "platform", "linux")
    page = tmp_path / "a page.html"
    for name in ("WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    terminal.open_page(page)
    assert opened == [], "a pipe is nobody"
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
    terminal.open_page(page)
    assert opened == [page.as_uri()]
    monkeypatch.setenv("SSH_CONNECTION", "somewhere")
    terminal.open_page(page)
    monkeypatch.delenv("SSH_CONNECTION")
    monkeypatch.delenv("DISPLAY")
    terminal.open_page(page)
    assert len(opened) == 1
