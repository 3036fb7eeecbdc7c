"""The training log: rows of figures as JSON lines and, if TensorBoard is installed, as its events."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from advrad.errors import DataError
from advrad.utils.files import write_text

LOG_NAME = "log.jsonl"


class LogWriter:
    """Appends rows to the log of a run. Each row is written to the disk at once.

    Args:
        folder: Folder of the run's training files; it exists.
        step: Number of training steps done. Rows of later steps, which will be repeated, are removed.

    Raises:
        DataError: The existing log is damaged.
        OutputError: The log cannot be written.
    """

    def __init__(self, folder: Path, step: int) -> None:
        kept = [row for row in read_log(folder) if row["step"] <= step]
        write_text(folder / LOG_NAME, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = (folder / LOG_NAME).open("a", encoding="utf-8")
        self._events: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def write(self, step: int, loss: float, smooth_loss: float, images_per_s: float, elapsed_s: float) -> None:
        """Append a row.

        Args:
            step: Number of training steps done.
            loss: Training loss of the step.
            smooth_loss: Moving average of the loss.
            images_per_s: Training images per second.
            elapsed_s: Seconds since the training began or was resumed.
        """
        row = {
            "step": step,
            "loss": loss,
            "smooth_loss": smooth_loss,
            "images_per_s": images_per_s,
            "elapsed_s": elapsed_s,
        }
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._events:
            self._events.add_scalar("train/loss", loss, step)
            self._events.add_scalar("train/images_per_s", images_per_s, step)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._events:
            self._events.close()


def read_log(folder: Path) -> tuple[dict[str, float], ...]:
    """Read the rows of a log. An incomplete last line, as a killed process leaves it, is ignored.

    Args:
        folder: Folder of the run's training files.

    Returns:
        The finite numbers of each row that has ``step`` and ``loss``, in order; empty if there is no log.

    Raises:
        DataError: The log cannot be read, or a line before the last is not JSON.
    """
    path = folder / LOG_NAME
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); make it readable or delete it") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise DataError(
                f"{path}: line {number} is not JSON; delete the log, which is for information only"
            ) from None
        numbers = {name: value for name, value in row.items() if _finite(value)} if isinstance(row, dict) else {}
        if "step" in numbers and "loss" in numbers:
            rows.append(numbers)
    return tuple(rows)


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
