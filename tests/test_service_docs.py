"""What the page about the service shows works: its commands and requests run in order, against a real service."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from needed_programs import needed
from toy_datasets import write_good
from trained_run import SIZE_PX, Cli

ROOT = Path(__file__).resolve().parents[1]
SERVICE = ROOT / "docs" / "service.md"
SHOWN_PORT = "8000"
ADVRAD = (sys.executable, "-c", "import sys; from advrad.cli import main; sys.exit(main())")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    text = SERVICE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


class Shell:
    """Runs what the page shows in a folder; a service goes on until the next one is started.

    Args:
        folder: The folder.
        cli: Runs commands that end by themselves.
    """

    def __init__(self, folder: Path, cli: Cli) -> None:
        self.folder, self.cli = folder, cli
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = str(probe.getsockname()[1])
        self.service: subprocess.Popen[bytes] | None = None
        self.key = ""

    def here(self, text: str) -> str:
        """What is shown, with the port of this test and the key that was made."""
        return text.replace(f"127.0.0.1:{SHOWN_PORT}", f"127.0.0.1:{self.port}").replace(
            "Bearer KEY", f"Bearer {self.key}"
        )

    def run(self, command: str) -> None:
        """Run one command."""
        words = shlex.split(command)
        if words[:2] == ["advrad", "serve"]:
            self.stop()
            # Not open to the network while tests run.
            self.serve(["127.0.0.1" if word == "0.0.0.0" else word for word in words[2:]])
            return
        if words[0] == "advrad":
            said = self.cli(*words[1:])
            assert said.status == 0, f"{command}\n{said.err}"
            if words[1:3] == ["keys", "add"]:
                (self.key,) = re.findall(r"\badvrad_[\w-]{43}\b", said.out)
            return
        done = subprocess.run(
            self.here(command), shell=True, cwd=self.folder, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        answered = '"error"' in done.stdout and '"message"' in done.stdout
        assert not answered, f"{command}\n{done.stdout}"

    def serve(self, words: list[str]) -> None:
        """Start a service, and wait until it is ready."""
        command = [*ADVRAD, "serve", *words, "--port", self.port]
        with (self.folder / "log.txt").open("ab") as log:
            self.service = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        end = time.monotonic() + 180
        while time.monotonic() < end and self.service.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{self.port}/readyz").status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError((self.folder / "log.txt").read_text(encoding="utf-8"))

    def inspect(self, count: int) -> None:
        """Send images, as a line does all day."""
        for number in range(count):
            write_good(self.folder / "sent.png", SIZE_PX, 1000 + number)
            answer = httpx.post(
                f"http://127.0.0.1:{self.port}/v1/products/run/inspections",
                content=(self.folder / "sent.png").read_bytes(),
                headers={"Content-Type": "image/png", "Authorization": f"Bearer {self.key}"},
            )
            assert answer.status_code == 201, answer.text

    def stop(self) -> None:
        """Stop the service as systemd does."""
        if self.service is not None:
            self.service.send_signal(signal.SIGTERM)
            assert self.service.wait(timeout=60) == 0, (self.folder / "log.txt").read_text(encoding="utf-8")
            self.service = None


@pytest.fixture
def shell(tmp_path: Path, closed_form_run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A folder with a model, images, and nothing else."""
    shutil.copytree(closed_form_run, tmp_path / "run")
    for number in (1, 2):
        write_good(tmp_path / f"part-000{number}.png", SIZE_PX, number)
    monkeypatch.chdir(tmp_path)
    shell = Shell(tmp_path, cli)
    yield shell
    if shell.service is not None:
        shell.service.kill()
        shell.service.wait()


def test_what_is_shown_runs_in_order(shell: Shell) -> None:
    needed("curl")
    text = SERVICE.read_text(encoding="utf-8")
    # Files are shown behind a line that ends with their name and a colon.
    shown = re.findall(r"(?:`([\w-]+\.\w+)`:\n\n)?^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    for name, language, content in shown:
        if name:
            (shell.folder / name).write_text(shell.here(content), encoding="utf-8")
        elif language == "console":
            for line in content.splitlines():
                assert line.startswith("$ "), f"not a command: {line}"
                shell.run(line.removeprefix("$ "))
        elif language == "python":
            if "review-queue" in content:
                shell.inspect(24)
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(shell.here(content), str(SERVICE), "exec"), {})
            assert printed.getvalue().strip()
    shell.stop()


def test_the_options_of_commands_that_are_not_run_exist(cli: Cli) -> None:
    shown = [line for block in blocks("sh") for line in block.splitlines()]
    calls = [call for line in shown for call in re.findall(r"\badvrad (serve|watch|keys add)\b(.*)", line)]
    assert {command for command, _ in calls} == {"serve", "keys add"}
    for command, rest in calls:
        known = set(re.findall(r"--[a-z][a-z-]*", cli(*command.split(), "--help").out))
        assert set(re.findall(r"--[a-z][a-z-]*", rest)) <= known, command


def test_every_option_of_the_service_is_described(cli: Cli) -> None:
    offered = set(re.findall(r"--[a-z][a-z-]*", cli("serve", "--help").out)) - {"--help"}
    assert sorted(option for option in offered if f"`{option}" not in SERVICE.read_text(encoding="utf-8")) == []


def test_links_lead_somewhere() -> None:
    for document in (SERVICE, ROOT / "SECURITY.md", ROOT / "docs" / "drift.md"):
        links = re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8"))
        assert [link for link in links if "://" not in link and not (document.parent / link).exists()] == []
