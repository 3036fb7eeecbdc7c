"""Training: one loop for every denoiser, reproducible from seed and steps alone, on accelerate.

A step depends on the weights, the seed and its own number alone, see :mod:`advrad.training.batches`. So a run
can be killed anywhere and resumed to the same weights, and two processes follow one.
"""

from __future__ import annotations

import copy
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from advrad.data.loading import ImageStack
from advrad.denoisers.base import Denoiser
from advrad.detectors.model_folder import write_tensors
from advrad.errors import CheckpointError, ConfigError, TrainingDivergedError
from advrad.training.batches import TrainConfig, make_batch, random_start
from advrad.training.log import LogWriter
from advrad.training.muon import Muon
from advrad.utils.compat import reset_accelerator_state
from advrad.utils.precision import Precision, takes_bfloat16
from advrad.utils.progress import SILENT, ProgressReporter, TrainingState

if TYPE_CHECKING:
    from accelerate import Accelerator

SAVE_EVERY_S = 30.0
#: Muon's step length over AdamW's rate: 0.02 beside 0.001.
KERNEL_RATE = 20.0
#: The adversary's one step, in radii. Longer than the radius: from a random start it shall reach the ball's edge.
_STRIDE = 1.25
_DIVERGED = 20.0  # times the loss of the first steps, when the network knows nothing yet


def schedule(config: TrainConfig, step: int) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine to 0 at ``config.steps``."""
    warm = min(1.0, (step + 1) / max(1.0, config.warmup * config.steps))
    return warm * 0.5 * (1 + math.cos(math.pi * step / max(1, config.steps)))


def make_accelerator(precision: Precision) -> Accelerator:
    """The accelerator of this process, on the device that ``accelerate`` finds."""
    import accelerate

    probe = accelerate.PartialState()
    bf16 = takes_bfloat16(precision, probe.device)
    reset_accelerator_state()
    return accelerate.Accelerator(mixed_precision="bf16" if bf16 else "no")


class _Objective(nn.Module):
    """The loss as a module, because data-parallel wrappers watch ``forward`` only."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, *batch: Tensor) -> Tensor:
        return self.denoiser.training_loss(*batch).mean()


