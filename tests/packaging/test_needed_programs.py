"""What a missing program does to a test: a reason to skip it, and a failure in continuous integration."""

from __future__ import annotations

from pathlib import Path

import needed_programs
import pytest


def test_a_program_is_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mosquitto"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert needed_programs.needed("mosquitto") == str(program)


def test_a_missing_one_skips_with_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needed_programs, "found", lambda name: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="initdb is missing; on Debian: apt-get install postgresql"):
        needed_programs.needed("initdb")


def test_a_missing_one_fails_in_continuous_integration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needed_programs, "found", lambda name: None)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="chromium is missing"):
        needed_programs.needed("chromium")
