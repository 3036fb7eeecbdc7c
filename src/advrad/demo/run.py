"""The whole way on a made-up product: images, training, evaluation, report, model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advrad.data.layouts import find_records
from advrad.demo.flange.render import write_product
from advrad.detectors.config import RecordedFigures
from advrad.detectors.loading import load_detector
from advrad.detectors.model_folder import CONFIG_NAME, save_figures
from advrad.inference.evaluation import evaluate
from advrad.report.content import report_content
from advrad.report.evaluation_report import write_report
from advrad.training.options import RunOptions
from advrad.training.plan import plan_path
from advrad.training.run import train
from advrad.utils.files import make_folder
from advrad.utils.progress import ProgressReporter

PRODUCT_NAME = "flange"
REPORT_NAME = "report.html"

DEFAULT_MINUTES = 4.25
"""Of the training; making the product, evaluating and the report take another half minute on two cores."""


@dataclass(frozen=True)
class Demo:
    """What the demonstration left behind.

    Attributes:
        data: folder of the made-up product.
        run: the model folder.
        report: the HTML report.
        figures: as of :func:`advrad.inference.evaluation.evaluate`.
    """

    data: Path
    run: Path
    report: Path
    figures: dict[str, Any]


def demo(folder: Path, options: RunOptions, progress: ProgressReporter, product: dict[str, int] | None = None) -> Demo:
    """Make the product, train, evaluate, and write the report. What an earlier call finished is kept.

    Args:
        folder: for everything; becomes the model folder too.
        options: of the training, ``DEFAULT_MINUTES`` long if they do not say; its seed is the product's too.
        progress: Receives the progress.
        product: numbers and size of the images, as :func:`advrad.demo.flange.render.write_product` names them.

    Raises:
        OutputError: the folder holds something else, or cannot be written.
        ConfigError: an option contradicts those that an interrupted training was begun with.
    """
    make_folder(folder)
    progress.stage("Making the product")
    data = write_product(folder / PRODUCT_NAME, options.seed, progress=progress, **(product or {}))
    if options.minutes is None and options.steps is None and not plan_path(folder).is_file():
        options = options.model_copy(update={"minutes": DEFAULT_MINUTES})
    if not (folder / CONFIG_NAME).is_file():
        train(data, folder, options, resume=True, progress=progress)
    detector = load_detector(folder)
    progress.stage("Evaluating")
    evaluation = evaluate(detector, find_records(data), progress=progress)
    save_figures(folder, RecordedFigures.model_validate(evaluation.figures))
    progress.stage("Writing the report")
    report = folder / REPORT_NAME
    write_report(report, report_content(evaluation, detector, folder))
    return Demo(data, folder, report, evaluation.figures)