class Trainer:
    """One training run: weights, moving average, optimiser, and the step they stand at.

    Args:
        denoiser: freshly initialised; its parameters are trained in place.
        config: of the run.
        accelerator: processes, device and precision.

    Raises:
        ConfigError: the batch cannot be shared evenly, or a window does not fit the network.
    """

    def __init__(self, denoiser: Denoiser, config: TrainConfig, accelerator: Accelerator) -> None:
        world = accelerator.num_processes
        if config.batch_size % world:
            raise ConfigError(f"--batch-size {config.batch_size}: must be a multiple of the {world} processes")
        for view in config.views:
            if view.window_px % denoiser.multiple_px or view.window_px > view.picture_px:
                raise ConfigError(
                    f"window of {view.window_px} px in images of {view.picture_px} px: must fit, and be a multiple"
                    f" of {denoiser.multiple_px} px"
                )
        share = config.batch_size // world
        self.rows = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
        self.config, self.accelerator, self.step = config, accelerator, 0
        denoiser = denoiser.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.denoiser = denoiser
        self.average = copy.deepcopy(denoiser).requires_grad_(False)
        kernels, others = denoiser.optimiser_groups()
        decay = config.weight_decay
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, config.learning_rate, betas=(0.9, 0.99), weight_decay=decay, fused=True)
        ]
        if kernels:
            self.optimisers.append(Muon(kernels, KERNEL_RATE * config.learning_rate, weight_decay=decay))
        self.objective: nn.Module = accelerator.prepare(_Objective(denoiser))
        self.first_loss: float | None = None
        #: False while a step is being applied: an interrupt then leaves weights that belong to no step.
        self.whole = True

    def advance(self, stack: ImageStack) -> float:
        """Take one step.

        Args:
            stack: the training images.

        Returns:
            The loss of this process's rows.

        Raises:
            TrainingDivergedError: the loss is NaN, infinite or far above where it began.
        """
        config = self.config
        batch = self._batch(stack)
        fraction = schedule(config, self.step)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = optimiser.defaults["lr"] * fraction
        with self.accelerator.autocast():
            loss = self.objective(*batch)
        self.accelerator.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), config.clip_norm)
        value = float(loss.detach())
        self.whole = False
        self._check(value)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(self.step / (self.step + 9), 0.5 ** (1 / max(1.0, config.ema_share * config.steps)))
        with torch.no_grad():  # or the average would remember how it came about, step after step
            torch._foreach_lerp_(list(self.average.parameters()), list(self.denoiser.parameters()), 1 - decay)
        self.whole = True
        return value

    @torch.no_grad()
    def rehearse(self, stack: ImageStack) -> None:
        """Pass over a step's batch without learning from it, for the time it takes: as long as scoring one does."""
        batch = [part.to(self.accelerator.device) for part in make_batch(stack, self.config, self.step, self.rows)]
        with self.accelerator.autocast():
            self.objective(*batch)

    def _batch(self, stack: ImageStack) -> list[Tensor]:
        """What the step learns from: its batch, moved against the denoiser if that is wanted.

        Source: Wong et al. 2020, "Fast is better than free: revisiting adversarial training": one signed step from a
        random start. The target stays the image as given, so that the denoiser learns to take the change away.
        """
        config, device = self.config, self.accelerator.device
        batch = [part.to(device) for part in make_batch(stack, config, self.step, self.rows)]
        if not config.harden:
            return batch
        images, corrupted, *rest = batch
        change = random_start(config, self.step, self.rows, images).to(device).requires_grad_()
        with self.accelerator.autocast():
            loss = self.denoiser.training_loss(images, corrupted + change, *rest).sum()
        (gradient,) = torch.autograd.grad(loss, change)
        change = (change.detach() + _STRIDE * config.harden * gradient.sign()).clamp(-config.harden, config.harden)
        return [images, (corrupted + change).clamp(0, 1), *rest]

    def _check(self, loss: float) -> None:
        self.first_loss = loss if self.first_loss is None else self.first_loss
        ceiling = _DIVERGED * (1 + abs(self.first_loss))
        if not math.isfinite(loss) or loss > ceiling:
            raise TrainingDivergedError(
                f"training diverged at step {self.step + 1}: the loss is {loss:.4g}, at first {self.first_loss:.4g};"
                f" train again with a smaller --learning-rate than {self.config.learning_rate:g}"
            )

    def save(self, path: Path) -> None:
        """Write the whole state to one safetensors file, atomically."""
        tensors = {f"model.{name}": value for name, value in self.denoiser.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for name, parameter in self.denoiser.named_parameters():
            for optimiser in self.optimisers:
                state = optimiser.state.get(parameter, {})
                tensors |= {f"optimiser.{key}.{name}": value for key, value in state.items()}
        write_tensors(path, tensors, {"step": str(self.step), "first_loss": json.dumps(self.first_loss)})

    def load(self, path: Path) -> None:
        """Take up the state that :meth:`save` wrote.

        Raises:
            CheckpointError: the file is damaged or belongs to another network.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                notes = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            self.step, self.first_loss = int(notes["step"]), json.loads(notes["first_loss"])
            self.denoiser.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
            self.average.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("average.")})
            for optimiser in self.optimisers:
                held = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
                for name, parameter in self.denoiser.named_parameters():
                    if id(parameter) in held:
                        # Memory order as the kernels left it: that of the parameter.
                        optimiser.state[parameter] = {
                            key: torch.empty_like(parameter).copy_(value) if value.ndim else value
                            for key in ("step", "exp_avg", "exp_avg_sq", "momentum")
                            if (value := tensors.get(f"optimiser.{key}.{name}")) is not None
                        }
        except (SafetensorError, KeyError, ValueError, RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{path}: the training state is damaged or of another network ({reason}); train again without --resume"
            ) from None


def fit(trainer: Trainer, stack: ImageStack, folder: Path, progress: ProgressReporter = SILENT) -> Denoiser:
    """Train to the end, saving on the way.

    Args:
        trainer: at step 0, or where :meth:`Trainer.load` put it.
        stack: the training images.
        folder: where ``state.safetensors`` and ``log.jsonl`` go; an interrupted run saves its state first.
        progress: Receives the progress after every step.

    Returns:
        The moving average of the weights, in evaluation mode.
    """
    main, steps = trainer.accelerator.is_main_process, trainer.config.steps
    log = LogWriter(folder, trainer.step) if main else None
    began = saved = time.perf_counter()
    first, smooth = trainer.step, None
    try:
        while trainer.step < steps:
            loss = trainer.advance(stack)
            smooth = loss if smooth is None else 0.97 * smooth + 0.03 * loss
            now = time.perf_counter()
            rate = (trainer.step - first) / (now - began)
            if log and (trainer.step % 20 == 0 or trainer.step == steps):
                log.write(trainer.step, loss, smooth, rate * trainer.config.batch_size, now - began)
            if main and now - saved > SAVE_EVERY_S:
                trainer.save(folder / "state.safetensors")
                saved = now
            left_s = (steps - trainer.step) / rate
            progress.step(
                TrainingState(trainer.step, steps, smooth, rate * trainer.config.batch_size, now - began, left_s)
            )
    finally:
        # Also on Ctrl-C. The last state saved counts where a step was cut in two, by Ctrl-C or because it diverged.
        if main and trainer.whole and trainer.step > first:
            trainer.save(folder / "state.safetensors")
        if log:
            log.close()
    return trainer.average.eval()
