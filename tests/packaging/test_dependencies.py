"""The dependencies have no known vulnerability, as far as the vulnerability database can be reached."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def check(report: dict[str, Any]) -> None:
    """Judge a report of pip-audit, which calls packages that it could not look up free of vulnerabilities.

    A vulnerability fails, and so does a package that was left out while others were looked up. Where none could be
    looked up, the test is skipped: nothing is known.
    """
    dependencies = report["dependencies"]
    known = {
        f"{one['name']} {one['version']}: {bug['id']}, fixed in {', '.join(bug['fix_versions']) or 'no version'}"
        for one in dependencies
        for bug in one.get("vulns", ())
    }
    assert not known, "\n".join(sorted(known))
    left_out = [one["name"] for one in dependencies if "skip_reason" in one]
    assert dependencies, "pip-audit looked at nothing"
    if len(left_out) == len(dependencies):
        pytest.skip(
            f"NOT AUDITED: the vulnerability database of pypi.org cannot be reached from here, so nothing is known"
            f" about the {len(dependencies)} dependencies; run `make test-all` where it can"
        )
    assert not left_out, f"not audited: {', '.join(left_out)}"


def test_a_vulnerability_is_named() -> None:
    bug = {"id": "PYSEC-2024-1", "fix_versions": ["2.0"]}
    with pytest.raises(AssertionError, match=r"one 1\.0: PYSEC-2024-1, fixed in 2\.0"):
        check({"dependencies": [{"name": "one", "version": "1.0", "vulns": [bug]}, {"name": "two", "skip_reason": ""}]})


def test_what_was_not_looked_up_does_not_count_as_safe() -> None:
    safe = {"name": "one", "version": "1.0", "vulns": []}
    check({"dependencies": [safe]})
    with pytest.raises(AssertionError, match="not audited: two"):
        check({"dependencies": [safe, {"name": "two", "skip_reason": "not found"}]})
    with pytest.raises(pytest.skip.Exception, match="NOT AUDITED"):
        check({"dependencies": [{"name": "two", "skip_reason": "not found"}]})
    with pytest.raises(AssertionError, match="looked at nothing"):
        check({"dependencies": []})


@pytest.mark.slow
def test_no_dependency_has_a_known_vulnerability(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (torch,) = re.findall(r"^TORCH := (torch==\S+)$", makefile, re.MULTILINE)
    pinned = tmp_path / "requirements.txt"
    pinned.write_text(f"{(ROOT / 'constraints.txt').read_text(encoding='utf-8')}\n{torch}\n", encoding="utf-8")
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip_audit", "-r", pinned, "--no-deps", "--disable-pip"]
    done = subprocess.run(
        [*command, "--progress-spinner", "off", "-f", "json", "-o", report], capture_output=True, text=True, timeout=500
    )
    if not report.exists():
        # Without any network, pip-audit ends with an error.
        assert "requests.exceptions.ConnectionError" in done.stderr, done.stderr
        pytest.skip("NOT AUDITED: pypi.org cannot be reached from here, so nothing is known about the dependencies")
    check(json.loads(report.read_text(encoding="utf-8")))
