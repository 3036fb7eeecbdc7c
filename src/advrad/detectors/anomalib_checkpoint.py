"""Read a checkpoint of anomalib: find out which model it is of, and build that without a download.

A checkpoint names no class. It holds the arguments of the model's constructor and the names of its tensors, and no two
image models of anomalib have the same. Checkpoints are opened for tensors and plain values only, which runs no code of
theirs.
"""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from advrad.errors import ConfigError
from advrad.utils.seeding import seeded_globals
from advrad.utils.substitution import substituted

if TYPE_CHECKING:
    from anomalib.models.components.base import AnomalibModule

#: What to do with a checkpoint that is not read.
INSTEAD = "load it in a Python file of your own, and name the model there as FILE.py:NAME"
#: The name under which baselines train on EfficientNet-lite0 with packaged weights, and its name in timm.
PACKAGED = {"advrad_efficientnet_lite0": "tf_efficientnet_lite0"}
#: Models that are built without a file from elsewhere, once networks of timm are built without trained weights: the
#: checkpoint holds all weights.
READABLE = frozenset(
    {
        "AnomalyDINO",
        "Cflow",
        "Dfkde",
        "Dfm",
        "Dinomaly",
        "Draem",
        "Dsr",
        "EfficientAd",
        "Fastflow",
        "Fre",
        "Ganomaly",
        "GeneralAD",
        "Glass",
        "InpFormer",
        "L2BT",
        "MHPatchcore",
        "Padim",
        "Patchcore",
        "Patchflow",
        "Rad",
        "ReverseDistillation",
        "Stfpm",
        "SuperADD",
        "Supersimplenet",
        "Uflow",
    }
)
#: Arguments of every model that a checkpoint keeps elsewhere.
_PARTS = frozenset({"self", "pre_processor", "post_processor", "evaluator", "visualizer"})
#: Arguments that replace those in the checkpoint: any folder keeps DRAEM from downloading its textures.
_REPLACED: Mapping[str, dict[str, Any]] = {"Draem": {"dtd_dir": str(Path(__file__).parent)}}


def anomalib_version(file: str) -> str:
    """Version of the installed anomalib.

    Args:
        file: File that needs it, for the error.

    Raises:
        ConfigError: The package anomalib is not installed.
    """
    try:
        import anomalib.models  # noqa: F401
        from anomalib import __version__
    except ImportError as error:
        raise ConfigError(
            f"{file}: is a checkpoint of anomalib, which cannot be imported ({error}); install advrad[anomalib]"
        ) from None
    return str(__version__)


def read_anomalib(content: bytes, file: str) -> AnomalibModule:
    """Make the model of a checkpoint. Nothing is downloaded, and no code of the checkpoint is run.

    Args:
        content: Content of the checkpoint.
        file: Its name, for errors.

    Returns:
        The trained model, on the CPU.

    Raises:
        ConfigError: The package anomalib is not installed; the content is no checkpoint of anomalib, or of another
            version; or its model cannot be told or built.
    """
    version = anomalib_version(file)
    checkpoint = _open(content, file, version)
    arguments = checkpoint["hyper_parameters"]
    kind = _kind_of(arguments, checkpoint, file, version)
    try:
        with _without_downloads(), seeded_globals(0):
            replaced = _REPLACED.get(kind.__name__, {})
            model = kind.load_from_checkpoint(io.BytesIO(content), map_location="cpu", strict=True, **replaced)
            return model.eval().requires_grad_(False)
    except (Exception, SystemExit) as error:  # whatever the library raises
        reason = (str(error).strip() or type(error).__name__).splitlines()
        first = " ".join(line.strip() for line in reason[:2])[:200]
        raise ConfigError(
            f"{file}: does not fit {kind.__name__} of the installed anomalib {version} ({first}); install the version"
            f" that wrote it, or {INSTEAD}"
        ) from error


