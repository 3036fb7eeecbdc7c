"""Reading from and writing to terminals and pipes."""

from __future__ import annotations

import io
import sys
import webbrowser
from pathlib import Path

import pytest

from advrad.cli import terminal


def test_characters_outside_the_encoding_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert terminal.printable("ä\udcff") == "ä\\udcff"
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    terminal.put("ä.png")
    terminal.put_json({"name": "ä", "n": 1})
    out.seek(0)
    assert out.read() == '\\xe4.png\n{\n  "name": "\\u00e4",\n  "n": 1\n}\n'
    with pytest.raises(ValueError):
        terminal.put_json({"n": float("nan")})


def test_the_first_process_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert terminal.is_first_process()
    for rank, first in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert terminal.is_first_process() == first


def test_a_page_is_opened_in_the_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    page = tmp_path / "a page.html"
    terminal.open_page(page)
    assert opened == [page.as_uri()]

    def fail(url: str) -> None:
        raise webbrowser.Error("no browser")

    monkeypatch.setattr(webbrowser, "open", fail)
    terminal.open_page(page)


@pytest.mark.parametrize(("kind", "piped"), [("pipe", True), ("terminal", False), ("closed", False), ("none", False)])
def test_piped_input_is_told_from_a_terminal(kind: str, piped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO("a.png")
    if kind == "terminal":
        monkeypatch.setattr(stream, "isatty", lambda: True)
    elif kind == "closed":
        stream.close()
    monkeypatch.setattr(sys, "stdin", None if kind == "none" else stream)
    assert terminal.stdin_is_piped() == piped


def test_nobody_need_read_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Broken())
    terminal.say("a line")
    terminal.warn(["a warning"])
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    terminal.say("a line")
    assert sys.stderr.getvalue() == "a line\n"


def test_streams_that_are_missing_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    terminal.open_closed_streams()
    made = (sys.stdout, sys.stderr)
    print("to nobody")
    terminal.say("to nobody")
    for stream in made:
        assert stream is not None and not stream.isatty()
        stream.close()
