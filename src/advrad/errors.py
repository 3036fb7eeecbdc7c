"""The errors that advrad raises.

The hierarchy::

    AdvradError
    |-- UserError               wrong input; the command line exits with status 2
    |   |-- DataError           a data set that cannot be used
    |   |   `-- ImageError      one image that cannot be read
    |   |-- ConfigError         an option or a configuration value that is wrong
    |   |-- CheckpointError     a model folder that cannot be read
    |   |-- OutputError         a file or folder that cannot be written
    |   |-- DetectorError       a detector that returns no valid scores
    |   `-- NotCalibratedError  a verdict from a detector without a threshold
    |-- TrainingDivergedError   the training loss became NaN or infinite
    |-- ExportError             an export that does not answer as its detector does
    `-- EngineError             processes or machines that do not carry out their work

One warning: :class:`ImageWarning`, of an image that is accepted and probably not what was meant.

A message is one line that names the file or the option, what is wrong, and the fix.
"""

from __future__ import annotations

import copyreg
from pathlib import Path
from typing import Any


class AdvradError(Exception):
    """Base class of all errors that advrad raises. All of them can be pickled, so they arrive from other processes."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Make it again as it is, whatever its class takes."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class UserError(AdvradError):
    """The input is wrong."""


class DataError(UserError):
    """A data set cannot be used as it is."""


class ImageError(DataError):
    """One image cannot be read.

    Args:
        path: Path of the file.
        reason: Description of what is wrong, without the path.

    Example:
        >>> str(ImageError(Path("part.png"), "the file is empty"))
        'part.png: the file is empty'
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class ConfigError(UserError):
    """An option or a configuration value is unknown, missing or out of range.

    Args:
        message: Description of what is wrong and of the fix, without the option's name.
        option: Name of the Python parameter at fault, such as ``false_alarm_rate``; None if the message names its
            source itself, such as a file. The command line shows the name of its own option instead.
        value: Value that was given, or None to show none.

    Example:
        >>> str(ConfigError("must be above 0", option="minutes", value=-1))
        'minutes -1: must be above 0'
    """

    def __init__(self, message: str, *, option: str | None = None, value: object = None) -> None:
        self.message = message
        self.option = option
        self.value = value
        super().__init__(self.named(option))

    def named(self, option: str | None) -> str:
        """The message with the option under another name.

        Args:
            option: Name to show; None for the message alone.
        """
        if option is None:
            return self.message
        shown = f"{self.value:g}" if isinstance(self.value, float) else self.value
        return f"{option}: {self.message}" if shown is None else f"{option} {shown}: {self.message}"


class CheckpointError(UserError):
    """A model folder is missing, damaged, of another program or of a newer format."""


class OutputError(UserError):
    """A file or a folder cannot be written."""


class DetectorError(UserError):
    """A detector returns something that is not one finite score per image."""


class NotCalibratedError(UserError):
    """A verdict was requested from a detector without a threshold."""


class TrainingDivergedError(AdvradError):
    """The training loss became NaN or infinite, or grew without bound."""


class ExportError(AdvradError):
    """An export does not answer as the detector that it was made from."""


class EngineError(AdvradError):
    """Processes or machines did not carry out their work."""


class ImageWarning(UserWarning):
    """An image is accepted, but is probably not what was meant, such as one that is nearly black."""
