"""Archives in S3, by a server on the loopback: the same scores, what changes, and a bucket that is away."""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_exports
from bucket_server import Server, s3_server
from toy_archives import image_bytes, images, parquet_bytes, rows, scores, tar_bytes, write_folder

from advrad.archive import judge_archive
from advrad.archive.parts import folder_of
from advrad.engine.base import SerialEngine
from advrad.errors import ConfigError, DataError
from advrad.utils.buckets import open_bucket

RESULTS = Path("results.parquet")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with s3_server() as found:
        yield found


@pytest.fixture
def bucket(server: Server) -> str:
    """URL of a new bucket."""
    url = f"s3://archive-{uuid.uuid4().hex}"
    files, path = open_bucket(url)
    files.mkdir(path)
    return url


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export whose score is the brightness."""
    return toy_exports.write(tmp_path_factory.mktemp("exports") / "toy")


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def put(bucket: str, found: dict[str, bytes]) -> None:
    files, root = open_bucket(bucket)
    for name, data in found.items():
        files.pipe(f"{root}/{name}", data)


def test_every_source_in_s3_gives_the_same_scores(run: Path, bucket: str) -> None:
    found = images(6)
    put(bucket, {f"in/{name}": data for name, data in found.items()} | {"in/below/x.png": image_bytes(77)})
    put(bucket, {"s-0.tar": tar_bytes(found), "s-1.tar.gz": tar_bytes(found, mode="w:gz")})
    put(bucket, {"d.parquet": parquet_bytes(found)})
    put(bucket, {"list.txt": "".join(f"{bucket}/in/{name}\n" for name in found).encode()})
    write_folder(Path("in"), found | {"x.png": image_bytes(77)})
    judge_archive(run, ["in"], Path("local.parquet"))
    expected = scores(rows(Path("local.parquet")))
    judge_archive(run, [f"{bucket}/in"], RESULTS)
    assert scores(rows(RESULTS)) == expected
    assert rows(RESULTS)[0]["path"] == f"{bucket}/in/00000.png"
    del expected["x.png"]
    for source in ("s-*.tar", "s-1.tar.gz", "d.parquet", "list.txt", "in/{00000..00005}.png", "in/0*.png"):
        RESULTS.unlink()
        judge_archive(run, [f"{bucket}/{source}"], RESULTS)
        assert scores(rows(RESULTS)) == expected, source


def test_an_object_that_was_replaced_is_judged_again_and_no_other(run: Path, bucket: str) -> None:
    put(bucket, {f"in/{name}": data for name, data in images(4).items()})
    judge_archive(run, [f"{bucket}/in"], RESULTS)
    put(bucket, {"in/00001.png": image_bytes(250)})
    assert judge_archive(run, [f"{bucket}/in"], RESULTS).judged == 1
    assert rows(RESULTS)[1]["verdict"] == "defective"


def test_an_object_of_a_list_that_is_missing_is_a_row(run: Path, bucket: str) -> None:
    put(bucket, {"a.png": image_bytes(100), "list.txt": f"{bucket}/a.png\n{bucket}/none.png\n".encode()})
    summary = judge_archive(run, [f"{bucket}/list.txt"], RESULTS)
    assert summary.first_broken == (f"{bucket}/none.png: cannot be read (there is no such file or folder)",)


def test_a_missing_bucket_is_one_line(run: Path, server: Server) -> None:
    with pytest.raises(DataError) as caught:
        judge_archive(run, ["s3://no-such-bucket/in"], RESULTS)
    assert "s3://no-such-bucket/in: " in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_bucket_without_its_package_is_told(run: Path) -> None:
    if importlib.util.find_spec("gcsfs") is not None:
        pytest.skip("gcsfs is installed here")
    with pytest.raises(ConfigError, match="pip install gcsfs"):
        judge_archive(run, ["gs://bucket/in"], RESULTS)


@pytest.mark.slow
def test_a_bucket_that_goes_away_ends_the_run_and_what_is_finished_stays(
    run: Path, bucket: str, server: Server
) -> None:
    put(bucket, {f"in/{int(name[:5]) // 3}/{name}": data for name, data in images(9).items()})

    class Away(SerialEngine):
        def run(self, work: Any, tasks: Any, **others: Any) -> Generator[Any, None, None]:
            for part in super().run(work, tasks, **others):
                yield part
                server.stop()

    try:
        with pytest.raises(DataError, match="the bucket does not answer as it should"):
            judge_archive(run, [f"{bucket}/in"], RESULTS, engine=Away())
    finally:
        server.start()
    assert len(list(folder_of(RESULTS).glob("*.parquet"))) == 1
    summary = judge_archive(run, [f"{bucket}/in"], RESULTS)
    assert (summary.rows, summary.judged, summary.broken) == (9, 6, 0)
