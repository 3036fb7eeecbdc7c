"""How predictions are told: a line for each on standard output, a summary on standard error, and a table as a file."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advrad.cli.terminal import put, say, warn
from advrad.data.value_range import RangeSummary
from advrad.detectors.verdicts import Verdict
from advrad.errors import DataError, ImageError

if TYPE_CHECKING:
    from advrad.inference.prediction import PredictionRecord


# Width of the longest verdict of a guarded detector, and of what a half says beside it.
_WIDEST = max(len(word) for word in Verdict)
_P_WIDTH = 16


@dataclass
class _Words:
    """Counts the verdicts of a guarded detector.

    Attributes:
        counts: Number of images by verdict.
        alone: Names of the halves that spoke alone, by suspected image.
        bounded: Whether bounds were computed, so that a verdict may be proven.
        failed: Number of images on which a half failed.
        first_reason: The first of them, and why.
    """

    counts: Counter[Verdict] = field(default_factory=Counter)
    alone: set[tuple[str, ...]] = field(default_factory=set)
    bounded: bool = False
    failed: int = 0
    first_reason: str = ""

    def add(self, prediction: PredictionRecord) -> None:
        """Count a prediction that has a word."""
        if prediction.word is None:
            return
        self.counts[prediction.word] += 1
        self.bounded |= any(half.lower is not None for half in prediction.halves)
        if prediction.reason is not None:
            self.failed += 1
            self.first_reason = self.first_reason or f"{prediction.path}: {prediction.reason}"
        if prediction.word is Verdict.SUSPECTED:
            self.alone.add(tuple(half.name for half in prediction.halves if half.speaks))

    def of_defective(self) -> str:
        """How the images that are called defective divide; empty for a detector without words."""
        names = " or ".join(dict.fromkeys(name for spoke in sorted(self.alone) for name in spoke))
        parts = [
            (self.counts[Verdict.PROVEN_DEFECTIVE], "proven"),
            (self.counts[Verdict.DEFECTIVE], "not proven" if self.bounded else "without proof"),
            (self.counts[Verdict.SUSPECTED], f"suspected by {names} alone"),
        ]
        shown = ", ".join(f"{count} {words}" for count, words in parts if count)
        return f": {shown}" if shown else ""

    def others(self) -> list[str]:
        """What else there is to say: for which good images the memory is proven, and which half failed."""
        good = self.counts[Verdict.GOOD] + self.counts[Verdict.PROVEN_GOOD]
        lines = []
        if good and self.bounded:
            proven = self.counts[Verdict.PROVEN_GOOD]
            lines.append(f"{good} {'is' if good == 1 else 'are'} good: the memory is proven for {proven or 'none'}")
        if self.failed:
            images = "1 image" if self.failed == 1 else f"{self.failed} images"
            lines.append(f"a half failed on {images}, called defective; {self.first_reason}")
        return lines


def _certified(prediction: PredictionRecord) -> str:
    """The certificate of a prediction, with its threshold where that is not the one of the verdict."""
    if prediction.certificate is None:
        return ""
    from advrad.certificates.prediction import ProvenPrediction

    proof, other = prediction.certificate, ""
    if isinstance(proof, ProvenPrediction) and proof.threshold != prediction.threshold:
        other = f"at the threshold under attack {proof.threshold:.4g}  "
    return f"{proof!s:38}  {other}"


def _by_halves(prediction: PredictionRecord) -> str:
    """The verdict of a guarded detector, and which half spoke: its p-value, or why it failed."""
    spoke = [half for half in prediction.halves if half.speaks]
    words = prediction.verdict
    if prediction.defective:
        first, comma, rest = words.partition(",")
        words = first.upper() + comma + rest
    if spoke:
        said = ", ".join(
            f"{half.name} p {half.p_value:.2g}" if half.error is None else f"{half.name} failed" for half in spoke
        )
    else:
        least = min(prediction.halves, key=lambda half: half.p_value)
        said = f"least: {least.name} p {least.p_value:.2g}"
    return f"{words:{_WIDEST}}  {said:{2 * _P_WIDTH}}"


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
        self.words = _Words()

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
        if prediction.word is not None:
            self.words.add(prediction)
        if prediction.warning is not None:
            self.doubtful += 1
            self.first_doubt = self.first_doubt or f"{prediction.path}: {prediction.warning}"
        if prediction.levels is not None:
            self.ranges.add(replace(prediction.levels, doubt=""))  # the warning tells that of each image
        self._keep(prediction.to_dict())
        if self.as_json:
            put(json.dumps(prediction.to_dict(), allow_nan=False))
            return
        if prediction.word is not None:
            reason = "" if prediction.reason is None else f"  ({prediction.reason})"
            proof = "" if prediction.certificate is None else f"{prediction.certificate!s:28}  "
            put(f"{_by_halves(prediction)}  {proof}{prediction.path}{reason}")
            return
        certified = _certified(prediction)
        verdict = "DEFECTIVE" if prediction.defective else "good     "
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
            line += self.words.of_defective()
            if threshold is not None:
                line += f" at the given threshold {threshold:g}, which promises no false-alarm rate"
            say(f"advrad: {line}")
        for line in self.words.others():
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
