"""What the documents show works: their commands run, in order, and their messages exist."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import trained_run
from toy_datasets import make_folder, write_good

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "guide.md"
DOCUMENTS = (
    GUIDE,
    ROOT / "README.md",
    ROOT / "docs" / "attacking.md",
    ROOT / "docs" / "bench.md",
    ROOT / "docs" / "archives.md",
)

#: Runs where anomalib is installed, and warns as much as anomalib does.
ANOMALIB = ROOT / "docs" / "anomalib.md"
WITH_ANOMALIB = pytest.param(
    ANOMALIB,
    marks=(
        pytest.mark.anomalib,
        pytest.mark.filterwarnings("ignore::FutureWarning"),
        pytest.mark.filterwarnings("ignore:.*returned `None`, this fit will run with no optimizer:UserWarning"),
    ),
)

#: Makes an export, which takes a minute.
EXPORT = ROOT / "docs" / "export.md"

#: The only place where what is run differs from what is shown: small networks, few steps.
QUICKER = {
    "--denoiser ddpm --score paper --minutes 60": "--preset tiny --score paper --size 16 --steps 2",
    "--denoiser my-unet --minutes 60": "--denoiser my-unet --size 16 --steps 2",
    "--minutes 5": "--steps 2",
    "advrad train images": f"advrad train images --size {trained_run.SIZE_PX}",
    'train("images")': f'train("images", size_px={trained_run.SIZE_PX})',
}


def blocks(document: Path) -> list[tuple[str, str]]:
    """Language and content of every fenced block."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [(language, content) for language, content in found]


def files(document: Path) -> dict[str, str]:
    """What the document shows as files: blocks that follow a line that ends in the file's name and a colon."""
    text = document.read_text(encoding="utf-8")
    found = re.findall(r"`(\w+\.\w+)`:\n\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return dict(found)


def quicker(command: str) -> str:
    for shown, run in QUICKER.items():
        command = command.replace(shown, run)
    return command


def run(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Run one line: `advrad ...`, or another program whose output is piped into it."""
    before, _, last = command.rpartition(" | ")
    program, *arguments = shlex.split(last)
    assert program == "advrad", f"only advrad is run here; show other programs in sh blocks: {command}"
    if before:
        piped = subprocess.run(shlex.split(before), stdout=subprocess.PIPE, check=True).stdout
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
    done = trained_run.call(capsys, monkeypatch)(*arguments)
    assert done.status == 0, f"{command}\n{done.err}"
    assert done.out, command


@pytest.mark.parametrize(
    "document",
    (*DOCUMENTS, pytest.param(EXPORT, marks=pytest.mark.slow), WITH_ANOMALIB),
    ids=lambda path: path.name,
)
def test_commands_and_code_run_in_order(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown_files = files(document)
    shown = [
        (language, content)
        for language, content in blocks(document)
        if language in ("console", "python") and content not in shown_files.values()
    ]
    trained_run.shrink(monkeypatch)
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "images", good=64, defects={"scratch": 3}, masks=True, size=trained_run.SIZE_PX)
    for number in (1, 2):
        write_good(tmp_path / f"part-000{number}.png", trained_run.SIZE_PX, number)
    if any("my-unet" in content for _, content in shown):
        from advrad.denoisers.ddpm import PRESETS, build

        build(PRESETS["tiny"]).network.save_pretrained(tmp_path / "my-unet")
    for name, content in shown_files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    for language, content in shown:
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(quicker(content), str(document), "exec"), {})
            continue
        for line in content.splitlines():
            assert line.startswith("$ "), f"not a command: {line}"
            run(quicker(line.removeprefix("$ ")), monkeypatch, capsys)


def test_a_detector_of_ones_own_takes_under_20_lines() -> None:
    shown = files(ROOT / "docs" / "bench.md")
    assert set(shown) == {"grid.toml", "mine.py"}
    entry = shown["grid.toml"].partition("[detectors.mine]\n")[2].partition("\n\n")[0]
    assert len(shown["mine.py"].splitlines()) + len(entry.splitlines()) + 1 < 20


def test_every_substitution_is_needed() -> None:
    commands = "".join(
        content for document in DOCUMENTS for language, content in blocks(document) if language in ("console", "python")
    )
    assert [shown for shown in QUICKER if shown not in commands] == []


@pytest.mark.parametrize(("document", "least"), [(GUIDE, 21), (EXPORT, 8)], ids=("guide", "export"))
def test_the_messages_of_the_troubleshooting_table_exist(document: Path, least: int) -> None:
    texts = [
        node.value
        for path in (ROOT / "src" / "advrad").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    table = document.read_text(encoding="utf-8").partition("| message contains")[2]
    messages = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    assert len(messages) >= least
    assert [message for message in messages if not any(message in text for text in texts)] == []


@pytest.mark.parametrize(
    "document", sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]), ids=lambda path: path.name
)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (document.parent / link).exists()] == []
