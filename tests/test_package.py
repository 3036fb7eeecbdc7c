"""The public names of the packages, and that importing the packages is quick."""

from __future__ import annotations

import importlib
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
    "fastapi",
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
    "sqlalchemy",
    "torch",
    "typer",
}


SOURCE = Path(advrad.__file__).parent
PACKAGES = sorted(".".join(path.parent.relative_to(SOURCE.parent).parts) for path in SOURCE.rglob("__init__.py"))
# Packages that hold other packages or the parts of one; their modules are not for users.
WITHOUT_FACE = {
    "advrad.baselines.anomalib",
    "advrad.demo.flange",
    "advrad.integrations",
    "advrad.serving",
    "advrad.serving.api",
    "advrad.serving.page",
    "advrad.serving.store.migrations",
    "advrad.serving.store.migrations.versions",
}
FACES = sorted(set(PACKAGES) - WITHOUT_FACE)
WITH_ANOMALIB = "advrad.integrations.anomalib"


def kind_of(name: str) -> int:
    """Constants come first, then classes, then functions."""
    return 0 if name.isupper() else 1 if name[0].isupper() else 2


def loaded_by(code: str) -> set[str]:
    """The modules that are loaded after ``code`` has run in a fresh interpreter."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_exports_exactly_the_front_the_errors_and_the_version() -> None:
    tree = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    front = {
        "AdvRAD",
        "__version__",
        "attack",
        "certify",
        "evaluate",
        "export",
        "guard",
        "load_detector",
        "train",
        "wrap",
    }
    assert set(advrad.__all__) == tree | front
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
    slow = {"accelerate", "diffusers", "fastapi", "matplotlib", "numpy", "scipy", "sklearn", "sqlalchemy", "torch"}
    assert not loaded_by(code) & slow


def test_prediction_and_evaluation_load_no_large_library_but_torch() -> None:
    code = "\n".join(
        [
            "import numpy as np",
            "from advrad import metrics",
            "from advrad.detectors import loading",
            "from advrad.inference import evaluation, prediction, threshold_advice",
            "metrics.auroc([0, 1, 1], [0.1, 0.2, 0.3])",
            "threshold_advice._chance_of_more(2, 20, 0.05)",
        ]
    )
    loaded = loaded_by(code)
    assert "torch" in loaded
    assert not loaded & {"sklearn", "pandas", "matplotlib", "scipy.stats"}


@pytest.mark.parametrize("package", FACES)
def test_a_package_lists_its_public_names_in_order(package: str) -> None:
    names = [name for name in importlib.import_module(package).__all__ if name != "__version__"]
    assert names == sorted(set(names), key=lambda name: (kind_of(name), name))
    assert names and not [name for name in names if name.startswith("_")]


@pytest.mark.parametrize(
    "package",
    [pytest.param(face, marks=pytest.mark.anomalib) if face == WITH_ANOMALIB else face for face in FACES],
)
def test_every_public_name_of_a_package_resolves(package: str) -> None:
    face = importlib.import_module(package)
    for name in face.__all__:
        assert getattr(face, name) is not None
    assert set(face.__all__) <= set(dir(face))


@pytest.mark.parametrize("package", FACES)
def test_a_package_has_no_public_name_that_it_does_not_list(package: str) -> None:
    # In a fresh interpreter, because submodules that something has loaded are attributes too.
    code = (
        f"import json, types, {package} as face\n"
        "values = {name: value for name, value in vars(face).items() if not name.startswith('_')}\n"
        "print(json.dumps([name for name, value in values.items() if not isinstance(value, types.ModuleType)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    tools = {"TYPE_CHECKING", "annotations", "attach"}
    assert set(json.loads(done.stdout)) - tools <= set(importlib.import_module(package).__all__)


def test_importing_the_packages_loads_neither_torch_nor_numpy() -> None:
    code = "\n".join(f"import {package}" for package in PACKAGES)
    assert not loaded_by(code) & {"fastapi", "matplotlib", "numpy", "scipy", "sklearn", "sqlalchemy", "torch"}


def test_is_marked_as_typed() -> None:
    assert (Path(advrad.__file__).parent / "py.typed").is_file()
