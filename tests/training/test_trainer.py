"""Training: reproducible, resumable at any moment, the same for several processes, and clear errors."""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy_training
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from toy_models import generator, stack
from toy_training import STATE, TESTS, OnStep, config, train, trainer

import advrad.training.budget
import advrad.training.trainer
from advrad.data.loading import ImageStack
from advrad.errors import CheckpointError, ConfigError, TrainingDivergedError
from advrad.training.batches import View, make_batch, random_start
from advrad.training.budget import steps_for
from advrad.training.log import read_log
from advrad.training.muon import Muon
from advrad.training.trainer import Trainer, fit, make_accelerator, schedule
from advrad.utils.progress import TrainingState

CHILD_ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent / "src")}

State = tuple[dict[str, str], dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> object:
    """As in the child processes: the order of sums depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def state_in(folder: Path) -> State:
    """Everything in a state, bit by bit; the order of the notes in the file is arbitrary."""
    with safe_open(folder / STATE, framework="pt") as file:
        notes = dict(file.metadata())
    tensors = load_file(folder / STATE)
    assert len(tensors) > 50
    return notes, {name: (v.dtype, tuple(v.shape), v.numpy().tobytes()) for name, v in tensors.items()}


def step_in(folder: Path) -> int:
    with safe_open(folder / STATE, framework="pt") as file:
        return int(file.metadata()["step"])


# --- the loop ------------------------------------------------------------------------------------------------------


def test_the_rate_rises_and_falls() -> None:
    settings = config(100, warmup=0.1)
    rates = [schedule(settings, step) for step in range(100)]
    assert rates[0] > 0 and rates[0] < 0.2
    peak = int(np.argmax(rates))
    assert 8 <= peak <= 11 and 0.9 < rates[peak] <= 1
    assert all(a < b for a, b in itertools.pairwise(rates[: peak + 1]))
    assert all(a > b for a, b in itertools.pairwise(rates[peak:]))
    assert 0 < rates[-1] < 0.01
    assert schedule(config(1), 0) == 1.0
    assert [schedule(config(5, warmup=0.0), step) for step in (0, 4)] == pytest.approx([1.0, 0.0954915])


def test_training_learns() -> None:
    made = trainer(config(60))
    losses = [made.advance(stack()) for _ in range(60)]
    assert np.mean(losses[-20:]) < 0.9 * np.mean(losses[:4])


def test_seeds_repeat_bit_by_bit(tmp_path: Path) -> None:
    for name, settings in (("a", config()), ("b", config()), ("c", config(seed=1))):
        train(tmp_path / name, settings)
    first, again, other = (state_in(tmp_path / name) for name in "abc")
    assert first == again
    assert first != other


def test_adversarial_batches_stay_in_the_radius_and_are_harder() -> None:
    made = trainer(config(adversarial_eps=0.05))
    harder = []
    for step in range(6):
        made.step = step
        images, corrupted, *rest = make_batch(stack(), made.config, step, made.rows)
        target, moved, *others = made._batch(stack())
        assert torch.equal(target, images), "what it is to give back stays the image as given"
        assert all(torch.equal(mine, given) for mine, given in zip(others, rest, strict=True))
        change = moved - corrupted
        assert 0 < change.abs().max() <= 0.05 + 1e-6 and moved.min() >= 0 and moved.max() <= 1
        start = (corrupted + random_start(made.config, step, made.rows, images)).clamp(0, 1)
        with torch.no_grad():
            before, after = (made.denoiser.training_loss(images, z, *rest).sum() for z in (start, moved))
        harder.append(float(after - before))
    assert min(harder) > 0


def test_adversarial_training_is_repeatable_and_differs(tmp_path: Path) -> None:
    first, again, plain = (
        train(tmp_path / name, config(4, adversarial_eps=radius)).average.state_dict()
        for name, radius in (("first", 0.05), ("again", 0.05), ("plain", 0.0))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], plain[name]) for name in first)


def test_the_average_is_an_exponential_mean_of_the_weights() -> None:
    made = trainer(config(40, ema_share=0.1))  # a half-life of 4 steps
    wanted = [parameter.detach().clone() for parameter in made.denoiser.parameters()]
    for step in range(1, 16):
        made.advance(stack())
        decay = min(step / (step + 9), 0.5**0.25)
        wanted = [
            decay * old + (1 - decay) * new.detach()
            for old, new in zip(wanted, made.denoiser.parameters(), strict=True)
        ]
    for one, other in zip(made.average.parameters(), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        assert not one.requires_grad
    away = [not torch.equal(a, b) for a, b in zip(made.average.parameters(), made.denoiser.parameters(), strict=True)]
    assert all(away)


def test_training_equals_the_loop_written_out() -> None:
    """The loop of advrad 0.1, with its own moving average and learning rates."""
    settings = config(12, ema_share=0.2)
    made, plain = trainer(settings), trainer(settings).denoiser
    average = copy.deepcopy(plain)
    kernels, others = plain.optimiser_groups()
    optimisers = [
        torch.optim.AdamW(
            others, settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay, fused=True
        ),
        Muon(kernels, 20 * settings.learning_rate, weight_decay=settings.weight_decay),
    ]
    for step in range(settings.steps):
        warm = min(1.0, (step + 1) / max(1.0, settings.warmup * settings.steps))
        fraction = warm * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = optimiser.defaults["lr"] * fraction
            optimiser.zero_grad()
        plain.training_loss(*make_batch(stack(), settings, step, slice(None))).mean().backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), settings.clip_norm)
        for optimiser in optimisers:
            optimiser.step()
        decay = min((step + 1) / (step + 10), 0.5 ** (1 / (settings.ema_share * settings.steps)))
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), plain.parameters(), strict=True):
                mean.lerp_(weight, 1 - decay)
        made.advance(stack())
    for name, value in made.denoiser.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-4, atol=1e-6)
    for name, value in made.average.state_dict().items():
        torch.testing.assert_close(value, average.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_a_restored_run_goes_on_with_the_same_learning_rates(tmp_path: Path) -> None:
    made, again = trainer(), trainer()
    for _ in range(5):
        made.advance(stack())
    made.save(tmp_path / STATE)
    again.load(tmp_path / STATE)
    assert again.step == 5
    for one, other in zip(made.optimisers, again.optimisers, strict=True):
        assert other.param_groups[0]["lr"] == one.param_groups[0]["lr"] > 0
    assert made.advance(stack()) == again.advance(stack())
    for one, other in zip(made.average.parameters(), again.average.parameters(), strict=True):
        assert torch.equal(one, other)


def test_fit_gives_the_average_ready_for_use(tmp_path: Path) -> None:
    made = trainer()
    average = fit(made, stack(), tmp_path)
    assert average is made.average and not average.training
    assert made.step == 12


def test_progress_is_reported_after_every_step(tmp_path: Path) -> None:
    told: list[TrainingState] = []
    train(tmp_path, report=told.append)
    assert [state.step for state in told] == list(range(1, 13))
    assert all(state.steps == 12 and state.images_per_s > 0 for state in told)
    assert told[-1].left_s == 0 and told[0].left_s > 0


def test_zero_steps_do_nothing(tmp_path: Path) -> None:
    made = train(tmp_path, config(0))
    assert made.step == 0 and not (tmp_path / STATE).exists()


def test_both_optimisers_work_on_their_own_parameters() -> None:
    made = trainer()
    adamw, muon = made.optimisers
    assert isinstance(muon, Muon) and isinstance(adamw, torch.optim.AdamW)
    before = {name: parameter.detach().clone() for name, parameter in made.denoiser.named_parameters()}
    for _ in range(3):
        made.advance(stack())
    still = [name for name, parameter in made.denoiser.named_parameters() if torch.equal(parameter, before[name])]
    assert still == []


# --- refusals and divergence ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ((View(image_px=32, window_px=20),), "multiple of 8"),
        ((View(image_px=16, window_px=32),), "must fit"),
    ],
)
def test_windows_that_do_not_fit_are_refused(views: tuple[View, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        trainer(config(views=views))


def test_a_batch_must_be_shared_evenly() -> None:
    world = SimpleNamespace(num_processes=3, process_index=0)
    with pytest.raises(ConfigError, match="batch_size 4: must be a multiple of the 3 processes"):
        Trainer(trainer().denoiser, config(), world)  # type: ignore[arg-type]


def test_a_far_too_large_rate_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match=r"training diverged at step \d+: .* than 1e\+06") as caught:
        train(tmp_path, config(60, learning_rate=1e6, warmup=0.0))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / STATE).exists(), "a diverged state is not worth keeping"


def test_a_loss_of_nan_is_noticed_at_once(tmp_path: Path) -> None:
    made = trainer()
    fine = made.advance(stack())
    assert np.isfinite(fine)
    with torch.no_grad():
        made.denoiser.network.stem.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(TrainingDivergedError, match="at step 2: the loss is nan"):
        made.advance(stack())
    assert made.step == 1


def test_a_diverging_run_keeps_the_last_good_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advrad.training.trainer, "SAVE_EVERY_S", 0.0)

    def poison(state: TrainingState) -> None:
        if state.step == 5:
            with torch.no_grad():
                made.denoiser.network.stem.weight[0, 0, 0, 0] = torch.nan

    made = trainer()
    with pytest.raises(TrainingDivergedError, match="at step 6"):
        fit(made, stack(), tmp_path, OnStep(poison))
    assert step_in(tmp_path) == 5
    assert all(value.isfinite().all() for value in load_file(tmp_path / STATE).values())


# --- stopping and resuming -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> State:
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(folder)
    return state_in(folder)


class Stopper:
    """Stops the run at the n-th call of a function, before or after the call."""

    def __init__(self, function: object, times: int, after: bool) -> None:
        self.function, self.left, self.after = function, times, after

    def __call__(self, *arguments: object, **options: object) -> object:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise KeyboardInterrupt
        result = self.function(*arguments, **options)  # type: ignore[operator]
        if self.left == 0:
            raise KeyboardInterrupt
        return result


MOMENTS = {
    "drawing the batch": (advrad.training.trainer, "make_batch"),
    "between the gradients": (torch.nn.utils, "clip_grad_norm_"),
    "the first optimiser": (torch.optim.AdamW, "step"),
    "the second optimiser": (Muon, "step"),
    "clearing the gradients": (torch.optim.Optimizer, "zero_grad"),
    "the learning rates": (LambdaLR, "step"),
    "averaging": (AveragedModel, "update_parameters"),
    "saving": (advrad.training.trainer, "write_tensors"),
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("moment", MOMENTS)
def test_stopped_anywhere_in_a_step_the_run_resumes_to_the_same_weights(
    moment: str, after: bool, tmp_path: Path, uninterrupted: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advrad.training.trainer, "SAVE_EVERY_S", 0.0)
    place, name = MOMENTS[moment]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopper = Stopper(getattr(place, name), 7, after)
        # A plain function, so that it binds to the optimiser as the method did.
        patch.setattr(place, name, lambda *arguments, **options: stopper(*arguments, **options))
        train(tmp_path)
    assert 0 < step_in(tmp_path) < 12
    train(tmp_path)
    assert state_in(tmp_path) == uninterrupted


def test_an_interrupted_step_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an earlier state the run starts again, because the weights are not those of any step."""
    stopper = Stopper(Muon.step, 4, False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Muon, "step", lambda *arguments: stopper(*arguments))
        train(tmp_path)
    assert not (tmp_path / STATE).exists()


def started(folder: Path, steps: int, pause_s: float) -> subprocess.Popen[bytes]:
    program = [sys.executable, str(TESTS / "helpers" / "toy_training.py"), str(folder), str(steps), str(pause_s)]
    return subprocess.Popen(program, env=CHILD_ENV, stderr=subprocess.PIPE)


def stop_at(process: subprocess.Popen[bytes], folder: Path, step: int, how: signal.Signals) -> str:
    """Send a signal once the state has reached a step, and return what the process printed."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / STATE).exists() and step_in(folder) >= step:
            process.send_signal(how)
            return process.communicate(timeout=60)[1].decode()
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"the training never reached step {step}: {process.communicate()[1].decode()}")


def test_killed_it_resumes_to_the_same_weights(tmp_path: Path, uninterrupted: State) -> None:
    """With SIGKILL, twice, the second time in a resumed run."""
    for step in (2, 6):
        process = started(tmp_path, 12, 0.1)
        stop_at(process, tmp_path, step, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert step <= step_in(tmp_path) < 12
    train(tmp_path)
    assert state_in(tmp_path) == uninterrupted
    parts = [path.name for path in tmp_path.iterdir() if path.is_file()]
    assert {STATE, "log.jsonl"} <= set(parts)


def test_interrupted_it_saves_and_resumes_to_the_same_weights(tmp_path: Path, uninterrupted: State) -> None:
    process = started(tmp_path, 12, 0.1)
    said = stop_at(process, tmp_path, 3, signal.SIGINT)
    assert process.returncode != 0 and "KeyboardInterrupt" in said
    assert 3 <= step_in(tmp_path) < 12
    train(tmp_path)
    assert state_in(tmp_path) == uninterrupted


def test_a_resumed_run_that_is_finished_stays_as_it_is(tmp_path: Path, uninterrupted: State) -> None:
    first = train(tmp_path)
    again = train(tmp_path)
    assert again.step == 12
    assert state_in(tmp_path) == uninterrupted
    for one, other in zip(first.average.parameters(), again.average.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_state_is_named(tmp_path: Path, damage: str) -> None:
    train(tmp_path, config(2))
    path = tmp_path / STATE
    if damage == "other":
        torch.manual_seed(0)
        wide = toy_training.LeanDenoiser(toy_training.TINY.model_copy(update={"channels": (8, 24)}))
        Trainer(wide, config(), make_accelerator("float32")).save(path)
    else:
        path.write_bytes(path.read_bytes()[: 1000 if damage == "cut" else 0])
    with pytest.raises(CheckpointError) as caught:
        trainer().load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and "in a new folder" in str(caught.value)


# --- the log -------------------------------------------------------------------------------------------------------


def test_the_log_has_a_row_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    train(tmp_path, config(47))
    rows = read_log(tmp_path)
    assert [row["step"] for row in rows] == [20, 40, 47]
    assert all(set(row) == {"step", "loss", "smooth_loss", "images_per_s", "elapsed_s"} for row in rows)


def test_rows_after_the_state_are_dropped_on_resuming(tmp_path: Path) -> None:
    made = trainer(config(30))
    made.step = 10
    rows = [{"step": step, "loss": 1.0} for step in (5, 10, 15, 20)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 2')
    fit(made, stack(), tmp_path)
    assert [row["step"] for row in read_log(tmp_path)] == [5, 10, 20, 30]
    assert "smooth_loss" in read_log(tmp_path)[-1]


# --- a budget in minutes -------------------------------------------------------------------------------------------


class Clock:
    """A clock that only training steps and rehearsals advance."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, per_step_s: float, per_pass_s: float = 0.0) -> None:
        self.now = 1000.0
        monkeypatch.setattr(advrad.training.budget, "time", SimpleNamespace(perf_counter=lambda: self.now))
        self.steps = 0

        def advance(run: Trainer, images: ImageStack) -> float:
            self.now += per_step_s
            self.steps += 1
            return 0.0

        def rehearse(run: Trainer, images: ImageStack) -> None:
            self.now += per_pass_s

        monkeypatch.setattr(Trainer, "advance", advance)
        monkeypatch.setattr(Trainer, "rehearse", rehearse)


@pytest.mark.parametrize(
    ("minutes", "per_step_s", "spent_s", "passes"),
    [(5.0, 0.1, 0.0, 0.0), (5.0, 0.1, 60.0, 1000.0), (60.0, 0.05, 10.0, 5000.0), (0.5, 0.02, 3.0, 300.0)],
)
def test_minutes_become_the_steps_that_fit(
    minutes: float, per_step_s: float, spent_s: float, passes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    per_pass_s = per_step_s / 4
    clock = Clock(monkeypatch, per_step_s, per_pass_s)
    denoiser = trainer().denoiser
    before = copy.deepcopy(denoiser.state_dict())
    start = clock.now
    steps = steps_for(minutes, denoiser, stack(), config(0), make_accelerator("float32"), spent_s, passes)
    measuring_s = clock.now - start
    afterwards_s = passes * per_pass_s / config().batch_size
    total_s = spent_s + measuring_s + steps * per_step_s + afterwards_s
    assert 60 * minutes * 0.99 < total_s <= 60 * minutes * (1 + 1e-9)
    assert (steps * per_step_s) >= 30 * minutes - per_step_s
    for name, value in denoiser.state_dict().items():
        assert torch.equal(value, before[name]), "measuring must not train"


def test_more_work_after_training_means_fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, 0.1, 0.02)
    few, many, endless = (
        steps_for(5.0, trainer().denoiser, stack(), config(0), make_accelerator("float32"), 0.0, passes)
        for passes in (0.0, 2000.0, 1e9)
    )
    assert few > many > endless
    assert endless == pytest.approx(5 * 30 / 0.1, abs=1), "half of the budget is for training, whatever follows"


def test_a_spent_budget_still_gives_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, 3.0)
    assert steps_for(0.01, trainer().denoiser, stack(), config(0), make_accelerator("float32"), 100.0, 0.0) == 1


