"""The demonstration: render a synthetic product, train, evaluate, and write a report and a model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from advrad.data.layouts import find_records
from advrad.demo.flange.render import write_product
from advrad.detectors.loading import load_advrad, save_figures
from advrad.detectors.model_folder import CONFIG_NAME
from advrad.inference.evaluation import EvaluationResult, evaluate
from advrad.report.content import report_content
from advrad.report.evaluation_report import write_report
from advrad.training.options import RunOptions
from advrad.training.plan import plan_path
from advrad.training.run import train
from advrad.utils.files import make_folder
from advrad.utils.progress import SILENT, ProgressReporter

PRODUCT_NAME = "flange"
REPORT_NAME = "report.html"

DEFAULT_MINUTES = 4.25
"""Minutes of training. Rendering, evaluation and report take another half minute on two cores."""


@dataclass(frozen=True)
class DemoResult:
    """Results of the demonstration.

    Attributes:
        data: Folder of the synthetic product.
        run: Model folder.
        report: HTML report.
        evaluation: Evaluation of the trained detector on the product's test images.
    """

    data: Path
    run: Path
    report: Path
    evaluation: EvaluationResult


def run_demo(folder: Path, options: RunOptions, progress: ProgressReporter = SILENT) -> DemoResult:
    """Render the product, train a detector, evaluate it, and write a report.

    Stages that an earlier call finished in the same folder are not repeated.

    Args:
        folder: Folder for all results; it becomes the model folder.
        options: Training options. Without ``minutes`` and ``steps``, training takes ``DEFAULT_MINUTES``. The seed is
            also the seed of the product.
        progress: Receives the progress.

    Returns:
        The files and the evaluation.

    Raises:
        OutputError: The folder holds something else, or cannot be written.
        ConfigError: An option contradicts the options of the interrupted training in this folder.

    Example:
        Not run by the tests, because it trains for minutes.

        >>> result = run_demo(Path("demo-run"), RunOptions())  # doctest: +SKIP
        >>> result.evaluation.image_auroc  # doctest: +SKIP
        0.97
    """
    make_folder(folder)
    progress.stage("Rendering the images")
    data = write_product(folder / PRODUCT_NAME, options.seed, progress=progress)
    if options.minutes is None and options.steps is None and not plan_path(folder).is_file():
        options = options.model_copy(update={"minutes": DEFAULT_MINUTES})
    if not (folder / CONFIG_NAME).is_file():
        train(data, folder, options, resume=True, progress=progress)
    detector = load_advrad(folder)
    progress.stage("Evaluating")
    evaluation = evaluate(detector, find_records(data), progress=progress)
    save_figures(folder, evaluation.figures)
    progress.stage("Writing the report")
    report = folder / REPORT_NAME
    write_report(report, report_content(evaluation, detector, folder))
    return DemoResult(data, folder, report, evaluation)
