"""Which denoisers a run makes: the closed form, a learned one, or both."""

from __future__ import annotations

from typing import Literal

from advrad.denoisers.ddpm import PRESETS as DDPM_PRESETS
from advrad.errors import ConfigError
from advrad.training.options import RunOptions

#: What a run makes: ``memory``, the closed form alone; ``reconstruction``, the memory as a denoiser, with whose
#: reconstructions the paper's score compares images; ``learned``, a trained denoiser alone; or ``both``, the closed
#: form and a trained denoiser.
Choice = Literal["memory", "reconstruction", "learned", "both"]

#: Options that only a learned denoiser has.
_OF_TRAINING = ("batch_size", "learning_rate", "adversarial_eps", "precision")


def choice_of(options: RunOptions) -> Choice:
    """Find out which denoisers a run makes.

    Args:
        options: Options of the run.

    Returns:
        The denoiser that ``denoiser`` or ``preset`` names. If neither is given, the memory, and with ``minutes`` or
        ``steps`` the lean denoiser as well. The paper's score belongs to one denoiser alone, which is learned unless
        ``denoiser`` is the memory; and, within a budget, the best certified results at a radius to a learned one.

    Raises:
        ConfigError: Options contradict each other.

    Example:
        >>> choice_of(RunOptions()), choice_of(RunOptions(minutes=5)), choice_of(RunOptions(denoiser="lean"))
        ('memory', 'both', 'learned')
    """
    budget = options.minutes is not None or options.steps is not None
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


def _check_memory_options(options: RunOptions) -> None:
    """Refuse options that mean nothing for the memory."""
    for name in ("minutes", "steps"):
        if (value := getattr(options, name)) is not None:
            raise ConfigError(
                "the memory is not trained; leave it out, or choose denoiser lean", option=name, value=value
            )
    if "preset" in options.model_fields_set:
        raise ConfigError("the memory is no network; leave it out", option="preset", value=options.preset)
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
