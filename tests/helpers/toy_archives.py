"""Small archives of the same images: a folder, a list, a tar, a Parquet file; and what is in a table of results."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

#: Brightness of the images; the toy export calls those above 0.55 defective.
LEVELS = (40, 90, 150, 200, 120)


def image_bytes(level: int, seed: int = 0, side: int = 24) -> bytes:
    """A PNG of one brightness with a little noise."""
    noise = np.random.default_rng([level, seed]).integers(-3, 4, (side, side, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(level + noise, 0, 255).astype(np.uint8)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def images(n: int = len(LEVELS)) -> dict[str, bytes]:
    """Images by name, no two of the same content."""
    return {f"{number:05}.png": image_bytes(LEVELS[number % len(LEVELS)], number) for number in range(n)}


def write_folder(folder: Path, found: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in found.items():
        (folder / name).write_bytes(data)
    return folder


def tar_bytes(found: dict[str, bytes], *, mode: str = "w") -> bytes:
    """A shard as WebDataset writes it: beside each image its label."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in found.items():
            for ending, content in ((name, data), (name.replace(".png", ".cls"), b"0")):
                member = tarfile.TarInfo(ending)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def parquet_bytes(found: dict[str, bytes], *, column: str = "image", struct: bool = True, group: int = 2) -> bytes:
    """A data set of images as Parquet, with a few rows in each row group."""
    import pyarrow as pa
    from pyarrow import parquet

    values: list[Any] = [{"bytes": data, "path": name} if struct else data for name, data in found.items()]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if struct else pa.binary()
    table = pa.table({"label": list(range(len(found))), column: pa.array(values, kind)})
    file = io.BytesIO()
    parquet.write_table(table, file, row_group_size=group, compression="none")
    return file.getvalue()


def rows(results: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    found: list[dict[str, Any]] = parquet.read_table(results).to_pylist()
    return found


def scores(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Scores by the last part of the path."""
    return {row["path"].replace("#", "/").rpartition("/")[2]: row["score"] for row in found}
