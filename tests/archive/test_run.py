"""Archives from end to end, by the function: the same scores from every source, what goes on, and what is refused."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import tarfile
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
import toy_exports
from pyarrow import parquet
from toy_archives import image_bytes, images, parquet_bytes, rows, scores, tar_bytes, write_folder

import advrad
from advrad.archive import ArchiveOptions, ArchiveSummary, judge_archive
from advrad.archive.judging import Part, PieceJudge
from advrad.archive.parts import Parts, folder_of
from advrad.archive.pieces import PIECE_IMAGES, Piece
from advrad.certificates.options import PredictionCertificateOptions
from advrad.detectors.identity import identity_of
from advrad.detectors.loading import load_detector
from advrad.engine.base import Resources, SerialEngine, everything
from advrad.errors import AdvradError, ConfigError, DataError, OutputError
from advrad.inference.prediction import PredictionRecord, predict_paths

RESULTS = Path("results.parquet")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export whose score is the brightness."""
    return toy_exports.write(tmp_path_factory.mktemp("exports") / "toy")


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def judge(run: Path, *sources: str, **options: Any) -> ArchiveSummary:
    return judge_archive(run, sources, RESULTS, options=ArchiveOptions(**options))


class Dying(SerialEngine):
    """An engine that dies after a number of items."""

    def __init__(self, lives: int) -> None:
        self.lives = lives

    def run(
        self,
        work: Callable[[Any], Iterable[Any]],
        tasks: Iterable[Any],
        *,
        left: Callable[[Any], Any] = everything,
        resources: Resources = Resources(),
    ) -> Generator[Any, None, None]:
        for task in tasks:
            for item in work(task):
                if not self.lives:
                    raise KeyboardInterrupt
                self.lives -= 1
                yield item
                assert left(task) is None, "what was handed on must not be done again"


def in_a_bucket(name: str, data: bytes) -> str:
    fsspec.filesystem("memory").pipe(f"/archive/{name}", data)
    return f"memory://archive/{name}"


def test_every_source_gives_the_scores_of_predict(run: Path) -> None:
    found = images()
    write_folder(Path("in"), found)
    Path("list.txt").write_text("".join(f"in/{name}\n" for name in found))
    Path("s.tar").write_bytes(tar_bytes(found))
    Path("s.parquet").write_bytes(parquet_bytes(found))
    Path("bytes.parquet").write_bytes(parquet_bytes(found, struct=False))
    for name, data in found.items():
        in_a_bucket(f"in/{name}", data)
    sources = ["in", "in/*.png", "list.txt", "s.tar", "s.parquet", "bytes.parquet", "memory://archive/in"]
    sources += [in_a_bucket("s.tar", tar_bytes(found)), in_a_bucket("s.parquet", parquet_bytes(found))]
    plain = list(predict_paths(load_detector(run), [Path("in", name) for name in found]))
    records = [record for record in plain if isinstance(record, PredictionRecord)]
    assert len(records) == len(found)
    for source in sources:
        judge_archive(run, [source], Path("one.parquet"))
        table = rows(Path("one.parquet"))
        Path("one.parquet").unlink()
        assert [(row["score"], row["threshold"], row["verdict"], row["defective"]) for row in table] == [
            (record.score, record.threshold, record.verdict, record.defective) for record in records
        ], source
        assert {row["model"] for row in table} == {identity_of(run)}
        assert len({row["content"] for row in table}) == len(found)
        assert all(row["error"] is None and row["warning"] is None for row in table)
    assert [row["path"] for row in table] == [f"memory://archive/s.parquet/{name}" for name in found]


def test_the_file_says_what_it_was_judged_with(run: Path) -> None:
    write_folder(Path("in"), images(2))
    judge(run, "in", threshold=0.1)
    from advrad.archive.rows import facts_of

    facts = facts_of(parquet.read_schema(RESULTS))
    assert facts is not None
    assert (facts["model"], facts["advrad"]) == (identity_of(run), advrad.__version__)
    assert facts["settings"]["threshold"] == 0.1
    assert [row["verdict"] for row in rows(RESULTS)] == ["defective"] * 2
    assert not folder_of(RESULTS).exists()


