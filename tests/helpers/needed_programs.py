"""Programs that some tests need and pip does not install: a browser, a broker, a database, npm."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

#: Debian's package of each program.
PACKAGES = {
    "chromium": "chromium",
    "curl": "curl",
    "initdb": "postgresql",
    "mosquitto": "mosquitto",
    "mosquitto_passwd": "mosquitto",
    "node": "nodejs",
    "npm": "npm",
    "openssl": "openssl",
    "pg_ctl": "postgresql",
    "postgres": "postgresql",
    "psql": "postgresql",
    "systemd-analyze": "systemd",
}


def needed(name: str) -> str:
    """Path of a program that a test needs.

    Where it is missing, the test is skipped with the reason; in continuous integration (the variable ``CI`` is set), it
    fails, so that nothing is left out unseen.
    """
    package = PACKAGES[name]
    path = found(name)
    if path is not None:
        return path
    missing = f"the program {name} is missing; on Debian: apt-get install {package}"
    if os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


def found(name: str) -> str | None:
    """Path of a program, None if it is not installed."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_other_folders())))


def _other_folders() -> list[str]:
    """Folders that Debian puts servers into and leaves out of people's PATH; the newest PostgreSQL first."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: -int(folder.parent.name))
    return ["/usr/sbin", "/usr/local/sbin", *map(str, versions)]
