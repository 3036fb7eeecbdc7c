"""Speed of training: the lean denoiser against the U-Net of the diffusers library with as many parameters.

Three questions, one per call, each answered from one run, because two runs on a shared machine do not compare::

    python performance/train.py                                  # images per second: must be >= 4x, aim 10x
    python performance/train.py --data FOLDER --target 0.97      # minutes to an image AUROC
    python performance/train.py --optimisers                     # Muon with AdamW against AdamW alone

Every answer ends with one line of JSON.
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

#: Two shapes of a ``UNet2DModel`` near lean's number of parameters: few layers that are wide where the image is
#: large, and more layers that are narrow there. The faster one is the one to beat.
PEERS = {"wide": ((64, 96, 64, 64), 1), "deep": ((32, 64, 64, 64), 2)}
_TOLERANCE = 0.1  # allowed relative difference of the numbers of parameters
_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)  # places in the range of noise levels at which the held-out error is taken


def parameters(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def peer(shape: str, size_px: int) -> Denoiser:
    """A fresh U-Net of the diffusers library, with attention at its lowest resolution."""
    widths, layers = PEERS[shape]
    blocks = (*["DownBlock2D"] * (len(widths) - 1), "AttnDownBlock2D")
    return build(
        DdpmConfig(size_px=size_px, block_out_channels=widths, down_block_types=blocks, layers_per_block=layers)
    )


def matched(shape: str, size_px: int) -> Denoiser:
    """A peer that has about as many parameters as the lean denoiser."""
    network, wanted = peer(shape, size_px), parameters(LeanDenoiser())
    difference = abs(parameters(network) / wanted - 1)
    assert difference <= _TOLERANCE, f"{shape}: the number of parameters differs by {difference:.0%}; adapt PEERS"
    return network


class _Bfloat16(nn.Module):
    """An objective whose network works in bfloat16."""

    def __init__(self, objective: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.objective, self.device = objective, device

    def forward(self, *batch: Tensor) -> Tensor:
        """The loss of one batch."""
        with torch.autocast(self.device.type, torch.bfloat16):
            loss: Tensor = self.objective(*batch)
        return loss


def _noise_images(count: int, size_px: int) -> ImageStack:
    values = np.random.default_rng(0).integers(0, 65536, (count, 3, size_px, size_px), dtype=np.uint16)
    return ImageStack(values, (None,) * count)  # type: ignore[arg-type]  # nobody asks where they come from


def _trainer(denoiser: Denoiser, window: int, batch: int, restore: float, accelerator: Accelerator) -> Trainer:
    view = View(picture_px=window, window_px=window)
    # The rate is tiny because nothing is to be learnt from noise; the arithmetic is that of any other rate.
    config = TrainConfig(
        steps=10**6, size_px=window, views=(view,), batch_size=batch, learning_rate=1e-6, restore=restore
    )
    return Trainer(denoiser, config, accelerator)


def compare_speed(rounds: int, batch: int, window: int) -> dict[str, Any]:
    """Images per second of whole training steps: making the batch, forward, backward, optimisers, average.

    The lean denoiser is timed as it trains by default, with synthetic defects to undo; its rivals are spared these.

    Args:
        rounds: every contestant takes its turn in each.
        batch: images per step.
        window: side of the training images, pixels.

    Returns:
        Plain JSON values.
    """
    accelerator = make_accelerator("float32")
    stack = _noise_images(4 * batch, window)
    native = bfloat16_is_native(accelerator.device)
    fast = "bfloat16" if native else "float32, channels last"
    restore = TrainConfig.model_fields["restore"].default
    trainers = {f"lean, {fast}": _trainer(LeanDenoiser(), window, batch, restore, accelerator)}
    for shape in PEERS:
        trainers[f"diffusers {shape}, {fast}"] = _trainer(matched(shape, window), window, batch, 0.0, accelerator)
    if native:  # elsewhere it is emulated, and slower for everyone
        for trainer in trainers.values():
            trainer.objective = _Bfloat16(trainer.objective, accelerator.device)
    for shape in PEERS:
        shipped = _trainer(matched(shape, window), window, batch, 0.0, accelerator)
        # The library leaves kernels in the usual memory order.
        shipped.denoiser.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        trainers[f"diffusers {shape}, as shipped"] = shipped

    def timed(trainer: Trainer) -> float:
        start = time.perf_counter()
        trainer.advance(stack)
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for trainer in trainers.values():  # kernels are chosen and memory is taken on first use
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
    print(f"against the faster peer, both in {fast}: {ratio[fast]:.1f}x (must be >= 4x, aim 10x)")
    print(f"against the faster peer as its library ships it: {ratio['as shipped']:.1f}x")
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
    """Minutes that the whole of ``advrad train`` needs for an image AUROC, found by runs of growing budgets.

    Each budget is a fresh run with a learning rate that falls to 0 at its end, as a user would start it. The AUROC on
    the test images is a stopwatch here and nothing else: no setting is chosen on it, and training, choice of the
    score and threshold never see these images.

    Args:
        data: folder with training and test images.
        target: image AUROC at which the clock stops.
        cap: the largest budget, minutes.
        first: the smallest; each next one is half as much again.
        size: lean's input size; the peer gets the whole image at half of it, so that both see equally many pixels
            per step.
        shape: of the peer, a key of :data:`PEERS`.

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
        print(f"lean is {'' if theirs is not None else 'more than '}{least / ours:.1f}x as fast to it")
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
        detector = train(data, folder / str(number), RunOptions(minutes=budget, source=checkpoint, size_px=size_px))
        minutes = (time.perf_counter() - start) / 60
        area = evaluate(detector, dataset).figures["image_auroc"]
        if area is None:
            raise SystemExit(f"{data}: needs good and defective test images")
        print(f"  {'diffusers' if checkpoint else 'lean'}: {minutes:.2f} minutes, image AUROC {area:.4f}", flush=True)
        tried.append({"minutes": minutes, "image_auroc": area})
        if area >= target:
            break
    return tried


