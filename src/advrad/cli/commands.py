"""What the larger commands do once their options are read: work, and tell of it on the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from advrad.attacks import pipeline as audits
from advrad.attacks.options import AttackOptions
from advrad.attacks.threat import Threat
from advrad.certificates import pipeline as certificates
from advrad.certificates.options import CertifyOptions, PredictionCertificateOptions
from advrad.cli.console import Screen, show_attack, show_certificates, show_checks, show_curve, show_figures
from advrad.cli.exit_status import INTERRUPTED
from advrad.cli.terminal import is_first_process, open_page, paths_from_stdin, put, put_json, warn
from advrad.data.layouts import Dataset, find_records
from advrad.data.options import DataOptions
from advrad.data.paths import expand_paths
from advrad.demo import run as demonstration
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.loading import load_detector, load_target
from advrad.detectors.score_config import describe
from advrad.errors import ConfigError, DataError, ImageError
from advrad.inference.evaluation import EvaluationResult, evaluate
from advrad.inference.prediction import PredictionRecord, predict_paths
from advrad.report.content import report_content
from advrad.report.evaluation_report import write_report
from advrad.report.plots import draw_certificates, draw_curve
from advrad.training import recalibrate as calibration
from advrad.training import run as runs
from advrad.training.options import CalibrateOptions, RunOptions
from advrad.training.plan import plan_path
from advrad.utils.files import write_json
from advrad.utils.formatting import quoted


def train(data: Path, folder: Path, options: RunOptions, resume: bool) -> int:
    """Train, and say what was made and what to type next; the arguments are those of :func:`advrad.training.run.train`.

    Returns:
        The exit status.
    """
    with Screen() as screen:
        try:
            detector = runs.train(data, folder, options, resume=resume, progress=screen)
        except KeyboardInterrupt:
            screen.close()
            return _interrupted(screen, folder, f"advrad train {quoted(data)} -o {quoted(folder)} --resume")
    if not is_first_process():
        return 0
    _tell(detector, folder, data)
    return 0


def calibrate(folder: Path, data: Path, options: CalibrateOptions, out: Path | None) -> None:
    """Set thresholds anew, and say which; the arguments are those of :func:`advrad.training.recalibrate.calibrate`."""
    with _interruptible("the model is as it was"), Screen() as screen:
        detector = calibration.calibrate(folder, data, options, out, progress=screen)
    _tell(detector, out or folder, data)


def _tell(detector: AdvRAD, folder: Path, data: Path) -> None:
    """Say how a detector decides, and what to type next."""
    config, threshold = detector.detector_config, detector.calibration
    print(f"threshold  {threshold.threshold:.6g}")
    print(f"           a normal image exceeds it with a probability of at most {threshold.false_alarm_rate:g}")
    if (promise := config.robust_calibration) is not None:
        print(f"certified  {promise.threshold:.6g}")
        print(
            "           the smoothed score of a normal image exceeds it with a probability of at most"
            f" {promise.false_alarm_rate:g}, also if the image is moved by up to {promise.radius:g} in l2"
        )
    print(f"score      {describe(config.score)}")
    if reason := config.training.reason:
        print(f"           {reason}")
    print(f"model      {folder}")
    print(f"next       advrad evaluate {quoted(folder)} {quoted(data)}")
    print(f"           advrad predict {quoted(folder)} IMAGE -o heat-maps")


def demo(folder: Path, options: RunOptions) -> int:
    """Run the demonstration, and show what came of it; the arguments are those of :func:`advrad.demo.run.run_demo`.

    Returns:
        The exit status.
    """
    with Screen() as screen:
        try:
            done = demonstration.run_demo(folder, options, screen)
        except KeyboardInterrupt:
            screen.close()
            return _interrupted(screen, folder, f"advrad demo -o {quoted(folder)}")
    show_figures(done.evaluation.figures, f"A made-up product: {done.data}")
    print(f"report  {done.report}")
    print(f"model   {done.run}")
    print(f"next    advrad predict {quoted(done.run)} {quoted(done.data / 'test')} -o heat-maps")
    open_page(done.report)
    return 0


def _interrupted(screen: Screen, folder: Path, command: str) -> int:
    """Say how to go on, and return the status of an interrupted command."""
    if not is_first_process():
        return INTERRUPTED
    if not plan_path(folder).is_file():
        print("interrupted before the training began; run the same command again", file=sys.stderr)
    else:
        print(f"interrupted at step {screen.last_step or 0}; finish with: {command}", file=sys.stderr)
    return INTERRUPTED


def predict(
    folder: Path,
    names: list[Path],
    out: Path | None,
    *,
    as_json: bool,
    skip_bad: bool,
    max_pixels: int,
    device: str,
    certify: PredictionCertificateOptions | None = None,
) -> None:
    """Judge images, and print a line for each as it comes.

    Args:
        folder: of the model.
        names: images and folders; none, or ``-`` alone, for paths from standard input.
        out: folder for heat maps and reconstructions.
        as_json: JSON lines also on a terminal.
        skip_bad: go on after an image that cannot be read.
        max_pixels: bound on each image file.
        device: of :func:`detector_on`.
        certify: what is asked of a certificate for each image; None for none.

    Raises:
        ConfigError: nothing is named, and standard input is a terminal.
        DataError: an image cannot be read, or with ``skip_bad`` none can.
        UserError: also as :func:`advrad.inference.prediction.predict_paths`.
    """
    if not names and sys.stdin.isatty():
        raise ConfigError("IMAGE: none is named; name images or folders, or pipe their paths in, one per line")
    piped = names in ([], [Path("-")])
    detector = detector_on(folder, device)
    plan = None
    if certify is not None:
        plan, warnings = certificates.prediction_certificate_plan(detector, certify)
        warn(warnings)
    # One at a time where somebody may wait for each answer, or where nothing is gained.
    batch_size = 8 if detector.device.type == "cuda" and not piped else 1
    plain = sys.stdout.isatty() and not as_json
    judged = skipped = 0
    sources = expand_paths(paths_from_stdin() if piped else names, out)
    for result in predict_paths(detector, sources, batch_size=batch_size, max_pixels=max_pixels, out=out, plan=plan):
        if not isinstance(result, DataError):
            judged += 1
            put(_readable(result) if plain else json.dumps(result.as_json(), allow_nan=False))
            continue
        if not skip_bad:
            raise result
        skipped += 1
        if plain:
            print(f"skipped: {result}", file=sys.stderr)
        else:
            row: dict[str, str | None] = {"path": None, "error": str(result)}
            if isinstance(result, ImageError):
                row = {"path": str(result.path), "error": result.reason}
            put(json.dumps(row))
    if skipped:
        print(f"advrad: {skipped} of {judged + skipped} could not be read and were left out", file=sys.stderr)
        if not judged:
            raise DataError("none of the images can be read; the lines above say why")


def _readable(verdict: PredictionRecord) -> str:
    words = "DEFECTIVE" if verdict.defective else "good     "
    proof = ""
    if (certificate := verdict.certificate) is not None:
        proof = f"{certificate.verdict:19} radius {certificate.radius:6.4g}  "
    return f"{words}  score {verdict.score:9.4g}  threshold {verdict.threshold:9.4g}  {proof}{verdict.path}"


def evaluated(detector: AdvRAD, dataset: Dataset, options: DataOptions, seed: int) -> EvaluationResult:
    """Measure a detector and show progress; arguments as of :func:`advrad.inference.evaluation.evaluate`."""
    with Screen() as screen:
        screen.stage("Evaluating")
        evaluation = evaluate(detector, dataset, options=options, seed=seed, progress=screen)
        for words in (*evaluation.notes, *(f"skipped: {error}" for error in evaluation.skipped)):
            screen.note(words)
    return evaluation


def attack(
    name: str,
    data: Path,
    options: AttackOptions,
    folder: Path | None,
    *,
    source: str | None,
    as_json: bool,
    device: str,
) -> None:
    """Attack a detector and print what is left of it; the arguments are those of :mod:`advrad.attacks.pipeline`."""
    if (source is None) != (options.attack != "transfer"):
        raise ConfigError("--from: goes with --attack transfer, and only with it; name the detector to follow")
    case = _case(name, data, options, device)
    climbed = None if source is None else load_target(source, device).detector
    with _interruptible("the same command goes on"), Screen() as screen:
        screen.stage("Attacking")
        result = audits.attack(case, options, folder, source=climbed, progress=screen)
    if not is_first_process():
        return
    if as_json:
        put_json(result)
        warn(f"{flag['name']}: {flag['words']}" for flag in result["flags"])
    else:
        show_attack(result, f"{result['category']}: {name}")


def checks(
    name: str, data: Path, options: AttackOptions, folder: Path | None, *, as_json: bool, device: str
) -> int:
    """Make every check and print what it saw.

    Returns:
        The exit status: 1 if there is a reason for distrust.
    """
    case = _case(name, data, options, device)
    with _interruptible("the same command goes on"), Screen() as screen:
        screen.stage("Checking")
        result = audits.check(case, options, folder, progress=screen)
    if as_json:
        put_json(result)
    else:
        show_checks(result, f"{case.category}: {name}")
    return 1 if result["flags"] else 0


def curve(
    name: str,
    data: Path,
    options: AttackOptions,
    over: str,
    values: list[str],
    folder: Path | None,
    *,
    as_json: bool,
    device: str,
) -> None:
    """Draw robust AUROC over one thing; the files are ``curve-OVER.json`` and ``.png``."""
    if not values:
        raise ConfigError("--values: names none; give some, such as 1/255,2/255")
    case = _case(name, data, options, device)
    with _interruptible("the same command goes on"), Screen() as screen:
        screen.stage("Attacking")
        result = audits.curve(case, options, over, values, folder, progress=screen)
    if not is_first_process():
        return
    home = folder if folder is not None else Path(name) / "attacks"
    write_json(home / f"curve-{over}.json", result)
    draw_curve(home / f"curve-{over}.png", result)
    if as_json:
        put_json(result)
    else:
        show_curve(result, f"{case.category}: {name}")
        print(home / f"curve-{over}.png")


def certify(
    name: str,
    data: Path,
    options: CertifyOptions,
    folder: Path | None,
    *,
    as_json: bool,
    device: str,
) -> None:
    """Certify a detector and print the result; arguments as of :mod:`advrad.certificates.pipeline`."""
    case = certificates.prepare(load_target(name, device), data, options, folder)
    with _interruptible("the same command goes on"), Screen() as screen:
        screen.stage("Certifying")
        result = certificates.certify(case, progress=screen)
    if not is_first_process():
        return
    drawing = Path(result["folder"]) / "certificates.png"
    draw_certificates(drawing, result)
    if as_json:
        put_json(result)
        warn([*result["notes"], *result["warnings"]])
    else:
        show_certificates(result, f"{result['category']}: {name}")
        print(drawing)


def _case(name: str, data: Path, options: AttackOptions, device: str) -> audits.AttackJob:
    """Detector and images; what is wrong with the options shows before anything is loaded for long."""
    Threat.of(options.norm, options.eps)
    return audits.prepare(load_target(name, device), data, options)


@contextmanager
def _interruptible(words: str) -> Iterator[None]:
    """Tell somebody who interrupts that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        if is_first_process():
            print(f"interrupted; what was finished is kept, and {words}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def detector_on(folder: Path, device: str) -> AdvRAD:
    """Load a detector onto a device.

    Args:
        folder: of the model.
        device: ``auto``, or a name of PyTorch's.

    Raises:
        ConfigError: the device cannot be used.
        CheckpointError: the model cannot be read.
    """
    try:
        return load_detector(folder, device)
    except (RuntimeError, AssertionError) as error:  # PyTorch's words for a device that is not there
        if device == "auto":
            raise
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--device {device}: cannot be used ({reason}); choose cpu, or auto") from None


def report(
    folder: Path,
    data: Path,
    output: Path,
    options: DataOptions,
    *,
    seed: int,
    device: str,
) -> None:
    """Evaluate a model, and write a page of it; the arguments are those of the command."""
    dataset = find_records(data, options)
    detector = detector_on(folder, device)
    evaluation = evaluated(detector, dataset, options, seed)
    write_report(output, report_content(evaluation, detector, folder, max_pixels=options.max_pixels))
    print(output)
    warn(evaluation.figures["warnings"])
