"""Model folders from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from advrad.checkpoint import CONFIG_NAME, WEIGHTS_NAME
from advrad.errors import CheckpointError


def download(
    model_id: str,
    revision: str | None,
    cache_dir: str | Path | None,
    force_download: bool,
    local_files_only: bool,
    token: str | bool | None,
) -> Path:
    """Fetch a model folder: configuration and weights only.

    The arguments are those of the hub client's ``snapshot_download``.

    Returns:
        The folder that holds them here.

    Raises:
        CheckpointError: there is no such model, or it is not to be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(
            snapshot_download(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=[CONFIG_NAME, WEIGHTS_NAME],
            )
        )
    except HFValidationError:
        raise CheckpointError(
            f"{model_id}: there is no such model folder, nor can it be a hub id; check the path"
        ) from None
    except Exception as error:  # the hub's clients raise many kinds for one cause: it is not to be had
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{model_id}: there is no such model folder, and the hub does not give it ({reason}); check the name"
        ) from None
