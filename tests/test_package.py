"""The facade: what it exports, and that importing it loads nothing heavy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import advrad
from advrad import errors

HEAVY = {
    "accelerate",
    "diffusers",
    "huggingface_hub",
    "jinja2",
    "matplotlib",
    "numpy",
    "PIL",
    "pydantic",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "torch",
    "typer",
}


def loaded_by(code: str) -> set[str]:
    """The top-level modules that are loaded after ``code`` has run in a fresh interpreter."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_exports_exactly_the_detector_wrap_the_errors_and_the_version() -> None:
    tree = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert set(advrad.__all__) == tree - {"Path"} | {"AdvRAD", "__version__", "wrap"}
    assert len(set(advrad.__all__)) == len(advrad.__all__)


def test_every_exported_name_exists_and_is_listed() -> None:
    for name in advrad.__all__:
        assert getattr(advrad, name) is not None
        assert name in dir(advrad)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        advrad.nonsense  # noqa: B018


def test_version_is_a_release_number() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", advrad.__version__)


def test_every_error_is_an_advrad_error() -> None:
    for name in advrad.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(advrad, name), advrad.AdvradError)


def test_import_loads_nothing_heavy() -> None:
    assert not loaded_by("import advrad") & HEAVY


def test_help_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import contextlib, io, sys\n"
        "sys.argv = ['advrad', '--help']\n"
        "from advrad.cli.main import main\n"
        "out = io.StringIO()\n"
        "with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):\n"
        "    main()\n"
        "assert 'Usage' in out.getvalue() or 'usage' in out.getvalue(), out.getvalue()"
    )
    slow = {"accelerate", "diffusers", "matplotlib", "numpy", "scipy", "sklearn", "torch"}
    assert not loaded_by(code) & slow


def test_is_marked_as_typed() -> None:
    assert (Path(advrad.__file__).parent / "py.typed").is_file()
