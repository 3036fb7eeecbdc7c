"""What a run makes: the closed form, a learned denoiser, both, or the closed form beside a detector on features."""

from __future__ import annotations

from typing import Literal

from advrad.denoisers.ddpm import PRESETS as DDPM_PRESETS
from advrad.errors import ConfigError
from advrad.training.options import RunOptions
from advrad.utils.imports import is_file_name

#: What a run makes: ``memory``, the closed form alone; ``reconstruction``, the memory as a denoiser, with whose
#: reconstructions the paper's score compares images; ``learned``, a trained denoiser alone; ``both``, the closed form
#: and a trained denoiser in one score; or ``guarded``, the closed form beside a detector on features.
Choice = Literal["memory", "reconstruction", "learned", "both", "guarded"]

#: Name of advrad's own detector on features.
PATCHCORE = "patchcore"

#: Options that only a learned denoiser has.
_OF_TRAINING = ("batch_size", "learning_rate", "adversarial_eps", "precision")


def choice_of(options: RunOptions) -> Choice:
    """Find out what a run makes.

    Args:
        options: Options of the run.

    Returns:
        With ``features``, the closed form beside a detector on features. Else the denoiser that ``denoiser`` or
        ``preset`` names. If neither is given, the memory, and with ``minutes`` or ``steps`` the lean denoiser as well.
        The paper's score belongs to one denoiser alone, which is learned unless ``denoiser`` is the memory; and, within
        a budget, the best certified results at a radius to a learned one.

    Raises:
        ConfigError: Options contradict each other.

    Example:
        >>> choice_of(RunOptions()), choice_of(RunOptions(minutes=5)), choice_of(RunOptions(denoiser="lean"))
        ('memory', 'both', 'learned')
        >>> choice_of(RunOptions(features="patchcore"))
        'guarded'
    """
    if options.features is not None:
        _check_features(options, options.features)
        return "guarded"
    if options.backbone is not None:
        raise ConfigError(
            f"is the network of a detector on features; give features {PATCHCORE} as well, or leave it out",
            option="backbone",
            value=options.backbone,
        )
    budget = trains_denoiser(options)
    if options.denoiser not in (None, "memory"):
        network_name(options)
        return "learned"
    if options.denoiser is None:
        if "preset" in options.model_fields_set or options.score == "paper":
            return "learned"
        if budget:
            return "both" if options.optimise_for_radius is None else "learned"
    _check_memory_options(options)
    return "reconstruction" if options.score == "paper" else "memory"


def trains_denoiser(options: RunOptions) -> bool:
    """Whether the options give a budget for the training of a denoiser.

    Args:
        options: Options of the run.
    """
    return options.minutes is not None or options.steps is not None


def _check_features(options: RunOptions, features: str) -> None:
    """Refuse features that are of no known kind, and options that do not go with them."""
    if features != PATCHCORE and not is_file_name(features) and not features.endswith(".ckpt"):
        raise ConfigError(
            f"is unknown; choose {PATCHCORE}, or name a detector as FILE.py:NAME, or a checkpoint of anomalib whose"
            " name ends with .ckpt",
            option="features",
            value=features,
        )
    if options.backbone is not None and features != PATCHCORE:
        raise ConfigError(
            f"is the network of {PATCHCORE}; {features} brings its own: leave it out",
            option="backbone",
            value=options.backbone,
        )
    refused = {
        "denoiser": "the memory is fitted anyway, and minutes or steps train a learned denoiser",
        "preset": "a learned denoiser beside them is the lean one",
        "optimise_for_radius": "it chooses for one detector alone",
        "tile_px": "tiles are for the closed form alone",
    }
    for name, why in refused.items():
        value = getattr(options, name)
        if value is not None and (name != "preset" or name in options.model_fields_set):
            raise ConfigError(f"cannot be combined with features: {why}; leave it out", option=name, value=value)
    for name, word, why in (
        ("score", "paper", "the paper's score belongs to one denoiser alone"),
        ("shape", "tiles", "tiles are for the closed form alone"),
    ):
        if getattr(options, name) == word:
            raise ConfigError(f"cannot be combined with features: {why}; choose another", option=name, value=word)
    if not trains_denoiser(options):
        _check_no_training(options)


def _check_memory_options(options: RunOptions) -> None:
    """Refuse options that mean nothing for the memory."""
    for name in ("minutes", "steps"):
        if (value := getattr(options, name)) is not None:
            raise ConfigError(
                "the memory is not trained; leave it out, or choose denoiser lean", option=name, value=value
            )
    if "preset" in options.model_fields_set:
        raise ConfigError("the memory is no network; leave it out", option="preset", value=options.preset)
    _check_no_training(options)


def _check_no_training(options: RunOptions) -> None:
    """Refuse options of the training of a denoiser where none is trained."""
    for name in _OF_TRAINING:
        if (value := getattr(options, name)) != RunOptions.model_fields[name].default:
            raise ConfigError(
                "is for a learned denoiser only; give minutes or steps as well, or leave it out",
                option=name,
                value=value,
            )


def network_name(options: RunOptions) -> str:
    """Give the name of the learned denoiser's network: ``lean``, or one of the U-Nets of diffusers.

    Args:
        options: Options of the run.

    Raises:
        ConfigError: ``preset`` is unknown, or not of the kind that ``denoiser`` names.
    """
    preset, given = options.preset, "preset" in options.model_fields_set
    if preset != "lean" and preset not in DDPM_PRESETS:
        raise ConfigError(f"is unknown; choose lean, {', '.join(DDPM_PRESETS)}", option="preset", value=preset)
    if options.denoiser == "ddpm" and not given:
        return "paper"
    kind = "lean" if preset == "lean" else "ddpm"
    if options.denoiser in ("lean", "ddpm") and options.denoiser != kind:
        raise ConfigError(f"is no {options.denoiser} network; leave it out", option="preset", value=preset)
    return preset


def checkpoint_of(options: RunOptions) -> str | None:
    """Give the pretrained U-Net that training starts from: a folder or a hub id; None for random weights.

    Args:
        options: Options of the run.
    """
    return None if options.denoiser in (None, "memory", "lean", "ddpm") else options.denoiser


def needs_diffusers(options: RunOptions) -> bool:
    """Whether a run trains a network of the diffusers library.

    Args:
        options: Options of the run.

    Raises:
        ConfigError: Options contradict each other.

    Example:
        >>> needs_diffusers(RunOptions(preset="tiny")), needs_diffusers(RunOptions(minutes=5))
        (True, False)
    """
    if checkpoint_of(options) is not None:
        return True  # its network need not be one of the presets
    return choice_of(options) in ("learned", "both") and network_name(options) != "lean"


def learned_alone(options: RunOptions) -> RunOptions:
    """Give the options that train the learned denoiser of a run, without the closed form.

    Args:
        options: Options of the run.
    """
    if options.denoiser is not None or "preset" in options.model_fields_set:
        return options
    return options.model_copy(update={"denoiser": "lean"})
