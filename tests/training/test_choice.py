"""Which denoisers a run makes, and options that contradict each other."""

from __future__ import annotations

import pytest

from advrad.errors import ConfigError
from advrad.training.choice import checkpoint_of, choice_of, learned_alone, network_name
from advrad.training.options import RunOptions


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        ({}, "memory"),
        ({"score": "robust"}, "memory"),
        ({"optimise_for_radius": 0.2}, "memory"),
        ({"denoiser": "memory"}, "memory"),
        ({"denoiser": "memory", "score": "paper"}, "reconstruction"),
        ({"minutes": 5}, "both"),
        ({"steps": 5, "score": "robust", "harden": "2/255"}, "both"),
        ({"minutes": 5, "optimise_for_radius": 0.2}, "learned"),
        ({"features": "patchcore"}, "guarded"),
        ({"features": "patchcore", "backbone": "lite0", "minutes": 5, "batch_size": 4}, "guarded"),
        ({"features": "mine.py:make", "score": "robust"}, "guarded"),
        ({"features": "runs/model.ckpt"}, "guarded"),
        ({"score": "paper"}, "learned"),
        ({"steps": 5, "score": "paper"}, "learned"),
        ({"preset": "lean", "minutes": 5}, "learned"),
        ({"preset": "paper"}, "learned"),
        ({"denoiser": "lean"}, "learned"),
        ({"denoiser": "ddpm", "steps": 5}, "learned"),
        ({"source": "owner/unet", "steps": 5}, "learned"),
    ],
    ids=str,
)
def test_the_options_say_which_denoisers_are_made(given: dict[str, object], choice: str) -> None:
    assert choice_of(RunOptions.parse(given)) == choice


@pytest.mark.parametrize(
    ("given", "option", "words"),
    [
        ({"denoiser": "memory", "minutes": 5}, "minutes", "the memory is not trained; leave it out"),
        ({"denoiser": "memory", "steps": 5}, "steps", "the memory is not trained; leave it out"),
        ({"denoiser": "memory", "score": "paper", "steps": 5}, "steps", "the memory is not trained; leave it out"),
        ({"denoiser": "memory", "preset": "tiny"}, "preset", "no network"),
        ({"harden": "2/255"}, "adversarial_eps", "for a learned denoiser only; give minutes or steps"),
        ({"batch_size": 4}, "batch_size", "for a learned denoiser only"),
        ({"learning_rate": 0.1}, "learning_rate", "for a learned denoiser only"),
        ({"precision": "float32"}, "precision", "for a learned denoiser only"),
        ({"preset": "huge"}, "preset", "is unknown; choose lean, "),
        ({"features": "padim"}, "features", "is unknown; choose patchcore, or name a detector as FILE.py:NAME"),
        ({"backbone": "lite0"}, "backbone", "give features patchcore as well"),
        ({"features": "a.ckpt", "backbone": "lite0"}, "backbone", "a.ckpt brings its own"),
        ({"features": "patchcore", "denoiser": "lean"}, "denoiser", "the memory is fitted anyway"),
        ({"features": "patchcore", "preset": "tiny"}, "preset", "is the lean one"),
        ({"features": "patchcore", "score": "paper"}, "score", "belongs to one denoiser alone"),
        ({"features": "patchcore", "optimise_for_radius": 0.2}, "optimise_for_radius", "one detector alone"),
        ({"features": "patchcore", "shape": "tiles"}, "shape", "for the closed form alone"),
        ({"features": "patchcore", "tile": 64}, "tile_px", "for the closed form alone"),
        ({"features": "patchcore", "harden": "2/255"}, "adversarial_eps", "give minutes or steps"),
        ({"denoiser": "lean", "preset": "paper"}, "preset", "is no lean network"),
        ({"denoiser": "ddpm", "preset": "lean"}, "preset", "is no ddpm network"),
    ],
    ids=str,
)
def test_options_that_contradict_each_other_are_named(given: dict[str, object], option: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        options = RunOptions.parse(given)
        if choice_of(options) == "learned":
            network_name(options)
    assert caught.value.option == option


@pytest.mark.parametrize(
    ("given", "network", "checkpoint"),
    [
        ({}, "lean", None),
        ({"denoiser": "lean"}, "lean", None),
        ({"denoiser": "ddpm"}, "paper", None),
        ({"denoiser": "ddpm", "preset": "tiny"}, "tiny", None),
        ({"preset": "tiny"}, "tiny", None),
        ({"denoiser": "./lean"}, "lean", "./lean"),
    ],
    ids=str,
)
def test_the_network_and_the_checkpoint(given: dict[str, object], network: str, checkpoint: str | None) -> None:
    options = RunOptions.parse(given)
    assert (network_name(options), checkpoint_of(options)) == (network, checkpoint)


@pytest.mark.parametrize("given", [{}, {"steps": 5}, {"preset": "tiny"}, {"denoiser": "ddpm"}], ids=str)
def test_the_learned_denoiser_of_any_run_can_be_trained_alone(given: dict[str, object]) -> None:
    options = RunOptions.parse(given)
    assert choice_of(learned_alone(options)) == "learned"
    assert network_name(learned_alone(options)) == network_name(options)


def test_grids_and_files_call_the_denoiser_source() -> None:
    assert RunOptions(denoiser="unet").model_dump()["source"] == "unet"
    assert RunOptions.parse({"source": "unet"}) == RunOptions(denoiser="unet")
