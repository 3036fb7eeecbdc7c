"""The recipes for a container and for systemd name what exists, and give the service no right that it does not need."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from needed_programs import needed
from trained_run import Cli

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "deploy" / "advrad.service"


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each with its arguments on one line."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def test_the_image_copies_what_exists_and_is_sent_to_the_build() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[0] == "!"}
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    names = {name for group in copied for name in group}
    assert names == sent
    assert [name for name in sorted(names) if not (ROOT / name).exists()] == []


def test_the_image_does_not_run_as_root_and_says_whether_it_is_well() -> None:
    found = dict(instructions())
    assert found["USER"].isdigit() and int(found["USER"]) > 0
    assert "/readyz" in found["HEALTHCHECK"]
    assert json.loads(found["HEALTHCHECK"].partition("CMD ")[2])[0] == "python"
    words = [word for word, _ in instructions()]
    assert words.count("FROM") == 2
    assert words.index("USER") > len(words) - 1 - words[::-1].index("FROM")


def test_the_image_pins_what_the_tests_run_with() -> None:
    installed = [rest for word, rest in instructions() if word == "RUN" and "pip install" in rest]
    assert len(installed) == 2 and all("-c /build/constraints.txt" in rest for rest in installed)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^TORCH := torch==[\d.]+$", makefile, re.MULTILINE)
    assert "s/^TORCH := //p" in installed[0]


def test_the_commands_of_the_recipes_have_their_options(cli: Cli) -> None:
    entry = json.loads(dict(instructions())["ENTRYPOINT"])
    assert entry[:2] == ["advrad", "serve"]
    (start,) = re.findall(r"^ExecStart=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
    words = shlex.split(start)
    assert words[1] == "serve"
    named = {word for word in (*entry, *words) if word.startswith("--")}
    assert named == {"--data", "--host", "--keys"}
    assert named <= set(re.findall(r"--[a-z][a-z-]*", cli("serve", "--help").out))


def test_systemd_takes_the_unit_and_grants_it_little(tmp_path: Path) -> None:
    analyze = needed("systemd-analyze")
    unit = tmp_path / UNIT.name
    installed = UNIT.read_text(encoding="utf-8").replace("/opt/advrad/bin/advrad", sys.executable)
    unit.write_text(installed, encoding="utf-8")
    checked = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stderr) == (0, "")
    # Exposure of at most 1.5 of 10.
    rated = [analyze, "security", "--offline=true", "--threshold=15", "--no-pager", unit]
    assert subprocess.run(rated, capture_output=True, timeout=60).returncode == 0


@pytest.mark.parametrize("name", ["ADVRAD_RUNS", "ADVRAD_OPTIONS"])
def test_the_example_of_the_environment_sets_what_the_unit_reads(name: str) -> None:
    assert f"${name}" in UNIT.read_text(encoding="utf-8")
    assert re.search(rf"^{name}=", (ROOT / "deploy" / "advrad.env").read_text(encoding="utf-8"), re.MULTILINE)
