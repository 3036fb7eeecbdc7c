"""The watched folder, with an inspector of the test in place of a model."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trained_run
from toy_outbox import inspection, until

from advrad.errors import ImageError
from advrad.serving.errors import ModelFailed, QueueFull, StoreUnavailable
from advrad.serving.records import Inspection, InspectionAnswer, InspectionRequest
from advrad.serving.watching import WatchOptions, WatchSummary
from advrad.serving.watching import watcher as module
from advrad.serving.watching.watcher import Watcher


@dataclass
class ToyInspector:
    """Keeps a history in memory, and takes what begins with ``whole`` for an image."""

    history: dict[str, InspectionRequest] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    #: Raises or returns an error instead.
    act: Callable[[InspectionRequest], Exception | None] = lambda request: None
    #: While set, futures are held back.
    held: list[tuple[Future[InspectionAnswer], InspectionRequest]] | None = None

    def submit(self, request: InspectionRequest, *, patient: bool = False) -> Future[InspectionAnswer]:
        assert patient
        self.asked.append(request.file_name)
        future: Future[InspectionAnswer] = Future()
        if self.held is not None:
            self.held.append((future, request))
        else:
            self.answer(future, request)
        return future

    def answer(self, future: Future[InspectionAnswer], request: InspectionRequest) -> None:
        error = self.act(request)
        if error is None and not request.picture.startswith(b"whole"):
            error = ImageError(Path(request.file_name), "is cut short (truncated)")
        if error is not None:
            future.set_exception(error)
            return
        assert request.source is not None
        known = request.source in self.history
        self.history.setdefault(request.source, request)
        bad = b"bad" in request.picture
        made = inspection(len(self.history), defective=bad, product=request.product, file_name=request.file_name)
        future.set_result(InspectionAnswer(made, known=known))

    def knows(self, key: str) -> bool:
        return key in self.history

    @property
    def names(self) -> list[str]:
        return sorted(request.file_name for request in self.history.values())


@dataclass
class Told:
    """A reporter that keeps what it is told."""

    lines: list[tuple[str, bool]] = field(default_factory=list)
    aside: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    summaries: list[WatchSummary] = field(default_factory=list)
    finished: bool = False

    def inspected(self, path: Path, one: Inspection) -> None:
        self.lines.append((path.name, one.defective))

    def set_aside(self, path: Path, reason: str, text: Path) -> None:
        self.aside.append((path.name, reason))

    def note(self, text: str) -> None:
        if text == "finishing what was taken":
            self.finished = True
        else:
            self.notes.append(text)

    def progress(self, summary: WatchSummary) -> None:
        self.summaries.append(summary)


class Place:
    """A watched folder with its inspector, and the means to watch it."""

    def __init__(self, base: Path) -> None:
        self.folder, self.out, self.done = base / "in", base / "out", base / "done"
        self.folder.mkdir()
        self.inspector, self.told = ToyInspector(), Told()

    def put(self, name: str, content: bytes = b"whole") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def watcher(self, product: str = "flange", **options: object) -> Watcher:
        values = {"settle_s": 0.05, "give_up_s": 0.3, "poll_s": 0.05, **options}
        return Watcher(
            self.folder,
            product,
            self.inspector,
            self.inspector.knows,
            self.out,
            WatchOptions.parse(values),
            self.told,
        )

    def once(self, product: str = "flange", **options: object) -> WatchSummary:
        return self.watcher(product, once=True, **options).run(threading.Event())

    @contextmanager
    def watched(self, **options: object) -> Iterator[None]:
        stop, problems = threading.Event(), []

        def run() -> None:
            try:
                self.watcher(**options).run(stop)
            except BaseException as error:
                problems.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(60)
        assert (thread.is_alive(), problems) == (False, [])


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


class Clock:
    """The clock of watchers, which only a test puts forward, so that no pause of the test counts."""

    def __init__(self) -> None:
        self.now_s, self.looks = 1.0, 0

    def monotonic(self) -> float:
        return self.now_s

    def forward(self) -> None:
        """Put the clock forward by 0.1 s, and wait until the folder was looked at since."""
        before = self.looks
        self.now_s += 0.1
        until(lambda: self.looks > before)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made, look = Clock(), Watcher._look

    def counted(self: Watcher, begun_s: float) -> None:
        look(self, begun_s)
        made.looks += 1

    monkeypatch.setattr(module, "time", made)
    monkeypatch.setattr(Watcher, "_look", counted)
    return made


def test_each_file_is_inspected_once_across_restarts(place: Place) -> None:
    for name in ("a.png", "b.png", "c/d.png"):
        place.put(name, b"whole bad" if name == "b.png" else b"whole")  # a and d have the same content
    assert place.once() == WatchSummary(inspected=3, defective=1)
    assert sorted(place.told.lines) == [("a.png", False), ("b.png", True), ("d.png", False)]
    assert place.once() == WatchSummary(known=3)
    os.utime(place.folder / "a.png")  # seen again, not new
    assert place.once() == WatchSummary(known=3)
    assert place.inspector.names == ["a.png", "b.png", "c/d.png"]


def test_new_names_and_new_contents_are_new(place: Place) -> None:
    place.put("a.png")
    with place.watched():
        until(lambda: len(place.told.lines) == 1)
        shutil.copy2(place.folder / "a.png", place.folder / "copy.png")
        until(lambda: len(place.told.lines) == 2)
        place.put("a.png", b"whole and new")
        until(lambda: len(place.told.lines) == 3)
        os.rename(place.folder / "copy.png", place.folder / "other.png")
        until(lambda: len(place.told.lines) == 4)
    assert place.inspector.names == ["a.png", "a.png", "copy.png", "other.png"]
    assert place.once("bracket") == WatchSummary(inspected=2)  # for another product, it is another inspection


def test_a_file_that_is_still_written_is_waited_for(place: Place, clock: Clock) -> None:
    with place.watched(settle_s=0.3):
        until(lambda: clock.looks > 0)
        for size in range(8):
            place.put("a.png", b"whole"[: size % 6] + b"x" * size)
            clock.forward()
        assert place.inspector.asked == []
        place.put("a.png")
        while not place.told.lines:
            clock.forward()
    assert place.inspector.asked == ["a.png"]


def test_a_file_that_pauses_before_it_is_whole_is_waited_for(place: Place) -> None:
    place.put("a.png", b"who")
    with place.watched(give_up_s=300):
        until(lambda: len(place.inspector.asked) >= 2)
        place.put("a.png")
        until(lambda: bool(place.told.lines))
    assert (place.told.aside, place.told.lines) == ([], [("a.png", False)])
    assert not (place.out / "unreadable").exists()


def test_a_file_that_never_becomes_whole_is_set_aside_once(place: Place) -> None:
    path = place.put("a.png", b"who")
    assert place.once() == WatchSummary(set_aside=1)
    assert place.told.aside == [("a.png", "is cut short (truncated)")]
    copy, text = sorted((place.out / "unreadable").iterdir(), key=lambda one: len(one.name))
    assert (copy.read_bytes(), path.read_bytes()) == (b"who", b"who")
    assert "reason  is cut short (truncated)\n" in text.read_text(encoding="utf-8")
    assert place.once() == WatchSummary(known=1)
    path.write_bytes(b"whole")  # it became whole later
    assert place.once() == WatchSummary(inspected=1)
    text.unlink()
    path.write_bytes(b"who")
    assert place.once() == WatchSummary(set_aside=1)


def test_files_are_moved_only_if_that_is_wanted(place: Place) -> None:
    place.put("a.png")
    place.put("sub/b.png")
    place.put("bad.png", b"who")
    place.once()
    assert sorted(path.name for path in place.folder.rglob("*.png")) == ["a.png", "b.png", "bad.png"]
    # What was inspected before is moved, too.
    assert place.once(move_to=place.done) == WatchSummary(known=3, moved=3)
    assert [path for path in place.folder.rglob("*") if path.is_file()] == []
    moved = sorted(path.relative_to(place.done).as_posix() for path in place.done.rglob("*.png"))
    assert moved == ["a.png", "sub/b.png"]
    place.put("worse.png", b"wh")
    place.put("a.png", b"whole second")
    assert place.once(move_to=place.done) == WatchSummary(inspected=1, set_aside=1, moved=2)
    kept = sorted(path.read_bytes() for path in (place.out / "unreadable").glob("*.png"))
    assert kept == [b"wh", b"who", b"who"]
    assert sorted(path.read_bytes() for path in place.done.glob("a*.png")) == [b"whole", b"whole second"]


def test_a_store_that_is_gone_and_back(place: Place) -> None:
    down = threading.Event()
    down.set()
    place.inspector.act = lambda request: StoreUnavailable("no database", "start it") if down.is_set() else None
    for number in range(5):
        place.put(f"{number}.png")
    with place.watched():
        until(lambda: bool(place.told.notes))
        threading.Event().wait(0.3)
        asked = len(place.inspector.asked)
        assert asked <= 12  # nothing is hammered
        down.clear()
        until(lambda: len(place.told.lines) == 5)
    assert place.told.notes == ["no database; start it; it is tried again", "works again"]
    assert place.told.aside == []


def test_an_answer_that_was_lost_does_not_inspect_twice(place: Place) -> None:
    """The connection broke while the database said that it had stored."""

    def lose(request: InspectionRequest) -> Exception | None:
        assert request.source is not None
        if request.source in place.inspector.history:
            return None
        place.inspector.history[request.source] = request
        return StoreUnavailable("the connection broke", "wait")

    place.inspector.act = lose
    place.put("a.png")
    assert place.once() == WatchSummary(inspected=1, known=1)
    assert place.inspector.asked == ["a.png"]


def test_a_full_queue_and_a_failing_model_are_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Exception] = [QueueFull("full", "wait"), ModelFailed("no score", "see the model")]
    real = place.inspector.submit

    def submit(request: InspectionRequest, *, patient: bool = False) -> Future[InspectionAnswer]:
        if answers and isinstance(answers[0], QueueFull):
            raise answers.pop(0)
        return real(request, patient=patient)

    monkeypatch.setattr(place.inspector, "submit", submit)
    place.inspector.act = lambda request: answers.pop(0) if answers else None
    place.put("a.png")
    assert place.once() == WatchSummary(inspected=1)
    assert place.told.notes == [f"{place.folder}/a.png: no score; see the model; it is tried again"]


def test_a_defect_of_the_program_does_not_stop_the_others(place: Place) -> None:
    failed: list[str] = []

    def fail(request: InspectionRequest) -> Exception | None:
        if request.file_name == "a.png" and not failed:
            failed.append("a.png")
            return ZeroDivisionError("division by zero")
        return None

    place.inspector.act = fail
    place.put("a.png")
    place.put("b.png")
    assert place.once() == WatchSummary(inspected=2)
    assert place.told.notes == [f"{place.folder}/a.png: ZeroDivisionError: division by zero; it is tried again"]


def test_a_folder_that_vanishes_and_comes_back(place: Place, tmp_path: Path) -> None:
    place.put("a.png")
    with place.watched():
        until(lambda: len(place.told.lines) == 1)
        place.folder.rename(tmp_path / "unmounted")
        until(lambda: len(place.told.notes) == 1)
        (tmp_path / "unmounted").rename(place.folder)
        until(lambda: len(place.told.notes) == 2)
        place.put("b.png")
        until(lambda: len(place.told.lines) == 2)
    assert place.told.notes == [
        f"{place.folder}: cannot be listed (No such file or directory); waiting for it to come back",
        f"{place.folder}: is back",
    ]
    assert place.inspector.asked == ["a.png", "b.png"]


def test_a_share_that_is_unmounted_and_empty_for_a_while(place: Place, tmp_path: Path) -> None:
    place.put("a.png")
    with place.watched():
        until(lambda: len(place.told.lines) == 1)
        place.folder.rename(tmp_path / "share")
        place.folder.mkdir()
        threading.Event().wait(0.3)
        place.folder.rmdir()
        (tmp_path / "share").rename(place.folder)
        place.put("b.png")
        until(lambda: len(place.told.lines) == 2)
    assert place.inspector.asked == ["a.png", "b.png"]


def test_a_file_that_may_not_be_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = place.put("a.png"), module.read_whole
    closed = threading.Event()
    closed.set()

    def read(one: Path, *rest: object) -> bytes | None:
        if closed.is_set():
            raise PermissionError(13, "Permission denied")
        return real(one, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "read_whole", read)
    assert place.once() == WatchSummary(set_aside=1)
    assert place.told.aside == [("a.png", "cannot be read (Permission denied)")]
    (text,) = (place.out / "unreadable").iterdir()  # no copy
    assert text.suffix == ".txt"
    assert place.once() == WatchSummary(known=1)
    closed.clear()
    path.chmod(0o640)  # the right is given: the stamp changes
    assert place.once() == WatchSummary(inspected=1)


def test_names_with_line_breaks_and_odd_bytes(place: Place) -> None:
    place.put("line\nbreak.png")
    odd = os.fsencode(place.folder) + b"/odd\xff.png"
    Path(os.fsdecode(odd)).write_bytes(b"whole")
    place.put("bad\n\x1b[31m.png", b"who")
    assert place.once() == WatchSummary(inspected=2, set_aside=1)
    assert place.inspector.names == ["line\nbreak.png", "odd\ufffd.png"]
    assert place.once() == WatchSummary(known=3)


def test_a_file_that_is_too_large(place: Place) -> None:
    place.put("a.png", b"whole" * 1000)
    place.put("b.png")
    assert place.once(max_file_mb=0.001) == WatchSummary(inspected=1, set_aside=1)
    assert place.told.aside == [
        ("a.png", "has 0.005 MB, more than the limit of 0.001 MB (max_file_mb); raise the limit")
    ]


def test_what_was_taken_is_finished_at_the_end(place: Place) -> None:
    place.inspector.held = held = []
    for number in range(30):
        place.put(f"{number}.png")
    stop, ended = threading.Event(), []
    thread = threading.Thread(target=lambda: ended.append(place.watcher().run(stop)))
    thread.start()
    until(lambda: len(held) == 16)  # no more than that at once
    stop.set()
    threading.Event().wait(0.3)
    assert thread.is_alive()
    place.inspector.held = None
    for one in held:
        place.inspector.answer(*one)
    thread.join(60)
    assert ended == [WatchSummary(inspected=16, unfinished=14)]
    assert place.told.finished
    assert place.once() == WatchSummary(inspected=14, known=16)


def test_a_file_that_vanishes_while_it_is_inspected(place: Place) -> None:
    place.inspector.held = held = []
    path = place.put("a.png")
    with place.watched():
        until(lambda: len(held) == 1)
        path.unlink()
        threading.Event().wait(0.2)
        place.inspector.held = None
        place.inspector.answer(*held[0])
        until(lambda: place.told.lines == [("a.png", False)])


@pytest.mark.slow
def test_ten_thousand_files_at_the_start(place: Place) -> None:
    folder = place.folder / "many"
    folder.mkdir()
    for number in range(10_000):
        (folder / f"{number:05d}.png").write_bytes(b"whole %d" % number)
    assert place.once(settle_s=0) == WatchSummary(inspected=10_000)
    assert len(place.inspector.asked) == 10_000
    assert place.once(settle_s=0) == WatchSummary(known=10_000)
    assert len(place.inspector.asked) == 10_000


def test_counts_are_reported_while_they_change(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROGRESS_S", 0.1)
    place.put("a.png")
    with place.watched():
        until(lambda: WatchSummary(inspected=1) in place.told.summaries)
        threading.Event().wait(0.4)
    assert place.told.summaries.count(WatchSummary(inspected=1)) == 1


def test_a_link_is_inspected_and_never_moved(place: Place, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.png"
    target.write_bytes(b"whole")
    (place.folder / "link.png").symlink_to(target)
    assert place.once(move_to=place.done) == WatchSummary(inspected=1)
    assert (place.folder / "link.png").is_symlink() and target.exists()


def test_hidden_files_and_others_are_passed_over(place: Place) -> None:
    place.put(".a.png")
    place.put("a.png.part")
    place.put("notes.txt", b"whole")
    trained_run.image(place.folder / "real.png", 1)
    place.inspector.act = lambda request: ImageError(Path("x"), "no")
    assert place.once(give_up_s=0) == WatchSummary(set_aside=1, others=2)
    assert set(place.inspector.asked) == {"real.png"}


def test_a_file_that_changes_all_the_time_is_told(place: Place, clock: Clock) -> None:
    with place.watched(settle_s=0.3, give_up_s=0.6):
        until(lambda: clock.looks > 0)
        for number in range(12):
            place.put("latest.png", b"whole %d" % number)
            clock.forward()
        assert (len(place.told.notes), place.inspector.asked) == (1, [])
        while not place.told.lines:  # and inspected once it rests
            clock.forward()
    fix = "it must stay as it is for 0.3 s (settle_s)"
    assert place.told.notes == [f"{place.folder}/latest.png: changes all the time and is not inspected; {fix}"]
