"""A bench in a bucket: the same results as in a folder, and what is said where the bucket does not do its part."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import trained_run
from bench_rows import same
from benchmark_folders import attacked, clean, make_bench
from bucket_server import s3_server
from fsspec import get_filesystem_class
from toy_grids import write

from advrad.benchmark.cells import read_bench
from advrad.benchmark.grid import read_grid
from advrad.benchmark.report import bench_report
from advrad.benchmark.run import bench
from advrad.benchmark.store import cached_folder, open_store
from advrad.errors import ConfigError, DataError, OutputError
from advrad.utils.buckets import open_bucket
from advrad.utils.progress import SilentReporter

GRID = """
size_px = 64
limit = 4
[categories]
widget = "widget"
[detectors.plain]
kind = "own.py:fit"
[attacks.pgd]
attack = "pgd"
steps = 2
"""

OWN = """
def fit(context):
    with open(__file__ + ".fits", "a") as file:
        print("fit", file=file)
    mean = context.normal_images.batch(slice(None)).mean(0)
    return lambda images: (images - mean).square().mean(1)
"""


class Listener(SilentReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """URL of an empty bucket of a server on the loopback."""
    with s3_server():
        files, path = open_bucket("s3://results")
        files.mkdir(path)
        yield "s3://results"


@pytest.fixture(params=["memory", "s3"])
def bucket(request: pytest.FixtureRequest) -> str:
    """URL of a folder in a bucket."""
    root = request.getfixturevalue("s3") if request.param == "s3" else "memory://results"
    return f"{root}/{uuid.uuid4().hex}"


@pytest.fixture
def home(tmp_path: Path, widgets: Path) -> Path:
    """A folder with data, a grid and a user-defined detector."""
    (tmp_path / "data").mkdir()
    shutil.copytree(widgets, tmp_path / "data" / "widget")
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    write(tmp_path, GRID)
    return tmp_path


def fetch(url: str, folder: Path) -> Path:
    """Copy what is below a URL into a folder."""
    files, root = open_bucket(url)
    for name in files.find(root):
        path = folder / name[len(root) :].lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files.cat_file(name))
    return folder


@pytest.mark.parametrize("bucket", ["memory", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_a_bucket_holds_what_a_folder_does(home: Path, bucket: str) -> None:
    grid = read_grid(home / "grid.toml")
    bench(grid, home / "data", home / "out")
    listener = Listener()
    assert bench(grid, home / "data", bucket, progress=listener).done == 2
    assert same(home / "out", fetch(bucket, home / "copy")) == 2
    assert {path.name for path in (home / "copy").iterdir()} == {"grid.json", "cells", "rows"}
    assert len((home / "own.py.fits").read_text(encoding="utf-8").splitlines()) == 2
    assert bench(grid, home / "data", bucket, progress=listener).done == 2
    assert listener.notes[-1] == "2 cells are already measured and are kept"
    assert len((home / "own.py.fits").read_text(encoding="utf-8").splitlines()) == 2
    assert len(read_bench(bucket).done) == 2
    assert (home / "out" / "work").is_dir() and not (home / "copy" / "work").exists()


@pytest.mark.parametrize("bucket", ["memory", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_the_report_of_a_bucket_is_that_of_a_folder(tmp_path: Path, bucket: str, cli: trained_run.Cli) -> None:
    folder = make_bench(tmp_path / "bench", [clean("a", 0.9), attacked("a", 0.5), clean("b", 0.8)])
    files, root = open_bucket(bucket)
    for path in folder.rglob("*.json"):
        files.pipe_file(f"{root}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    made = {path.name: path.read_bytes() for path in bench_report(bucket, tmp_path / "of-bucket")}
    assert made["results.csv"] == (bench_report(folder, tmp_path / "of-folder")[2]).read_bytes()
    assert f"advrad report {bucket}" in made["index.html"].decode("utf-8")
    refused = cli("report", bucket)
    assert refused.status == 2
    assert refused.one_error_line().endswith(f"--output: is missing; name a folder for the report of {bucket}")
    assert cli("report", bucket, "-o", tmp_path / "by-command").status == 0
    assert (tmp_path / "by-command" / "results.csv").read_bytes() == made["results.csv"]


def test_the_command_writes_to_a_bucket(home: Path, cli: trained_run.Cli) -> None:
    url = f"memory://results/{uuid.uuid4().hex}"
    arguments = (home / "grid.toml", "-o", url, "--data", home / "data")
    assert "plain" in cli("bench", *arguments, "--dry-run").out
    with pytest.raises(DataError, match=rf"{url}: holds no grid\.json"):
        read_bench(url)
    done = cli("bench", *arguments)
    assert done.status == 0, done.err
    assert f"next    advrad report {url}" in done.out
    assert len(read_bench(url).done) == 2


def test_two_runs_of_one_machine_in_a_bucket_exclude_each_other(home: Path) -> None:
    url = f"memory://results/{uuid.uuid4().hex}"
    with (
        open_store(url).alone(),
        pytest.raises(OutputError, match=f"another benchmark of {url} is at work here"),
    ):
        bench(read_grid(home / "grid.toml"), home / "data", url)
    assert bench(read_grid(home / "grid.toml"), home / "data", url).done == 2


def test_a_damaged_cell_in_a_bucket_is_named(tmp_path: Path, bucket: str) -> None:
    values = clean("a", 0.9)
    folder = make_bench(tmp_path / "bench", [values])
    store = open_store(bucket)
    store.write("grid.json", (folder / "grid.json").read_text(encoding="utf-8"))
    store.write(f"cells/{values['key']}.json", json.dumps(values)[:-9])
    with pytest.raises(DataError, match=rf"^{bucket}/cells/{values['key']}\.json: is damaged .*; delete it"):
        read_bench(bucket)


def test_stores_read_and_list_the_same(tmp_path: Path, bucket: str) -> None:
    for place in (tmp_path / "folder", bucket):
        store = open_store(place)
        assert store.stems("cells") == set()
        assert store.read(["cells/a.json", "grid.json"]) == [None, None]
        assert store.read([]) == []
        store.write("cells/a.json", "µ\n")
        store.write("cells/b.jsonl", "b")
        store.write("cells/.c.json", "c")
        assert store.stems("cells") == {"a"}
        assert store.read(["cells/b.jsonl", "x", "cells/a.json"]) == [b"b", None, "µ\n".encode()]
        store.write("cells/a.json", "again")
        assert open_store(place).read(["cells/a.json"]) == [b"again"]


def test_a_place_that_cannot_be_a_bench_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sftp://host/x: "):
        open_store("sftp://host/x").check()
    with pytest.raises(ConfigError, match="foo is unknown"):
        open_store("foo://x")
    (tmp_path / "grid.json").mkdir()
    with pytest.raises(DataError, match=rf"^{tmp_path / 'grid.json'}: cannot be read: "):
        read_bench(tmp_path)


@pytest.fixture
def away(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a bucket whose server is not there."""
    kind = get_filesystem_class("s3")
    kind.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    yield "s3://away"
    kind.clear_instance_cache()


def test_a_bucket_that_is_missing_is_said(home: Path, s3: str) -> None:
    with pytest.raises(OutputError, match=r"^s3://nobody-made-it/x/grid\.json: cannot be written: there is no such"):
        bench(read_grid(home / "grid.toml"), home / "data", "s3://nobody-made-it/x")


def test_a_bucket_that_is_away_is_said(home: Path, away: str) -> None:
    with pytest.raises(DataError, match=r"^s3://away/x: the bucket does not answer as it should: .*; check the"):
        bench(read_grid(home / "grid.toml"), home / "data", f"{away}/x")


def test_what_a_bucket_refuses_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
    url = f"memory://results/{uuid.uuid4().hex}"
    with pytest.raises(OutputError, match=rf"^{url}/grid\.json: the bucket does not answer .*: Access Denied; check"):
        bench(read_grid(home / "grid.toml"), home / "data", url)


def test_what_is_not_stored_needs_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise RuntimeError("no home")

    monkeypatch.delenv("ADVRAD_CACHE")
    monkeypatch.setattr(Path, "expanduser", none)
    with pytest.raises(OutputError, match="set ADVRAD_CACHE to a folder"):
        cached_folder()
