"""What continuous integration does before the tests: it installs programs that are missing, or says that it cannot."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, apt_get: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run `.ci/run` on a machine with few programs; returns also what its apt-get was asked for."""
    asked = folder / "asked"
    programs = folder / "programs"
    programs.mkdir()
    for name in ("bash", "dirname", "env"):
        (programs / name).symlink_to(shutil.which(name) or name)
    stubs = {"apt-get": f'echo "$@" >> "{asked}"\n{apt_get}', "id": "echo 0", "make": 'echo "make $1, CI=$CI"'}
    for name, content in stubs.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{content}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / ".ci" / "run")], env={"PATH": str(programs)}, capture_output=True, text=True, timeout=60
    )
    return done, asked.read_text(encoding="utf-8") if asked.exists() else ""


def test_missing_programs_are_installed_before_the_tests(tmp_path: Path) -> None:
    done, asked = run(tmp_path, "exit 0")
    assert done.returncode == 0, done.stderr
    assert asked.startswith("update") and "install -y" in asked
    assert {"chromium", "curl", "nodejs", "npm", "systemd"} <= set(asked.split())
    assert done.stdout.splitlines()[-1] == "make test, CI=true"


@pytest.mark.parametrize("apt_get", ["exit 100", 'if [ "$1" = install ]; then exit 100; fi'])
def test_a_failed_installation_is_said_and_the_tests_run(tmp_path: Path, apt_get: str) -> None:
    done, _ = run(tmp_path, apt_get)
    assert "cannot install chromium curl nodejs npm systemd" in done.stderr
    assert done.stdout.splitlines()[-1] == "make test, CI=true"


def test_the_status_is_that_of_the_tests(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    done, _ = run(tmp_path / "first", "exit 0")
    assert done.returncode == 0
    make = tmp_path / "first" / "programs" / "make"
    make.write_text("#!/usr/bin/env bash\nexit 2\n", encoding="utf-8")
    failed = subprocess.run(["bash", str(ROOT / ".ci" / "run")], env={"PATH": str(make.parent)}, timeout=60)
    assert failed.returncode == 2
