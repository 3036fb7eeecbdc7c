"""Training can be stopped at any moment and resumed to the same weights, also by several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_training
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from toy_models import generator, stack
from toy_training import STATE, TESTS, State, config, state_in, step_in, train, trainer
from two_processes import kept_port

import advrad.training.budget
import advrad.training.trainer
from advrad.errors import CheckpointError
from advrad.training.log import read_log
from advrad.training.muon import Muon
from advrad.training.trainer import Trainer, fit, make_accelerator
from advrad.utils.progress import TrainingState

pytestmark = pytest.mark.usefixtures("one_thread")

CHILD_ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent / "src")}


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


#: A training that stops as soon as its state has reached a step, and waits for a signal.
HELD = """
import sys, time
from pathlib import Path
import torch, toy_training
import advrad.training.trainer
torch.set_num_threads(1)
advrad.training.trainer.SAVE_EVERY_S = 0.0
folder, held = Path(sys.argv[1]), int(sys.argv[2])
def hold(state):
    if (folder / toy_training.STATE).exists() and toy_training.step_in(folder) >= held:
        time.sleep(600)
toy_training.train(folder, toy_training.config(), hold)
"""


def started(folder: Path, held: int) -> subprocess.Popen[bytes]:
    helpers = os.pathsep.join([CHILD_ENV["PYTHONPATH"], str(TESTS / "helpers")])
    program = [sys.executable, "-c", HELD, str(folder), str(held)]
    return subprocess.Popen(program, env=CHILD_ENV | {"PYTHONPATH": helpers}, stderr=subprocess.PIPE)


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


def test_killed_and_interrupted_it_resumes_to_the_same_weights(tmp_path: Path, uninterrupted: State) -> None:
    """A process is killed; the one that resumes is interrupted, and saves."""
    process = started(tmp_path, 2)
    stop_at(process, tmp_path, 2, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert 2 <= step_in(tmp_path) < 12
    process = started(tmp_path, 6)
    said = stop_at(process, tmp_path, 6, signal.SIGINT)
    assert process.returncode != 0 and "KeyboardInterrupt" in said
    assert 6 <= step_in(tmp_path) < 12
    train(tmp_path)
    assert state_in(tmp_path) == uninterrupted
    parts = [path.name for path in tmp_path.iterdir() if path.is_file()]
    assert {STATE, "log.jsonl"} <= set(parts)


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


# --- several processes ---------------------------------------------------------------------------------------------


def movement(folder: Path, start: dict[str, Tensor]) -> Tensor:
    """How far training has moved the averaged weights, in one long vector."""
    state = load_file(folder / STATE)
    return torch.cat([(state[f"average.{name}"] - value).flatten().double() for name, value in start.items()])


def test_two_processes_follow_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    program = [str(TESTS / "helpers" / "toy_training.py"), str(tmp_path / "two"), "12", "0"]
    # The launcher starts several processes only under this name; the variable sends them to the processor.
    env = CHILD_ENV | {"ACCELERATE_USE_CPU": "true"}
    with kept_port() as port:
        command += ["--main_process_port", str(port), *program]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    train(tmp_path / "one")
    train(tmp_path / "half", config(batch_size=2))
    start = trainer().denoiser.state_dict()
    one, two, half = (movement(tmp_path / name, start) for name in ("one", "two", "half"))
    assert float(one.abs().max()) > 1e-2, "the comparison means nothing if nothing was learnt"
    # Adam enlarges rounding (0.0002 of the way was measured between one thread and two); a wrong batch leads elsewhere.
    assert float((two - one).norm()) <= 0.02 * float(one.norm())
    assert float((half - one).norm()) > 0.5 * float(one.norm())


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
