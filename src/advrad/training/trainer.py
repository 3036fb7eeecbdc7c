"""The training loop, the same for every denoiser. It is reproducible from the seed and the number of steps.

A step depends on the weights, the seed and the number of the step only (:mod:`advrad.training.batches`). So a run that
is killed at any moment and resumed ends with the same weights, and two processes train like one.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from advrad.data.loading import ImageStack
from advrad.denoisers.base import Denoiser
from advrad.detectors.model_folder import write_tensors
from advrad.errors import CheckpointError, ConfigError, TrainingDivergedError
from advrad.training.batches import TrainConfig, TrainingBatch, make_batch, random_start
from advrad.training.log import LogWriter
from advrad.training.muon import Muon
from advrad.utils.compat import reset_accelerator_state
from advrad.utils.precision import Precision, takes_bfloat16
from advrad.utils.progress import SILENT, ProgressReporter, TrainingState

_Tensors = list[Tensor] | tuple[Tensor, ...]

if TYPE_CHECKING:
    from accelerate import Accelerator

#: File with the state of a run, in its folder.
STATE_NAME = "state.safetensors"
#: Seconds between two saved states.
SAVE_EVERY_S = 30.0
#: Learning rate of Muon divided by that of AdamW: 0.02 and 0.001.
MUON_RATE_RATIO = 20.0
#: Length of the adversarial step divided by the radius. Above 1, so that it reaches the boundary from a random start.
_ADVERSARIAL_STRIDE = 1.25
#: Loss, divided by the first loss, above which the training counts as diverged.
_DIVERGENCE_FACTOR = 20.0


def schedule(config: TrainConfig, step: int) -> float:
    """Give the learning rate of a step as a share of the peak rate: a linear warm-up, then a cosine to 0.

    Args:
        config: Options of the training loop.
        step: Number of the step, counted from 0.
    """
    warm = min(1.0, (step + 1) / max(1.0, config.warmup * config.steps))
    return warm * 0.5 * (1 + math.cos(math.pi * step / max(1, config.steps)))


def ema_decay(config: TrainConfig, updates: int) -> float:
    """Give the decay of the moving average: rising at first, so that the initial weights are forgotten quickly.

    Args:
        config: Options of the training loop.
        updates: Number of steps done, >= 1.
    """
    return float(min(updates / (updates + 9), 0.5 ** (1 / max(1.0, config.ema_share * config.steps))))


def make_accelerator(precision: Precision) -> Accelerator:
    """Make the accelerator of this process, on the device that ``accelerate`` chooses.

    Args:
        precision: Arithmetic of the network.
    """
    import accelerate

    probe = accelerate.PartialState()
    bf16 = takes_bfloat16(precision, probe.device)
    # Otherwise the first precision would hold for the whole process, and another one would be an error.
    reset_accelerator_state()
    return accelerate.Accelerator(mixed_precision="bf16" if bf16 else "no")


class _Objective(nn.Module):
    """The mean training loss as a module, because data-parallel wrappers act on ``forward`` only."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, *batch: Tensor) -> Tensor:
        return self.denoiser.training_loss(*batch).mean()


