"""The service that judges images: it queues them, judges several together, stores what it found, and then answers.

An answer means that the inspection is in the history. An error means that it is not, except where the connection to the
database broke in the moment of storing, which nobody can tell. Whoever sends an image again gets another inspection.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from advrad.data.images import LARGE_PIXELS
from advrad.errors import AdvradError, ConfigError
from advrad.inference.judging import Judged, LoadedImage, certified
from advrad.serving.errors import ArtefactUnavailable, DeadlineExceeded, ModelFailed, Stopping
from advrad.serving.job_queue import Job, JobQueue
from advrad.serving.judging import ARTEFACTS, decide_all, details_of, draw_artefacts, read_picture, statistics_of
from advrad.serving.products import Product, ProductTable
from advrad.serving.records import Inspection, InspectionAnswer, InspectionRequest, ThresholdVersion
from advrad.serving.store import Store, check_request
from advrad.utils.threads import thread_count

if TYPE_CHECKING:
    from advrad.serving.drift import DriftAlarm
    from advrad.serving.settings import ServeSettings

_LOG = "advrad.inspecting"


class Monitor(Protocol):
    """What watches for drift."""

    def observe(self, inspections: Sequence[Inspection]) -> Iterable[DriftAlarm]:
        """Take inspections that are in the history now, in their order, and return the alarms that they raise."""


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """A judged image that is not stored yet."""

    job: Job
    facts: dict[str, Any]
    artefacts: dict[str, bytes] = field(repr=False)


class InspectionService:
    """Judges images in threads of its own.

    Args:
        store: History, and the files of the images.
        products: Products.
        monitor: What watches for drift; None for nothing.
        settings: Limits: ``queue``, ``max_held``, ``batch``, ``workers`` and ``deadline_s``.
        sinks: Names of the sinks to which each inspection is delivered.
        wake: Called after inspections were stored; None for nothing.
        threads: Number of images that are judged at once, >= 1, where a product allows it; None for as many as threads
            compute. Each is best computed by one thread.

    Example:
        Needs a store and a model folder.

        >>> service.start()  # doctest: +SKIP
        >>> service.submit(InspectionRequest("bottle", content)).result().inspection.verdict  # doctest: +SKIP
        'good'
        >>> service.stop()  # doctest: +SKIP
    """

    def __init__(
        self,
        store: Store,
        products: ProductTable,
        monitor: Monitor | None,
        settings: ServeSettings,
        *,
        sinks: Sequence[str] = (),
        wake: Callable[[], object] | None = None,
        threads: int | None = None,
    ) -> None:
        self._store, self._products, self._monitor = store, products, monitor
        self._settings, self._sinks, self._wake = settings, tuple(sinks), wake
        self._queue = JobQueue(settings.queue, settings.max_held)
        self._threads: list[threading.Thread] = []
        # Where images are not judged side by side, a detector computes with all threads; two would fight for them.
        self._computing = threading.Lock()
        self._at_once = threads or thread_count()
        self._side_by_side = threading.BoundedSemaphore(self._at_once)
        # One image at a time is drawn anew, which bounds the memory of that.
        self._drawing = threading.Lock()
        # The history, the identities and the drift monitor see inspections in one order.
        self._storing = threading.Lock()

    @property
    def _workers(self) -> int:
        return self._settings.workers or self._at_once + 1

    @property
    def waiting(self) -> int:
        """Number of images that wait."""
        return self._queue.waiting

    @property
    def held_bytes(self) -> int:
        """Bytes of the images that wait or are in work."""
        return self._queue.held_bytes

    def start(self) -> None:
        """Start the threads."""
        for number in range(self._workers):
            self._run(self._work, f"advrad-inspect-{number}")
        # Certificates may take longer than the deadline allows; other images must not wait for them.
        self._run(partial(self._work, certify=True), "advrad-certify")
        self._run(self._queue.keep_deadlines, "advrad-deadlines")

    def stop(self, timeout_s: float | None = None) -> None:
        """Take no more images, finish those that were taken, and end.

        Args:
            timeout_s: Seconds after which what is not stored yet fails with :class:`Stopping`; None to wait for all.
        """
        self._queue.close()
        end = math.inf if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(None if end == math.inf else max(0.0, end - time.monotonic()))
        self._queue.fail_waiting(Stopping("the service stops", "send the image again when it is back"))
        self._threads = [thread for thread in self._threads if thread.is_alive()]

    def submit(self, request: InspectionRequest, *, patient: bool = False) -> Future[InspectionAnswer]:
        """Take an image in, at once or not at all.

        A future that is cancelled before its inspection is stored is not stored.

        Args:
            request: The image.
            patient: Whether to wait for the inspection however long it takes, as a watched folder does; otherwise the
                deadline of the settings holds.

        Returns:
            The answer, as soon as the inspection is in the history. It fails with :class:`advrad.errors.ImageError` for
            an image that cannot be judged, and with :class:`DeadlineExceeded`, :class:`StoreUnavailable`,
            :class:`ModelFailed` or :class:`Stopping`; then there is no inspection.

        Raises:
            UnknownProduct: There is no such product.
            CertificateUnavailable: Its verdicts cannot be certified.
            ConfigError: A text is too long or cannot be stored, or an artefact is unknown.
            QueueFull: Too many images wait.
            Stopping: The service stops.
        """
        check_request(request)
        check_artefacts(request.artefacts)
        product = self._products.get(request.product)
        if request.certify:
            product.certifier()
        job = Job(request, None if patient else self._settings.deadline_s)
        self._queue.put(job)
        return job.future

    def check_room(self) -> None:
        """Refuse an image before it is read, as :meth:`submit` would.

        Raises:
            QueueFull: Too many images wait.
            Stopping: The service stops.
        """
        self._queue.check()

    def redraw(self, inspection_id: str, names: Collection[str]) -> dict[str, bytes]:
        """Draw images of an inspection of the history, by judging its image again.

        Args:
            inspection_id: Identity of the inspection.
            names: Wanted ones of ``map``, ``overlay`` and ``reconstruction``.

        Returns:
            PNG files by name. One that the detector does not make is missing.

        Raises:
            UnknownInspection: There is no such inspection.
            ArtefactUnavailable: Its image was deleted, or its model is not the one that inspects now.
            ConfigError: A name is unknown.
            DeadlineExceeded: The detector has no time.
            ModelFailed: The model gives no score now.
            StoreUnavailable: The history cannot be read.
        """
        check_artefacts(names)
        found = self._store.inspections.get(inspection_id)
        product = self._products.get(found.product)
        if product.model != found.model:
            raise ArtefactUnavailable(
                f"the model of {found.product} was replaced after this inspection", "its score and verdict are kept"
            )
        judge, seconds = product.judge, self._settings.deadline_s
        with _in_turn(self._drawing, seconds):
            picture = self._store.pictures.read(found.picture)
            image = read_picture(judge, picture, found.file_name, keep_full="overlay" in names)
            with _in_turn(self._turn(product), seconds):
                [judged] = decide_all(judge, [image], None if found.calibration == 0 else found.threshold)
            if isinstance(judged, ModelFailed):
                raise judged
            if "overlay" in names and _has_proven_area(found):
                threshold = None if product.guarded else found.details["certificate"]["certified_threshold"]
                judged = certified(judged, product.certifier(threshold, search_reach=False), found.file_name)
            return draw_artefacts(judge, judged, names)

    # --- Threads ---

    def _run(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, *, certify: bool = False) -> None:
        while jobs := self._queue.take(self._settings.batch, self._workers, certify=certify):
            began = time.monotonic()
            try:
                self._inspect(jobs)
            except Exception as error:  # the thread must go on; who waits is told
                if not isinstance(error, AdvradError):
                    structlog.get_logger(_LOG).exception("a defect of advrad")
                for job in jobs:
                    job.fail(error)
            finally:
                self._queue.release(jobs, time.monotonic() - began)

    def _turn(self, product: Product) -> threading.Lock | threading.BoundedSemaphore:
        """What must be held while a product's detector computes."""
        return self._side_by_side if product.side_by_side else self._computing

    def _inspect(self, jobs: Sequence[Job]) -> None:
        """Judge images of any products, and store them in one transaction."""
        ready: list[_Ready] = []
        for name in dict.fromkeys(job.request.product for job in jobs):
            mine = [job for job in jobs if job.request.product == name]
            try:
                product = self._products.get(name)
                version = self._store.thresholds.active(name, product.model)
            except AdvradError as error:
                for job in mine:
                    job.fail(error)
                continue
            ready += self._judged(product, version, mine)
        self._store_all(ready)

    def _judged(self, product: Product, version: ThresholdVersion | None, jobs: Iterable[Job]) -> Iterator[_Ready]:
        """Judge images of one product; those that fail are answered."""
        batch: list[tuple[Job, LoadedImage]] = []
        pixels = 0
        for job in jobs:
            if not job.is_open:
                continue
            request = job.request
            keep_full = request.certify or "overlay" in request.artefacts
            try:
                image = read_picture(product.judge, request.picture, request.file_name, keep_full=keep_full)
            except (AdvradError, RuntimeError, MemoryError) as error:
                job.fail(error if isinstance(error, AdvradError) else _failed(error))
                continue
            batch.append((job, image))
            pixels += image.height_px * image.width_px if keep_full or product.exported else 0
            if pixels > LARGE_PIXELS:
                yield from self._decided(product, version, batch)
                batch, pixels = [], 0
        yield from self._decided(product, version, batch)

    def _decided(
        self, product: Product, version: ThresholdVersion | None, batch: Sequence[tuple[Job, LoadedImage]]
    ) -> Iterator[_Ready]:
        threshold = None if version is None or product.guarded else version.threshold
        with self._turn(product):
            found = decide_all(product.judge, [image for _, image in batch], threshold)
        for (job, _), judged in zip(batch, found, strict=True):
            try:
                if isinstance(judged, ModelFailed):
                    raise judged
                yield self._described(product, version, job, judged)
            except (AdvradError, RuntimeError, MemoryError) as error:
                job.fail(error if isinstance(error, AdvradError) else _failed(error))

    def _described(self, product: Product, version: ThresholdVersion | None, job: Job, judged: Judged) -> _Ready:
        """What the history keeps of a judged image, without its identity, and what is drawn of it."""
        request, prediction = job.request, judged.prediction
        if request.certify:
            threshold = None if judged.calibrated_threshold is None else prediction.threshold
            judged = certified(judged, product.certifier(threshold, before_each=job.check), request.file_name)
        statistics = statistics_of(product.judge, judged.image)
        facts = {
            "product": product.name,
            "at": job.at,
            "picture": self._store.pictures.put(request.picture),
            "file_name": request.file_name,
            "part_id": request.part_id,
            "station": request.station,
            "height_px": judged.image.height_px,
            "width_px": judged.image.width_px,
            "score": prediction.score if math.isfinite(prediction.score) else None,
            "threshold": prediction.threshold,
            "defective": prediction.defective,
            "verdict": prediction.verdict,
            "calibration": 0 if judged.calibrated_threshold is None or version is None else version.version,
            "model": product.model,
            "brightness": statistics.brightness,
            "sharpness": statistics.sharpness,
            "details": details_of(judged),
            "source": request.source,
        }
        return _Ready(job, facts, draw_artefacts(product.judge, judged, request.artefacts))

    def _store_all(self, ready: Sequence[_Ready]) -> None:
        """Store what nobody has given up in one transaction, answer, and watch for drift."""
        with self._storing:
            mine = [one for one in ready if one.job.claim()]
            if not mine:
                return
            try:
                new = [Inspection(id=self._store.inspections.new_id(), **one.facts) for one in mine]
                stored = self._store.inspections.add_many(new, self._sinks)
            except Exception as error:
                for one in mine:
                    one.job.future.set_exception(error)
                raise
            known = [before.id != after.id for before, after in zip(new, stored, strict=True)]
            for one, inspection, old in zip(mine, stored, known, strict=True):
                one.job.future.set_result(InspectionAnswer(inspection, one.artefacts, old))
            self._tell([inspection for inspection, old in zip(stored, known, strict=True) if not old])

    def _tell(self, stored: Sequence[Inspection]) -> None:
        """Tell who waits for new inspections."""
        if not stored:
            return
        if self._wake is not None:
            self._wake()
        if self._monitor is None:
            return
        log = structlog.get_logger(_LOG)
        try:
            for alarm in self._monitor.observe(stored):
                log.warning("drift", product=alarm.product, alarm=alarm.words)
        except AdvradError as error:  # the inspections are stored and answered, and the monitor reads them again
            log.error("the state of the drift monitor is not saved", reason=str(error))


@contextmanager
def _in_turn(lock: threading.Lock | threading.BoundedSemaphore, timeout_s: float) -> Iterator[None]:
    """Hold a lock, for which to wait so long at most."""
    if not lock.acquire(timeout=timeout_s):
        raise DeadlineExceeded("there was no time to draw this inspection", "try again when fewer images are sent")
    try:
        yield
    finally:
        lock.release()


def _has_proven_area(found: Inspection) -> bool:
    """Whether a certificate proved an area of the image to be defective, which belongs into an overlay."""
    return bool(found.details.get("certificate", {}).get("certified") == "proven defective")


def check_artefacts(names: Collection[str]) -> None:
    """Refuse names of images that nobody draws.

    Args:
        names: Wanted images.

    Raises:
        ConfigError: A name is unknown.
    """
    unknown = sorted(set(names).difference(ARTEFACTS))
    if unknown:
        raise ConfigError(f"must be some of {', '.join(ARTEFACTS)}", option="artefacts", value=ascii(unknown[0][:40]))


def _failed(error: Exception) -> ModelFailed:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ModelFailed(reason, "check the model folder and the memory, and send the image again")
