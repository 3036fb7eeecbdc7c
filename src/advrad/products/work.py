"""What is done for one product: fit and threshold, figures on its test images, export, and what to warn of."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from advrad import __version__
from advrad.data.dataset_digest import image_digest
from advrad.data.layouts import Dataset, find_records
from advrad.data.splits import LEAST_IN_PART_A, normals_needed
from advrad.data.trained_images import trained_on
from advrad.detectors.exported_folder import is_export, read_export_config
from advrad.detectors.loading import load_detector, save_figures
from advrad.detectors.model_folder import CONFIG_NAME
from advrad.detectors.saved import SavedDetector, seen_by
from advrad.errors import AdvradError, CheckpointError, ConfigError, DataError, OutputError
from advrad.exporting.run import ENGINES, export
from advrad.inference.evaluation import EvaluationResult, evaluate
from advrad.products.conditions import warn_of_drift
from advrad.products.record import Places, ProductRecord, Seconds
from advrad.products.shares import share_interval
from advrad.products.table import Product
from advrad.report.content import report_content
from advrad.report.evaluation_report import write_report
from advrad.training.run import train
from advrad.utils.files import explain, make_folder
from advrad.utils.formatting import percent
from advrad.utils.memory import is_out_of_memory
from advrad.utils.output_folders import EXPORT_NAME, contents_of
from advrad.utils.progress import SilentReporter
from advrad.utils.threads import threads_in_words

#: Seconds that a process has to end which makes a product for a run that was killed.
_WAIT_S = 60.0


class Notes(SilentReporter):
    """Keeps what a step says, each sentence once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        """Keep a message."""
        if text not in self.texts and text != threads_in_words():
            self.texts.append(text)


@dataclass(frozen=True, slots=True)
class ProductWork:
    """Makes the model of a product; it may run in another process or on another machine that sees the same files.

    Attributes:
        folder: Folder of all products.

    Example:
        Not run here, because it trains.

        >>> next(ProductWork(Path("models"))(Product("bottle", Path("images"))))  # doctest: +SKIP
        ProductRecord(name='bottle', state='finished', ...)
    """

    folder: Path

    def __call__(self, product: Product) -> Iterator[ProductRecord]:
        """Make the model of a product, unless it is made, and give what is known of it.

        What goes wrong with this product is told in its record, so that the others go on.

        Args:
            product: The product.

        Yields:
            The record, once.

        Raises:
            OutputError: The record cannot be written, or the product cannot be locked.
        """
        if contents_of(self.folder) != "products":
            raise DataError(
                f"{self.folder}: is not there on this machine; name a folder that all machines share under the same"
                " path"
            )
        places = Places(self.folder)
        try:
            with _alone(places.lock(product.name)):
                record = _Making(product, places).execute()
        except _Untouched as error:
            words = _words(error, product)
            record = ProductRecord(name=product.name, state="failed", error=words, settings=product.settings)
        yield record


class _Untouched(DataError):
    """What is there of a product stays as it is: it is of other images, or another process is at it."""


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from a product while the block runs, also those of a run that was killed.

    Args:
        path: File that is locked; its folder is made.

    Raises:
        OutputError: The file cannot be locked.
        _Untouched: Another process keeps the product.
    """
    from filelock import FileLock, Timeout

    make_folder(path.parent)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_WAIT_S)
    except Timeout:
        raise _Untouched(f"{path}: another process makes this product; wait until it has ended") from None
    except OSError as error:
        raise OutputError(f"{path}: cannot be locked: {explain(error)}") from error
    try:
        yield
    finally:
        lock.release()


def _words(error: Exception, product: Product) -> str:
    """An error on one line, with its type unless it was raised on purpose; options are called as in the table."""
    if is_out_of_memory(error):
        return "there is not enough memory; use fewer jobs, or a smaller size"
    text = str(error)
    if isinstance(error, ConfigError) and error.option is not None:
        text = error.named(product.column_of(error.option))
    text = " ".join(text.split())
    return _plain(text if isinstance(error, AdvradError) and text else f"{type(error).__name__}: {text}".rstrip(": "))


def _plain(text: str) -> str:
    """A text that can be stored: names of files need not be valid Unicode."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass
