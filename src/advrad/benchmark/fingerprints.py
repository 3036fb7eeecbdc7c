"""Fingerprints of everything that decides a result; the key of a cell is a digest of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from advrad.attacks.options import AttackOptions
from advrad.baselines.anomalib.models import AnomalibOptions
from advrad.baselines.purify import PurifyOptions
from advrad.certificates.options import CertifyOptions
from advrad.data import cache
from advrad.training.options import RunOptions
from advrad.utils.config import Config

#: Options that were added after the first results were published. A fingerprint leaves them out at their default
#: values, so that the keys of published results, which were made without them, stay valid.
_LATER_OPTIONS: dict[type[Config], frozenset[str]] = {
    AttackOptions: frozenset({"gradients"}),
    CertifyOptions: frozenset({"norm", "sticker_px"}),
    AnomalibOptions: frozenset({"pictures"}),
    RunOptions: frozenset({"adversarial_eps", "shape", "tile_px", "features", "backbone"}),
    PurifyOptions: frozenset({"learns"}),
}


def fingerprint(options: Config) -> dict[str, Any]:
    """Collect the options that a result depends on.

    Args:
        options: Options of a detector, an attack or a certificate.

    Returns:
        Plain JSON values by option name.
    """
    fields = type(options).model_fields
    later = _LATER_OPTIONS.get(type(options), frozenset())
    values = options.model_dump(
        mode="json", exclude={name for name in later if getattr(options, name) == fields[name].default}
    )
    if isinstance(options, AttackOptions | CertifyOptions) and not options.data.skip_bad:
        del values["skip_bad"]  # added later, too
    if isinstance(options, AttackOptions):
        values["save_pictures"] = values.pop("save_images")  # its name when the first results were published
    return values


def key_digest(values: object) -> str:
    """Digest of plain JSON values, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def file_digest(paths: Iterable[Path]) -> str:
    """Digest of the contents of files."""
    return hashlib.sha256(b"".join(cache.digest(path) or b"-" for path in paths)).hexdigest()
