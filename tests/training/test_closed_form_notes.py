"""Notes about normal images that make a closed-form detector too strict or too tolerant."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from short_runs import Listener
from torch import Tensor

from advrad.errors import ConfigError
from advrad.training.closed_form import fit_closed_form
from advrad.training.closed_form_notes import note_on_likeness, note_on_strangers, strangers_among
from advrad.training.closed_form_plan import MemberPlan

PLANS = [MemberPlan(name="small", size_px=16, cell_px=2, patch_cells=3, window_cells=(1, 1), stride_cells=1)]


def normal_images(count: int, noise: float = 0.05) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    common = torch.linspace(0.3, 0.6, 16).expand(3, 16, 16)
    return (common + noise * torch.randn(count, 3, 16, 16, generator=draws)).clamp(0, 1)


def notes_of(images: Tensor, **options: object) -> list[str]:
    listener = Listener()
    fit_closed_form(images, PLANS, progress=listener, **options)  # type: ignore[arg-type]
    return listener.notes


@pytest.mark.parametrize("count", [20, 40, 70])
def test_usual_images_need_no_note(count: int) -> None:
    assert notes_of(normal_images(count)) == []


def test_copies_are_counted_and_explained() -> None:
    (note,) = notes_of(normal_images(20).repeat(2, 1, 1, 1))
    assert note.startswith("20 of the 40 normal images are copies") and "count once" in note


@pytest.mark.parametrize("count", [20, 40])
def test_images_that_hardly_differ_are_named(count: int) -> None:
    (note,) = notes_of(normal_images(count, noise=0.003))
    assert note.startswith("the normal images hardly differ from each other, by 0.") and "add images" in note


def test_nearly_copies_of_two_images_hardly_differ() -> None:
    pair = normal_images(2).repeat(20, 1, 1, 1)
    noisy = pair + 0.003 * torch.randn(pair.shape, generator=torch.Generator().manual_seed(1))
    (note,) = notes_of(noisy.clamp(0, 1))
    assert "hardly differ" in note


def test_a_stranger_that_raises_the_threshold_is_named() -> None:
    images = normal_images(20)
    images[7] = 1 - images[7]
    (note,) = notes_of(images, names=[f"{row}.png" for row in range(20)])
    assert note.startswith("7.png: differs from the other normal images far more")
    assert "so the threshold is 0." in note and "defects may go unnoticed" in note


@pytest.mark.parametrize("row", range(0, 40, 5))
def test_a_stranger_is_named_whatever_it_is_used_for(row: int) -> None:
    images = normal_images(40)
    images[row] = 1 - images[row]
    (note,) = notes_of(images)
    assert note.startswith(f"image {row}: differs from the other normal images")


def test_scores_of_normal_images_hold_no_stranger() -> None:
    """Also if the scores fall off exponentially, which is slower than those of normal images do."""
    draws = np.random.default_rng(0)
    found = [
        len(strangers_among(draws.exponential(size=count).tolist())) for count in (10, 20, 130) for _ in range(200)
    ]
    assert np.mean(np.array(found) > 0) < 0.03
    assert strangers_among([1.0] * 30) == [] and strangers_among([0.0, 0.1, 9.0]) == []


def test_strangers_are_listed_by_their_scores() -> None:
    usual = [1 + 0.01 * step for step in range(20)]
    assert strangers_among([*usual, 30.0, 50.0]) == [21, 20]
    assert strangers_among([1.0, 40.0], usual) == [1]
    names = [f"{step}.png" for step in range(5)]
    assert note_on_strangers(names).startswith("0.png, 1.png, 2.png and 2 more: differ from the other")
    assert "threshold" not in note_on_strangers(names, 1.0, 1.0)


def test_one_level_of_difference_is_enough() -> None:
    assert note_on_likeness([2 / 255] * 20, 0.05) is None
    assert note_on_likeness([2 / 255] + [0.5 / 255] * 39, 0.05) is not None, "most images count, not one"


def test_a_single_different_image_is_offered_no_rate() -> None:
    copies = normal_images(1).repeat(30, 1, 1, 1)
    with pytest.raises(ConfigError, match=r"there are 1; add normal images$"):
        fit_closed_form(copies, PLANS)
    with pytest.raises(ConfigError, match=r"there are 2; .* accept a rate of 0\.3334 or more$"):
        fit_closed_form(normal_images(2).repeat(15, 1, 1, 1), PLANS)
    assert fit_closed_form(normal_images(2), PLANS, false_alarm_rate=0.3334).calibration.n == 2