class _Making:
    """The steps of one product.

    Attributes:
        product: The product.
        places: Where its files lie.
        notes: What the steps say.
    """

    product: Product
    places: Places
    notes: Notes = field(default_factory=Notes)

    def execute(self) -> ProductRecord:
        """Do what is left to do, and record the product; one that is finished is left as it is.

        Raises:
            OutputError: The record cannot be written.
            _Untouched: The model that is there was made from other images, or it is not known from which.
        """
        began, product = time.perf_counter(), self.product
        before = self._before()
        record = ProductRecord(name=product.name, state="begun", settings=product.settings, export=product.export)
        try:
            dataset = find_records(product.data, product.options.data)
            record = record.model_copy(update=_digests(dataset))
            if before is not None:
                self._check_images(before, record, dataset)
                if self._is_done(before, record):
                    return before
        except _Untouched:
            raise
        except Exception as error:  # a datamodule in a Python file may raise anything
            record = (before or record).model_copy(update={"state": "failed", "error": _words(error, product)})
            self.places.write(record)
            return record
        record = self._begun(before, record)
        self.places.write(record)
        try:
            record = self._made(record, dataset)
        except Exception as error:  # a detector in a Python file may raise anything
            record = record.model_copy(update={"state": "failed", "error": _words(error, product)})
        seconds = record.seconds.model_copy(update={"in_all": round(time.perf_counter() - began, 2)})
        record = record.model_copy(update={"notes": tuple(map(_plain, self.notes.texts)), "seconds": seconds})
        self.places.write(record)
        return record

    @property
    def _fix(self) -> str:
        """What to do about a model that does not belong to the images."""
        return f"delete {self.places.model(self.product.name)} to make it anew, or take another name"

    @property
    def _unknown(self) -> _Untouched:
        """The error about a model of which it is not known from which images it was made."""
        model = self.places.model(self.product.name)
        return _Untouched(f"{model}: it is not recorded what this model was made from; {self._fix}")

    def _before(self) -> ProductRecord | None:
        """The record of an earlier run that belongs to the model that is there; None without a model."""
        name = self.product.name
        if not self.places.holds_model(name):
            return None
        try:
            before = self.places.read(name)
        except DataError as error:
            raise _Untouched(str(error)) from None
        if before is None:
            raise self._unknown
        return before

    def _check_images(self, before: ProductRecord, now: ProductRecord, dataset: Dataset) -> None:
        """Refuse normal images from which the model that is there was not made."""
        if before.trained_on == now.trained_on:
            return
        if before.trained_on:
            words = "the normal images are not those from which the model was made"
            raise _Untouched(f"{self.product.data}: {words}; {self._fix}")
        if not self._was_made_from(dataset):
            raise self._unknown

    def _was_made_from(self, dataset: Dataset) -> bool:
        """Whether the model itself says that it was made from the normal images of a data set, all of them."""
        model = self.places.model(self.product.name)
        if not (model / CONFIG_NAME).is_file():
            return True  # its training, which has not ended, compares the images with its plan
        detector = load_detector(model)
        counts = detector.config.training.images
        normal = [record for record in dataset.records if record.split == "train"]
        known = len(trained_on(normal, seen_by(detector)))
        return counts is not None and known == len(normal) == counts.total

    def _is_done(self, before: ProductRecord, now: ProductRecord) -> bool:
        """Whether nothing is left to do; test images that have changed are evaluated anew."""
        if not before.finished or before.images != now.images:
            return False
        if now.export is not None and (now.export != before.export or not self.places.holds_export(now.name)):
            return False
        return not self.product.report or before.figures is None or self.places.report(now.name).is_file()

    def _begun(self, before: ProductRecord | None, now: ProductRecord) -> ProductRecord:
        """The record while the steps are done; what is known of the same model and images stays in it."""
        if before is not None and before.images == now.images and before.figures is not None:
            kept = now.model_dump(include={"state", "error", "settings", "export", "images", "trained_on"})
            return before.model_copy(update=kept)
        report = self.places.report(now.name)
        try:
            report.unlink(missing_ok=True)  # of an earlier model, or of other test images
        except OSError as error:
            raise OutputError(f"{report}: cannot be removed: {explain(error)}") from error
        return now

    def _made(self, record: ProductRecord, dataset: Dataset) -> ProductRecord:
        """Make the model, measure and export it, and describe all."""
        product, model, began = self.product, self.places.model(self.product.name), time.perf_counter()
        make_folder(model.parent)
        train(product.data, model, product.options, resume=True, progress=self.notes)
        detector = load_detector(model)  # what was saved is what counts from here on
        trained = time.perf_counter()
        result = self._evaluated(detector, dataset)
        evaluated = time.perf_counter()
        exported = self._exported()
        ended = time.perf_counter()
        calibration, counts = detector.config.calibration, detector.config.training.images
        warnings = [*self._few(detector), *([] if result is None else (*result.warnings, *_alarms(result, detector)))]
        warnings += [*warn_of_drift(dataset, product.options.data, product.options.seed), *self._left_export()]
        found = {
            "state": "finished",
            "advrad": __version__,
            "n_normal": None if counts is None else counts.train + counts.selection + counts.calibration,
            "kind": detector.config.kind,
            "threshold": None if calibration is None else calibration.threshold,
            "false_alarm_rate": None if calibration is None else calibration.false_alarm_rate,
            "figures": None if result is None else result.figures,
            "model_bytes": _size(model),
            "export_bytes": None if exported is None else _size(exported),
            "warnings": tuple(map(_plain, warnings)),
            "seconds": Seconds(
                train=round(trained - began, 2),
                evaluate=None if result is None else round(evaluated - trained, 2),
                export=None if exported is None else round(ended - evaluated, 2),
            ),
        }
        return record.model_copy(update=found)

    def _evaluated(self, detector: SavedDetector, dataset: Dataset) -> EvaluationResult | None:
        """Figures on the test images, saved in the model folder; None without test images."""
        if not any(record.split == "test" for record in dataset.records):
            return None
        options, model = self.product.options, self.places.model(self.product.name)
        result = evaluate(detector, dataset, options=options.data, seed=options.seed)
        result.save(model)
        save_figures(model, result.figures)
        for note in result.notes:
            self.notes.note(note)
        if not self.product.report:
            return result
        data, report = options.data, self.places.report(self.product.name)
        make_folder(report.parent)
        content = report_content(result, detector, model, max_pixels=data.max_pixels, value_range=data.value_range)
        write_report(report, content)
        return result

    def _exported(self) -> Path | None:
        """The export that the table asks for; None for none. One of this model that is there from before is kept."""
        product, place = self.product, self.places.export(self.product.name)
        if product.export is None:
            return None
        if self.places.holds_export(product.name):
            if read_export_config(place).engine != ENGINES[product.export]:
                raise DataError(f"{place}: holds an export of another form; delete it to export anew")
            return place
        if is_export(place):
            _remove_export(place)
        make_folder(place.parent)
        data = product.data
        export(self.places.model(product.name), place, to=product.export, data=data, progress=self.notes)
        return place

    def _left_export(self) -> list[str]:
        """Warn of an export of an earlier model, where the table asks for none."""
        place = self.places.export(self.product.name)
        if self.product.export is not None or not is_export(place):
            return []
        with suppress(CheckpointError):  # a damaged one is not of this model either
            if self.places.holds_export(self.product.name):
                return []
        return [f"{place.relative_to(self.places.folder).as_posix()} holds an export of another model; delete it."]

    def _few(self, detector: SavedDetector) -> list[str]:
        """Warn of a detector that could not be fitted to its product."""
        counts = detector.config.training.images
        if detector.config.kind != "closed_form" or counts is None or counts.train > 0:
            return []
        enough = normals_needed(self.product.options.false_alarm_rate) + LEAST_IN_PART_A
        return [
            f"There are only {counts.calibration} normal images, which all set the threshold: how images are compared"
            f" is not fitted to the product, and parts that move are not found. From {enough} images on it is."
        ]


