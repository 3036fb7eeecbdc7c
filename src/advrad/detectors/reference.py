"""A detector that stays in its own file: a model folder stores where the file is, and what it was.

The file is a Python file of the user or a checkpoint of anomalib. Its digest is compared before it is opened, so a file
that changed is never run.
"""

from __future__ import annotations

import ast
import hashlib
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from advrad.detectors.base import AnomalyDetector
from advrad.detectors.probing import validated_output
from advrad.detectors.wrappers import as_detector
from advrad.errors import CheckpointError, ConfigError
from advrad.utils.config import Config
from advrad.utils.imports import is_file_name, load_name
from advrad.utils.seeding import generator_for

#: Ending of the names of anomalib's checkpoints.
CHECKPOINT = ".ckpt"
#: Share by which the score of the test image may differ from the stored one: rounding of another processor.
_ROUNDING = 1e-3

_RUNS_FILES = ContextVar("runs_files", default=True)

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class ReferenceConfig(Config):
    """Where a detector is that was not made by advrad, and what tells whether it is still the same.

    Attributes:
        kind: Name of this kind of detector in files.
        what: ``python`` for an object of a Python file, ``anomalib`` for a checkpoint of anomalib.
        target: Absolute path of the checkpoint, or ``FILE.py:NAME`` with the absolute path of the file.
        sha256: SHA-256 of the file, as hexadecimal digits.
        file_bytes: Size of the file in bytes.
        imports: SHA-256 of the Python files that a Python file imports from its own folder, by their path there.
        model: Name of the class of a model of anomalib; empty for a Python file.
        version: Version of anomalib with which the checkpoint was read; empty for a Python file.
        image_size_px: Side of the square images that the detector takes, in pixels; None for images of any size.
        probe_px: Side of the test image whose score is stored, in pixels; None if none is.
        probe_score: Score of the test image; None for a detector with noise of its own.

    Example:
        >>> ReferenceConfig(what="python", target="/parts/mine.py:score", sha256="0" * 64, file_bytes=80).path.name
        'mine.py'
    """

    kind: Literal["reference"] = "reference"
    what: Literal["python", "anomalib"]
    target: str
    sha256: Digest
    file_bytes: int = Field(ge=0)
    imports: dict[str, Digest] = Field(default_factory=dict)
    model: str = ""
    version: str = ""
    image_size_px: Annotated[int, Field(gt=0)] | None = None
    probe_px: Annotated[int, Field(gt=0)] | None = None
    probe_score: float | None = None

    @property
    def path(self) -> Path:
        """Path of the file."""
        return Path(self.target.rpartition(":")[0] if self.what == "python" else self.target)

    @property
    def name(self) -> str:
        """Short name of the detector: of the object in the Python file, or of the model's class, in small letters."""
        return self.target.rpartition(":")[2] if self.what == "python" else self.model.lower()

    def describe(self) -> list[str]:
        """Describe the detector in plain lines."""
        if self.what == "anomalib":
            return [f"{self.model} of anomalib {self.version}, in {self.target}"]
        return [f"{self.target}, a Python file that is run"]


def is_reference(name: str | Path) -> bool:
    """Whether a name is that of a detector in a file of its own: ``FILE.py:NAME`` or a checkpoint of anomalib.

    Args:
        name: Name to test.

    Example:
        >>> is_reference("mine.py:score"), is_reference("model.ckpt"), is_reference("runs/bottle")
        (True, True, False)
    """
    return is_file_name(str(name)) or str(name).endswith(CHECKPOINT)


