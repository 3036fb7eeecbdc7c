"""Training speed of the lean denoiser and of a U-Net of the diffusers library with as many parameters.

There are three measurements. Each compares within one run, because times of two runs on a shared machine differ::

    python performance/train.py                                  # images per second: required 4x, goal 10x
    python performance/train.py --data FOLDER --target 0.97      # minutes to an image AUROC
    python performance/train.py --optimisers                     # Muon with AdamW against AdamW alone

The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from advrad.data.layouts import find_records
from advrad.data.loading import ImageStack, load_images
from advrad.data.splits import split_normals
from advrad.denoisers.base import Denoiser
from advrad.denoisers.ddpm import DdpmConfig, build
from advrad.denoisers.lean import LeanDenoiser
from advrad.training.batches import TrainConfig, View
from advrad.training.trainer import Trainer, make_accelerator
from advrad.utils.precision import bfloat16_is_native

if TYPE_CHECKING:
    from accelerate import Accelerator

#: Two shapes of a ``UNet2DModel`` with about as many parameters as the lean denoiser: few layers, wide at high
#: resolution, and more layers, narrow at high resolution. The faster one is the reference.
PEERS = {"wide": ((64, 96, 64, 64), 1), "deep": ((32, 64, 64, 64), 2)}
_TOLERANCE = 0.1  # allowed relative difference of the number of parameters
_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)  # noise levels of the held-out error, as positions in the logarithmic range


def parameters(network: nn.Module) -> int:
    """Count the parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def peer(shape: str, size_px: int) -> Denoiser:
    """Make an untrained U-Net of the diffusers library, with attention at its lowest resolution."""
    widths, layers = PEERS[shape]
    blocks = (*["DownBlock2D"] * (len(widths) - 1), "AttnDownBlock2D")
    return build(
        DdpmConfig(size_px=size_px, block_out_channels=widths, down_block_types=blocks, layers_per_block=layers)
    )


def matched(shape: str, size_px: int) -> Denoiser:
    """Make a U-Net with about as many parameters as the lean denoiser.

    Raises:
        ValueError: The number of parameters differs by more than 10 %.
    """
    network, wanted = peer(shape, size_px), parameters(LeanDenoiser())
    difference = abs(parameters(network) / wanted - 1)
    if difference > _TOLERANCE:
        raise ValueError(f"{shape}: the number of parameters differs by {difference:.0%}; adapt PEERS")
    return network


