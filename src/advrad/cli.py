"""The command line. Results go to standard output, everything else to standard error.

Exit status: 0 done (also where defects were found), 1 failed, 2 bad input, 130 interrupted. Each failure is
one line. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from advrad.errors import ConfigError
from advrad.files import make_place
from advrad.status import status_of, terminated
from advrad.terminal import put_json, warn
from advrad.types import MAX_PIXELS

if TYPE_CHECKING:
    from advrad.audits import AttackOptions

_SETTINGS = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="advrad",
    help="Find defects in pictures of industrial products, after seeing good pictures only.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings=_SETTINGS,
)
data_app = typer.Typer(help="Look at a folder of pictures.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

Data = Annotated[
    Path, typer.Argument(metavar="DATA", help="Folder of pictures, or FILE.py:NAME for a datamodule (runs the file).")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Model folder, as 'advrad train' made it.")]
Layout = Annotated[str, typer.Option(help="auto, mvtec, visa, btad or folder.")]
Category = Annotated[str | None, typer.Option(help="The product, where DATA holds several.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out pictures that cannot be read.")]
MaxPixels = Annotated[int, typer.Option(min=1, help="Bound on each picture: width times height.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, or what else PyTorch names.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")]


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
    """Find defects in pictures of industrial products, after seeing good pictures only."""


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
    from advrad.data import inspect
    from advrad.layouts import find_records
    from advrad.screen import Screen, show_inspection

    dataset = find_records(data, layout, category)
    with Screen() as screen:
        screen.stage("Reading pictures")
        found = inspect(
            dataset,
            seed=seed,
            false_alarm_rate=false_alarm_rate,
            size_px=size_px,
            max_pixels=max_pixels,
            progress=screen.count,
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
    batch_size: Annotated[int | None, typer.Option(help="Pictures per step, over all processes.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    false_alarm_rate: Annotated[
        float, typer.Option(help="Share of good pictures that may be called defective.")
    ] = 0.05,
    score: Annotated[str, typer.Option(help="auto; robust, chosen under attack; or paper.")] = "auto",
    optimise_for_radius: Annotated[
        float | None, typer.Option(metavar="R", help="Choose the score for what can be certified within l2 radius R.")
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
    """Train a detector on good pictures, choose its score, and set its threshold."""
    _one_of("--score", score, ("auto", "robust", "paper"))
    _one_of("--precision", precision, ("auto", "float32", "bfloat16"))
    from advrad import commands
    from advrad.plan import RunOptions

    options = RunOptions.parse(_typed(context, RunOptions.model_fields), "options")
    return commands.train(data, output, options, resume)


@app.command()
def calibrate(
    context: typer.Context,
    run: Run,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="The pictures that RUN was trained with.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="NEW", help="Folder for the result.  [default: RUN]")
    ] = None,
    false_alarm_rate: Annotated[
        float | None, typer.Option(help="Share of good pictures that may be called defective.  [default: as it was]")
    ] = None,
    radius: Annotated[
        float | None,
        typer.Option(metavar="R", help="Keep that rate also for good pictures moved by up to this l2 length."),
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

    It takes the good pictures that the training set aside; test pictures are not looked at.
    """
    if score is not None:
        _one_of("--score", score, ("auto", "robust", "paper"))
    from advrad import commands
    from advrad.calibrate import CalibrateOptions

    options = CalibrateOptions.parse(_typed(context, CalibrateOptions.model_fields), "options")
    commands.calibrate(run, data, options, output)


