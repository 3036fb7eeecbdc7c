"""Commands that use a model: predict, evaluate, report, info."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advrad.certificates.options import PredictionCertificateOptions
from advrad.cli.options import Address, AsJson, Data, Device, Engine, Jobs, Model, ModelOrDetector, Seed, add_command
from advrad.cli.path_list import paths_from_stdin
from advrad.cli.terminal import prints_aside, put_json, stdin_is_piped, warn
from advrad.data.options import DataOptions
from advrad.errors import ConfigError, DataError
from advrad.utils.buckets import is_url
from advrad.utils.formatting import quoted
from advrad.utils.imports import is_file_name
from advrad.utils.output_folders import check_output_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advrad.cli.verdicts import Verdicts
    from advrad.data.layouts import Dataset
    from advrad.detectors.base import AnomalyDetector
    from advrad.detectors.saved import SavedDetector
    from advrad.engine.base import Engine as TaskEngine
    from advrad.inference.chunks import ChunkPredictor
    from advrad.inference.evaluation import EvaluationResult
    from advrad.inference.prediction import PredictionRecord

app = typer.Typer(rich_markup_mode=None)

_Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE ...",
        help="Images and folders of images; - or none: read paths from standard input. For a table, also lists of"
        " paths (.txt), tar files, Parquet files, URLs such as s3://bucket/images, and patterns such as"
        " shard-{000..099}.tar.",
    ),
]
_Output = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="Folder for heat maps and reconstructions, as PNG files; or FILE.parquet for a table of an archive.",
    ),
]
_Who = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="local|ray|torch|openvino|onnxruntime",
        help="Who does the work: local (processes of this machine) or ray (a Ray cluster; for a table; needs the extra:"
        " pip install 'advrad[ray]'). Or what computes, on this machine: torch for a model folder, another for an"
        " export.  [default: local, and what RUN was made for]",
        show_default=False,
    ),
]
_ImageColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Column of Parquet files that holds images.  [default: image]", show_default=False
    ),
]
_Table = Annotated[
    Path | None,
    typer.Option("--csv", metavar="FILE", help="Also write the predictions to this file, as a table (CSV)."),
]
_Threshold = Annotated[
    float | None,
    typer.Option(
        metavar="FLOAT",
        help="Decide with this threshold, to see what it would change. Unlike the calibrated one, it promises no"
        " false-alarm rate.",
    ),
]


@add_command(app, only={*PredictionCertificateOptions.model_fields, "max_pixels", "value_range"})
def predict(
    model: Model,
    sources: _Sources = None,
    *,
    output: _Output = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines on a terminal too; in a pipe they are the default.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Continue after an image that cannot be read, instead of stopping.")
    ] = False,
    certify: Annotated[
        bool, typer.Option("--certify", help="Also certify each verdict against any small perturbation of the image.")
    ] = False,
    certificate: PredictionCertificateOptions,
    table: _Table = None,
    threshold: _Threshold = None,
    reading: DataOptions,
    image_column: _ImageColumn = None,
    device: Device = "auto",
    jobs: Jobs = None,
    engine: _Who = None,
    address: Address = None,
) -> int:
    """Decide for each image whether it shows a defect.

    Prints one line per image: the verdict (good or defective), the anomaly score and the threshold; and at the end, on
    standard error, how many are defective, and which files of the folders are no images. The exit status is 0 also if
    defects are found. An image that cannot be read ends the command with status 2, unless --skip-bad is given.

    With -o FILE.parquet, an archive of any size becomes a table: path, content, score, verdict, proven radius,
    warning, error and model of each image. The same command goes on where it ended, and judges no image twice. Images
    that cannot be read are counted and named; then the status is 1, unless --skip-bad is given.

    Only --certify takes --norm, --radius, --draws, --confidence and --seed. A closed-form detector proves its verdicts:
    it prints proven defective, proven good or not proven, and the largest radius that the verdict survives; draws,
    confidence and seed are not needed.

    A guarded detector says which half found a defect, and what is proven: "defective, proven", "defective", "suspected"
    (by attackable halves alone), "good", "good, memory proven". --certify adds how far its memory's verdict is proven.
    An export proves nothing: it says "defective", "suspected" or "good". It rounds files of more than 8 bits to 8.

    In heat maps, a white line surrounds what exceeds the maps of normal images. With proven verdicts, a broken green
    and black line surrounds the proven defect area: it does so under every change of the image within the radius. Of a
    guarded detector, the white line is the memory's, and a dotted blue line surrounds what the other halves see.

    Example: advrad predict run part-0001.png -o heat-maps
    """
    _check_options(certificate, threshold, certify)
    place = _on_disk(output)
    results = place if place is not None and place.suffix.lower() == ".parquet" else None
    _check_sources(sources, results, {"table": table, "image_column": image_column}, engine)
    from advrad.engine.choice import ENGINES, open_engine

    runtime = None if engine in ENGINES else engine
    with open_engine((engine if runtime is None else None) or "local", jobs, address) as chosen:
        certified = certificate if certify else None
        if results is not None:
            from advrad.archive.options import ArchiveOptions
            from advrad.cli.archives import judge_into_table

            options = ArchiveOptions(
                threshold=threshold,
                certificate=certified,
                image_column=image_column or "image",
                max_pixels=reading.max_pixels,
                value_range=reading.value_range,
                device=device,
                runtime=runtime,
            )
            return judge_into_table(model, sources or [], results, options, chosen, skip_bad=skip_bad, as_json=as_json)
        from advrad.cli.verdicts import Verdicts
        from advrad.inference.chunks import ChunkPredictor

        pixels, white = reading.max_pixels, reading.value_range
        predictor = ChunkPredictor(model, device, runtime, certified, pixels, place, threshold, white)
        _predict_lines(predictor, sources or ["-"], chosen, Verdicts(as_json, table), skip_bad)
    return 0


def _on_disk(output: str | None) -> Path | None:
    """The place of the output, which must be on a disk."""
    if output is not None and is_url(output):
        fix = "name a file or a folder on a disk, and copy it"
        raise ConfigError(f"is a URL, and results are written to a disk; {fix}", option="output", value=output)
    return None if output is None else Path(output)


def _predict_lines(
    predictor: ChunkPredictor, sources: list[str], engine: TaskEngine, verdicts: Verdicts, skip_bad: bool
) -> None:
    """Predict image files, and print a line for each."""
    from advrad.data.paths import expand_paths
    from advrad.inference.chunks import predict_chunks
    from advrad.inference.heat_map_files import check_heat_map_folder

    if predictor.out is not None:
        check_heat_map_folder(predictor.out)
    if verdicts.table is not None:
        check_output_file(verdicts.table)
    found = predictor.load()
    warn(found.warnings)
    piped = sources == ["-"]
    passed_over: list[Path] = []
    paths = expand_paths(paths_from_stdin() if piped else sources, passed_over)
    if engine.workers > 1:
        answers: Iterator[PredictionRecord | DataError] = predict_chunks(predictor, paths, engine)
    else:
        # Piped paths are answered one by one; on a CPU, batches gain nothing.
        batch_size = 8 if found.on_gpu and not piped else 1
        answers = predictor.predict(found, paths, batch_size=batch_size, read_ahead=not piped)
    verdicts.take(answers, skip_bad)
    verdicts.finish(passed_over, predictor.threshold)


def _check_sources(
    sources: list[str] | None, results: Path | None, others: dict[str, object], engine: str | None
) -> None:
    """Refuse sources and options that do not suit the output."""
    if results is not None:
        if not sources or "-" in sources:
            raise ConfigError("a table needs named sources; name images, folders, a list of paths (.txt) or archives")
        if others["table"] is not None:
            raise ConfigError(f"cannot be combined with {results}, which is a table; leave one out", option="table")
        return
    if not sources and not stdin_is_piped():
        raise ConfigError("no image is given; name images or folders, or pipe in their paths, one per line")
    from advrad.archive.listing import is_archive

    fix = "add -o with a file, such as -o results.parquet"
    for name in sources or ():
        if is_archive(name):
            raise ConfigError(f"{name}: is read for a table only; {fix}")
    if engine == "ray":
        raise ConfigError(f"makes tables only; {fix}", option="engine", value=engine)
    if others["image_column"] is not None:
        raise ConfigError(f"is for tables only; {fix}", option="image_column")


def _check_options(certificate: PredictionCertificateOptions, threshold: float | None, certify: bool) -> None:
    """Refuse options of a certificate without one, and a threshold that cannot be used."""
    if certificate.model_fields_set and not certify:
        option = sorted(certificate.model_fields_set)[0]
        raise ConfigError("can only be used with certification; add --certify", option=option)
    if threshold is None:
        return
    if not math.isfinite(threshold):
        raise ConfigError("must be a finite number", option="threshold", value=threshold)
    if certify:
        raise ConfigError(
            "cannot be combined with certification, whose verdicts are about the calibrated threshold; leave one out",
            option="threshold",
            value=threshold,
        )


@add_command(app)
def evaluate(
    model: ModelOrDetector,
    data: Data,
    options: DataOptions,
    as_json: AsJson = False,
    scores: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the score of each image to this file, as JSON lines.")
    ] = None,
    save: Annotated[
        bool, typer.Option("--save", help="Save the results in RUN and show them in its model card.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    engine: Engine = None,
) -> None:
    """Measure a model on the test images of a folder.

    Prints the AUROC with a confidence interval, how many defects are found at the threshold, and the share of false
    alarms, for a guarded detector also by half; with masks of the defects also how well the anomaly map locates them.

    Example: advrad evaluate run images
    """
    from advrad.cli.tables import show_figures
    from advrad.data.layouts import find_records
    from advrad.detectors.exported_folder import is_export
    from advrad.detectors.loading import load_detector, load_target, save_figures
    from advrad.inference.evaluation import write_scores

    foreign = is_file_name(str(model))
    if foreign and save:
        raise ConfigError("needs a model folder", option="save")
    if scores is not None:
        check_output_file(scores)
    dataset = find_records(data, options)
    detector = load_target(str(model), device, engine).detector if foreign else load_detector(model, device, engine)
    result = _evaluated(detector, dataset, options, seed)
    if scores is not None:
        write_scores(scores, result)
    if save:
        save_figures(model, result.figures)
    if as_json:
        put_json(result.to_dict())
        warn(result.warnings)
    else:
        show_figures(result, f"{result.category}: {model}")
        if not foreign and not is_export(model) and result.advice is not None and result.advice.rate is not None:
            rate = f"{result.advice.rate:g}"
            new = model.with_name(f"{model.resolve().name}-{rate}")
            print(f"next  advrad calibrate {quoted(model)} {quoted(data)} -o {quoted(new)} --false-alarm-rate {rate}")


@add_command(app)
def report(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Model folder, or the folder or URL that 'advrad bench' wrote to.")
    ],
    options: DataOptions,
    data: Annotated[Path | None, typer.Argument(metavar="DATA", help="Folder of images; none for a benchmark.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="HTML file to write; for a benchmark a folder.  [default for a benchmark: inside RUN]",
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Write a report about a model or a benchmark.

    The page of a model shows its results on the test images of DATA, the images with the largest errors and their heat
    maps.

    Example: advrad report run images -o report.html
    """
    if data is None:
        from advrad.cli.bench import write_bench_report

        write_bench_report(run, output)
        return
    folder = Path(run)
    if output is None:
        raise ConfigError("is missing; name the HTML file", option="output")
    check_output_file(output)
    from advrad.data.layouts import find_records
    from advrad.detectors.loading import load_detector
    from advrad.report.content import report_content
    from advrad.report.evaluation_report import write_report

    dataset = find_records(data, options)
    detector = load_detector(folder, device)
    result = _evaluated(detector, dataset, options, seed)
    write_report(
        output, report_content(result, detector, folder, max_pixels=options.max_pixels, value_range=options.value_range)
    )
    print(output)
    warn(result.warnings)