def test_a_proven_radius_is_that_of_predict(closed_form_run: Path, widgets: Path) -> None:
    source = widgets / "test" / "good"
    judge(closed_form_run, str(source), certificate=PredictionCertificateOptions(norm="linf"))
    from advrad.certificates.prediction import ProvenPrediction, prediction_certifier

    detector = load_detector(closed_form_run)
    certifier, _ = prediction_certifier(detector, PredictionCertificateOptions(norm="linf"))
    proofs = [
        record.certificate
        for record in predict_paths(detector, sorted(source.iterdir()), certifier=certifier)
        if isinstance(record, PredictionRecord)
    ]
    expected = [proof.reach for proof in proofs if isinstance(proof, ProvenPrediction)]
    assert len(expected) == 6 and max(expected) > 0
    assert [row["proven_radius"] for row in rows(RESULTS)] == expected


def test_samples_of_certificates_go_on_with_their_seed(widget_run: Path, widgets: Path) -> None:
    source = widgets / "test" / "good"
    options = {"certificate": PredictionCertificateOptions(n_samples=20, confidence=0.8)}
    first = judge(widget_run, str(source / "000.png"), **options)
    before = rows(RESULTS)
    second = judge(widget_run, str(source / "000.png"), str(source / "001.png"), **options)
    assert (first.judged, second.judged) == (1, 1)
    assert rows(RESULTS)[:1] == before


def test_broken_images_are_counted_and_named(run: Path) -> None:
    write_folder(Path("in"), images(2) | {"a.png": b"no image", "b.png": image_bytes(9)[:200]})
    shard = tar_bytes(images(3))
    Path("shard.tar").write_bytes(shard[: shard.index(b"00002.png") + 600])
    Path("data.parquet").write_bytes(parquet_bytes(images(3))[:-1])
    summary = judge(run, "in", "shard.tar", "data.parquet")
    errors = {row["path"]: row["error"] for row in rows(RESULTS) if row["error"] is not None}
    assert (summary.rows, summary.broken, len(errors)) == (4 + 3 + 1, 4, 4)
    assert list(errors) == ["in/a.png", "in/b.png", "shard.tar", "data.parquet"]
    assert summary.first_broken == tuple(f"{path}: {error}" for path, error in errors.items())
    assert "tmp" not in " ".join(errors.values()).replace(str(Path.cwd()), "")
    assert all((row["score"] is None) == (row["error"] is not None) for row in rows(RESULTS))


def test_a_piece_of_a_damaged_row_group_ends_in_an_error(run: Path) -> None:
    data = bytearray(parquet_bytes(images(4)))
    start = data.index(images(4)["00002.png"])
    data[start - 40 : start] = b"x" * 40
    Path("data.parquet").write_bytes(data)
    summary = judge(run, "data.parquet")
    paths = [row["path"] for row in rows(RESULTS)]
    assert (summary.broken, paths) == (1, ["data.parquet/00000.png", "data.parquet/00001.png", "data.parquet"])


def test_damage_behind_a_url_is_a_row_as_it_is_on_a_disk(run: Path) -> None:
    whole = parquet_bytes(images(4))
    start = whole.index(images(4)["00002.png"])
    bad = {
        "page.parquet": whole[: start - 40] + b"x" * 40 + whole[start:],
        "end.parquet": whole[:-30] + b"x" * 22 + whole[-8:],
        "cut.parquet": whole[:-1],
        "s.tar.gz": tar_bytes(images(40), mode="w:gz")[:3000],
        "s.tar.bz2": tar_bytes(images(40), mode="w:bz2")[:900] + b"x" * 4000,
    }
    for name, data in bad.items():
        Path(name).write_bytes(data)
        judge(run, name)
        expected = [(row["path"].removeprefix(name), row["error"]) for row in rows(RESULTS)]
        url = in_a_bucket(name, data)
        assert judge(run, url).broken == 1, name
        found = [(row["path"].removeprefix(url), row["error"]) for row in rows(RESULTS)]
        assert found == expected, name
        assert found[-1][0] == "" and "; copy it again" in found[-1][1]


