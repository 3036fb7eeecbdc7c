"""The command line. Results go to standard output, everything else to standard error.

Exit status: 0 done (also where defects were found), 1 failed, 2 bad input, 130 interrupted. Each failure is
one line. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from advrad.errors import AdvradError, ConfigError, DataError, OutputError, PictureError, UserError

if TYPE_CHECKING:
    from types import FrameType

    from advrad.evaluate import Evaluation
    from advrad.layouts import Dataset
    from advrad.run import RunOptions
    from advrad.screen import Screen
    from advrad.stream import Verdict

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

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

Data = Annotated[Path, typer.Argument(metavar="DATA", help="Folder of pictures.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Model folder, as 'advrad train' made it.")]
Layout = Annotated[str, typer.Option(help="auto, mvtec, visa, btad or folder.")]
Category = Annotated[str | None, typer.Option(help="The product, where DATA holds several.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out pictures that cannot be read.")]
MaxPixels = Annotated[
    int | None, typer.Option(min=1, help="Bound on each picture: width times height.  [default: 200 million]")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, or what else PyTorch names.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")]


def main() -> NoReturn:
    """Run the command in ``sys.argv`` and exit with its status."""
    with _terminated():
        status = _status(sys.argv[1:])
    sys.exit(status)


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM ends a command like Ctrl-C: what is in progress is saved."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread, where no signal arrives
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _status(arguments: list[str]) -> int:
    """Run a command; every error becomes one line and a status."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("advrad", arguments) as context:
            result = command.invoke(context)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except typer.Exit as done:
        return done.exit_code
    except UserError as error:
        return _fail(str(error), BAD_INPUT)
    except AdvradError as error:
        return _fail(str(error), FAILED)
    except (KeyboardInterrupt, typer.Abort):
        print("advrad: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _give_up_stdout()  # whoever read our output has seen enough
        return 0
    except MemoryError:
        return _fail("there is not enough memory; use smaller pictures or a smaller --size or --batch-size", FAILED)
    except OSError as error:
        from advrad.files import explain

        try:
            sys.stdout.flush()
        except OSError:
            _give_up_stdout()
        return _fail(f"{error.filename or 'standard output'}: {explain(error)}", BAD_INPUT)
    except Exception as error:
        # Typer's usage errors are of a class that differs between its versions.
        if hasattr(error, "format_message"):
            message = str(error.format_message())
            if type(error).__name__ == "NoArgsIsHelpError":
                print(message, file=sys.stderr)
                return BAD_INPUT
            called = getattr(getattr(error, "ctx", None), "command_path", "advrad")
            return _fail(f"{message.rstrip('.')}; see '{called} --help'", BAD_INPUT)
        if type(error).__name__ == "OutOfMemoryError" or "allocate memory" in str(error):
            return _fail("there is not enough memory; use a smaller --size or --batch-size", FAILED)
        raise


def _give_up_stdout() -> None:
    """Send what is still buffered nowhere; Python would complain of it once more when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, status: int) -> int:
    line = " ".join(message.split())
    print(f"advrad: error: {line}".encode("utf-8", "backslashreplace").decode(), file=sys.stderr)
    return status


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
    seed: Seed = 0,
    max_pixels: MaxPixels = None,
    as_json: AsJson = False,
) -> None:
    """Show what was understood of a folder: counts, masks, sizes, and what cannot be read."""
    from advrad.data import inspect
    from advrad.layouts import find_records
    from advrad.screen import show_inspection

    dataset = find_records(data, layout, category)
    with _screen() as screen:
        screen.stage("Reading pictures")
        found = inspect(
            dataset,
            seed=seed,
            false_alarm_rate=false_alarm_rate,
            max_pixels=_bound(max_pixels),
            progress=screen.count,
        )
    if as_json:
        _print_json(found)
    else:
        show_inspection(found)


@app.command()
def train(
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="RUN", help="Folder of the run.")],
    minutes: Annotated[float | None, typer.Option(help="Budget of the whole command.  [default: 5]")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps, instead of minutes.")] = None,
    preset: Annotated[str, typer.Option(help="lean, paper or tiny.")] = "lean",
    denoiser: Annotated[
        str | None,
        typer.Option(metavar="CHECKPOINT", help="diffusers U-Net to start from: folder or hub id."),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Input size in pixels, such as 128 or 256.")] = None,
    seed: Seed = 0,
    batch_size: Annotated[int | None, typer.Option(help="Pictures per step, over all processes.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    false_alarm_rate: Annotated[
        float, typer.Option(help="Share of good pictures that may be called defective.")
    ] = 0.05,
    score: Annotated[str, typer.Option(help="auto chooses; paper takes the paper's.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    layout: Layout = "auto",
    category: Category = None,
    skip_bad: SkipBad = False,
    max_pixels: MaxPixels = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Finish an interrupted run; its own options count, not new ones.")
    ] = False,
) -> int:
    """Train a detector on good pictures, choose its score, and set its threshold."""
    _one_of("--score", score, ("auto", "paper"))
    _one_of("--precision", precision, ("auto", "float32", "bfloat16"))
    from advrad.run import RunOptions

    options = RunOptions(
        minutes=minutes,
        steps=steps,
        preset=preset,
        source=denoiser,
        size_px=size,
        seed=seed,
        batch_size=batch_size,
        learning_rate=learning_rate,
        false_alarm_rate=false_alarm_rate,
        score=score,  # type: ignore[arg-type]  # checked above
        precision=precision,  # type: ignore[arg-type]  # checked above
        layout=layout,
        category=category,
        skip_bad=skip_bad,
        max_pixels=_bound(max_pixels),
    )
    return _train(data, output, options, resume)


def _train(data: Path, output: Path, options: RunOptions, resume: bool) -> int:
    from advrad.run import train as train_run
    from advrad.score import describe

    with _screen() as screen:
        try:
            detector = train_run(data, output, options, resume=resume, watcher=screen)
        except KeyboardInterrupt:
            screen.close()
            command = f"advrad train {_quoted(data)} -o {_quoted(output)} --resume"
            return _interrupted(screen, output, command)
    if not _is_main():
        return 0
    config, calibration = detector.detector_config, detector.calibration
    model, source = _quoted(output), _quoted(data)
    print(f"threshold  {calibration.threshold:.6g}")
    print(f"           a good picture exceeds it with a probability of at most {calibration.false_alarm_rate:g}")
    print(f"score      {describe(config.score)}")
    if reason := config.training.get("reason"):
        print(f"           {reason}")
    print(f"model      {output}")
    print(f"next       advrad evaluate {model} {source}")
    print(f"           advrad predict {model} PICTURE -o heat-maps")
    return 0


def _interrupted(screen: Screen, run: Path, command: str) -> int:
    """Say how to go on, and return the status of an interrupted command."""
    from advrad.run import PLAN_NAME

    if not _is_main():
        return INTERRUPTED
    if not (run / "training" / PLAN_NAME).is_file():
        print("interrupted before the training began; run the same command again", file=sys.stderr)
    else:
        print(f"interrupted at step {screen.last_step or 0}; finish with: {command}", file=sys.stderr)
    return INTERRUPTED


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
    max_pixels: MaxPixels = None,
    device: Device = "auto",
) -> int:
    """Judge pictures: score, verdict and threshold, one line each.

    The exit status is 0 also where defects are found.
    """
    piped = not pictures or pictures == [Path("-")]
    if not pictures and sys.stdin.isatty():
        raise ConfigError("PICTURE: none is named; name pictures or folders, or pipe their paths in, one per line")
    names = _lines() if piped else iter(pictures or ())
    detector = _detector(run, device)
    from advrad.stream import judge, pictures_of

    # One at a time where somebody may wait for each answer, or where nothing is gained.
    batch_size = 8 if detector.device.type == "cuda" and not piped else 1
    plain = sys.stdout.isatty() and not as_json
    judged = skipped = 0
    sources = pictures_of(names, output)
    for result in judge(detector, sources, batch_size=batch_size, max_pixels=_bound(max_pixels), out=output):
        if not isinstance(result, DataError):
            judged += 1
            _print(_readable(result) if plain else json.dumps(result.as_json(), allow_nan=False))
            continue
        if not skip_bad:
            raise result
        skipped += 1
        if plain:
            print(f"skipped: {result}", file=sys.stderr)
        else:
            row: dict[str, str | None] = {"path": None, "error": str(result)}
            if isinstance(result, PictureError):
                row = {"path": str(result.path), "error": result.reason}
            _print(json.dumps(row))
    if skipped:
        print(f"advrad: {skipped} of {judged + skipped} could not be read and were left out", file=sys.stderr)
        if not judged:
            raise DataError("none of the pictures can be read; the lines above say why")
    return 0


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
    max_pixels: MaxPixels = None,
    device: Device = "auto",
) -> None:
    """Measure a detector on the test pictures of a data set."""
    from advrad.evaluate import save_figures, write_scores
    from advrad.screen import show_figures

    if scores is not None:
        _writable(scores)
    evaluation = _evaluated(run, data, layout, category, skip_bad, seed, max_pixels, device)[0]
    if scores is not None:
        write_scores(scores, evaluation)
    if save:
        save_figures(run, evaluation.figures)
    if as_json:
        _print_json(evaluation.figures)
    else:
        show_figures(evaluation.figures, f"{evaluation.category}: {run}")


@app.command()
def report(
    run: Run,
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The HTML file.")],
    layout: Layout = "auto",
    category: Category = None,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    max_pixels: MaxPixels = None,
    device: Device = "auto",
) -> None:
    """Evaluate, and write one HTML page with figures, curves and pictures."""
    _writable(output)
    evaluation, detector = _evaluated(run, data, layout, category, skip_bad, seed, max_pixels, device)
    from advrad.present import report_content
    from advrad.report import write_report

    write_report(output, report_content(evaluation, detector, run, max_pixels=_bound(max_pixels)))
    print(output)


@app.command()
def info(run: Run, as_json: AsJson = False) -> None:
    """Show everything that is known of a model folder."""
    from advrad.checkpoint import load_folder
    from advrad.detector import DetectorConfig
    from advrad.screen import show_facts

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
        _print_json(facts)
        return
    # The candidates are many; the report shows them.
    facts["training"] = {name: value for name, value in config.training.items() if name != "tried"}
    show_facts("Model", facts)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="For everything.")] = Path(
        "demo-run"
    ),
    minutes: Annotated[float | None, typer.Option(help="Budget of the training.  [default: 3.75]")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps, instead of minutes.")] = None,
    size: Annotated[int | None, typer.Option(help="Input size in pixels.  [default: 256]")] = None,
    seed: Seed = 0,
) -> int:
    """Train, evaluate and report on a made-up product. A second call goes on where the first was stopped."""
    from advrad.demo import demo as run_demo
    from advrad.run import RunOptions
    from advrad.screen import show_figures

    if minutes is None and steps is None:
        minutes = 3.75
    options = RunOptions(minutes=minutes, steps=steps, size_px=size, seed=seed)
    with _screen() as screen:
        try:
            done = run_demo(output, options, screen)
        except KeyboardInterrupt:
            screen.close()
            return _interrupted(screen, output, f"advrad demo -o {_quoted(output)}")
    show_figures(done.figures, f"A made-up product: {done.data}")
    print(f"report  {done.report}")
    print(f"model   {done.run}")
    print(f"next    advrad predict {_quoted(done.run)} {_quoted(done.data / 'test')} -o heat-maps")
    _open(done.report)
    return 0


def _open(page: Path) -> None:
    """Show a page to somebody who sits at this machine."""
    shown = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if shown and sys.stdout.isatty() and "SSH_CONNECTION" not in os.environ:
        import webbrowser

        with suppress(webbrowser.Error, OSError):
            webbrowser.open(page.resolve().as_uri())


def _evaluated(
    run: Path,
    data: Path,
    layout: str,
    category: str | None,
    skip_bad: bool,
    seed: int,
    max_pixels: int | None,
    device: str,
) -> tuple[Evaluation, Any]:
    from advrad.layouts import find_records

    dataset: Dataset = find_records(data, layout, category)
    detector = _detector(run, device)
    from advrad.evaluate import evaluate as measure

    with _screen() as screen:
        screen.stage("Evaluating")
        evaluation = measure(
            detector,
            dataset,
            skip_bad=skip_bad,
            seed=seed,
            progress=screen.count,
            max_pixels=_bound(max_pixels),
        )
        for words in (*evaluation.notes, *(f"skipped: {error}" for error in evaluation.skipped)):
            screen.note(words)
    return evaluation, detector


def _detector(run: Path, device: str) -> Any:
    from advrad.evaluate import load_detector

    try:
        return load_detector(run, device)
    except (RuntimeError, AssertionError) as error:  # PyTorch's words for a device that is not there
        if device == "auto":
            raise
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--device {device}: cannot be used ({reason}); choose cpu, or auto") from None


def _lines() -> Iterator[Path]:
    """Paths from standard input, as they come."""
    stream = getattr(sys.stdin, "buffer", None)
    for line in stream if stream is not None else sys.stdin:
        name = os.fsdecode(line).rstrip("\r\n")
        if name:
            yield Path(name)


def _readable(verdict: Verdict) -> str:
    words = "DEFECTIVE" if verdict.defective else "good     "
    return f"{words}  score {verdict.score:9.4g}  threshold {verdict.threshold:9.4g}  {verdict.path}"


def _print(line: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def _print_json(values: dict[str, Any]) -> None:
    _print(json.dumps(values, indent=2, allow_nan=False))


def _screen() -> Screen:
    from advrad.screen import Screen

    return Screen(quiet=not _is_main())


def _is_main() -> bool:
    """Whether this is the first of several processes, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def _bound(max_pixels: int | None) -> int:
    from advrad.pictures import MAX_PIXELS

    return MAX_PIXELS if max_pixels is None else max_pixels


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{option} {value}: is unknown; choose {', '.join(allowed)}")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _writable(path: Path) -> None:
    """Refuse before minutes are spent on a result that has no place."""
    from advrad.files import make_folder

    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file")
    make_folder(path.parent)
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: cannot be written: permission denied; choose a folder that may be written to")
