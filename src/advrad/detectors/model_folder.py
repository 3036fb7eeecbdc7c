"""The model folder: ``config.json``, ``model.safetensors`` and the model card. Nothing is ever unpickled.

The weights are written first and ``config.json`` last, with the digest of the weights in it. So an incomplete folder,
or one whose files do not belong together, is recognised.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from advrad.errors import CheckpointError, OutputError
from advrad.utils.files import PART, atomic_path, write_json, write_text
from advrad.utils.output_folders import CONFIG_NAME as CONFIG_NAME
from advrad.utils.output_folders import FORMAT, claim_folder, unmark_folder

FORMAT_VERSION = 1
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "README.md"
OTHER_CARD_NAME = "README.advrad.md"
_OLD_CARD_NAME = "README.old.md"
#: Beginning of the last line of a card, which holds its digest; and of every card before there was one.
_SIGNATURE = "<!-- Written by advrad; changed by hand, it is kept: "
_OLD_HEAD = "---\nlibrary_name: advrad\n"
#: Names of the entries of ``config.json`` that describe the files.
_HEADER = ("format", "format_version", "weights_sha256")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(path: Path, tensors: dict[str, Tensor], notes: dict[str, str]) -> None:
    """Write a safetensors file, completely or not at all.

    Args:
        path: File to write; its folder exists.
        tensors: Tensors by name. They are written contiguously, so that the file does not depend on their memory
            layout.
        notes: Metadata of the file.

    Raises:
        OutputError: The file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    packed = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(packed, temporary, metadata=notes)
        except SafetensorError as error:  # such as a full disk
            raise OutputError(f"{path}: cannot be written ({error}); check the disk and the path") from None
        temporary.chmod(mode)  # safetensors makes the file readable by its owner only


def save_folder(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a model folder.

    Args:
        folder: Folder to write to; made if missing. A model in it is replaced.
        config: Configuration as JSON values.
        tensors: Tensors by name.

    Raises:
        OutputError: The folder holds files that advrad did not write, or cannot be written. An older model in it stays,
            or is recognised as damaged.
    """
    claim_folder(folder, "model", also=("demonstration",))
    for left in folder.glob(f".*{PART}*"):  # of a run that was killed while it wrote
        with suppress(OSError):
            left.unlink()
    write_tensors(folder / WEIGHTS_NAME, tensors, {"format": "pt"})
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "weights_sha256": _digest(folder / WEIGHTS_NAME)}
    write_json(folder / CONFIG_NAME, header | config)
    unmark_folder(folder, "model")


def write_card(folder: Path, text: str) -> Path:
    """Write the model card, unless a user has written or changed the one that is there.

    A card ends with a digest of itself, so a change is noticed. The card of an earlier version, which has no digest, is
    kept under another name.

    Args:
        folder: Model folder.
        text: The card, in Markdown.

    Returns:
        The file: ``README.md``, or ``README.advrad.md`` beside a file of the user.

    Raises:
        OutputError: The card cannot be written.
    """
    path = folder / CARD_NAME
    found = _read_card(path)
    if found is not None and not _is_unchanged(found):
        if found.startswith(_OLD_HEAD) and _SIGNATURE not in found and not (folder / _OLD_CARD_NAME).exists():
            write_text(folder / _OLD_CARD_NAME, found)
        else:
            path = folder / OTHER_CARD_NAME
    write_text(path, _signed(text))
    return path


def _read_card(path: Path) -> str | None:
    """The text of a card; None if there is none, or an empty file."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape") or None
    except FileNotFoundError:
        return None
    except OSError:
        return "?"  # a folder, or a file that may not be read: not ours


def _signed(text: str) -> str:
    """A card with its digest at the end, which Markdown does not show."""
    body = text.rstrip("\n") + "\n\n"
    return f"{body}{_SIGNATURE}{_digest_of(body)} -->\n"


def _is_unchanged(text: str) -> bool:
    """Whether a card is as advrad wrote it. Line ends do not count."""
    body, signature, digest = text.replace("\r\n", "\n").rpartition(_SIGNATURE)
    return bool(signature) and digest.strip() == f"{_digest_of(body)} -->"


