"""A budget in minutes becomes a number of training steps."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from toy_models import stack
from toy_training import config, trainer

import advrad.training.budget
import advrad.training.trainer
from advrad.data.loading import ImageStack
from advrad.training.budget import steps_for
from advrad.training.trainer import Trainer, make_accelerator

pytestmark = pytest.mark.usefixtures("one_thread")


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
