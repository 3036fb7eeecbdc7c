"""A watched folder with its model, history, sinks and drift alarm, put together, started, and stopped in order."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from advrad.errors import AdvradError, ConfigError
from advrad.serving.drift import DriftMonitor
from advrad.serving.errors import StoreUnavailable
from advrad.serving.inspecting import InspectionService
from advrad.serving.products import Product, ProductTable
from advrad.serving.settings import ServeSettings
from advrad.serving.sinks import Deliverer, load_sinks
from advrad.serving.store import Store
from advrad.serving.watching.files import shown
from advrad.serving.watching.options import WatchOptions
from advrad.serving.watching.watcher import WINDOW_BYTES, Stop, Watcher, WatchReporter, WatchSummary
from advrad.utils.threads import one_thread_each

_RETENTION_S = 600.0


def watch(
    folder: Path,
    product: str,
    run: Path,
    settings: ServeSettings,
    options: WatchOptions,
    reporter: WatchReporter,
    stop: Stop,
) -> WatchSummary:
    """Inspect what lands in a folder, until told to stop; what was taken by then is finished.

    Args:
        folder: Folder to watch, with all folders below.
        product: Name of the product.
        run: Its model folder or export.
        settings: Settings of the history, the sinks and the model: ``data`` is the folder of the history, and of files
            that are set aside. Settings about HTTP do not count.
        options: Options of the watched folder.
        reporter: Is told what happens.
        stop: Is set to end.

    Returns:
        What was done.

    Raises:
        ConfigError: The folder cannot be watched, or an option or a sink is wrong.
        CheckpointError: The model cannot be loaded.
        OutputError: The folder of the history cannot be used.
        StoreUnavailable: The database cannot be reached.
    """
    _check_folders(folder, settings.data, options)
    sinks = [] if settings.sinks is None else load_sinks(settings.sinks, settings.deliverer("watch"))
    threads = one_thread_each()
    room_mb = options.max_file_mb + 2 * WINDOW_BYTES / 1e6
    limits = settings.model_copy(update={"queue_mb": max(settings.queue_mb, room_mb)})
    with ExitStack() as stack:
        store = stack.enter_context(Store.open(settings.db, settings.data))
        monitor = DriftMonitor(store)
        stack.callback(_close_monitor, monitor, reporter)

        def loaded(one: Product) -> None:
            if options.certify:
                one.certifier()
            monitor.watch(one.name, one.model, one.calibration)
            status = monitor.status(one.name)
            if status["alarm"] or not (status["watched"] or options.once):
                reporter.note(f"drift: {status['words']}")

        table = ProductTable(
            {product: run}, max_pixels=settings.max_pixels, device=settings.device, threads=threads, on_load=loaded
        )
        deliverer = Deliverer(store.outbox, sinks, tell=reporter.note)
        service = InspectionService(
            store, table, monitor, limits, sinks=deliverer.names, wake=deliverer.wake, threads=threads
        )
        watcher = Watcher(
            folder,
            product,
            service,
            lambda key: store.inspections.by_source(key) is not None,
            settings.data,
            options,
            reporter,
        )
        stack.callback(_tell_pending, store, deliverer.names, reporter)
        deliverer.start()
        stack.callback(deliverer.stop, settings.stop_s)
        service.start()
        stack.callback(service.stop, settings.stop_s)
        table.start()
        stack.callback(table.stop)
        stack.enter_context(_Retention(store, settings, reporter))
        if not options.once:
            reporter.note(f"watching {shown(folder)}")
        return watcher.run(stop)


def _close_monitor(monitor: DriftMonitor, reporter: WatchReporter) -> None:
    """Save what the monitor has seen; where that fails, it reads the history again at the next start."""
    try:
        monitor.close()
    except StoreUnavailable as error:
        reporter.note(f"drift: the state is not saved, and is made anew at the next start: {error}")


def _tell_pending(store: Store, sinks: Sequence[str], reporter: WatchReporter) -> None:
    """Tell what waits for the next start."""
    try:
        waiting = store.outbox.waiting()
    except StoreUnavailable as error:
        reporter.note(f"what is still to be delivered is not known: {error}")
        return
    for name in sinks:
        if count := waiting.get(name):
            reporter.note(f"sink {name}: {count} not delivered yet, and kept for the next start")


def _check_folders(folder: Path, out: Path, options: WatchOptions) -> None:
    """Refuse folders that cannot be watched or written.

    Raises:
        ConfigError: One cannot.
    """
    if not folder.exists():
        raise ConfigError(f"{folder}: there is no such folder; create it first, or correct the name")
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; name the folder in which files land")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ConfigError(f"{folder}: cannot be listed (permission denied); give this user the right to read it")
    real = os.path.realpath(folder)
    if os.path.realpath(out) == real:
        raise ConfigError("must not be the watched folder; name another one", option="output", value=str(out))
    if options.move_to is None:
        return
    if os.path.realpath(options.move_to) == real:
        raise ConfigError("must not be the watched folder; name another one", option="move_to", value=options.move_to)
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder}: files cannot be moved out of it (permission denied)", option="move_to")


class _Retention:
    """Deletes old images now and again, in a thread, while a block runs."""

    def __init__(self, store: Store, settings: ServeSettings, reporter: WatchReporter) -> None:
        self._store, self._reporter = store, reporter
        self._age = None if settings.keep_days is None else timedelta(days=settings.keep_days)
        self._size = None if settings.keep_gb is None else int(settings.keep_gb * 1e9)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="advrad-retention", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                self._store.retention.apply(datetime.now(UTC), self._age, self._size)
            except AdvradError as error:
                self._reporter.note(f"old images were not deleted: {error}")
            if self._stop.wait(_RETENTION_S):
                return
