"""Commands that make a model: train, calibrate, demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advrad.cli.exit_status import INTERRUPTED, interruptible
from advrad.cli.options import Address, Jobs, OptionalData, TaskEngine, TrainedModel, add_command
from advrad.cli.products import train_table
from advrad.cli.terminal import is_first_process, open_page, say
from advrad.errors import ConfigError, ImageError
from advrad.training.options import CalibrateOptions, RunOptions
from advrad.utils.formatting import number, quoted, radius_text
from advrad.utils.memory import reuse_freed_memory

if TYPE_CHECKING:
    from advrad.cli.screen import Screen
    from advrad.detectors.guarded_config import GuardedConfig
    from advrad.detectors.saved import SavedDetector

app = typer.Typer(rich_markup_mode=None)


@add_command(app)
def train(
    options: RunOptions,
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="RUN",
            help="Folder for the model, or with --products for all models; it must be new or empty.",
        ),
    ],
    data: OptionalData = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Finish an interrupted training in RUN; the other options are remembered."),
    ] = False,
    products: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLE",
            help="Make a model for each row of this CSV file, in place of DATA. Its columns are name, folder, export"
            " (empty, openvino or onnx), report (yes or no), and any options of this command by their names, such as"
            " size. Test images are evaluated; an HTML overview shows all. The same command continues.",
            show_default=False,
        ),
    ] = None,
    jobs: Jobs = None,
    engine: TaskEngine = "local",
    address: Address = None,
) -> int:
    """Make a detector from normal images and save it as a model.

    Keeps the patches of the normal images in a memory, which takes seconds, or minutes where parts lie at any place.
    Sets the threshold above which an image is called defective: twenty normal images are enough for a false-alarm rate
    of 5 %. With --minutes or --steps, a denoising network is trained as well, and held-out normal images with synthetic
    defects show how the two are combined best. With --features patchcore, a detector on features joins the memory: an
    image is called defective if either says so, and what the memory says is proven. Images of defects are not used.

    With --products, a model is made for each of many products. The exit status is 1 if one of them failed.

    Example: advrad train images -o run
    """
    reuse_freed_memory()
    if products is not None:
        _refuse_beside_products(data, options, resume)
        return train_table(products, output, jobs, engine, address)
    if data is None:
        raise ConfigError("name DATA, the folder of images, or a table of products with --products")
    for option, value in (("jobs", jobs), ("address", address), ("engine", engine if engine != "local" else None)):
        if value is not None:
            raise ConfigError("is for many products; give products as well, or leave it out", option=option)
    return _train_one(data, output, options, resume)


def _refuse_beside_products(data: Path | None, options: RunOptions, resume: bool) -> None:
    """Refuse what is said by the table of products."""
    if data is not None:
        raise ConfigError(f"cannot be combined with DATA ({data}); the table names the folders", option="products")
    if resume:
        raise ConfigError("is not needed with --products: the same command continues", option="resume")
    given = options.model_fields_set - {"data"} | options.data.model_fields_set
    if given:
        name = min(given)
        raise ConfigError("is a column of the table with --products; leave it out here", option=name)


def _train_one(data: Path, output: Path, options: RunOptions, resume: bool) -> int:
    """Train one model, and print what it is."""
    from advrad.cli.screen import Screen
    from advrad.training.run import train as run_training

    with Screen() as screen:
        try:
            detector = run_training(data, output, options, resume=resume, progress=screen)
        except KeyboardInterrupt:
            screen.close()
            return _interrupted(screen, output, f"advrad train {quoted(data)} -o {quoted(output)} --resume")
        except ImageError as error:
            fix = "mend or remove the file, or leave out all such images with --skip-bad"
            raise ImageError(error.path, f"{error.reason}; {fix}") from error
    _print_model(detector, output, data)
    return 0


@add_command(app)
def calibrate(
    model: TrainedModel,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="The folder of images that RUN was trained on; for a model that advrad.guard made, of normal images"
            " that were used for nothing else.",
        ),
    ],
    options: CalibrateOptions,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="NEW", help="Folder for the changed model.  [default: RUN]")
    ] = None,
) -> None:
    """Set the threshold of a model again, without training.

    Uses the normal images that set it before, or new ones for a model that advrad.guard made; test images are not used.
    A radius also sets a threshold that keeps its false-alarm rate under attack. Can choose the score of a learned
    denoiser again.

    Example: advrad calibrate run images --false-alarm-rate 0.01
    """
    from advrad.cli.screen import Screen
    from advrad.training.recalibrate import calibrate as run_calibration

    with interruptible("interrupted; the model is unchanged"), Screen() as screen:
        detector = run_calibration(model, data, options, output, progress=screen)
    _print_model(detector, output or model, data)


@add_command(app, only=("minutes", "steps", "size_px", "seed"), shown_defaults={"minutes": 0.8, "size_px": 256})
def demo(
    options: RunOptions,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FOLDER", help="Folder for images, model and report.")
    ] = Path("demo-run"),
    show: Annotated[bool, typer.Option("--open", help="Open the report in the web browser at the end.")] = False,
) -> int:
    """Make detectors for an example product, and report on them.

    Shows what advrad does and needs no images of your own. Writes images of a metal flange, normal and anomalous, fits
    the closed form to the normal ones in seconds, trains a denoiser on them for a minute, and writes an HTML report
    about both. The same command continues an interrupted demonstration. The minutes of --minutes are those of the
    denoiser alone; everything else takes up to two more.

    Example: advrad demo
    """
    from advrad.cli.screen import Screen
    from advrad.cli.tables import show_figures
    from advrad.demo.run import run_demo

    with Screen() as screen:
        try:
            done = run_demo(output, options, screen)
        except KeyboardInterrupt:
            screen.close()
            return _interrupted(screen, output, f"advrad demo -o {quoted(output)}")
    show_figures(done.evaluation, f"Closed form on the example product {done.data}")
    show_figures(done.learned, f"Learned denoiser on the example product {done.data}")
    for radius, area in done.certificate.certified_auroc.items():
        print(f"proven  no attack within linf {radius_text(radius, 'linf')} leaves an AUROC below {number(area)}")
    print(f"report  {done.report}")
    print(f"models  {done.run}, {done.learned_run}")
    print(f"next    advrad predict {quoted(done.run)} {quoted(done.data / 'test')} -o heat-maps")
    print(f"look    advrad serve {quoted(done.run)}")
    if show:
        open_page(done.report)
    return 0


def _print_model(detector: SavedDetector, folder: Path, data: Path) -> None:
    """Print the threshold and the score of a model, and the commands that use it."""
    if not is_first_process():
        return
    from advrad.detectors.base import SupportsScoreBounds
    from advrad.detectors.guarded_config import GuardedConfig

    config, calibration = detector.config, detector.calibration
    if isinstance(config, GuardedConfig):
        _print_halves(config, calibration.false_alarm_rate)
    else:
        print(f"threshold  {calibration.threshold:.6g}")
        print(f"           a normal image exceeds it with a probability of at most {calibration.false_alarm_rate:g}")
    if (robust := config.robust_calibration) is not None:
        score = "score" if robust.confidence is None else "smoothed score"
        print(f"certified  {robust.threshold:.6g}")
        print(
            f"           the {score} of a normal image exceeds it with a probability of at most"
            f" {robust.false_alarm_rate:g}, even after any {robust.norm} perturbation of up to"
            f" {radius_text(robust.radius, robust.norm)}"
        )
    for index, line in enumerate(detector.describe()):
        print(f"{'' if index else 'score':<11}{line}")
    if reason := config.training.reason:
        print(f"           {reason}")
    print(f"model      {folder}")
    print(f"next       advrad evaluate {quoted(folder)} {quoted(data)}")
    print(f"           advrad predict {quoted(folder)} IMAGE -o heat-maps")
    if isinstance(detector, SupportsScoreBounds):
        norm, radius = ("linf", "2/255") if robust is None else (robust.norm, radius_text(robust.radius, robust.norm))
        print(f"           advrad certify {quoted(folder)} {quoted(data)} --norm {norm} --radius {radius}")


def _print_halves(config: GuardedConfig, false_alarm_rate: float) -> None:
    """Print the threshold and the false-alarm rate of each half of a guarded detector."""
    for place, (name, test) in enumerate(zip(config.names, config.tests, strict=True)):
        alone = " although the memory does not" if place and config.joint else ""
        print(f"{name:<11}{test.threshold:.6g}")
        print(f"           a normal image exceeds it{alone} with a probability of at most {test.false_alarm_rate:.3g}")
    print(f"together   a normal image is called defective with a probability of at most {false_alarm_rate:g}")


def _interrupted(screen: Screen, folder: Path, command: str) -> int:
    """Print how to continue an interrupted training, and return the exit status."""
    from advrad.training.plan import plan_path

    if is_first_process():
        if not plan_path(folder).is_file():
            say("interrupted, and nothing is saved yet; run the same command again")
        else:
            say(f"interrupted at step {screen.last_step or 0}; finish with: {command}")
    return INTERRUPTED
