"""The demonstration: render a synthetic product, make two detectors, and report what they find and what is proven."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from advrad.certificates.pipeline import certify
from advrad.certificates.results import CertificationResult
from advrad.data.layouts import find_records
from advrad.demo.flange.render import write_product
from advrad.detectors.loading import load_detector, load_target, save_figures
from advrad.detectors.model_folder import CONFIG_NAME
from advrad.detectors.saved import SavedDetector
from advrad.errors import OutputError
from advrad.inference.evaluation import EvaluationResult, evaluate
from advrad.report.comparison import OtherDetector
from advrad.report.content import report_content
from advrad.report.evaluation_report import write_report
from advrad.training.options import RunOptions
from advrad.training.plan import plan_path
from advrad.training.run import train
from advrad.utils.output_folders import claim_folder
from advrad.utils.progress import SILENT, ProgressReporter

PRODUCT_NAME = "flange"
LEARNED_NAME = "learned"
REPORT_NAME = "report.html"

DEFAULT_MINUTES = 0.8
"""Minutes for the learned denoiser. Everything else takes less than two minutes on two cores."""

RADII = ("1/255", "2/255", "4/255")
"""Radii that are certified, linf."""

CERTIFIED_IMAGES = 24
"""Number of test images that are certified, half of them normal."""


@dataclass(frozen=True)
class DemoResult:
    """Results of the demonstration.

    Attributes:
        data: Folder of the synthetic product.
        run: Model folder of the closed form.
        learned_run: Model folder of the learned denoiser.
        report: HTML report.
        evaluation: Evaluation of the closed form on the product's test images.
        learned: Evaluation of the learned denoiser on the same images.
        certificate: What is proven of the closed form.
    """

    data: Path
    run: Path
    learned_run: Path
    report: Path
    evaluation: EvaluationResult
    learned: EvaluationResult
    certificate: CertificationResult


def run_demo(folder: Path, options: RunOptions, progress: ProgressReporter = SILENT) -> DemoResult:
    """Render the product, fit the closed form, train a denoiser, evaluate both, and write a report.

    Stages that an earlier call finished in the same folder are not repeated.

    Args:
        folder: Folder for all results; it becomes the model folder of the closed form.
        options: Training options. Without ``minutes`` and ``steps``, the learned denoiser gets ``DEFAULT_MINUTES``. The
            seed is also the seed of the product.
        progress: Receives the progress.

    Returns:
        The files, the evaluations and the certificate.

    Raises:
        OutputError: The folder holds files that advrad did not write, or another model, or cannot be written.
        ConfigError: An option contradicts the options of the interrupted training in this folder.

    Example:
        Not run by the tests, because it trains for a minute.

        >>> result = run_demo(Path("demo-run"), RunOptions())  # doctest: +SKIP
        >>> result.evaluation.image_auroc, result.certificate.certified_auroc[2 / 255]  # doctest: +SKIP
        (1.0, 0.97)
    """
    claim_folder(folder, "demonstration")
    progress.stage("Rendering the images")
    data = write_product(folder / PRODUCT_NAME, options.seed, progress=progress)
    closed_form = _closed_form(data, folder, options, progress)
    learned = _learned(data, folder / LEARNED_NAME, options, progress)
    evaluation = _evaluated(closed_form, data, folder, progress)
    other = OtherDetector(learned, _evaluated(learned, data, folder / LEARNED_NAME, progress))
    progress.stage("Certifying")
    certificate = certify(
        load_target(str(folder)), data, norm="linf", radii=RADII, limit=CERTIFIED_IMAGES, progress=progress
    )
    progress.stage("Writing the report")
    report = folder / REPORT_NAME
    write_report(report, report_content(evaluation, closed_form, folder, others=[other]))
    return DemoResult(data, folder, folder / LEARNED_NAME, report, evaluation, other.evaluation, certificate)


def _closed_form(data: Path, folder: Path, options: RunOptions, progress: ProgressReporter) -> SavedDetector:
    """The closed form, which is fitted unless an earlier call has done so."""
    if not (folder / CONFIG_NAME).is_file():
        given = {name: getattr(options, name) for name in options.model_fields_set - {"minutes", "steps"}}
        train(data, folder, RunOptions(**given), resume=True, progress=progress)
    detector = load_detector(folder)
    if detector.config.kind != "closed_form":
        raise OutputError(f"{folder}: holds another model, perhaps of an older demonstration; give another folder")
    return detector


def _learned(data: Path, folder: Path, options: RunOptions, progress: ProgressReporter) -> SavedDetector:
    """The learned denoiser, whose training is finished unless an earlier call has done so."""
    if not (folder / CONFIG_NAME).is_file():
        budget: dict[str, object] = {"denoiser": "lean"}
        if options.minutes is None and options.steps is None and not plan_path(folder).is_file():
            budget["minutes"] = DEFAULT_MINUTES
        train(data, folder, options.model_copy(update=budget), resume=True, progress=progress)
    return load_detector(folder)


def _evaluated(detector: SavedDetector, data: Path, folder: Path, progress: ProgressReporter) -> EvaluationResult:
    """Evaluate a detector, and store the figures in its model folder."""
    progress.stage("Evaluating")
    evaluation = evaluate(detector, find_records(data), progress=progress)
    save_figures(folder, evaluation.figures)
    return evaluation
