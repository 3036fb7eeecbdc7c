"""Training: reproducible, learns, equals the loop written out, and refuses what cannot work."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy_models import stack
from toy_training import STATE, OnStep, config, state_in, step_in, train, trainer

import advrad.training.budget
import advrad.training.trainer
from advrad.errors import ConfigError, TrainingDivergedError
from advrad.training.batches import View, make_batch, random_start
from advrad.training.muon import Muon
from advrad.training.trainer import Trainer, fit, schedule
from advrad.utils.progress import TrainingState

pytestmark = pytest.mark.usefixtures("one_thread")


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