@app.command()
def predict(
    run: Run,
    pictures: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PICTURE|FOLDER ...", help="Pictures and folders; - or none: paths from standard input."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT", help="Folder for heat maps and reconstructions."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines also on a terminal.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on after a picture that cannot be read.")] = False,
    certify: Annotated[
        bool, typer.Option("--certify", help="Say of each verdict how far a picture may change, and it still holds.")
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
    """Judge pictures: score, verdict and threshold, one line each.

    The exit status is 0 also where defects are found.
    """
    asked = {"radius": radius, "draws": draws, "confidence": confidence, "seed": seed}
    typed = {name: value for name, value in asked.items() if value is not None}
    if typed and not certify:
        raise ConfigError(f"--{next(iter(typed))}: goes with --certify, and only with it")
    from advrad import commands
    from advrad.certificates import PromiseOptions

    commands.predict(
        run,
        pictures or [],
        output,
        as_json=as_json,
        skip_bad=skip_bad,
        max_pixels=max_pixels,
        device=device,
        certify=PromiseOptions.parse(typed, "options") if certify else None,
    )


@app.command()
def evaluate(
    run: Run,
    data: Data,
    as_json: AsJson = False,
    scores: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write each picture's score, as JSON lines.")
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Put the figures into RUN and its model card.")] = False,
    layout: Layout = "auto",
    category: Category = None,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    max_pixels: MaxPixels = MAX_PIXELS,
    device: Device = "auto",
) -> None:
    """Measure a detector on the test pictures of a data set."""
    from advrad import commands
    from advrad.evaluate import save_figures, write_scores
    from advrad.layouts import find_records
    from advrad.screen import show_figures

    if scores is not None:
        make_place(scores)
    dataset = find_records(data, layout, category)
    detector = commands.detector_on(run, device)
    evaluation = commands.evaluated(detector, dataset, skip_bad=skip_bad, seed=seed, max_pixels=max_pixels)
    if scores is not None:
        write_scores(scores, evaluation)
    if save:
        save_figures(run, evaluation.figures)
    if as_json:
        put_json(evaluation.figures)
        warn(evaluation.figures["warnings"])
    else:
        show_figures(evaluation.figures, f"{evaluation.category}: {run}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Model folder, or the folder of a bench.")],
    data: Annotated[Path | None, typer.Argument(metavar="[DATA]", help="Folder of pictures; none for a bench.")] = None,
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
        from advrad import benchcommands

        benchcommands.report(run, output)
        return
    if output is None:
        raise ConfigError("-o: is needed; name the HTML file")
    from advrad import commands

    make_place(output)
    commands.report(
        run, data, output, layout, category, skip_bad=skip_bad, seed=seed, max_pixels=max_pixels, device=device
    )


@app.command()
def bench(
    grid: Annotated[Path, typer.Argument(metavar="GRID", help="TOML file: detectors, categories, attacks, seeds.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder of the results.")],
    data: Annotated[Path, typer.Option("--data", metavar="DATA", help="Folder that the categories lie in.")] = Path(
        "."
    ),
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL", help="Work on this detector, category or test; may be repeated."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and for how long.")] = False,
) -> int:
    """Fit, attack and certify many detectors on many products; the same command goes on where it was stopped.

    Several processes, also on other machines, may work in one folder at once.
    """
    from advrad import benchcommands

    return benchcommands.run(grid, data, output, only or [], dry_run=dry_run)


@app.command()
def info(run: Run, as_json: AsJson = False) -> None:
    """Show everything that is known of a model folder."""
    from advrad.checkpoint import load_folder
    from advrad.screen import show_facts
    from advrad.settings import DetectorConfig

    values, tensors = load_folder(run)
    config = DetectorConfig.parse(values, str(run / "config.json"))
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
    facts["training"] = {name: value for name, value in config.training.items() if name != "tried"}
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
    from advrad import commands
    from advrad.plan import RunOptions

    return commands.demo(output, RunOptions.parse(_typed(context, RunOptions.model_fields), "options"))


AnyDetector = Annotated[
    str, typer.Argument(metavar="RUN", help="Model folder, or FILE.py:NAME for any other detector (runs the file).")
]
Norm = Annotated[str, typer.Option(help="linf or l2.")]
Eps = Annotated[str, typer.Option(help="Radius, for pixels in [0, 1]: a number, or a fraction such as 2/255.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Gradient evaluations.  [default: 100; square 1000 queries]")]
Restarts = Annotated[int, typer.Option(min=1, help="Random starts of a single attack.")]
Eot = Annotated[int, typer.Option(min=1, help="Noise draws averaged in every evaluation.")]
Surrogate = Annotated[str, typer.Option(help="What a single attack climbs: score, logsumexp, top, sum, ...")]
Budget = Annotated[str, typer.Option(help="Of the suite: quick, standard or full.")]
Noise = Annotated[str, typer.Option(help="unknown, or known to the attacker.")]
Gradients = Annotated[str, typer.Option(help="Arithmetic of our own detector's gradients: auto, float32 or bfloat16.")]
Limit = Annotated[int | None, typer.Option(min=2, help="Only so many pictures, half of them good.")]
GivenSize = Annotated[int | None, typer.Option("--size", help="For a detector that takes any size.")]
Results = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="FOLDER", help="For the results.  [default: in RUN]")
]


@app.command()
def attack(
    context: typer.Context,
    run: AnyDetector,
    data: Data,
    attack: Annotated[str, typer.Option(help="suite, pgd, apgd, square, transfer, lowfrequency or patch.")] = "suite",
    norm: Norm = "linf",
    eps: Eps = "2/255",
    budget: Budget = "standard",
    steps: Steps = None,
    restarts: Restarts = 1,
    eot: Eot = 1,
    surrogate: Surrogate = "score",
    noise: Noise = "unknown",
    gradients: Gradients = "auto",
    limit: Limit = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="RUN", help="Detector whose gradients a transfer attack follows.")
    ] = None,
    save_pictures: Annotated[
        bool, typer.Option("--save-pictures", help="Keep the adversarial pictures, as 16-bit PNG.")
    ] = False,
    output: Results = None,
    as_json: AsJson = False,
    layout: Layout = "auto",
    category: Category = None,
    size_px: GivenSize = None,
    seed: Seed = 0,
    max_pixels: MaxPixels = MAX_PIXELS,
    device: Device = "auto",
) -> None:
    """Attack a detector on test pictures, good and defective ones, and say what is left of it.

    The same command goes on where it was stopped. The worst that any attack finds counts, judged anew on fresh noise.
    """
    from advrad import commands

    commands.attack(run, data, _attack_options(context), output, source=source, as_json=as_json, device=device)


