"""The service that judges images: its queue, its deadlines, and that an answer means that the inspection is stored."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import toy_export_product
from PIL import Image
from toy_bounds import CALIBRATION, Brightest, ToyConfig, Unbounded
from toy_service import WAIT_S, AfraidOfTheDark, Gated, Meeting, Noted, SlowBounds, picture, product, serving

from advrad.errors import ConfigError, ImageError
from advrad.inference.prediction import PredictionRecord, predict_paths
from advrad.serving import job_queue
from advrad.serving.errors import (
    ArtefactUnavailable,
    CertificateUnavailable,
    DeadlineExceeded,
    ModelFailed,
    QueueFull,
    Stopping,
    StoreUnavailable,
    UnknownInspection,
    UnknownProduct,
)
from advrad.serving.inspecting import InspectionService
from advrad.serving.job_queue import Job, JobQueue
from advrad.serving.records import Inspection, InspectionRequest
from advrad.serving.store import Store

ALL = frozenset({"map", "overlay", "reconstruction"})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(None, tmp_path / "data")
    yield opened
    opened.close()


def request(level: int = 60, name: str = "nut", **fields: object) -> InspectionRequest:
    return InspectionRequest(name, picture(level), **fields)  # type: ignore[arg-type]


def history(store: Store) -> list[Inspection]:
    return store.inspections.find(limit=1000)


@pytest.fixture
def blocked(store: Store) -> Iterator[tuple[InspectionService, Gated]]:
    """A service with one thread, which is at work on a first image and waits for the gate."""
    gated = Gated()
    with serving(store, product(detector=gated), workers=1, queue=3, batch=8, deadline_s=60) as service:
        first = service.submit(request())
        assert gated.entered.wait(WAIT_S)
        try:
            yield service, gated
        finally:
            gated.gate.set()
        assert first.done() or first.result(WAIT_S)


class Clock:
    """The clock of the deadlines, which a test puts forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(job_queue, "time", made)
    return made


# --- Answers ---


def test_an_answer_is_what_predict_says_and_is_in_the_history(store: Store, tmp_path: Path) -> None:
    detector = Unbounded()
    with serving(store, product(detector=detector)) as service:
        sent = request(200, file_name="a b.png", part_id="p7", station="s1", artefacts=ALL)
        answer = service.submit(sent).result(WAIT_S)
    (tmp_path / "part.png").write_bytes(sent.picture)
    [said] = predict_paths(detector, [tmp_path / "part.png"])
    found = answer.inspection
    assert isinstance(said, PredictionRecord)
    assert (found.score, found.threshold, found.verdict) == (said.score, said.threshold, "defective")
    assert history(store) == [found] and store.pictures.read(found.picture) == sent.picture
    assert (found.file_name, found.part_id, found.station) == ("a b.png", "p7", "s1")
    assert (found.height_px, found.width_px, found.calibration, found.model) == (32, 32, 0, "m1")
    assert found.brightness == pytest.approx(np.asarray(Image.open(io.BytesIO(sent.picture))).mean() / 255, abs=0.01)
    assert found.sharpness > 0 and found.details == {}
    assert set(answer.artefacts) == ALL
    assert all(content.startswith(b"\x89PNG") for content in answer.artefacts.values())


def test_a_picture_that_cannot_be_judged_fails_alone_with_the_reason_of_predict(
    store: Store, blocked: tuple[InspectionService, Gated], tmp_path: Path
) -> None:
    service, gated = blocked
    broken = picture()[:200]
    bad = service.submit(InspectionRequest("nut", broken, file_name="cut.png"))
    good = service.submit(request(70))
    gated.gate.set()
    assert good.result(WAIT_S).inspection in history(store)
    (tmp_path / "cut.png").write_bytes(broken)
    [said] = predict_paths(Brightest(), [tmp_path / "cut.png"])
    error = bad.exception(WAIT_S)
    assert isinstance(error, ImageError) and isinstance(said, ImageError)
    assert error.reason == said.reason and str(error) == f"cut.png: {said.reason}"
    assert len(history(store)) == 2


