"""The examples run on a small synthetic product, and print what they promise."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trained_run

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
NOTEBOOK = EXAMPLES / "walkthrough.ipynb"

#: What is replaced in the notebook, so that it is quick.
SMALLER = {
    "MINUTES, STEPS = 5, None": "MINUTES, STEPS = None, 2",
    "SIZE = 256": "SIZE = 64",
    "LIMIT = 8": "LIMIT = 2",
    'write_product("flange", seed=0)': 'write_product("flange", 0, 48, 2, 1, 64)',
}


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from advrad.demo import write_product

    return write_product(tmp_path_factory.mktemp("examples") / "flange", 0, 48, 4, 1, 64)


@pytest.fixture(scope="module")
def tiny() -> Iterator[None]:
    """Tiny networks."""
    with pytest.MonkeyPatch.context() as patch:
        trained_run.shrink(patch)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, product: Path, tiny: None) -> Path:
    """The model folder that the first example makes."""
    folder = tmp_path_factory.mktemp("examples-run") / "run"
    execute("train_and_look.py", product, "--output", folder, "--steps", 2, "--size", 64)
    return folder


def execute(name: str, *arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """Runs an example in an empty folder and returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(name: str, *arguments: object) -> str:
        capsys.readouterr()
        execute(name, *arguments)
        return capsys.readouterr().out

    return call


def test_there_are_eight_short_scripts_and_a_notebook() -> None:
    assert len(SCRIPTS) == 8 and NOTEBOOK.is_file()
    for name in SCRIPTS:
        source = (EXAMPLES / name).read_text(encoding="utf-8")
        # One of them does without advrad.
        assert len(source.splitlines()) <= (60 if name == "inspect_without_advrad.py" else 39), name
        assert f"python examples/{name}" in source.split('"""')[1], name


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "anomalib_model.py"])
def test_every_script_has_help(name: str, run: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(name, "--help")
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_train_and_look(trained: Path, product: Path) -> None:
    tests = [path for path in (product / "test").rglob("*.png")]
    assert (trained / "config.json").is_file()
    assert len(list((trained / "heat-maps").glob("*.png"))) == len(tests)


def test_attack_your_model(run: Callable[..., str], product: Path) -> None:
    out = run("attack_your_model.py", product, "--limit", 4)
    assert "AttackResult(" in out and "n_anomalous=2" in out


def test_guard_your_detector(run: Callable[..., str], product: Path, tiny: None) -> None:
    out = run("guard_your_detector.py", product, "--size", 64, "--rate", 0.1, "--limit", 2)
    tests = list((product / "test").rglob("*.png"))
    words = "defective, proven|defective|suspected|good, memory proven|good"
    lines = re.findall(rf"^test/\S+\.png (?:{words})(?: memory)?(?: mine)?$", out, re.MULTILINE)
    assert len(lines) == len(tests) and any("defective" in line for line in lines)
    assert "AttackResult(" in out


def test_certify(run: Callable[..., str], product: Path, trained: Path) -> None:
    out = run("certify.py", trained, product, "--samples", 60, "--radii", 0.01, "--limit", 2)
    assert re.search(r"radius 0.01: the AUROC stays at or above [01]\.\d{3} \(\S+\)", out)
    assert len(re.findall(r"(?:normal|anomalous), score .*, verdict certified up to radius", out)) == 2


def test_bench_your_detector(run: Callable[..., str], product: Path, tmp_path: Path) -> None:
    page = Path(run("bench_your_detector.py", product, "--steps", 2).strip())
    assert page.is_file()
    tables = (tmp_path / page.parent / "tables.md").read_text(encoding="utf-8")
    for name in ("mine", "autoencoder"):
        assert re.search(rf"^\| {name} +\| +2 \| +2 \| +0 \| +0 \| +0 \|", tables, re.MULTILINE), "both cells are done"


def test_read_model_folder(run: Callable[..., str], trained: Path) -> None:
    out = run("read_model_folder.py", trained)
    assert "images of 64 px" in out and re.search(r"\d+ tensors with \d+ values", out)


def test_a_model_folder_is_read_without_advrad(trained: Path) -> None:
    """The script runs where advrad cannot be imported."""
    code = f"import sys, runpy; sys.modules['advrad'] = None; sys.argv = ['x', {str(trained)!r}]; "
    code += f"runpy.run_path({str(EXAMPLES / 'read_model_folder.py')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.anomalib
def test_anomalib_model(run: Callable[..., str], product: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anomalib and Lightning
        out = run("anomalib_model.py", product, "--limit", 2, "--size", 64)
    assert "EvaluationResult(" in out and "AttackResult(" in out


def test_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: None) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(any(shown in source for source in sources) for shown in SMALLER)
    namespace: dict[str, object] = {}
    for number, source in enumerate(sources):
        for shown, smaller in SMALLER.items():
            source = source.replace(shown, smaller)
        exec(compile(source, f"cell {number}", "exec"), namespace)
    assert (tmp_path / "model" / "config.json").is_file()


def test_the_notebook_stores_no_outputs() -> None:
    assert NOTEBOOK.stat().st_size < 20_000
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
