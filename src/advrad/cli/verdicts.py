"""How predictions are told: a line for each on standard output, a summary on standard error, and a table as a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advrad.cli.terminal import put, say, warn
from advrad.data.value_range import RangeSummary
from advrad.errors import DataError, ImageError

if TYPE_CHECKING:
    from advrad.inference.prediction import PredictionRecord


def _certified(prediction: PredictionRecord) -> str:
    """The certificate of a prediction, with its threshold where that is not the one of the verdict."""
    if prediction.certificate is None:
        return ""
    from advrad.certificates.prediction import ProvenPrediction

    proof, other = prediction.certificate, ""
    if isinstance(proof, ProvenPrediction) and proof.threshold != prediction.threshold:
        other = f"at the threshold under attack {proof.threshold:.4g}  "
    return f"{proof!s:38}  {other}"


class Verdicts:
    """Prints predictions, counts them, and keeps them for a table.

    Args:
        as_json: Whether to print JSON on a terminal, too; in a pipe it is always JSON.
        table: CSV file to write at the end; None for none.
    """

    def __init__(self, as_json: bool, table: Path | None) -> None:
        self.as_json = as_json or not sys.stdout.isatty()
        self.table = table
        self.rows: list[dict[str, Any]] = []
        self.predicted = self.defective = self.skipped = self.doubtful = 0
        self.first_doubt = ""
        self.ranges = RangeSummary()

    def take(self, results: Iterable[PredictionRecord | DataError], skip_bad: bool) -> None:
        """Print predictions as they come.

        Args:
            results: Predictions, and errors of images that cannot be read.
            skip_bad: Whether to go on after an error, instead of raising it.
        """
        for result in results:
            if not isinstance(result, DataError):
                self.add(result)
            elif skip_bad:
                self.skip(result)
            else:
                raise result

    def add(self, prediction: PredictionRecord) -> None:
        """Print a prediction: JSON in a pipe or on request, a readable line on a terminal."""
        self.predicted += 1
        self.defective += prediction.defective
        if prediction.warning is not None:
            self.doubtful += 1
            self.first_doubt = self.first_doubt or f"{prediction.path}: {prediction.warning}"
        if prediction.levels is not None:
            self.ranges.add(replace(prediction.levels, doubt=""))  # the warning tells that of each image
        self._keep(prediction.to_dict())
        if self.as_json:
            put(json.dumps(prediction.to_dict(), allow_nan=False))
            return
        verdict = "DEFECTIVE" if prediction.defective else "good     "
        certified = _certified(prediction)
        given = ""
        if prediction.calibrated_threshold is not None:
            given = f"given, no promise; calibrated {prediction.calibrated_threshold:.4g}  "
        put(
            f"{verdict}  score {prediction.score:9.4g}  threshold {prediction.threshold:9.4g}  {given}{certified}"
            f"{prediction.path}"
        )

    def skip(self, error: DataError) -> None:
        """Print that an image was left out, in the form of the predictions."""
        self.skipped += 1
        path, reason = (str(error.path), error.reason) if isinstance(error, ImageError) else (None, str(error))
        self._keep({"path": path, "error": reason})
        if self.as_json:
            put(json.dumps({"path": path, "error": reason}))
        else:
            say(f"skipped: {error}")

    def finish(self, passed_over: list[Path], threshold: float | None) -> None:
        """Write the table, and say how many images are defective and what was left out.

        Args:
            passed_over: Files of the folders that were not taken for images.
            threshold: Threshold that the user gave; None for the calibrated one.

        Raises:
            DataError: No image could be read.
            OutputError: The table cannot be written.
        """
        from advrad.data.paths import describe_files

        if self.table is not None:
            from advrad.inference.prediction_table import write_table

            write_table(self.table, self.rows)
        if self.predicted:
            one = self.predicted == 1
            line = f"{self.defective} of {self.predicted} image{'' if one else 's'} {'is' if one else 'are'} defective"
            if threshold is not None:
                line += f" at the given threshold {threshold:g}, which promises no false-alarm rate"
            say(f"advrad: {line}")
        if self.doubtful:
            count = f"{self.doubtful} prediction{' is' if self.doubtful == 1 else 's are'} doubtful"
            warn([f"{count}; {self.first_doubt}"])
        warn(self.ranges.doubts())
        if passed_over:
            single = "1 file was not judged, because it is no image that advrad reads"
            several = f"{len(passed_over)} files were not judged, because they are no images that advrad reads"
            say(f"advrad: {single if len(passed_over) == 1 else several}: {describe_files(passed_over)}")
        if self.skipped:
            total = self.predicted + self.skipped
            say(f"advrad: skipped {self.skipped} of {total} images, which cannot be read")
            if not self.predicted:
                raise DataError("none of the images can be read; the lines above give the reasons")

    def _keep(self, values: dict[str, Any]) -> None:
        if self.table is not None:
            self.rows.append(values)
