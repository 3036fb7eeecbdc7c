"""The detector of a product as a file to take along: its export, packed as ZIP.

An export is made by a process of its own, as ``advrad export`` makes it: what it needs of memory goes with it, and a
stop of the service ends it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from advrad.detectors.exported_config import ExportedConfig
from advrad.detectors.identity import identity_of
from advrad.errors import AdvradError, CheckpointError, ConfigError
from advrad.serving.errors import ExportUnavailable, Stopping
from advrad.serving.products import Product
from advrad.training.threshold_images import recorded_data
from advrad.utils.files import explain

Form = Literal["openvino", "onnx"]
"""Form of the graph, as ``advrad export`` names it."""

_FORMS: dict[str, Form] = {"openvino": "openvino", "onnxruntime": "onnx"}
_LONGEST_S = 900.0
_LOOK_S = 0.2
_WORK = "import sys; from advrad.serving.model_export import work; sys.exit(work(*sys.argv[1:]))"


@dataclass(frozen=True, slots=True)
class PackedExport:
    """An export as ZIP.

    Attributes:
        name: Name for the file.
        file: The file, open at its beginning. It has no name in any folder, so nothing is left when it is closed.
        size: Its size in bytes.
    """

    name: str
    file: IO[bytes]
    size: int


class ModelExports:
    """Packs exports, one at a time.

    Args:
        stopping: Says whether the service stops.
    """

    def __init__(self, stopping: Callable[[], bool] = lambda: False) -> None:
        self._stopping = stopping
        self._alone = threading.Lock()

    def pack(self, product: Product, form: Form | None = None) -> PackedExport:
        """Pack the export of a product: its folder if it is one, else a new one, which takes a minute or so.

        Args:
            product: The product.
            form: Form of the graph; None for that of a product which is an export, and OpenVINO's own for others.

        Raises:
            ExportUnavailable: There is none of this product on this machine, another is just being made, or the model
                was replaced meanwhile.
            Stopping: The service stops.
        """
        if not self._alone.acquire(blocking=False):
            raise ExportUnavailable("another export is being made", "try again in a minute")
        try:
            return self._pack(product, form)
        except OSError as error:
            raise ExportUnavailable(
                f"the export cannot be written: {explain(error)}", "free some space in the folder for temporary files"
            ) from None
        finally:
            self._alone.release()

    def _pack(self, product: Product, form: Form | None) -> PackedExport:
        config = product.judge.detector.config
        own = _FORMS[config.engine] if isinstance(config, ExportedConfig) else None
        if own is not None and form not in (None, own):
            raise ExportUnavailable(f"{product.name} is an export for {own} already", f"take it as {own}")
        name = f"{product.name}-{own or form or 'openvino'}"
        with tempfile.TemporaryDirectory(prefix="advrad-export-") as scratch:
            folder = product.folder
            if own is None:
                _check_images(product)
                folder = Path(scratch, name)
                self._make(product.folder, folder, form or "openvino")
            packed = _zipped(folder, name)
        if identity_of(product.folder) != product.model:
            packed.file.close()
            raise ExportUnavailable(f"the model of {product.name} was replaced meanwhile", "ask again")
        return packed

    def _make(self, run: Path, folder: Path, form: Form) -> None:
        """Write an export, in a process of its own.

        Raises:
            ExportUnavailable: There is none, with the reason.
            Stopping: The service stops.
        """
        said = folder.with_name("said")
        with said.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", _WORK, str(run.absolute()), str(folder), form],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            for _ in range(int(_LONGEST_S / _LOOK_S)):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK_S)
                    break
                if self._stopping():
                    raise Stopping("the service stops", "ask again when it is back")
            else:
                raise ExportUnavailable(f"the export took longer than {_LONGEST_S:g} s", "make it by 'advrad export'")
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0:
            lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            reason = lines[-1][:500] if lines else f"its process ended with {process.returncode}"
            raise ExportUnavailable(f"the export was not made: {reason}", "see 'advrad export' for what it needs")


def work(run: str, folder: str, form: Form) -> int:
    """Write an export; what the process does that :class:`ModelExports` starts.

    Args:
        run: Model folder.
        folder: Folder for the export.
        form: Form of the graph.

    Returns:
        Exit status; where it is not 0, the last line that was printed says why.
    """
    from advrad.exporting import export

    try:
        export(run, folder, to=form)
    except AdvradError as error:
        print(" ".join(str(error).split()), flush=True)
        return 1
    return 0


def _check_images(product: Product) -> None:
    """Refuse a model whose images are elsewhere, before anything is started.

    Raises:
        ExportUnavailable: They are not on this machine.
    """
    try:
        recorded_data(product.folder)
    except (ConfigError, CheckpointError):
        raise ExportUnavailable(
            f"an export is compared with {product.name} on the images that set its threshold, which are not on this"
            " machine",
            "make it by 'advrad export' where they are, and serve what it writes",
        ) from None


def _zipped(folder: Path, name: str) -> PackedExport:
    """Pack the files of an export into a file that nobody else sees."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - whoever gets it closes it
    try:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for path in sorted(folder.iterdir()):
                if path.is_file():
                    archive.write(path, f"{name}/{path.name}")
        size = file.tell()
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return PackedExport(f"{name}.zip", file, size)
