"""The commands that say how robust a detector is: attack, checks, curve, certify, bench."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advrad.cli.options import AsJson, Category, Data, Device, Layout, MaxPixels, Seed, one_of, typed
from advrad.data.records import MAX_PIXELS

if TYPE_CHECKING:
    from advrad.attacks.options import AttackOptions

app = typer.Typer(rich_markup_mode=None)

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
Limit = Annotated[int | None, typer.Option(min=2, help="Only so many images, half of them good.")]
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
    save_images: Annotated[
        bool, typer.Option("--save-pictures", help="Keep the adversarial images, as 16-bit PNG.")
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
    """Attack a detector on test images, good and defective ones, and say what is left of it.

    The same command goes on where it was stopped. The worst that any attack finds counts, judged anew on fresh noise.
    """
    from advrad.cli import commands

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
    limit: Annotated[int, typer.Option(min=2, help="Images, half of them good.")] = 12,
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
    from advrad.cli import commands

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
    from advrad.cli import commands

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
    draws: Annotated[int, typer.Option(help="Noise draws per image.")] = 200,
    confidence: Annotated[float, typer.Option(help="Of the bounds of all images together.")] = 0.999,
    method: Annotated[str, typer.Option(help="auto, percentile or two-path.")] = "auto",
    sigma: Annotated[
        float | None, typer.Option(help="Noise that percentile adds.  [default: the largest radius]")
    ] = None,
    limit: Limit = None,
    size_px: Annotated[
        int | None, typer.Option("--size", min=16, help="Images are given at this size.  [default: the detector's]")
    ] = None,
    own_size: Annotated[bool, typer.Option("--own-size", help="Images are given at the size of their files.")] = False,
    output: Results = None,
    as_json: AsJson = False,
    layout: Layout = "auto",
    category: Category = None,
    seed: Seed = 0,
    max_pixels: MaxPixels = MAX_PIXELS,
    device: Device = "auto",
) -> None:
    """Prove on test images what no change within a radius can break: AUROC, and each verdict.

    The same command goes on where it was stopped.
    """
    one_of("--method", method, ("auto", "percentile", "two-path"))
    from advrad.certificates.options import CertifyOptions
    from advrad.cli import commands

    options = CertifyOptions.parse(typed(context, CertifyOptions.flat_fields()))
    commands.certify(run, data, options, output, as_json=as_json, device=device)


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
    from advrad.cli import bench as benchcommands

    return benchcommands.run(grid, data, output, only or [], dry_run=dry_run)


def _attack_options(context: typer.Context) -> AttackOptions:
    if "gradients" in context.params:
        one_of("--gradients", context.params["gradients"], ("auto", "float32", "bfloat16"))
    from advrad.attacks.options import AttackOptions

    return AttackOptions.parse(typed(context, AttackOptions.flat_fields()))