def test_a_model_that_fails_on_one_image_judges_the_others(store: Store) -> None:
    with serving(store, product(detector=AfraidOfTheDark()), workers=1) as service:
        levels = (200, 5, 60)
        answers = [service.submit(request(level)) for level in levels]
        errors = [answer.exception(WAIT_S) for answer in answers]
    assert [type(error) for error in errors] == [type(None), ModelFailed, type(None)]
    assert "the image is dark" in str(errors[1])
    assert len(history(store)) == 2


def test_several_products_share_a_batch_and_a_transaction(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    add_many = store.inspections.add_many

    def counted(new: list[Inspection], sinks: tuple[str, ...]) -> list[Inspection]:
        sizes.append(len(new))
        return add_many(new, sinks)

    monkeypatch.setattr(store.inspections, "add_many", counted)
    gated, noted = Gated(), Noted()
    both = product(detector=gated), product("bolt", Unbounded(), "m2")
    with serving(store, *both, monitor=noted, workers=1, sinks=("line",)) as service:
        first = service.submit(request())
        assert gated.entered.wait(WAIT_S)
        others = [service.submit(request(60, name)) for name in ("bolt", "nut", "bolt")]
        gated.gate.set()
        answers = [answer.result(WAIT_S).inspection for answer in (first, *others)]
    assert [answer.product for answer in answers] == ["nut", "bolt", "nut", "bolt"]
    assert [answer.model for answer in answers] == ["m1", "m2", "m1", "m2"]
    assert sizes == [1, 3]
    assert {one.id for one in noted.told} == {one.id for one in history(store)} and len(noted.told) == 4
    assert store.outbox.pending("line") == 4


def test_the_monitor_sees_inspections_in_the_order_of_the_history(store: Store) -> None:
    noted = Noted()
    with serving(store, monitor=noted, workers=4, batch=2) as service:
        answers = [service.submit(request(60, file_name=str(number))) for number in range(40)]
        for answer in answers:
            answer.result(WAIT_S)
    told = [one.id for one in noted.told]
    assert len(told) == 40 and told == sorted(told) == [one.id for one in reversed(history(store))]


def test_a_source_that_is_known_is_answered_from_the_history(store: Store) -> None:
    noted = Noted()
    with serving(store, monitor=noted) as service:
        first, again = (service.submit(request(60, source="a" * 64), patient=True).result(WAIT_S) for _ in range(2))
    assert (first.known, again.known) == (False, True)
    assert again.inspection == first.inspection and noted.told == [first.inspection]


# --- Bounds ---


def test_a_full_queue_refuses_at_once(blocked: tuple[InspectionService, Gated], store: Store) -> None:
    service, gated = blocked
    taken = [service.submit(request()) for _ in range(3)]
    assert service.waiting == 3
    began = time.monotonic()
    with pytest.raises(QueueFull, match="3 images") as caught:
        service.submit(request())
    assert time.monotonic() - began < WAIT_S / 2 and caught.value.retry_after_s >= 1
    assert (service.waiting, gated.sizes) == (3, []), "nothing was finished before it was refused"
    gated.gate.set()
    assert len({answer.result(WAIT_S).inspection.id for answer in taken}) == 3
    assert service.submit(request()).result(WAIT_S).inspection in history(store)
    assert len(history(store)) == 5 and gated.sizes[:2] == [1, 3]


def test_bytes_are_bounded_too_and_are_given_back(store: Store) -> None:
    gated, content = Gated(), picture()
    settings = {"max_body_mb": 1e-6, "queue_mb": 3 * len(content) / 1e6, "queue": 100, "workers": 1}
    with serving(store, product(detector=gated), **settings) as service:
        taken = [service.submit(InspectionRequest("nut", content))]
        assert gated.entered.wait(WAIT_S)
        taken += [service.submit(InspectionRequest("nut", content)) for _ in range(2)]
        assert service.held_bytes == 3 * len(content), "those in work count as well"
        with pytest.raises(QueueFull):
            service.submit(InspectionRequest("nut", content))
        assert taken[2].cancel()
        assert service.held_bytes == 2 * len(content), "an image whose sender has gone is dropped"
        taken[2] = service.submit(InspectionRequest("nut", content))
        gated.gate.set()
        assert all(answer.result(WAIT_S) for answer in taken)
        wait_until(lambda: service.held_bytes == 0)
    assert len(history(store)) == 3


def test_what_is_too_late_fails_in_time_and_is_not_stored(store: Store, clock: Clock) -> None:
    """One is in work and one waits; the detector does not come back before both are told."""
    gated = Gated()
    with serving(store, product(detector=gated), workers=1, deadline_s=300) as service:
        late = [service.submit(request())]
        assert gated.entered.wait(WAIT_S)
        late.append(service.submit(request()))
        patient = service.submit(request(90), patient=True)
        clock.ahead_s = 200
        service.submit(request()).cancel()  # now the clock is looked at
        time.sleep(0.1)
        assert not any(answer.done() for answer in late), "it is not late yet"
        clock.ahead_s = 299.8
        service.submit(request()).cancel()
        for answer in late:
            assert isinstance(answer.exception(WAIT_S), DeadlineExceeded)
        assert gated.sizes == [] and not gated.gate.is_set()
        clock.ahead_s = 1000
        service.submit(request()).cancel()
        time.sleep(0.1)
        gated.gate.set()
        assert patient.result(WAIT_S).inspection.score == pytest.approx(90 / 255)
    assert [one.score for one in history(store)] == [pytest.approx(90 / 255)]
    assert gated.sizes == [1, 1], "what was told to be late while it waited is not computed"


def test_who_gives_up_before_storing_leaves_nothing(blocked: tuple[InspectionService, Gated], store: Store) -> None:
    service, gated = blocked
    given_up, kept = service.submit(request(70)), service.submit(request(80))
    assert given_up.cancel()
    gated.gate.set()
    kept.result(WAIT_S)
    assert sorted(one.score or 0 for one in history(store)) == pytest.approx([60 / 255, 80 / 255])
    assert not kept.cancel(), "what is stored is answered"


# --- Failures of the store ---


def test_without_the_database_nothing_is_accepted(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "data" / "history.sqlite"
    with serving(store) as service:
        before = service.submit(request()).result(WAIT_S).inspection
        file.rename(file.with_name("aside"))
        answers = [service.submit(request(70)) for _ in range(3)]
        for answer in answers:
            assert isinstance(answer.exception(WAIT_S), StoreUnavailable)
        file.with_name("aside").rename(file)
        after = service.submit(request(80)).result(WAIT_S).inspection
        assert history(store) == [after, before]


def test_a_full_disk_of_the_pictures_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(content: bytes) -> str:
        raise StoreUnavailable("the disk is full", "free some space")

    with serving(store) as service:
        with monkeypatch.context() as patch:
            patch.setattr(store.pictures, "put", full)
            assert isinstance(service.submit(request()).exception(WAIT_S), StoreUnavailable)
        assert service.submit(request()).result(WAIT_S).inspection in history(store)
    assert len(history(store)) == 1


def test_a_picture_is_on_the_disk_before_its_inspection_is_stored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_many = store.inspections.add_many

    def checked(new: list[Inspection], sinks: tuple[str, ...]) -> list[Inspection]:
        assert all(store.pictures.has(one.picture) for one in new)
        return add_many(new, sinks)

    monkeypatch.setattr(store.inspections, "add_many", checked)
    with serving(store) as service:
        assert service.submit(request()).result(WAIT_S)


def test_a_defect_of_advrad_is_told_and_the_threads_go_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(store, workers=1) as service:
        with monkeypatch.context() as patch:
            patch.setattr(store.inspections, "new_id", lambda: 1 / 0)
            assert isinstance(service.submit(request()).exception(WAIT_S), ZeroDivisionError)
        assert service.submit(request()).result(WAIT_S)


# --- At once ---


@pytest.mark.parametrize(("side_by_side", "threads", "most"), [(True, 2, 2), (True, 1, 1), (False, 2, 1)])
def test_images_are_judged_side_by_side_where_the_product_allows_it(
    store: Store, side_by_side: bool, threads: int, most: int
) -> None:
    meeting = Meeting(patience_s=WAIT_S if most > 1 else 1.0)
    one = product(detector=meeting, side_by_side=side_by_side)
    with serving(store, one, threads=threads, workers=4, batch=1) as service:
        answers = [service.submit(request(level)) for level in (40, 60, 80)]
        assert [answer.result(WAIT_S).inspection.score for answer in answers] == pytest.approx(
            [40 / 255, 60 / 255, 80 / 255]
        )
    assert meeting.most == most


def test_threads_share_what_waits() -> None:
    queue = JobQueue(most=10, most_bytes=1_000_000)
    for _ in range(7):
        queue.put(Job(request(), 10))
    assert [len(queue.take(4, 3)), len(queue.take(4, 3)), len(queue.take(4, 3))] == [3, 2, 1]
    assert len(queue.take(4, 3)) == 1


# --- Stopping ---


def test_a_stop_finishes_what_was_taken(store: Store) -> None:
    gated = Gated()
    with serving(store, product(detector=gated), workers=2) as service:
        taken = [service.submit(request()) for _ in range(20)]
        assert gated.entered.wait(WAIT_S)
        threading.Timer(0.2, gated.gate.set).start()
        service.stop(WAIT_S)
        assert all(answer.done() for answer in taken)
        with pytest.raises(Stopping):
            service.submit(request())
    assert len(history(store)) == 20


def test_a_stop_that_takes_too_long_says_so_to_who_waits(store: Store) -> None:
    gated = Gated()
    with serving(store, product(detector=gated), workers=1) as service:
        taken = [service.submit(request()) for _ in range(3)]
        assert gated.entered.wait(WAIT_S)
        service.stop(0.1)
        assert all(isinstance(answer.exception(0), Stopping) for answer in taken)
        gated.gate.set()
    assert history(store) == []


# --- Thresholds and certificates ---


def activate(store: Store, threshold: float) -> None:
    facts = {"false_alarm_rate": 0.1, "n": 20, "source": {}, "by": "ann", "at": datetime.now(UTC)}
    made = store.thresholds.add(product="nut", model="m1", threshold=threshold, **facts)  # type: ignore[arg-type]
    store.thresholds.activate("nut", "m1", made.version, "ann")


def test_the_active_threshold_decides_at_once(store: Store) -> None:
    with serving(store) as service:
        before = service.submit(request(100)).result(WAIT_S).inspection
        activate(store, 0.3)
        after = service.submit(request(100)).result(WAIT_S).inspection
    assert (before.threshold, before.verdict, before.calibration) == (0.5, "good", 0)
    assert (after.threshold, after.verdict, after.calibration) == (0.3, "defective", 1)
    assert before.score == after.score


@pytest.mark.parametrize(("threshold", "verdict"), [(None, "proven good"), (0.45, "proven defective")])
def test_certificates_are_about_the_threshold_that_decided(store: Store, threshold: float | None, verdict: str) -> None:
    if threshold is not None:
        activate(store, threshold)
    with serving(store) as service:
        found = service.submit(request(120, certify=True)).result(WAIT_S).inspection
    proof = found.details["certificate"]
    assert (proof["certified"], proof["norm"], proof["certified_threshold"]) == (verdict, "linf", found.threshold)
    assert proof["certified_radius"] == pytest.approx(abs(120 / 255 - found.threshold), abs=0.6 / 255)
    assert proof["lower"] < found.score < proof["upper"]  # type: ignore[operator]
    assert history(store) == [found]


def test_a_certificate_that_does_not_exist_is_refused_before_any_work(store: Store) -> None:
    with (
        serving(store, product(detector=Unbounded())) as service,
        pytest.raises(CertificateUnavailable, match="leave certify out"),
    ):
        service.submit(request(certify=True))
    assert history(store) == []


def test_a_long_certificate_holds_nobody_up_and_ends_at_its_deadline(store: Store, clock: Clock) -> None:
    slow = SlowBounds()
    with serving(store, product(detector=slow), workers=1, queue=8, deadline_s=300) as service:
        proof = service.submit(request(120, certify=True))
        assert slow.entered.wait(WAIT_S)
        waiting = [service.submit(request(121, certify=True)) for _ in range(2)]
        with pytest.raises(QueueFull):
            service.submit(request(certify=True))
        assert service.submit(request(200)).result(WAIT_S).inspection.defective
        assert not any(answer.done() for answer in (proof, *waiting)), "it did not wait for a certificate"
        clock.ahead_s = 299.8
        assert service.submit(request(210)).result(WAIT_S).inspection.defective  # now the clock is looked at
        for answer in (proof, *waiting):
            assert isinstance(answer.exception(WAIT_S), DeadlineExceeded)
        slow.gate.set()
        wait_until(lambda: service.held_bytes == 0)
        assert slow.calls == 1, "nobody waits for further bounds"
    assert sorted(one.score or 0 for one in history(store)) == pytest.approx([200 / 255, 210 / 255])


def test_halves_decide_by_their_own_tests_and_exports_prove_nothing(store: Store, tmp_path: Path) -> None:
    made = toy_export_product.load(tmp_path, guarded=True)
    assert made.guarded and made.exported
    facts = {"false_alarm_rate": 0.1, "n": 20, "source": {}, "by": "ann", "at": datetime.now(UTC)}
    version = store.thresholds.add(product="toy", model=made.model, threshold=9.0, **facts)  # type: ignore[arg-type]
    store.thresholds.activate("toy", made.model, version.version, "ann")
    with serving(store, made) as service:
        found = service.submit(request(250, "toy")).result(WAIT_S).inspection
        with pytest.raises(CertificateUnavailable, match="export"):
            service.submit(request(250, "toy", certify=True))
    assert (found.verdict, found.defective, found.calibration, found.threshold) == ("suspected", True, 0, 0.0)
    assert [half["name"] for half in found.details["halves"]] == ["memory", "contrast"]
    assert history(store) == [found]


# --- Requests ---


def test_requests_that_cannot_be_stored_or_served_are_refused(store: Store) -> None:
    with serving(store) as service:
        with pytest.raises(UnknownProduct):
            service.submit(request(name="../nut"))
        with pytest.raises(ConfigError, match="artefacts"):
            service.submit(request(artefacts=frozenset({"../map"})))
        with pytest.raises(ConfigError):
            service.submit(request(part_id="p\0"))
        sent = service.submit(request(part_id="'; DROP TABLE x; <script>", file_name="../../e\n.png"))
        assert sent.result(WAIT_S).inspection.part_id == "'; DROP TABLE x; <script>"


# --- Drawing again ---


def test_what_is_drawn_again_is_what_was_drawn(store: Store) -> None:
    with serving(store, product(detector=Unbounded())) as service:
        answer = service.submit(request(200, artefacts=ALL)).result(WAIT_S)
        assert service.redraw(answer.inspection.id, ALL) == answer.artefacts
        assert set(service.redraw(answer.inspection.id, {"map"})) == {"map"}
        with pytest.raises(ConfigError):
            service.redraw(answer.inspection.id, {"everything"})
        with pytest.raises(UnknownInspection):
            service.redraw("nothing", {"map"})


def test_nothing_is_drawn_by_another_model_or_without_the_picture(store: Store) -> None:
    with serving(store) as service:
        found = service.submit(request(200)).result(WAIT_S).inspection
        store.pictures.path(found.picture).unlink()
        with pytest.raises(ArtefactUnavailable, match="no longer kept"):
            service.redraw(found.id, {"map"})
    other = ToyConfig(calibration=CALIBRATION.model_copy(update={"threshold": 0.6}))
    with (
        serving(store, product(detector=Brightest(other), model="m2")) as service,
        pytest.raises(ArtefactUnavailable, match="was replaced"),
    ):
        service.redraw(found.id, {"map"})


def wait_until(met: object) -> None:
    end = time.monotonic() + WAIT_S
    while not met():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)
