"""Every error that advrad raises on purpose.

The tree::

    AdvradError
    |-- UserError               bad input; the command line exits with status 2
    |   |-- DataError           a folder of images that cannot be used
    |   |   `-- ImageError    one image that cannot be read
    |   |-- ConfigError         an option or a configuration key
    |   |-- CheckpointError     a model folder that cannot be read
    |   |-- OutputError         a place that cannot be written
    |   |-- DetectorError       a detector under audit that answers with no score
    |   `-- NotCalibratedError  a verdict was asked of a detector without a threshold
    `-- TrainingDivergedError   the training loss became NaN or infinite

A message is one line: it names the file or the option, says what is wrong, and how to fix it.
"""

from __future__ import annotations

from pathlib import Path


class AdvradError(Exception):
    """Base of all errors raised on purpose."""


class UserError(AdvradError):
    """The input is at fault, not the program."""


class DataError(UserError):
    """A data set cannot be used as it is."""


class ImageError(DataError):
    """One image cannot be read.

    Args:
        path: the file.
        reason: what is wrong with it, without the path.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class ConfigError(UserError):
    """An option or a configuration value is unknown, missing or out of range.

    Args:
        message: What is wrong and how to fix it, without the option's name.
        option: Name of the Python parameter at fault, such as ``false_alarm_rate``; None where the message names the
            source itself, such as a file. The command line shows it as its own option, ``--false-alarm-rate``.
        value: The value that was given, as it is to be shown; None where there is none to show.

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
        """The whole message, with the option under the name that the caller uses for it.

        Args:
            option: Name to show; None shows the message alone.
        """
        if option is None:
            return self.message
        shown = f"{self.value:g}" if isinstance(self.value, float) else self.value
        return f"{option}: {self.message}" if shown is None else f"{option} {shown}: {self.message}"


class CheckpointError(UserError):
    """A model folder is missing, damaged, foreign or of a newer format."""


class OutputError(UserError):
    """A result cannot be written."""


class DetectorError(UserError):
    """A detector under audit answers with something that is no score."""


class NotCalibratedError(UserError):
    """A verdict was asked of a detector that holds no threshold."""


class TrainingDivergedError(AdvradError):
    """The training loss became infinite, NaN or exploded."""
