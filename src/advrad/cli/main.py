"""The command line. Results go to standard output, everything else to standard error.

Exit status: 0 done (also where defects were found), 1 failed, 2 bad input, 130 interrupted. Each failure is
one line. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from advrad.cli import robustness as auditcli
from advrad.cli.exit_status import status_of, terminated
from advrad.cli.options import AsJson, Category, Data, Device, Layout, MaxPixels, Run, Seed, SkipBad, one_of, typed
from advrad.cli.terminal import put_json, warn
from advrad.data.records import MAX_PIXELS
from advrad.errors import ConfigError
from advrad.utils.files import make_place

_SETTINGS = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="advrad",
    help="Find defects in images of industrial products, after seeing normal images only.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings=_SETTINGS,
)
data_app = typer.Typer(help="Look at a folder of images.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
app.add_typer(auditcli.app)


def main() -> NoReturn:
    """Run the command in ``sys.argv`` and exit with its status."""

    def command() -> object:
        with typer.main.get_command(app).make_context("advrad", sys.argv[1:]) as context:
            return context.command.invoke(context)

    with terminated():
        status = status_of(command)
    sys.exit(status)


def _version(wanted: bool) -> None:
    if wanted:
        from advrad import __version__

        print(f"advrad {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    """Find defects in images of industrial products, after seeing normal images only."""


@data_app.command("inspect")
def inspect_data(
    data: Data,
    layout: Layout = "auto",
    category: Category = None,
    false_alarm_rate: Annotated[float, typer.Option(help="For which the normals are shared out.")] = 0.05,
    size_px: Annotated[
        int, typer.Option("--size", min=16, help="Input size in pixels, for what warnings rest on.")
    ] = 256,
    seed: Seed = 0,
    max_pixels: MaxPixels = MAX_PIXELS,
    as_json: AsJson = False,
) -> None:
    """Show what was understood of a folder: counts, masks, sizes, what cannot be read, and what to beware of."""
    from advrad.cli.console import Screen, show_inspection
    from advrad.data.inspection import inspect
    from advrad.data.layouts import find_records
    from advrad.data.options import DataOptions

    options = DataOptions(layout=layout, category=category, max_pixels=max_pixels)
    dataset = find_records(data, options)
    with Screen() as screen:
        screen.stage("Reading images")
        found = inspect(
            dataset,
            options,
            seed=seed,
            false_alarm_rate=false_alarm_rate,
            size_px=size_px,
            progress=screen,
        )
    if as_json:
        put_json(found)
        warn(found["warnings"])
    else:
        show_inspection(found)


@app.command()
def train(
    context: typer.Context,
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="RUN", help="Folder of the run.")],
    minutes: Annotated[float | None, typer.Option(help="Budget of the whole command.  [default: 5]")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps, instead of minutes.")] = None,
    preset: Annotated[str, typer.Option(help="lean, paper or tiny.")] = "lean",
    source: Annotated[
        str | None,
        typer.Option("--denoiser", metavar="CHECKPOINT", help="diffusers U-Net to start from: folder or hub id."),
    ] = None,
    size_px: Annotated[int | None, typer.Option("--size", help="Input size in pixels, such as 128 or 256.")] = None,
    seed: Seed = 0,
    batch_size: Annotated[int | None, typer.Option(help="Images per step, over all processes.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    false_alarm_rate: Annotated[
        float, typer.Option(help="Share of normal images that may be called defective.")
    ] = 0.05,
    score: Annotated[str, typer.Option(help="auto; robust, chosen under attack; or paper.")] = "auto",
    optimise_for_radius: Annotated[
        float | None, typer.Option(metavar="R", help="Choose the score for what can be certified within l2 radius R.")
    ] = None,
    harden: Annotated[
        str | None,
        typer.Option(metavar="EPS", help="Train against an adversary within this linf radius, such as 2/255."),
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    layout: Layout = "auto",
    category: Category = None,
    skip_bad: SkipBad = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    resume: Annotated[
        bool, typer.Option("--resume", help="Finish an interrupted run; no other option is needed again.")
    ] = False,
) -> int:
    """Train a detector on normal images, choose its score, and set its threshold."""
    one_of("--score", score, ("auto", "robust", "paper"))
    one_of("--precision", precision, ("auto", "float32", "bfloat16"))
    from advrad.cli import commands
    from advrad.training.options import RunOptions

    options = RunOptions.parse(typed(context, RunOptions.flat_fields()))
    return commands.train(data, output, options, resume)


@app.command()
def calibrate(
    context: typer.Context,
    run: Run,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="The images that RUN was trained with.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="NEW", help="Folder for the result.  [default: RUN]")
    ] = None,
    false_alarm_rate: Annotated[
        float | None, typer.Option(help="Share of normal images that may be called defective.  [default: as it was]")
    ] = None,
    radius: Annotated[
        float | None,
        typer.Option(metavar="R", help="Keep that rate also for normal images moved by up to this l2 length."),
    ] = None,
    score: Annotated[
        str | None, typer.Option(help="Choose the score anew: auto; robust, chosen under attack; or paper.")
    ] = None,
    optimise_for_radius: Annotated[
        float | None, typer.Option(metavar="R", help="Choose it anew, for what can be certified within l2 radius R.")
    ] = None,
    draws: Annotated[int, typer.Option(min=2, help="Noise draws that bound each score.")] = 64,
    confidence: Annotated[float, typer.Option(help="Of each bound.")] = 0.999,
) -> None:
    """Set a detector's thresholds anew, or choose its score anew, without training it again.

    It takes the normal images that the training set aside; test images are not looked at.
    """
    if score is not None:
        one_of("--score", score, ("auto", "robust", "paper"))
    from advrad.cli import commands
    from advrad.training.options import CalibrateOptions

    options = CalibrateOptions.parse(typed(context, CalibrateOptions.model_fields))
    commands.calibrate(run, data, options, output)


@app.command()
def predict(
    run: Run,
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE|FOLDER ...", help="Images and folders; - or none: paths from standard input."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT", help="Folder for heat maps and reconstructions."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines also on a terminal.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on after an image that cannot be read.")] = False,
    certify: Annotated[
        bool, typer.Option("--certify", help="Say of each verdict how far an image may change, and it still holds.")
    ] = False,
    radius: Annotated[
        float | None, typer.Option(help="With --certify: l2 radius that is wanted.  [default: 0.2]")
    ] = None,
    draws: Annotated[int | None, typer.Option(help="With --certify: noise draws at most.  [default: 1000]")] = None,
    confidence: Annotated[
        float | None, typer.Option(help="With --certify: of each certified verdict.  [default: 0.999]")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="With --certify: of the noise, to repeat a verdict.  [default: unforeseeable]"),
    ] = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    device: Device = "auto",
) -> None:
    """Judge images: score, verdict and threshold, one line each.

    The exit status is 0 also where defects are found.
    """
    asked = {"radius": radius, "draws": draws, "confidence": confidence, "seed": seed}
    typed = {name: value for name, value in asked.items() if value is not None}
    if typed and not certify:
        raise ConfigError(f"--{next(iter(typed))}: goes with --certify, and only with it")
    from advrad.certificates.options import PredictionCertificateOptions
    from advrad.cli import commands

    commands.predict(
        run,
        images or [],
        output,
        as_json=as_json,
        skip_bad=skip_bad,
        max_pixels=max_pixels,
        device=device,
        certify=PredictionCertificateOptions.parse(typed) if certify else None,
    )


@app.command()
def evaluate(
    run: Run,
    data: Data,
    as_json: AsJson = False,
    scores: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write each image's score, as JSON lines.")
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Put the figures into RUN and its model card.")] = False,
    layout: Layout = "auto",
    category: Category = None,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    max_pixels: MaxPixels = MAX_PIXELS,
    device: Device = "auto",
) -> None:
    """Measure a detector on the test images of a data set."""
    from advrad.cli import commands
    from advrad.cli.console import show_figures
    from advrad.data.layouts import find_records
    from advrad.data.options import DataOptions
    from advrad.detectors.config import RecordedFigures
    from advrad.detectors.model_folder import save_figures
    from advrad.inference.evaluation import write_scores

    if scores is not None:
        make_place(scores)
    options = DataOptions(layout=layout, category=category, skip_bad=skip_bad, max_pixels=max_pixels)
    dataset = find_records(data, options)
    detector = commands.detector_on(run, device)
    evaluation = commands.evaluated(detector, dataset, options, seed)
    if scores is not None:
        write_scores(scores, evaluation)
    if save:
        save_figures(run, RecordedFigures.model_validate(evaluation.figures))
    if as_json:
        put_json(evaluation.figures)
        warn(evaluation.figures["warnings"])
    else:
        show_figures(evaluation.figures, f"{evaluation.category}: {run}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Model folder, or the folder of a bench.")],
    data: Annotated[Path | None, typer.Argument(metavar="[DATA]", help="Folder of images; none for a bench.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="PATH", help="The HTML file; of a bench the folder.  [default: in it]"),
    ] = None,
    layout: Layout = "auto",
    category: Category = None,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    max_pixels: MaxPixels = MAX_PIXELS,
    device: Device = "auto",
) -> None:
    """Evaluate a model and write one HTML page of it, or make the tables and plots of a bench."""
    if data is None:
        from advrad.cli import bench as benchcommands

        benchcommands.report(run, output)
        return
    if output is None:
        raise ConfigError("-o: is needed; name the HTML file")
    from advrad.cli import commands
    from advrad.data.options import DataOptions

    make_place(output)
    options = DataOptions(layout=layout, category=category, skip_bad=skip_bad, max_pixels=max_pixels)
    commands.report(run, data, output, options, seed=seed, device=device)


@app.command()
def info(run: Run, as_json: AsJson = False) -> None:
    """Show everything that is known of a model folder."""
    from advrad.cli.console import show_facts
    from advrad.detectors.config import DetectorConfig
    from advrad.detectors.model_folder import CONFIG_NAME, load_folder

    values, tensors = load_folder(run)
    config = DetectorConfig.parse(values, str(run / CONFIG_NAME))
    weights = [tensor for name, tensor in tensors.items() if name.startswith("denoiser.")]
    facts = {
        "folder": str(run),
        "parameters": sum(tensor.numel() for tensor in weights),
        "megabytes": round(sum(tensor.nbytes for tensor in tensors.values()) / 1e6, 3),
        **config.model_dump(mode="json"),
    }
    if as_json:
        put_json(facts)
        return
    # The candidates are many; the report shows them.
    facts["training"] = config.training.model_dump(mode="json", exclude={"tried"})
    show_facts("Model", facts)


@app.command()
def demo(
    context: typer.Context,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="For everything.")] = Path(
        "demo-run"
    ),
    minutes: Annotated[float | None, typer.Option(help="Budget of the training.  [default: 4.25]")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps, instead of minutes.")] = None,
    size_px: Annotated[int | None, typer.Option("--size", help="Input size in pixels.  [default: 256]")] = None,
    seed: Seed = 0,
) -> int:
    """Train, evaluate and report on a made-up product. A second call goes on where the first was stopped."""
    from advrad.cli import commands
    from advrad.training.options import RunOptions

    return commands.demo(output, RunOptions.parse(typed(context, RunOptions.flat_fields())))