def _open(content: bytes, file: str, version: str) -> dict[str, Any]:
    """Read tensors and plain values.

    Raises:
        ConfigError: The content is no checkpoint of anomalib, or one of an earlier version.
    """
    from anomalib.utils.serialization import anomalib_safe_globals

    extra = [part for kind in _kinds() for part in kind.checkpoint_safe_globals()]
    try:
        with anomalib_safe_globals(extra=extra):
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever PyTorch raises for a damaged file, or for one that holds code
        if "global" not in str(error).lower():
            raise ConfigError(
                f"{file}: is damaged or no checkpoint of anomalib; name a .ckpt that its Engine wrote"
            ) from None
        what = re.search(r"GLOBAL (\S+)", str(error))
        raise ConfigError(
            f"{file}: holds code besides tensors{f' ({what[1]})' if what else ''}, as checkpoints of anomalib before"
            f" 2.7 and of models with parts of one's own do; advrad does not run it: {INSTEAD}"
        ) from None
    if not isinstance(found, dict) or not isinstance(found.get("state_dict"), dict):
        raise ConfigError(f"{file}: is not a checkpoint of anomalib; name a .ckpt that its Engine wrote")
    if not isinstance(found.get("hyper_parameters"), dict) or "anomalib_components_enabled" not in found:
        raise ConfigError(
            f"{file}: lacks what anomalib 2.7 and newer write, so it is of an earlier version or of another library"
            f" (anomalib {version} is installed); install the version that wrote it, and {INSTEAD}"
        )
    _check_parts(found, file)
    return found


def _check_parts(checkpoint: Mapping[str, Any], file: str) -> None:
    """Refuse a pre-processor that the checkpoint does not hold: images would be scaled in another way.

    Raises:
        ConfigError: The model had one, and it is not in the checkpoint.
    """
    if not checkpoint["anomalib_components_enabled"].get("pre_processor", True):
        return
    if not (checkpoint.get("anomalib_pre_processor_config") or {}).get("transform"):
        raise ConfigError(f"{file}: does not hold how its model pre-processes images, which is of its own; {INSTEAD}")


def _kinds() -> Iterator[type[AnomalibModule]]:
    """All models of anomalib itself."""
    from anomalib.models.components.base import AnomalibModule

    waiting = list(AnomalibModule.__subclasses__())
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("anomalib."):
            yield kind


def _kind_of(
    arguments: Mapping[str, Any], checkpoint: Mapping[str, Any], file: str, version: str
) -> type[AnomalibModule]:
    """The model whose constructor takes exactly these arguments.

    Raises:
        ConfigError: There is none or more than one, it needs files from elsewhere, or anomalib's engine stored the
            checkpoint under another name.
    """
    given = {name for name in arguments if not name.startswith("_")}
    fitting = [kind for kind in _kinds() if set(inspect.signature(kind.__init__).parameters) - _PARTS == given]
    if len(fitting) != 1:
        shown = ", ".join(sorted(given)) or "none"
        raise ConfigError(
            f"{file}: is of no model of the installed anomalib {version} (arguments of its model: {shown}): it is of"
            f" another version or a model of your own; install the version that wrote it, or {INSTEAD}"
        )
    name = fitting[0].__name__
    folder = _engine_folder(checkpoint)
    if folder and name not in folder:
        raise ConfigError(
            f"{file}: has the arguments of {name}, but anomalib's engine did not store it as {name}: it seems to be a"
            f" model of your own; {INSTEAD}"
        )
    if name not in READABLE:
        raise ConfigError(f"{file}: is of {name}, which is not built without files from elsewhere; {INSTEAD}")
    return fitting[0]


def _engine_folder(checkpoint: Mapping[str, Any]) -> list[str]:
    """Parts of the folder in which anomalib's engine stored it, one of them the model's class; empty if not known."""
    for name, state in checkpoint.get("callbacks", {}).items():
        place = state.get("dirpath") if str(name).startswith("ModelCheckpoint") and isinstance(state, dict) else None
        parts = re.split(r"[/\\]", str(place))
        if parts[-2:] == ["weights", "lightning"]:
            return parts
    return []


@contextmanager
def _without_downloads() -> Iterator[None]:
    """Build networks of timm without trained weights."""
    import timm

    create = timm.create_model

    def untrained(model_name: str, pretrained: bool = False, *rest: Any, **options: Any) -> Any:
        del pretrained
        return create(PACKAGED.get(model_name, model_name), False, *rest, **options)

    with substituted(timm, "create_model", untrained):
        yield
