"""Reads diffusers checkpoints: a pipeline folder, a plain ``UNet2DModel`` folder, or either from the hub."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from torch import nn

from advrad.denoisers.ddpm import DdpmConfig, DdpmDenoiser, Schedule, build, unet_class
from advrad.errors import CheckpointError, ConfigError

_WEIGHTS = "diffusion_pytorch_model.safetensors"

# How diffusers named the parts of an attention layer before its version 0.15.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def load(source: str | Path, size_px: int | None = None, revision: str | None = None) -> DdpmDenoiser:
    """Read a diffusers checkpoint.

    The checkpoint is a pipeline (``unet/`` and ``scheduler/``) or a plain ``UNet2DModel``. Without a
    ``scheduler_config.json`` the schedule is the linear one with 1000 steps. Only safetensors weights are read, because
    opening a pickle runs the code in it.

    Args:
        source: Folder of the checkpoint, or, as a str, the name of a model on the Hugging Face hub.
        size_px: Side of the images, pixels; None for the size in the checkpoint.
        revision: Branch, tag or commit on the hub.

    Returns:
        The denoiser, in evaluation mode, float32.

    Raises:
        CheckpointError: The checkpoint is missing, damaged, pickled, conditional, or not a DDPM.
        ConfigError: diffusers is not installed.
    """
    unet_class()  # report a missing library before a download
    folder = _locate(source, revision)
    unet_folder = folder / "unet" if (folder / "unet").is_dir() else folder
    places = (folder / "scheduler" / "scheduler_config.json", unet_folder / "scheduler_config.json")
    scheduler_path = next((path for path in places if path.is_file()), None)
    scheduler = _read_json(scheduler_path) if scheduler_path else {}
    config_path = unet_folder / "config.json"
    config = _config_from(_read_json(config_path), scheduler, size_px, config_path, scheduler_path)
    try:
        denoiser = build(config)
    except ConfigError as error:
        raise CheckpointError(f"{config_path}: {error}") from None
    _fill(denoiser.network, unet_folder / _WEIGHTS)
    return denoiser.eval()


def _one_line(error: Exception) -> str:
    """Shorten an error message to one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def _locate(source: str | Path, revision: str | None) -> Path:
    """Give the folder of the checkpoint, downloaded from the hub if ``source`` is not a folder."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{source}: not a folder; give the folder that holds config.json and {_WEIGHTS}")
    if isinstance(source, Path) or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source):
        raise CheckpointError(f"{source}: no such folder; check the path, or give a hub model as 'owner/name'")
    from huggingface_hub import snapshot_download

    wanted = [f"{folder}{name}" for folder in ("", "unet/", "scheduler/") for name in ("config.json", _WEIGHTS)] + [
        "scheduler_config.json",
        "scheduler/scheduler_config.json",
    ]
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=wanted))
    except Exception as error:
        # Broad, because the error of a missing network depends on the HTTP library that the hub client uses.
        raise CheckpointError(
            f"{source}: no such folder, and it cannot be downloaded from the hub ({_one_line(error)}); "
            "check the name and the network, or download the model and give its folder"
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is missing; give a diffusers checkpoint, which has this file") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({_one_line(error)})") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: is not a JSON object; give a diffusers checkpoint")
    return values


def _config_from(
    unet: dict[str, Any],
    scheduler: dict[str, Any],
    size_px: int | None,
    unet_path: Path,
    scheduler_path: Path | None,
) -> DdpmConfig:
    """Translate the two configuration files of a diffusers checkpoint; refuse networks that are not a DDPM."""
    if unet.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise CheckpointError(f"{unet_path}: a {unet['_class_name']}; only an unconditional UNet2DModel can be used")
    if unet.get("class_embed_type") is not None or unet.get("num_class_embeds") is not None:
        raise CheckpointError(f"{unet_path}: the network is conditional on a class; use an unconditional one")
    if unet.get("time_embedding_type", "positional") == "fourier":
        raise CheckpointError(f"{unet_path}: time embedding 'fourier' belongs to score networks; use a DDPM")
    channels = unet.get("in_channels", 3)
    if channels not in (1, 3) or unet.get("out_channels", 3) != channels:
        raise CheckpointError(
            f"{unet_path}: {channels} channels in and {unet.get('out_channels', 3)} out; "
            "use a network on images with 3 (or 1) of both and without a learned variance"
        )
    if size_px is None:
        size = unet.get("sample_size")
        if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
            size = size[0]
        if size is None or isinstance(size, list):
            raise CheckpointError(f"{unet_path}: sample_size {size} is not a square; give the image size")
        size_px = size

    if scheduler:
        if not {"beta_schedule", "trained_betas"} & set(scheduler):
            name = scheduler.get("_class_name", "scheduler")
            raise CheckpointError(f"{scheduler_path}: {name} has no variance schedule; use a DDPM checkpoint")
        if scheduler.get("rescale_betas_zero_snr"):
            raise CheckpointError(f"{scheduler_path}: rescale_betas_zero_snr ends in infinite noise; not supported")
        prediction = scheduler.get("prediction_type", "epsilon")
        if prediction not in ("epsilon", "sample", "v_prediction"):
            raise CheckpointError(
                f"{scheduler_path}: prediction_type {prediction!r}; use a network that predicts epsilon"
            )
    schedule = {key: scheduler[key] for key in Schedule.model_fields if scheduler.get(key) is not None}

    # diffusers ignores keys that it does not know, mostly old ones; the weights show a real difference.
    parameters = inspect.signature(unet_class().__init__).parameters
    named = {"block_out_channels", "down_block_types", "layers_per_block"}
    own = named | {"sample_size", "in_channels", "out_channels"}
    values: dict[str, Any] = {key: unet.get(key, parameters[key].default) for key in named}
    options = {
        key: value
        for key, value in unet.items()
        if key in parameters and key not in own and value != parameters[key].default
    }
    options["up_block_types"] = unet.get("up_block_types", parameters["up_block_types"].default)
    values |= {"size_px": size_px, "channels": channels, "options": options, "schedule": schedule}
    values["prediction_type"] = scheduler.get("prediction_type", "epsilon")
    try:
        return DdpmConfig.parse(values, str(unet_path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def _fill(network: nn.Module, path: Path) -> None:
    """Load the weights of a safetensors file into the network; all names and shapes must agree."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(
            f"{path}: missing; pickled weights (.bin) are never opened. If you trust them, convert them: "
            "UNet2DModel.from_pretrained(FOLDER, use_safetensors=False).save_pretrained(FOLDER)"
        )
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({_one_line(error)}); download it again") from None
    try:
        network.load_state_dict({_modern(name): value for name, value in weights.items()})
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit its config.json ({_one_line(error)})") from None


def _modern(name: str) -> str:
    """Give the present name of a tensor."""
    head, _, part = name.rpartition(".attentions.")
    pieces = part.split(".")
    if head and len(pieces) == 3:
        pieces[1] = _OLD_ATTENTION.get(pieces[1], pieces[1])
        return f"{head}.attentions.{'.'.join(pieces)}"
    return name