class Trainer:
    """One training run: the weights, their moving average, the optimisers and the number of steps done.

    Args:
        denoiser: Denoiser; its parameters are trained in place.
        config: Options of the training loop.
        accelerator: Processes, device and precision.

    Raises:
        ConfigError: The batch cannot be divided evenly between the processes, or a window does not suit the network.

    Attributes:
        denoiser: The denoiser in training.
        step: Number of steps done.
        optimisers: AdamW and, for denoisers that use it, Muon.
        intact: False while a step is being applied. If it is interrupted then, the weights are not those of any step.
    """

    def __init__(self, denoiser: Denoiser, config: TrainConfig, accelerator: Accelerator) -> None:
        _check_sizes(denoiser, config, accelerator.num_processes)
        share = config.batch_size // accelerator.num_processes
        self.rows = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
        self.config, self.accelerator, self.step = config, accelerator, 0
        denoiser = denoiser.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.denoiser = denoiser
        self.averaged = AveragedModel(denoiser, multi_avg_fn=self._average)
        self.averaged.requires_grad_(False)
        self.averaged.update_parameters(denoiser)  # the first update copies the weights
        kernels, others = denoiser.optimiser_groups()
        decay = config.weight_decay
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, config.learning_rate, betas=(0.9, 0.99), weight_decay=decay, fused=True)
        ]
        if kernels:
            self.optimisers.append(Muon(kernels, MUON_RATE_RATIO * config.learning_rate, weight_decay=decay))
        self._schedulers = [LambdaLR(optimiser, self._rate) for optimiser in self.optimisers]
        self.objective: nn.Module = accelerator.prepare(_Objective(denoiser))
        self.first_loss: float | None = None
        self.intact = True

    @property
    def average(self) -> Denoiser:
        """The denoiser with the moving average of the weights."""
        return cast(Denoiser, self.averaged.module)

    def _rate(self, step: int) -> float:
        return schedule(self.config, step)

    def _average(self, averages: _Tensors, weights: _Tensors, updates: Tensor | int) -> None:
        # The copy of the initial weights was the first update, so that this counts the steps done.
        update = get_ema_multi_avg_fn(ema_decay(self.config, int(updates)))  # type: ignore[no-untyped-call]
        update(averages, weights, updates)

    def advance(self, stack: ImageStack) -> float:
        """Take one step.

        Args:
            stack: Training images.

        Returns:
            Loss of this process's rows.

        Raises:
            TrainingDivergedError: The loss is NaN, infinite or far above the first loss.
        """
        batch = self._batch(stack)
        with self.accelerator.autocast():
            loss = self.objective(*batch)
        self.accelerator.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.config.clip_norm)
        value = float(loss.detach())
        self.intact = False
        self._check_loss(value)
        for optimiser, scheduler in zip(self.optimisers, self._schedulers, strict=True):
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            scheduler.step()
        self.step += 1
        self.averaged.update_parameters(self.denoiser)
        self.intact = True
        return value

    @torch.no_grad()
    def rehearse(self, stack: ImageStack) -> None:
        """Compute the loss of a step's batch without training, to measure the time. Scoring a batch takes as long.

        Args:
            stack: Training images.
        """
        batch = make_batch(stack, self.config, self.step, self.rows).to(self.accelerator.device)
        with self.accelerator.autocast():
            self.objective(*batch)

    def _batch(self, stack: ImageStack) -> TrainingBatch:
        """Make the batch of the next step, with adversarial perturbations if they are wanted.

        Source: Wong, Rice and Kolter 2020, "Fast is better than free: revisiting adversarial training": one signed step
        from a random start. The target stays the unperturbed image, so that the denoiser learns to remove the
        perturbation.
        """
        config, device = self.config, self.accelerator.device
        batch = make_batch(stack, config, self.step, self.rows).to(device)
        eps = config.adversarial_eps
        if not eps:
            return batch
        delta = random_start(config, self.step, self.rows, batch.images).to(device).requires_grad_()
        with self.accelerator.autocast():
            loss = self.denoiser.training_loss(*batch._replace(corrupted=batch.corrupted + delta)).sum()
        (gradient,) = torch.autograd.grad(loss, delta)
        delta = (delta.detach() + _ADVERSARIAL_STRIDE * eps * gradient.sign()).clamp(-eps, eps)
        return batch._replace(corrupted=(batch.corrupted + delta).clamp(0, 1))

    def _check_loss(self, loss: float) -> None:
        """Stop a training that diverges."""
        self.first_loss = loss if self.first_loss is None else self.first_loss
        ceiling = _DIVERGENCE_FACTOR * (1 + abs(self.first_loss))
        if not math.isfinite(loss) or loss > ceiling:
            raise TrainingDivergedError(
                f"training diverged at step {self.step + 1}: the loss is {loss:.4g}, at first {self.first_loss:.4g};"
                f" train again with a smaller learning rate than {self.config.learning_rate:g}"
            )

    def save(self, path: Path) -> None:
        """Write the whole state to one safetensors file, atomically.

        Args:
            path: File to write.
        """
        tensors = {f"model.{name}": value for name, value in self.denoiser.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for name, parameter in self.denoiser.named_parameters():
            for optimiser in self.optimisers:
                state = optimiser.state.get(parameter, {})
                tensors |= {f"optimiser.{key}.{name}": value for key, value in state.items()}
        write_tensors(path, tensors, {"step": str(self.step), "first_loss": json.dumps(self.first_loss)})

    def load(self, path: Path) -> None:
        """Restore a state that :meth:`save` wrote.

        Args:
            path: File to read.

        Raises:
            CheckpointError: The file is damaged or belongs to another network.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                notes = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            self.first_loss = json.loads(notes["first_loss"])
            self.denoiser.load_state_dict(_with_prefix(tensors, "model."))
            self.average.load_state_dict(_with_prefix(tensors, "average."))
            self._load_optimisers(tensors)
            self._go_to(int(notes["step"]))
        except (SafetensorError, KeyError, ValueError, RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{path}: the training state is damaged or of another network ({reason}); train again in a new folder"
            ) from None

    def _load_optimisers(self, tensors: dict[str, Tensor]) -> None:
        """Restore the state of the optimisers."""
        names = {parameter: name for name, parameter in self.denoiser.named_parameters()}
        for optimiser in self.optimisers:
            for parameter in (parameter for group in optimiser.param_groups for parameter in group["params"]):
                # In the memory format of the parameter, which the kernels expect.
                optimiser.state[parameter] = {
                    key: torch.empty_like(parameter).copy_(value) if value.ndim else value
                    for key in ("step", "exp_avg", "exp_avg_sq", "momentum")
                    if (value := tensors.get(f"optimiser.{key}.{names[parameter]}")) is not None
                }

    def _go_to(self, step: int) -> None:
        """Set the counters of the run, the moving average and the learning rates to a number of steps done."""
        self.step = step
        self.averaged.n_averaged.fill_(step + 1)
        self._schedulers = [LambdaLR(optimiser, self._rate, last_epoch=step - 1) for optimiser in self.optimisers]


def check_batch_size(batch_size: int, processes: int) -> None:
    """Refuse a batch that cannot be divided evenly between the processes.

    Args:
        batch_size: Images per step.
        processes: Number of processes.

    Raises:
        ConfigError: It cannot.
    """
    if batch_size % processes:
        raise ConfigError(f"must be a multiple of the {processes} processes", option="batch_size", value=batch_size)


def _check_sizes(denoiser: Denoiser, config: TrainConfig, processes: int) -> None:
    """Refuse a batch or a view that does not suit the processes or the network."""
    check_batch_size(config.batch_size, processes)
    for view in config.views:
        if view.window_px % denoiser.multiple_px or view.window_px > view.image_px:
            raise ConfigError(
                f"window of {view.window_px} px in images of {view.image_px} px: must fit, and be a multiple of"
                f" {denoiser.multiple_px} px"
            )


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the tensors whose names have a prefix, without the prefix."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def fit(trainer: Trainer, stack: ImageStack, folder: Path, progress: ProgressReporter = SILENT) -> Denoiser:
    """Train to the last step. The state is saved now and then, and when the training ends or is interrupted.

    Args:
        trainer: Trainer, at step 0 or at a restored state.
        stack: Training images.
        folder: Folder for ``state.safetensors`` and ``log.jsonl``; it exists.
        progress: Receives the progress after every step.

    Returns:
        The denoiser with the moving average of the weights, in evaluation mode.
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
            steps_per_s = (trainer.step - first) / (now - began)
            images_per_s = steps_per_s * trainer.config.batch_size
            if log and (trainer.step % 20 == 0 or trainer.step == steps):
                log.write(trainer.step, loss, smooth, images_per_s, now - began)
            if main and now - saved > SAVE_EVERY_S:
                trainer.save(folder / STATE_NAME)
                saved = now
            left_s = (steps - trainer.step) / steps_per_s
            progress.step(TrainingState(trainer.step, steps, smooth, images_per_s, now - began, left_s))
    finally:
        # Also on Ctrl-C. If a step was interrupted, or diverged, the last saved state remains.
        if main and trainer.intact and trainer.step > first:
            trainer.save(folder / STATE_NAME)
        if log:
            log.close()
    return trainer.average.eval()