def test_measuring_speed_really_works_and_leaves_the_random_state() -> None:
    denoiser = trainer().denoiser
    before = [parameter.detach().clone() for parameter in denoiser.parameters()]
    state = torch.get_rng_state()
    assert steps_for(0.02, denoiser, stack(), config(0), make_accelerator("float32"), 0.0, 10.0) >= 1
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(denoiser.parameters(), before, strict=True):
        assert torch.equal(one, other) and one.grad is None


# --- several processes ---------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def average_in(folder: Path) -> dict[str, Tensor]:
    return {k: v for k, v in load_file(folder / STATE).items() if k.startswith(("average.", "model."))}


def test_two_processes_follow_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += [
        "--main_process_port",
        str(free_port()),
        str(TESTS / "helpers" / "toy_training.py"),
        str(tmp_path / "two"),
        "12",
        "0",
    ]
    # The launcher starts several processes only under this name; the variable sends them to the processor.
    env = CHILD_ENV | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    train(tmp_path / "one")
    one, two = average_in(tmp_path / "one"), average_in(tmp_path / "two")
    start = trainer().denoiser.state_dict()
    assert one.keys() == two.keys()
    for name, value in one.items():
        scale = float(value.abs().max()) + 1e-6
        assert float((two[name] - value).abs().max()) <= 2e-4 * scale, name
    moved = [float((one[f"average.{name}"] - value).abs().max()) for name, value in start.items()]
    assert max(moved) > 1e-2, "the comparison means nothing if nothing was learnt"


def test_two_precisions_in_one_process() -> None:
    assert make_accelerator("float32").mixed_precision == "no"
    assert make_accelerator("bfloat16").mixed_precision == "bf16"
    assert make_accelerator("float32").mixed_precision == "no"


def test_unrelated_draws_do_not_disturb_a_run(tmp_path: Path, uninterrupted: State) -> None:
    def disturb(state: TrainingState) -> None:
        torch.rand(3)
        np.random.rand(2)

    train(tmp_path, report=disturb)
    torch.rand(1, generator=generator())
    assert state_in(tmp_path) == uninterrupted