@pytest.mark.parametrize("name", ["data.parquet", "s.tar", "s.tar.bz2"])
def test_a_bucket_that_fails_within_an_archive_is_no_damage(
    name: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = tar_bytes(images(2), mode="w:bz2" if name.endswith("bz2") else "w")
    url = in_a_bucket(name, parquet_bytes(images(2)) if name.endswith("parquet") else shard)

    def away(*_: object) -> bytes:
        raise OSError("the connection was closed")

    class Away(SerialEngine):
        def run(self, work: Any, tasks: Any, **others: Any) -> Generator[Any, None, None]:
            with monkeypatch.context() as patch:
                patch.setattr(fsspec.implementations.memory.MemoryFile, "read", away, raising=False)
                yield from super().run(work, tasks, **others)

    with pytest.raises(DataError, match="does not answer as it should: the connection was closed"):
        judge_archive(run, [url], RESULTS, engine=Away())
    assert judge(run, url).broken == 0


def test_a_run_that_was_ended_goes_on_and_judges_no_image_twice(run: Path) -> None:
    n = 2 * PIECE_IMAGES + 10
    write_folder(Path("in"), images(n))
    with pytest.raises(KeyboardInterrupt):
        judge_archive(run, ["in"], RESULTS, engine=Dying(2))
    kept = sum(len(rows(path)) for path in folder_of(RESULTS).glob("*.parquet"))
    assert kept == 2 * PIECE_IMAGES and not RESULTS.exists()
    summary = judge(run, "in")
    assert (summary.rows, summary.judged, summary.broken) == (n, n - kept, 0)
    assert [row["path"] for row in rows(RESULTS)] == [f"in/{name}" for name in images(n)]
    assert not folder_of(RESULTS).exists()


def test_what_grew_moved_or_was_touched_is_not_judged_again(run: Path) -> None:
    write_folder(Path("in"), images(4))
    judge(run, "in")
    before = scores(rows(RESULTS))
    shutil.move("in", "moved")
    os.utime("moved/00001.png", (1, 1))
    (Path("moved") / "00004.png").write_bytes(images(5)["00004.png"])
    summary = judge(run, "moved")
    assert (summary.rows, summary.judged) == (5, 1)
    after = scores(rows(RESULTS))
    assert {name: after[name] for name in before} == before
    Path("s.tar").write_bytes(tar_bytes(images(5)))
    assert judge(run, "s.tar").judged == 0


def test_a_changed_image_of_the_same_name_is_judged(run: Path) -> None:
    write_folder(Path("in"), images(2))
    write_folder(Path("other"), {"x.png": image_bytes(10)})
    with pytest.raises(KeyboardInterrupt):
        judge_archive(run, ["in", "other"], RESULTS, engine=Dying(1))
    Path("in/00000.png").write_bytes(image_bytes(250))
    summary = judge(run, "in")
    assert summary.judged == 1
    assert rows(RESULTS)[0]["score"] == pytest.approx(250 / 255, abs=0.01)


def test_what_could_not_be_read_is_tried_again(run: Path) -> None:
    write_folder(Path("in"), images(1))
    Path("list.txt").write_text("in/00000.png\nin/late.png\n")
    write_folder(Path("other"), images(1))
    with pytest.raises(KeyboardInterrupt):
        judge_archive(run, ["list.txt", "other"], RESULTS, engine=Dying(1))
    assert judge(run, "list.txt", "other").broken == 1
    Path("in/late.png").write_bytes(image_bytes(100))
    summary = judge(run, "list.txt", "other")
    assert (summary.broken, summary.judged) == (0, 1)


def test_another_model_and_other_settings_are_refused(run: Path, tmp_path: Path) -> None:
    write_folder(Path("in"), images(2))
    other = toy_exports.write(tmp_path / "other", description=("another",))
    judge(run, "in")
    fix = "; name another file, or delete this one"
    with pytest.raises(OutputError) as caught:
        judge(other, "in")
    assert str(caught.value) == f"results.parquet: holds results of another model{fix}"
    with pytest.raises(OutputError) as caught:
        judge(run, "in", threshold=0.3)
    assert str(caught.value) == f"results.parquet: holds results of other settings: threshold None there, 0.3 now{fix}"
    RESULTS.unlink()
    write_folder(Path("more"), images(1))
    with pytest.raises(KeyboardInterrupt):
        judge_archive(run, ["in", "more"], RESULTS, engine=Dying(1))
    with pytest.raises(OutputError) as caught:
        judge(other, "in")
    assert str(caught.value) == (
        "results.parquet.parts: holds results of another model; name another file, or delete this folder"
    )
    assert judge(run, "in").rows == 2


def test_nothing_stays_of_a_run_without_a_finished_piece(run: Path) -> None:
    write_folder(Path("in"), images(2))
    with pytest.raises(DataError, match="none: cannot be read"):
        judge(run, "none", threshold=0.1)
    with pytest.raises(KeyboardInterrupt):
        judge_archive(run, ["in"], RESULTS, engine=Dying(0))
    assert sorted(path.name for path in Path().iterdir()) == ["in"]
    folder_of(RESULTS).mkdir()
    (folder_of(RESULTS) / "archive.json").write_text('{"model": "of a run that was killed at its start"}')
    assert judge(run, "in").rows == 2


@pytest.mark.parametrize("content", [b"no Parquet", None])
def test_a_file_of_others_is_never_replaced(content: bytes | None, run: Path) -> None:
    write_folder(Path("in"), images(1))
    RESULTS.write_bytes(parquet_bytes(images(1)) if content is None else content)
    before = RESULTS.read_bytes()
    with pytest.raises(OutputError, match="holds no results of an archive; name another file"):
        judge(run, "in")
    assert RESULTS.read_bytes() == before


def test_a_folder_of_others_is_not_taken_for_parts(run: Path) -> None:
    write_folder(Path("in"), images(1))
    write_folder(folder_of(RESULTS), {"mine.txt": b"..."})
    with pytest.raises(OutputError, match="is in the way of unfinished results"):
        judge(run, "in")
    assert [path.name for path in folder_of(RESULTS).iterdir()] == ["mine.txt"]


def test_two_runs_into_one_file_are_refused(run: Path) -> None:
    write_folder(Path("in"), images(1))

    class Second(SerialEngine):
        def run(self, work: Any, tasks: Any, **_: Any) -> Generator[Any, None, None]:
            with pytest.raises(OutputError, match="another run is at work here"):
                judge(run, "in")
            yield from super().run(work, tasks)

    assert judge_archive(run, ["in"], RESULTS, engine=Second()).judged == 1


def test_the_second_run_of_a_pattern_leaves_its_results_out(run: Path) -> None:
    Path("data.parquet").write_bytes(parquet_bytes(images(2)))
    assert [judge(run, "*.parquet").judged for _ in range(2)] == [2, 0]


def test_verdicts_of_another_model_are_not_taken_while_a_run_goes_on(run: Path, tmp_path: Path) -> None:
    write_folder(Path("in"), images(2))
    write_folder(Path("other"), images(3))
    other = toy_exports.write(tmp_path / "another", description=("another",))
    judge_archive(other, ["other"], Path("another.parquet"))
    with pytest.raises(KeyboardInterrupt):
        judge_archive(run, ["in", "other"], RESULTS, engine=Dying(1))
    Path("another.parquet").rename(RESULTS)
    with pytest.raises(OutputError) as caught:
        judge(run, "in", "other")
    assert str(caught.value) == (
        "results.parquet: holds results of another model; name another file, or delete this one"
    )
    RESULTS.write_bytes(parquet_bytes(images(2)))
    with pytest.raises(OutputError) as caught:
        judge(run, "in", "other")
    assert str(caught.value) == "results.parquet: holds no results of an archive; name another file"
    RESULTS.unlink()
    assert judge(run, "in", "other").rows == 5
    assert {row["model"] for row in rows(RESULTS)} == {identity_of(run)}


def test_results_that_are_swapped_at_the_start_are_not_taken(run: Path, tmp_path: Path) -> None:
    write_folder(Path("in"), images(2))
    facts = {"model": "a", "advrad": advrad.__version__, "settings": {}}
    parts = Parts(RESULTS, facts)
    judge_archive(run, ["in"], Path("another.parquet"))
    Path("another.parquet").rename(RESULTS)
    assert parts.known() is None


def test_what_cannot_be_read_costs_no_verdict_beside_it(run: Path) -> None:
    file = io.BytesIO(tar_bytes(images(3)))
    with tarfile.open(fileobj=file, mode="a") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "00000.png"
        tar.addfile(link)
    Path("s.tar").write_bytes(file.getvalue())
    write_folder(Path("in"), images(4))
    for engine in (Dying(1), Dying(1)):  # what is known outlives a second interruption
        with pytest.raises(KeyboardInterrupt):
            judge_archive(run, ["s.tar", "in"], RESULTS, engine=engine)
    summary = judge(run, "s.tar", "in")
    assert (summary.rows, summary.broken, summary.judged) == (8, 1, 1)
    assert not folder_of(RESULTS).exists()


def test_verdicts_of_pieces_that_are_tried_again_belong_to_their_model(run: Path, tmp_path: Path) -> None:
    write_folder(Path("in"), images(2))
    Path("list.txt").write_text("in/00000.png\nin/none.png\n")
    other = toy_exports.write(tmp_path / "another", description=("another",))
    for engine in (Dying(1), Dying(0)):
        with pytest.raises(KeyboardInterrupt):
            judge_archive(run, ["list.txt", "in/00001.png"], RESULTS, engine=engine)
    assert not list(folder_of(RESULTS).glob("*.parquet"))
    with pytest.raises(OutputError, match=r"results\.parquet\.parts: holds results of another model"):
        judge(other, "in")


def test_a_link_to_the_results_is_the_same_output(run: Path) -> None:
    write_folder(Path("in"), images(1))
    Path("disk").mkdir()
    RESULTS.symlink_to("disk/r.parquet")

    class Second(SerialEngine):
        def run(self, work: Any, tasks: Any, **_: Any) -> Generator[Any, None, None]:
            with pytest.raises(OutputError, match="another run is at work here"):
                judge_archive(run, ["in"], Path("disk/r.parquet"))
            yield from super().run(work, tasks)

    assert judge_archive(run, ["in"], RESULTS, engine=Second()).judged == 1
    assert RESULTS.is_symlink() and [path.name for path in Path("disk").iterdir()] == ["r.parquet"]
    assert sorted(path.name for path in Path().iterdir()) == ["disk", "in", "results.parquet"]


def test_the_lock_is_the_last_to_be_removed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(Path("in"), images(1))
    removed: list[str] = []
    unlink = os.unlink

    def noted(path: Any, *others: Any, **more: Any) -> None:
        if Path(path).parent.name == folder_of(RESULTS).name and Path(path).name != ".run.json":
            removed.append(Path(path).name)
            assert (folder_of(RESULTS) / ".run.lock").is_file()
        unlink(path, *others, **more)

    monkeypatch.setattr(os, "unlink", noted)
    judge(run, "in")
    assert removed[-2:] == ["archive.json", ".run.lock"]
    assert not folder_of(RESULTS).exists()


@pytest.mark.parametrize(
    ("source", "options", "kind", "message"),
    [
        ("data.parquet", {"image_column": "picture"}, ConfigError, "has no such column; choose one of label, image"),
        ("data.parquet", {"image_column": "label"}, ConfigError, "holds int64, not the bytes of image files"),
        (
            "same.parquet",
            {},
            ConfigError,
            "same.parquet has several columns of this name; give each column a name of its own, or choose another",
        ),
        ("same.parquet", {"image_column": "fields"}, ConfigError, "this column has several fields of one name"),
        ("empty.parquet", {}, AdvradError, "empty.parquet: holds no rows; name a file of images"),
        ("in", {"runtime": "torch"}, ConfigError, "is an export and holds no PyTorch model"),
    ],
)
def test_what_does_not_suit_is_refused_before_the_work(
    source: str, options: dict[str, Any], kind: type[AdvradError], message: str, run: Path
) -> None:
    write_folder(Path("in"), images(1))
    Path("data.parquet").write_bytes(parquet_bytes(images(2)))
    Path("empty.parquet").write_bytes(parquet_bytes({}))
    data = pa.array([b"..."])
    fields = pa.StructArray.from_arrays([data, data, data], names=["bytes", "path", "path"])
    same = pa.Table.from_arrays([data, data, fields], names=["image", "image", "fields"])
    parquet.write_table(same, "same.parquet")
    with pytest.raises(kind) as caught:
        judge(run, source, **options)
    assert message in str(caught.value)
    assert not RESULTS.exists()


def test_results_are_joined_on_a_disk(run: Path) -> None:
    with pytest.raises(ConfigError, match="is a URL, and results are joined on a disk"):
        judge_archive(run, ["in"], "s3://bucket/results.parquet")


def test_a_machine_with_another_model_is_told(run: Path) -> None:
    write_folder(Path("in"), images(1))
    work = PieceJudge(run, "0" * 64, ArchiveOptions(), {}, os.getcwd(), None)
    with pytest.raises(AdvradError, match="holds another detector than where this run was started"):
        list(work(Piece("files", ("in/00000.png",), ("",))))


def test_relative_paths_begin_where_the_run_was_started(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(Path("in"), images(1))
    work = PieceJudge(run, identity_of(run), ArchiveOptions(), {}, os.getcwd(), None)
    monkeypatch.chdir("/")
    [part] = work(Piece("files", ("in/00000.png",), ("",)))
    assert isinstance(part, Part) and part.judged == 1


def test_a_part_that_is_damaged_is_judged_again(run: Path) -> None:
    write_folder(Path("in"), images(1))
    write_folder(Path("other"), images(2))
    with pytest.raises(KeyboardInterrupt):
        judge_archive(run, ["in", "other"], RESULTS, engine=Dying(1))
    [part] = folder_of(RESULTS).glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-9])
    summary = judge(run, "in", "other")
    assert (summary.rows, summary.judged) == (3, 3)


def test_a_missing_package_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(Path("in"), images(1))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=re.escape("install it: pip install 'advrad[archive]'")):
        judge(run, "in")
