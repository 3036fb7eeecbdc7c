"""Rules about the source code that no other tool checks: sizes, layers of messages, and the form of docstrings."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import advrad

SOURCE = Path(advrad.__file__).parent
PATHS = sorted(SOURCE.rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 400, 80
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# An argument is described by what it is, not by a fragment that needs its name to make sense.
FRAGMENT = re.compile(r"(of|that|which|see there|as typed|as given)\b")
COMMAND = re.compile(r"advrad [a-z]+ |performance/\w+\.py")
# Not an option: what pandas calls the wrapping of a LaTeX command.
PANDAS = ("--rwrap",)
# Libraries whose names begin with a small letter.
LIBRARIES = ("diffusers", "timm")


@cache
def texts() -> dict[str, str]:
    """The source of the package, by path relative to it."""
    return {path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8") for path in PATHS}


@cache
def trees() -> dict[str, ast.Module]:
    """Syntax trees of the package, by path relative to it."""
    return {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in PATHS}


def docstrings(tree: ast.Module) -> list[tuple[int, str]]:
    """All docstrings, each with its line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                found.append((getattr(node, "lineno", 1), text))
    return found


def long_files() -> list[str]:
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PATHS}
    return [f"{path.relative_to(SOURCE)}: {count} lines" for path, count in counts.items() if count > LONGEST_FILE]


def long_functions() -> list[str]:
    found = []
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, FUNCTIONS):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    found.append(f"{name}:{node.lineno}: {node.name}: {lines} lines")
    return found


def options_in_the_library() -> list[str]:
    """Options of the command line in modules that Python users call too; whole commands are fine."""
    found = []
    for name, tree in trees().items():
        if name.startswith("cli/"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and not COMMAND.search(node.value):
                option = re.search(r"(?<![\w-])(--[a-z][a-z-]+|-o)(?![\w-])", node.value)
                if option and option.group() not in PANDAS:
                    found.append(f"{name}:{node.lineno}: {option.group()}")
    return found


def mocks() -> list[str]:
    imports = re.compile(r"^\s*(from|import) unittest", re.MULTILINE)
    return [path.name for path in PATHS if imports.search(path.read_text(encoding="utf-8"))]


def assertions() -> list[str]:
    return [
        f"{name}:{node.lineno}"
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]


def unpickling() -> list[str]:
    """Ways to read files that run what is in them."""
    ways = re.compile(
        r"^\s*(import|from) (pickle|shelve|marshal|dill|joblib|cloudpickle)\b|allow_pickle=True", re.MULTILINE
    )
    found = [name for name, text in texts().items() if ways.search(text)]
    loads = {name: re.findall(r"torch\.load\((?:[^()]|\([^()]*\))*\)", text) for name, text in texts().items()}
    return found + [
        f"{name}: {call}" for name, calls in loads.items() for call in calls if "weights_only=True" not in call
    ]


def entries() -> list[tuple[str, str, str]]:
    """Entries of Args, Attributes and Raises of all docstrings: place, name and description."""
    found = []
    for name, tree in trees().items():
        for line, text in docstrings(tree):
            section = ""
            for row in text.splitlines():
                entry = re.match(r"    (\*{0,2}\w+): (.*)", row)
                if re.match(r"\S", row):
                    section = row.strip()
                elif entry and section in ("Args:", "Attributes:", "Raises:"):
                    found.append((f"{name}:{line}", entry.group(1), entry.group(2)))
    return found


def fragments() -> list[str]:
    """Descriptions that are fragments, such as "seed: of everything."."""
    return [f"{place}: {name}: {words}" for place, name, words in entries() if FRAGMENT.match(words)]


def small_letters() -> list[str]:
    """Descriptions that do not start with a capital letter."""
    capital = re.compile(r"[^a-z]|" + "|".join(LIBRARIES))
    return [f"{place}: {name}: {words}" for place, name, words in entries() if not capital.match(words)]


RULES = (long_files, long_functions, options_in_the_library, mocks, assertions, fragments, small_letters, unpickling)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_source_keeps_the_rule(rule: Callable[[], list[str]]) -> None:
    assert rule() == []