def _evaluated(
    detector: SavedDetector | AnomalyDetector, dataset: Dataset, options: DataOptions, seed: int
) -> EvaluationResult:
    """Evaluate a detector, with progress and notes on the screen."""
    from advrad.cli.screen import Screen
    from advrad.inference.evaluation import evaluate as run_evaluation

    with Screen() as screen, prints_aside():
        screen.stage("Evaluating")
        result = run_evaluation(detector, dataset, options=options, seed=seed, progress=screen)
        for note in (*result.notes, *(f"skipped: {error}" for error in result.skipped)):
            screen.note(note)
    return result


@add_command(app, computes=False)
def info(
    model: Model,
    as_json: AsJson = False,
    show_all: Annotated[bool, typer.Option("--all", help="Also show every stored value, by its name in JSON.")] = False,
) -> None:
    """Show what a model folder or an export contains.

    Prints the threshold and what it promises, the figures that were measured and saved, and how the model was made; of
    an export also its precision, where it comes from, and how far it is from the PyTorch detector. JSON holds every
    stored value.

    Example: advrad info run
    """
    from advrad.cli.model_facts import show_everything, show_model, stored_facts
    from advrad.detectors.loading import load_config

    facts = stored_facts(model)
    if as_json:
        put_json(facts)
        return
    show_model(load_config(model), model)
    if show_all:
        show_everything(facts)
    else:
        print(f"everything that is stored: advrad info {quoted(model)} --all")