def _digests(dataset: Dataset) -> dict[str, str]:
    """Digests of all images, and of those of the training alone."""
    train = replace(dataset, records=tuple(record for record in dataset.records if record.split == "train"))
    return {"images": image_digest(dataset), "trained_on": image_digest(train)}


def _remove_export(place: Path) -> None:
    """Remove the export of an earlier model, unless something else is beside it."""
    own = {*read_export_config(place).files, EXPORT_NAME}
    try:
        files = sorted(place.iterdir(), key=lambda path: path.name == EXPORT_NAME)  # that one last
        others = [path.name for path in files if path.name not in own and not path.name.startswith(".")]
        if others:
            raise DataError(
                f"{place}: holds {others[0]} beside the export of an earlier model; move it away, or delete the folder,"
                " to export anew"
            )
        for path in files:
            if path.name in own:
                path.unlink()
    except OSError as error:
        raise OutputError(f"{place}: cannot be removed: {explain(error)}") from error


def _alarms(result: EvaluationResult, detector: SavedDetector) -> list[str]:
    """Warn of more false alarms on the test images than were promised."""
    calibration = detector.config.calibration
    if calibration is None or result.fpr is None:
        return []
    alarms, rate = round(result.fpr * result.n_normal), calibration.false_alarm_rate
    if share_interval(alarms, result.n_normal)[0] <= rate:
        return []
    return [
        f"{alarms} of the {result.n_normal} normal test images are called defective, far more than the {percent(rate)}"
        " that were promised for images like those of the training: other pieces, light or position."
    ]


def _size(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