def _digest_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogateescape")).hexdigest()[:16]


def load_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a model folder.

    Args:
        folder: Folder as written by :func:`save_folder`.

    Returns:
        The configuration without its header, and the tensors by name.

    Raises:
        CheckpointError: The model is missing, damaged, of another program, or of a newer format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    header, config = _read_config(folder)
    weights = folder / WEIGHTS_NAME
    try:
        # Read once: a mapped file would change the loaded tensors when another one is written over it.
        content = weights.read_bytes()
        if hashlib.sha256(content).hexdigest() != header.get("weights_sha256"):
            raise CheckpointError(
                f"{weights}: is not what {CONFIG_NAME} describes (cut short or replaced); copy it again"
            )
        return config, load(content)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{weights}: cannot be read ({error}); train again or copy the folder again") from None


def load_kind(folder: Path, kind: str, name: str) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """Read a model folder that must hold one kind of detector.

    Args:
        folder: Folder as written by :func:`save_folder`.
        kind: Kind of the detector in ``config.json``.
        name: Name of this kind in errors, such as ``a closed-form detector``.

    Returns:
        The configuration without its header, the tensors by name, and the name of the file for errors.

    Raises:
        CheckpointError: The model is missing, damaged, of another kind or program, or of a newer format.
    """
    values, tensors = load_folder(folder)
    source = str(folder / CONFIG_NAME)
    if values.get("kind") != kind:
        raise CheckpointError(f"{source}: is not {name}; load it with advrad.load_detector")
    return values, tensors, source


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of a model folder, without its header; the weights are not read.

    Args:
        folder: Folder as written by :func:`save_folder`.

    Raises:
        CheckpointError: The configuration is missing, damaged, of another program, or of a newer format.
    """
    return _read_config(folder)[1]


def replace_config(folder: Path, config: dict[str, Any]) -> None:
    """Replace the configuration of a model folder; the weights stay.

    Args:
        folder: Folder as written by :func:`save_folder`.
        config: Configuration as JSON values.

    Raises:
        CheckpointError: The present configuration cannot be read.
        OutputError: The file cannot be written; the present one stays.
    """
    write_json(folder / CONFIG_NAME, _read_config(folder)[0] | config)


def _read_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and configuration of a model folder."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such model folder; make one with 'advrad train DATA -o {folder}'")
    path = folder / CONFIG_NAME
    if not path.is_file():
        unfinished = (folder / "training" / "plan.json").is_file()
        fix = "resume its training" if unfinished else "name a folder that 'advrad train' made"
        raise CheckpointError(f"{folder}: holds no model ({CONFIG_NAME} is missing); {fix}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: is damaged ({error}); train again or copy the folder again") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not a model of advrad; name a folder that 'advrad train' made")
    header = {name: config.pop(name) for name in _HEADER if name in config}
    version = header.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: has format {version}, this advrad reads up to {FORMAT_VERSION}; install a newer advrad"
        )
    return header, config


def download(
    model_id: str,
    revision: str | None,
    cache_dir: str | Path | None,
    force_download: bool,
    local_files_only: bool,
    token: str | bool | None,
) -> Path:
    """Download a model from the Hugging Face hub: configuration and weights only.

    The other arguments are those of :func:`huggingface_hub.snapshot_download`.

    Args:
        model_id: Name of the model on the hub, such as ``owner/name``.
        revision: Branch, tag or commit; None for the newest.
        cache_dir: Folder of the download cache; None for the default.
        force_download: Whether to download files that are in the cache already.
        local_files_only: Whether to use the cache only.
        token: Access token; None for the stored one.

    Returns:
        The local folder.

    Raises:
        CheckpointError: The model does not exist, or cannot be downloaded.
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
            f"{model_id}: there is no such model folder, and it is not a valid name on the hub; check the path"
        ) from None
    except Exception as error:  # the hub's clients raise many kinds of errors when a download fails
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{model_id}: there is no such model folder, and the hub has no such model ({reason}); check the name"
        ) from None