def refer(target: str | Path, *, size_px: int | None = None) -> tuple[ReferenceConfig, AnomalyDetector]:
    """Load a detector from its own file, and describe the file so that :func:`load_reference` knows it again.

    A Python file is run. A checkpoint of anomalib is opened for tensors only, and nothing is downloaded.

    Args:
        target: ``FILE.py:NAME``, where NAME is a detector or anything that :func:`advrad.wrap` takes; or the path of
            a checkpoint of anomalib, which ends in ``.ckpt``.
        size_px: Side of the square images that a detector for any size will get, in pixels; None if it is not known. A
            test image of this size, or of the detector's own size, is scored twice.

    Returns:
        Description of the file, and the detector.

    Raises:
        ConfigError: The file is missing or cannot be read, or the detector scores the same image differently when
            asked again.
        DetectorError: The detector fails on the test image, or returns no finite score.

    Example:
        >>> _ = Path("mine.py").write_text("def score(images): return images.mean((1, 2, 3))")
        >>> config, detector = refer("mine.py:score", size_px=64)
        >>> config.name, config.file_bytes, config.probe_px
        ('score', 48, 64)
    """
    file = str(target)
    if not is_reference(file):
        raise ConfigError(f"{file}: is no detector; name FILE.py:NAME, or a checkpoint of anomalib ({CHECKPOINT})")
    python = is_file_name(file)
    path = Path(file.rpartition(":")[0] if python else file).absolute()
    content = _content(path, "name a detector as FILE.py:NAME" if python else "name a checkpoint of anomalib")
    model = version = ""
    if python:
        full, imports = f"{path}:{file.rpartition(':')[2]}", _imports(path, content)
        detector: AnomalyDetector = load_name(full, as_detector)
    else:
        full, imports = str(path), {}
        model, version, detector = _read_checkpoint(content, str(path))
    probe_px = size_px if detector.size_px is None else detector.size_px
    config = ReferenceConfig(
        what="python" if python else "anomalib",
        target=full,
        sha256=_digest(content),
        file_bytes=len(content),
        imports=imports,
        model=model,
        version=version,
        image_size_px=detector.size_px,
        probe_px=probe_px,
        probe_score=None if probe_px is None else _repeated_score(detector, probe_px, file),
    )
    return config, detector


@contextmanager
def no_file_is_run() -> Iterator[None]:
    """Refuse detectors in Python files while the block runs, so that loading a model folder runs nobody's code.

    Example:
        >>> from advrad import load_detector
        >>> with no_file_is_run():  # doctest: +SKIP
        ...     detector = load_detector("run")
    """
    before = _RUNS_FILES.set(False)
    try:
        yield
    finally:
        _RUNS_FILES.reset(before)


def load_reference(config: ReferenceConfig) -> AnomalyDetector:
    """Load a detector from its own file, if that is still what it was.

    **A Python file is run**, with everything that it imports: load such a model only if you trust the file. It is run
    only if it, and what it imports from its own folder, are unchanged. What it reads besides, such as weights, is not
    compared; instead, the score of a test image must be what it was.

    Args:
        config: Description of the file, from :func:`refer`.

    Raises:
        CheckpointError: The file is missing or changed; anomalib is missing or of another version; or the test image
            gets another score.
        ConfigError: The file cannot be run, or must not be, see :func:`no_file_is_run`.
        DetectorError: The detector fails on the test image.

    Example:
        >>> _ = Path("mine.py").write_text("def score(images): return images.mean((1, 2, 3))")
        >>> config, _ = refer("mine.py:score", size_px=64)
        >>> load_reference(config).infer(torch.ones(1, 3, 64, 64), torch.Generator()).scores
        tensor([1.])
    """
    path = config.path
    if config.what == "python" and not _RUNS_FILES.get():
        raise ConfigError(
            f"{path}: is a part of the model and would be run, which is refused here; make the model with a half that"
            " its folder holds"
        )
    try:
        content = _content(path, "")
    except ConfigError:
        raise CheckpointError(
            f"{path}: this file is needed by the model, and is not there; put it back, or make the model again with"
            " the file in its new place"
        ) from None
    _check_same(config, content)
    if config.what == "python":
        detector: AnomalyDetector = load_name(config.target, as_detector)
    else:
        detector = _load_checkpoint(config, content)
    if config.probe_px is not None and config.probe_score is not None:
        score = _score(detector, config.probe_px)
        if not math.isclose(score, config.probe_score, rel_tol=_ROUNDING, abs_tol=1e-9):
            raise CheckpointError(
                f"{path}: scores a test image {score:.6g}, and did so {config.probe_score:.6g} when the model was made:"
                " weights that it reads, or a library, have changed; put them back, or make the model again"
            )
    return detector