class _AdamOnly(LeanDenoiser):
    """The lean denoiser with every parameter left to AdamW."""

    def optimiser_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """No kernels for Muon."""
        return Denoiser.optimiser_groups(self)


def held_out_error(denoiser: Denoiser, images: Tensor, levels: Sequence[float] = _LEVELS) -> float:
    """Geometric mean over noise levels of the squared denoising error, [0, 1] units; the noise is fixed."""
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
    """Held-out denoising error of the lean denoiser after some steps, with Muon and without.

    AdamW alone also gets twice the steps and several rates, of which its best counts. The learning rate falls to 0
    at the end of each run, so that every one is as good as its steps allow.

    Args:
        data: folder of images; None for the made-up product.
        steps: of the run with Muon.
        window: side of the images.
        batch: images per step.
        rates: tried for AdamW alone; Muon runs at the default.

    Returns:
        Plain JSON values.
    """
    stack, images = _product_images(data, window)
    accelerator = make_accelerator("auto")

    def error(kind: Callable[[], LeanDenoiser], count: int, rate: float) -> float:
        torch.manual_seed(0)
        view = View(picture_px=window, window_px=window)
        config = TrainConfig(
            steps=count, size_px=window, views=(view,), batch_size=batch, learning_rate=rate, restore=0
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
        print(f"AdamW's best after {count} steps: {value / rows[0][3]:.3f} times the error of Muon after {steps}")
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
    """Training images, and held-out ones as a tensor."""
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
    """Run one benchmark and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--window", type=int, default=128, help="side of the training images, pixels")
    parser.add_argument("--data", type=Path, help="folder of images; times both to --target")
    parser.add_argument("--target", type=float, default=0.97, help="image AUROC that stops the clock")
    parser.add_argument("--minutes", type=float, default=20.0, help="largest budget with --data")
    parser.add_argument("--first", type=float, default=0.5, help="smallest budget with --data, minutes")
    parser.add_argument("--size", type=int, default=256, help="lean's input size with --data")
    parser.add_argument("--peer", choices=sorted(PEERS), default="deep", help="diffusers shape with --data")
    parser.add_argument("--optimisers", action="store_true", help="compare optimisers instead, on --data if given")
    parser.add_argument("--steps", type=int, default=250, help="with --optimisers")
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3], help="of AdamW alone")
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
