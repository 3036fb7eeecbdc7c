"""Commands that measure or certify robustness: attack, checks, curve, certify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advrad.attacks.options import AttackOptions
from advrad.certificates.options import CertifyOptions
from advrad.cli.exit_status import interruptible
from advrad.cli.options import AnyDetector, AsJson, Data, DetectorWithGradients, Device, Engine, Results, add_command
from advrad.cli.terminal import is_first_process, prints_aside, put_json, warn
from advrad.errors import ConfigError
from advrad.utils.memory import reuse_freed_memory
from advrad.utils.output_folders import ALL, check_output, contents_of

if TYPE_CHECKING:
    from advrad.attacks.pipeline import AttackJob
    from advrad.detectors.loading import LoadedDetector

app = typer.Typer(rich_markup_mode=None)

#: An attack or a certification uses all its images: what cannot be read is an error.
_ATTACK_FIELDS = AttackOptions.flat_fields().keys() - {"skip_bad"}
_CONTINUES = "interrupted; finished images are kept, and the same command continues"


@add_command(app, only=_ATTACK_FIELDS)
def attack(
    detector: AnyDetector,
    data: Data,
    options: AttackOptions,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="With --attack transfer: the detector whose gradients the attack uses. For an export: the model folder"
            " that was exported, which is attacked as well and shown beside it.",
        ),
    ] = None,
    output: Results = None,
    as_json: AsJson = False,
    device: Device = "auto",
    engine: Engine = None,
) -> None:
    """Measure how well a detector withstands adversarial attacks.

    Each test image is changed within a small distance so that a defect is missed or a normal image is called defective.
    Of all attacks the strongest counts, measured again with fresh noise. Prints AUROC, detections and false alarms
    before and after the attack. The same command continues an interrupted attack.

    An export has no gradients. It takes --attack square, which needs scores only, and --attack transfer, which makes
    the images on the model of --from and replays them in 8 bits.

    Example: advrad attack run images --budget quick --limit 8
    """
    transfer, exported = options.attack == "transfer", contents_of(Path(detector)) == "export"
    if transfer != (source is not None) and not (exported and options.attack == "square"):
        raise ConfigError("--from belongs to --attack transfer; give both or neither")
    from advrad.attacks import pipeline
    from advrad.cli.screen import Screen
    from advrad.cli.tables import describe_flags, show_attack
    from advrad.detectors.loading import load_target

    source_detector = None if source is None else load_target(source, device).detector
    job = _prepare(detector, data, options, device, output, engine)
    with interruptible(_CONTINUES), Screen() as screen, prints_aside():
        screen.stage("Attacking")
        result = pipeline.run_attack(job, options, output, source=source_detector, progress=screen)
    if not is_first_process():
        return
    if as_json:
        put_json(result.to_dict())
        warn(describe_flags(result.flags))
    else:
        show_attack(result, f"{result.category}: {detector}")


@add_command(
    app,
    only=_ATTACK_FIELDS - {"attack", "budget", "restarts", "surrogate", "noise", "gradients", "save_images"},
    defaults={"steps": 20, "limit": 12},
)
def checks(
    detector: DetectorWithGradients,
    data: Data,
    options: AttackOptions,
    output: Results = None,
    as_json: AsJson = False,
    device: Device = "auto",
) -> int:
    """Check whether attack results on this detector can be trusted.

    Looks for signs that attacks fail although the detector is not robust: useless gradients, more steps that find less,
    unlimited perturbations that do not succeed. The exit status is 1 if such a sign is found.

    The stronger attacks of the check use four times as many steps.

    Example: advrad checks run images
    """
    if contents_of(Path(detector)) == "export":
        raise ConfigError(f"{detector}: is an export, which has no gradients to check; check the model folder")
    from advrad.attacks import pipeline
    from advrad.cli.screen import Screen
    from advrad.cli.tables import show_checks

    job = _prepare(detector, data, options, device, output)
    with interruptible(_CONTINUES), Screen() as screen, prints_aside():
        screen.stage("Checking")
        result = pipeline.run_checks(job, options, output, progress=screen)
    if as_json:
        put_json(result.to_dict())
    else:
        show_checks(result, f"{job.category}: {detector}")
    return 1 if result.flags else 0


@add_command(app, only=_ATTACK_FIELDS - {"save_images"}, defaults={"attack": "pgd", "budget": "quick"})
def curve(
    detector: AnyDetector,
    data: Data,
    options: AttackOptions,
    over: Annotated[str, typer.Option(metavar="eps|steps|eot|restarts", help="Parameter to vary.")] = "eps",
    values: Annotated[
        str, typer.Option(metavar="LIST", help="Values of this parameter, separated by commas.")
    ] = "0,0.5/255,1/255,2/255,4/255,8/255,16/255",
    output: Results = None,
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """Attack a detector with rising strength and plot its AUROC.

    Runs one attack for each value of a parameter, by default the size of the perturbation. Writes a table and a plot.
    An export has no gradients, so it needs --attack square.

    Example: advrad curve run images --values 0,1/255,4/255
    """
    listed = [value.strip() for value in values.split(",") if value.strip()]
    if not listed:
        raise ConfigError("holds no value; give some, such as 1/255,2/255", option="values")
    from advrad.attacks.curve import check_curve, run_curve
    from advrad.cli.screen import Screen
    from advrad.cli.tables import show_curve
    from advrad.report.plots import draw_curve

    check_curve(options, over, listed)
    if output is None:
        check_output(Path(detector) / "attacks", "results", also=ALL)
    job = _prepare(detector, data, options, device, output)
    with interruptible(_CONTINUES), Screen() as screen, prints_aside():
        screen.stage("Attacking")
        result = run_curve(job, options, over, listed, output, progress=screen)
    if not is_first_process():
        return
    folder = output if output is not None else Path(detector) / "attacks"
    result.save(folder)
    draw_curve(folder / f"curve-{over}.png", result)
    if as_json:
        put_json(result.to_dict())
    else:
        show_curve(result, f"{job.category}: {detector}")
        print(folder / f"curve-{over}.png")


@add_command(app, only=CertifyOptions.flat_fields().keys() - {"skip_bad"})
def certify(
    detector: AnyDetector,
    data: Data,
    options: CertifyOptions,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="For an export: the model folder that it was made from, whose bounds hold less the rounding.",
        ),
    ] = None,
    output: Results = None,
    save: Annotated[bool, typer.Option("--save", help="Show the certified AUROC in the model card of RUN.")] = False,
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """Prove bounds on the effect of any small perturbation.

    Prints a lower bound on the AUROC under every possible attack, and how many verdicts are certified. A closed-form
    detector has exact bounds, which always hold. For others the bounds are about the smoothed score, the median over
    random noise, and hold with a confidence. The same command continues an interrupted certification. Of an export the
    bounds are about the numbers that its graph computes, rounding included.

    Example: advrad certify run images --norm linf --radius 1/255,2/255
    """
    if save and options.limit is not None:
        raise ConfigError("needs all test images, as the model card is about all; leave out --limit", option="save")
    from advrad.certificates import pipeline
    from advrad.certificates.bounds_pipeline import wants_bounds
    from advrad.cli.screen import Screen
    from advrad.cli.tables import show_certificates
    from advrad.detectors.loading import load_target, save_figures
    from advrad.report.certificate_plots import draw_certificates

    reuse_freed_memory()
    if output is not None:
        check_output(output, "results")
    loaded, options = _with_source(load_target(detector, device), options, source)
    if save and (loaded.folder is None or not wants_bounds(loaded.detector, options)):
        raise ConfigError("needs a model folder and exact bounds, which hold without a confidence", option="save")
    with prints_aside():
        job = pipeline.prepare(loaded, data, options, output)
    with interruptible(_CONTINUES), Screen() as screen, prints_aside():
        screen.stage("Certifying")
        result = pipeline.run_job(job, progress=screen)
    if not is_first_process():
        return
    if save and loaded.folder is not None:
        save_figures(loaded.folder, result.figures)
    plot = job.folder / "certificates.png"
    draw_certificates(plot, result)
    if as_json:
        put_json(result.to_dict())
        warn([*result.notes, *result.warnings])
    else:
        show_certificates(result, f"{result.category}: {detector}")
        print(plot)


def _with_source(
    loaded: LoadedDetector, options: CertifyOptions, source: str | None
) -> tuple[LoadedDetector, CertifyOptions]:
    """Join an export with the model folder that it was made from. Its images keep their own size."""
    from advrad.detectors.exported import ExportedDetector
    from advrad.detectors.loading import load_target
    from advrad.exporting.certified import certifiable, check_proven

    if not isinstance(loaded.detector, ExportedDetector):
        if source is not None:
            raise ConfigError("belongs to an export; this detector has its own bounds, so leave it out", option="from")
        return loaded, options
    if options.norm == "l2" and source is None:  # by noise, as for any detector
        return loaded, options
    check_proven(loaded.detector.config)
    if source is None:
        raise ConfigError(
            "is needed: the bounds of an export are those of the model folder that it was made from, less the rounding;"
            " name that folder, or choose --norm l2, which adds noise",
            option="from",
        )
    if options.size_px is not None:
        raise ConfigError(
            "an export is certified for images of their own size; leave it out", option="size_px", value=options.size_px
        )
    return certifiable(loaded, load_target(source)), options.model_copy(update={"own_size": True})


def _prepare(
    detector: str, data: Path, options: AttackOptions, device: str, output: Path | None, engine: str | None = None
) -> AttackJob:
    """Load the detector and the images, after a check of the perturbation's size and of the folder for the results."""
    from advrad.attacks import pipeline
    from advrad.attacks.threat import Threat
    from advrad.detectors.loading import load_target

    reuse_freed_memory()
    Threat.of(options.norm, options.eps)
    if output is not None:
        check_output(output, "results")
    loaded = load_target(detector, device, engine)
    if output is None:
        loaded.check_folder()
    return pipeline.prepare(loaded, data, options)