def check_repeated(name: str, first: float, again: float) -> None:
    """Refuse a detector whose score of an image is another when asked again with the same noise.

    Args:
        name: Name of the detector, for the error.
        first: Score of an image.
        again: Its score later.

    Raises:
        ConfigError: They differ by more than rounding: the detector changes as it scores, or its noise has no seed.
    """
    if not math.isclose(first, again, rel_tol=_ROUNDING, abs_tol=1e-9):
        raise ConfigError(
            f"{name}: scores the same image {first:.6g} first and {again:.6g} later: it changes as it scores, or draws"
            " noise without a seed; put modules in evaluation mode, and draw noise from a parameter `generator`"
        )


def _content(path: Path, fix: str) -> bytes:
    """Content of a file.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; {fix}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {fix}") from None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_same(config: ReferenceConfig, content: bytes) -> None:
    """Compare a file, and what it imports from its own folder, with what they were.

    Raises:
        CheckpointError: One of them changed.
    """
    changed = None
    if _digest(content) != config.sha256:
        changed = config.path
    elif config.what == "python":
        now = _imports(config.path, content)
        other = sorted(name for name in now.keys() | config.imports if now.get(name) != config.imports.get(name))
        changed = config.path.parent / other[0] if other else None
    if changed is not None:
        raise CheckpointError(
            f"{changed}: is not the file with which the model was made: it has changed since, and is not opened; put"
            " the old one back, or make the model again"
        )


def _imports(path: Path, content: bytes) -> dict[str, str]:
    """Digests of the Python files that a file imports from its own folder, and these in turn, by their path there."""
    folder, found = path.parent, dict[str, str]()
    waiting = list(_imported(content))
    seen = {"advrad", *sys.stdlib_module_names}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        package = folder / name
        files = [package.with_suffix(".py")] if not (package / "__init__.py").is_file() else package.rglob("*.py")
        for file in files:
            if file.is_file():
                text = file.read_bytes()
                found[file.relative_to(folder).as_posix()] = _digest(text)
                waiting += _imported(text)
    return dict(sorted(found.items()))


def _imported(content: bytes) -> Iterator[str]:
    """First parts of the names of the modules that Python code imports."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # whoever runs it says so
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _read_checkpoint(content: bytes, file: str) -> tuple[str, str, AnomalyDetector]:
    """Class of a checkpoint's model, version of the installed anomalib, and the detector."""
    from advrad.detectors.anomalib_checkpoint import anomalib_version, read_anomalib

    version = anomalib_version(file)
    model = read_anomalib(content, file)
    return type(model).__name__, version, as_detector(model)


def _load_checkpoint(config: ReferenceConfig, content: bytes) -> AnomalyDetector:
    """The detector of a checkpoint that is what it was.

    Raises:
        CheckpointError: The package anomalib is missing, of another version, or finds another model in it.
    """
    from advrad.detectors.anomalib_checkpoint import anomalib_version, read_anomalib

    try:
        version = anomalib_version(config.target)
        if version.split(".")[:2] != config.version.split(".")[:2]:
            raise ConfigError(
                f"{config.target}: was read with anomalib {config.version} when the model was made, and {version} is"
                f" installed; install anomalib=={config.version}, or make the model again"
            )
        return as_detector(read_anomalib(content, config.target))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def _test_image(size_px: int) -> Tensor:
    """The test image, (1, 3, size_px, size_px): smooth, with some noise."""
    draws = generator_for("reference", "test image")
    smooth = torch.nn.functional.interpolate(
        torch.rand(1, 3, 8, 8, generator=draws), (size_px, size_px), mode="bilinear"
    )
    return (smooth + 0.05 * torch.randn(smooth.shape, generator=draws)).clamp(0, 1)


def _score(detector: AnomalyDetector, size_px: int) -> float:
    """Score of the test image."""
    noise = generator_for("reference", "noise")
    return float(validated_output(detector, _test_image(size_px), noise, ["a test image"]).scores[0])


def _repeated_score(detector: AnomalyDetector, size_px: int, file: str) -> float:
    """Score of the test image, which must be the same when asked again with the same noise."""
    first = _score(detector, size_px)
    check_repeated(file, first, _score(detector, size_px))
    return first