class _Bfloat16(nn.Module):
    """A training objective that is computed in bfloat16."""

    def __init__(self, objective: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.objective, self.device = objective, device

    def forward(self, *batch: Tensor) -> Tensor:
        """Compute the loss of one batch."""
        with torch.autocast(self.device.type, torch.bfloat16):
            loss: Tensor = self.objective(*batch)
        return loss


def _noise_images(count: int, size_px: int) -> ImageStack:
    values = np.random.default_rng(0).integers(0, 65536, (count, 3, size_px, size_px), dtype=np.uint16)
    return ImageStack(values, (None,) * count)  # type: ignore[arg-type]  # the records are not used


def _trainer(
    denoiser: Denoiser, window: int, batch: int, defect_probability: float, accelerator: Accelerator
) -> Trainer:
    view = View(image_px=window, window_px=window)
    # A tiny learning rate keeps the weights finite on noise images; the time per step does not depend on it.
    config = TrainConfig(
        steps=10**6,
        size_px=window,
        views=(view,),
        batch_size=batch,
        learning_rate=1e-6,
        defect_probability=defect_probability,
    )
    return Trainer(denoiser, config, accelerator)


def compare_speed(rounds: int, batch: int, window: int) -> dict[str, Any]:
    """Measure images per second of whole training steps: batch, forward, backward, optimisers, weight average.

    The lean denoiser is timed with its default training, which includes the removal of synthetic defects; the U-Nets
    are trained without it.

    Args:
        rounds: Number of measurements of each network.
        batch: Number of images per step.
        window: Side of the training images in pixels.

    Returns:
        Plain JSON values.
    """
    accelerator = make_accelerator("float32")
    stack = _noise_images(4 * batch, window)
    native = bfloat16_is_native(accelerator.device)
    fast = "bfloat16" if native else "float32, channels last"
    defect_probability = TrainConfig.model_fields["defect_probability"].default
    trainers = {f"lean, {fast}": _trainer(LeanDenoiser(), window, batch, defect_probability, accelerator)}
    for shape in PEERS:
        trainers[f"diffusers {shape}, {fast}"] = _trainer(matched(shape, window), window, batch, 0.0, accelerator)
    if native:  # elsewhere it is emulated and slow
        for trainer in trainers.values():
            trainer.objective = _Bfloat16(trainer.objective, accelerator.device)
    for shape in PEERS:
        shipped = _trainer(matched(shape, window), window, batch, 0.0, accelerator)
        # The library keeps kernels in the contiguous memory format.
        shipped.denoiser.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        trainers[f"diffusers {shape}, as shipped"] = shipped

    def timed(trainer: Trainer) -> float:
        start = time.perf_counter()
        trainer.advance(stack)
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for trainer in trainers.values():  # warm-up
        timed(trainer)
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(rounds):
        for name, trainer in trainers.items():
            times[name].append(timed(trainer))
    rates = {name: batch / statistics.median(values) for name, values in times.items()}
    ours = rates[f"lean, {fast}"]
    print(f"training steps at {window} px, batch {batch}, {rounds} rounds, {torch.get_num_threads()} threads")
    print(f"{'':38}{'parameters':>12}{'images/s':>11}{'lean is':>9}")
    for name, rate in rates.items():
        count = parameters(trainers[name].denoiser)
        print(f"{name:38}{count / 1e6:>10.2f} M{rate:>11.3g}{ours / rate:>8.1f}x")
    ratio = {
        kind: ours / max(rate for name, rate in rates.items() if name.startswith("diffusers") and kind in name)
        for kind in (fast, "as shipped")
    }
    print(f"lean against the faster U-Net, both in {fast}: {ratio[fast]:.1f}x (required 4x, goal 10x)")
    print(f"lean against the faster U-Net with the library's defaults: {ratio['as shipped']:.1f}x")
    return {
        "benchmark": "train.speed",
        "window_px": window,
        "batch": batch,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "device": str(accelerator.device),
        "parameters": {name: parameters(trainer.denoiser) for name, trainer in trainers.items()},
        "images_per_s": rates,
        "arithmetic": fast,
        "ratio": ratio[fast],
        "ratio_as_shipped": ratio["as shipped"],
    }


def compare_minutes(data: Path, target: float, cap: float, first: float, size: int, shape: str) -> dict[str, Any]:
    """Measure the minutes that ``advrad train`` needs to reach an image AUROC, with runs of increasing budgets.

    Each budget is a new run, as a user would start it. The AUROC on the test images only ends the measurement: no
    setting is chosen by it, and training, score selection and threshold do not use these images.

    Args:
        data: Folder with training and test images.
        target: Image AUROC to reach.
        cap: Largest budget in minutes.
        first: Smallest budget in minutes; each following one is 1.5 times as large.
        size: Input size of the lean denoiser; the U-Net takes the image at half this size, so that both process
            as many pixels per step.
        shape: Shape of the U-Net, a key of :data:`PEERS`.

    Returns:
        Plain JSON values; ``minutes`` is None where the target was not reached.
    """
    found: dict[str, Any] = {"benchmark": "train.minutes", "target": target, "cap_minutes": cap}
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "peer"
        matched(shape, size // 2).network.save_pretrained(source)  # type: ignore[union-attr, operator]
        contestants = {"lean": (None, size), f"diffusers {shape}": (str(source), size // 2)}
        for name, (checkpoint, size_px) in contestants.items():
            tried = _until(data, target, cap, first, checkpoint, size_px, Path(scratch) / name.split()[0])
            reached = tried[-1]["minutes"] if tried[-1]["image_auroc"] >= target else None
            found[name] = {"minutes": reached, "tried": tried}
            words = f"not reached in {cap:g} minutes" if reached is None else f"{reached:.2f} minutes"
            print(f"{name}: image AUROC {target:g}: {words}")
    ours, theirs = (found[name]["minutes"] for name in contestants)
    if ours is not None:
        least = theirs if theirs is not None else cap
        print(f"lean is {'' if theirs is not None else 'more than '}{least / ours:.1f}x as fast")
    return found


def _until(
    data: Path, target: float, cap: float, first: float, checkpoint: str | None, size_px: int, folder: Path
) -> list[dict[str, float]]:
    from advrad.inference.evaluation import evaluate
    from advrad.training.options import RunOptions
    from advrad.training.run import train

    dataset = find_records(data)
    budgets = [min(first, cap)]
    while budgets[-1] < cap:
        budgets.append(min(cap, 1.5 * budgets[-1]))
    tried = []
    for number, budget in enumerate(budgets):
        start = time.perf_counter()
        detector = train(
            data, folder / str(number), RunOptions(minutes=budget, denoiser=checkpoint or "lean", size_px=size_px)
        )
        minutes = (time.perf_counter() - start) / 60
        area = evaluate(detector, dataset).image_auroc
        if area is None:
            raise SystemExit(f"{data}: needs normal and anomalous test images")
        print(f"  {'diffusers' if checkpoint else 'lean'}: {minutes:.2f} minutes, image AUROC {area:.4f}", flush=True)
        tried.append({"minutes": minutes, "image_auroc": area})
        if area >= target:
            break
    return tried


class _AdamOnly(LeanDenoiser):
    """The lean denoiser with all parameters optimised by AdamW."""

    def optimiser_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return no parameters for Muon."""
        return Denoiser.optimiser_groups(self)


def held_out_error(denoiser: Denoiser, images: Tensor, levels: Sequence[float] = _LEVELS) -> float:
    """Compute the geometric mean over noise levels of the mean squared denoising error, with fixed noise."""
    config = denoiser.config
    low, high = np.log(config.sigma_min), np.log(config.sigma_max)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    logs = []
    with torch.no_grad():
        for level in levels:
            sigma = float(np.exp(low + level * (high - low)))
            errors = []
            for part, draw in zip(images.split(8), noise.split(8), strict=True):
                z = part + sigma * draw
                errors.append((denoiser(z, z.new_full((len(z),), sigma)) - part).square().mean((1, 2, 3)))
            logs.append(float(torch.cat(errors).mean().log()))
    return float(np.exp(np.mean(logs)))


def compare_optimisers(
    data: Path | None, steps: int, window: int, batch: int, rates: Sequence[float]
) -> dict[str, Any]:
    """Measure the held-out denoising error of the lean denoiser after training with Muon and without.

    AdamW alone is also run with twice the steps and with several learning rates, of which the best counts. The learning
    rate falls to 0 at the end of each run.

    Args:
        data: Folder of images; None for the synthetic product.
        steps: Number of steps of the run with Muon.
        window: Side of the images in pixels.
        batch: Number of images per step.
        rates: Learning rates of AdamW alone; Muon uses the default.

    Returns:
        Plain JSON values.
    """
    stack, images = _product_images(data, window)
    accelerator = make_accelerator("auto")

    def error(kind: Callable[[], LeanDenoiser], count: int, rate: float) -> float:
        torch.manual_seed(0)
        view = View(image_px=window, window_px=window)
        config = TrainConfig(
            steps=count, size_px=window, views=(view,), batch_size=batch, learning_rate=rate, defect_probability=0
        )
        trainer = Trainer(kind(), config, accelerator)
        for _ in range(count):
            trainer.advance(stack)
        return held_out_error(trainer.average.eval().cpu(), images)

    default = float(TrainConfig.model_fields["learning_rate"].default)
    rows = [("Muon with AdamW", steps, default, error(LeanDenoiser, steps, default))]
    rows += [
        ("AdamW alone", count, rate, error(_AdamOnly, count, rate)) for count in (steps, 2 * steps) for rate in rates
    ]
    print(f"held-out denoising error at {window} px, batch {batch}, {len(images)} images")
    print(f"{'':18}{'steps':>7}{'rate':>9}{'error':>12}{'to Muon':>9}")
    for name, count, rate, value in rows:
        print(f"{name:18}{count:>7}{rate:>9g}{value:>12.4g}{value / rows[0][3]:>9.3f}")
    best = {count: min(row[3] for row in rows[1:] if row[1] == count) for count in (steps, 2 * steps)}
    for count, value in best.items():
        print(f"best AdamW after {count} steps: {value / rows[0][3]:.3f} times the error of Muon after {steps}")
    names = ("optimiser", "steps", "rate", "error")
    return {
        "benchmark": "train.optimisers",
        "window_px": window,
        "batch": batch,
        "rows": [dict(zip(names, row, strict=True)) for row in rows],
        "ratio_same_steps": best[steps] / rows[0][3],
        "ratio_double_steps": best[2 * steps] / rows[0][3],
    }


def _product_images(data: Path | None, size_px: int) -> tuple[ImageStack, Tensor]:
    """Load training images, and held-out images as a tensor."""
    with tempfile.TemporaryDirectory() as scratch:
        if data is None:
            from advrad.demo.flange.render import write_product

            data = write_product(
                Path(scratch) / "flange", 0, n_train=60, n_test_good=1, n_per_defect=0, size_px=max(32, size_px)
            )
        split = split_normals(find_records(data).records, 0)
        held = load_images((*split.selection, *split.calibration), size_px, cache_dir=False)
        return load_images(split.train, size_px, cache_dir=False), held.batch(slice(None))


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run one measurement, print a table and a line of JSON, and return the values of that line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="measurements of each network")
    parser.add_argument("--batch", type=int, default=8, help="images per step")
    parser.add_argument("--window", type=int, default=128, help="side of the training images, pixels")
    parser.add_argument("--data", type=Path, help="folder of images; measures the minutes to --target")
    parser.add_argument("--target", type=float, default=0.97, help="image AUROC to reach, with --data")
    parser.add_argument("--minutes", type=float, default=20.0, help="largest budget with --data")
    parser.add_argument("--first", type=float, default=0.5, help="smallest budget with --data, minutes")
    parser.add_argument("--size", type=int, default=256, help="input size of the lean denoiser with --data")
    parser.add_argument("--peer", choices=sorted(PEERS), default="deep", help="shape of the U-Net with --data")
    parser.add_argument(
        "--optimisers", action="store_true", help="compare optimisers, on --data or on the synthetic product"
    )
    parser.add_argument("--steps", type=int, default=250, help="steps of Muon with --optimisers")
    parser.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=[5e-4, 1e-3, 2e-3],
        help="learning rates of AdamW alone with --optimisers",
    )
    given = parser.parse_args(arguments)
    if given.optimisers:
        result = compare_optimisers(given.data, given.steps, given.window, given.batch, given.rates)
    elif given.data is not None:
        result = compare_minutes(given.data, given.target, given.minutes, given.first, given.size, given.peer)
    else:
        result = compare_speed(given.rounds, given.batch, given.window)
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