@app.command()
def checks(
    context: typer.Context,
    run: AnyDetector,
    data: Data,
    norm: Norm = "linf",
    eps: Eps = "2/255",
    steps: Annotated[
        int, typer.Option(min=1, help="Of the weaker attacks; the stronger have four times as many.")
    ] = 20,
    eot: Eot = 1,
    limit: Annotated[int, typer.Option(min=2, help="Pictures, half of them good.")] = 12,
    output: Results = None,
    as_json: AsJson = False,
    layout: Layout = "auto",
    category: Category = None,
    size_px: GivenSize = None,
    seed: Seed = 0,
    max_pixels: MaxPixels = MAX_PIXELS,
    device: Device = "auto",
) -> int:
    """Look for reasons to distrust an attack's result. The exit status is 1 if there is one."""
    from advrad import commands

    options = _attack_options(context).model_copy(update={"limit": limit, "steps": steps})
    return commands.checks(run, data, options, output, as_json=as_json, device=device)


@app.command()
def curve(
    context: typer.Context,
    run: AnyDetector,
    data: Data,
    over: Annotated[str, typer.Option(help="eps, steps, eot or restarts.")] = "eps",
    values: Annotated[str, typer.Option(help="Separated by commas.")] = "0,0.5/255,1/255,2/255,4/255,8/255,16/255",
    attack: Annotated[str, typer.Option(help="pgd, apgd, square or suite.")] = "pgd",
    norm: Norm = "linf",
    eps: Eps = "2/255",
    budget: Budget = "quick",
    steps: Steps = None,
    restarts: Restarts = 1,
    eot: Eot = 1,
    surrogate: Surrogate = "score",
    noise: Noise = "unknown",
    gradients: Gradients = "auto",
    limit: Limit = None,
    output: Results = None,
    as_json: AsJson = False,
    layout: Layout = "auto",
    category: Category = None,
    size_px: GivenSize = None,
    seed: Seed = 0,
    max_pixels: MaxPixels = MAX_PIXELS,
    device: Device = "auto",
) -> None:
    """Attack with more and more of one thing, and draw the robust AUROC over it."""
    from advrad import commands

    options = _attack_options(context).model_copy(update={"attack": attack, "budget": budget})
    wanted = [value.strip() for value in values.split(",") if value.strip()]
    commands.curve(run, data, options, over, wanted, output, as_json=as_json, device=device)


@app.command()
def certify(
    context: typer.Context,
    run: AnyDetector,
    data: Data,
    radius: Annotated[
        str | None,
        typer.Option(
            help="l2 radii for pixels in [0, 1], separated by commas.  [default: 0.1,0.2,0.5, those in reach]"
        ),
    ] = None,
    draws: Annotated[int, typer.Option(help="Noise draws per picture.")] = 200,
    confidence: Annotated[float, typer.Option(help="Of the bounds of all pictures together.")] = 0.999,
    method: Annotated[str, typer.Option(help="auto, percentile or two-path.")] = "auto",
    sigma: Annotated[
        float | None, typer.Option(help="Noise that percentile adds.  [default: the largest radius]")
    ] = None,
    limit: Limit = None,
    size_px: Annotated[
        int | None, typer.Option("--size", min=16, help="Pictures are given at this size.  [default: the detector's]")
    ] = None,
    own_size: Annotated[
        bool, typer.Option("--own-size", help="Pictures are given at the size of their files.")
    ] = False,
    output: Results = None,
    as_json: AsJson = False,
    layout: Layout = "auto",
    category: Category = None,
    seed: Seed = 0,
    max_pixels: MaxPixels = MAX_PIXELS,
    device: Device = "auto",
) -> None:
    """Prove on test pictures what no change within a radius can break: AUROC, and each verdict.

    The same command goes on where it was stopped.
    """
    _one_of("--method", method, ("auto", "percentile", "two-path"))
    from advrad import commands
    from advrad.certificates import CertifyOptions

    options = CertifyOptions.parse(_typed(context, CertifyOptions.model_fields), "options")
    commands.certify(run, data, options, output, as_json=as_json, device=device)


def _attack_options(context: typer.Context) -> AttackOptions:
    if "gradients" in context.params:
        _one_of("--gradients", context.params["gradients"], ("auto", "float32", "bfloat16"))
    from advrad.audits import AttackOptions

    return AttackOptions.parse(_typed(context, AttackOptions.model_fields), "options")


def _typed(context: typer.Context, names: Container[str]) -> dict[str, Any]:
    """The options of these names that were typed; defaults are left out, so that they contradict nothing."""
    sources = {name: context.get_parameter_source(name) for name in context.params if name in names}
    return {name: context.params[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{option} {value}: is unknown; choose {', '.join(allowed)}")
