"""How an archive is judged from the command line: progress on the screen, and at the end what the results say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from advrad.cli.exit_status import FAILED, interruptible
from advrad.cli.terminal import put_json, say, warn
from advrad.utils.formatting import quoted

if TYPE_CHECKING:
    from advrad.archive.options import ArchiveOptions
    from advrad.archive.run import ArchiveSummary
    from advrad.engine.base import Engine


def judge_into_table(
    model: Path,
    sources: Sequence[str],
    results: Path,
    options: ArchiveOptions,
    engine: Engine,
    *,
    skip_bad: bool,
    as_json: bool,
) -> int:
    """Judge an archive, and say what the results are.

    Args:
        model: Model folder or export.
        sources: Names of the sources.
        results: Parquet file.
        options: What is judged with.
        engine: Who does the work.
        skip_bad: Whether images that cannot be read are no failure.
        as_json: Whether to print the summary as JSON.

    Returns:
        The exit status: 1 if images cannot be read, and they count; or if none can be read.
    """
    from advrad.archive.run import judge_archive
    from advrad.cli.screen import Screen

    kept = f"advrad: interrupted; what is finished is kept beside {quoted(results)}, and the same command goes on"
    with interruptible(kept), Screen() as screen:
        screen.note(engine.in_words())
        summary = judge_archive(model, sources, results, options=options, engine=engine, progress=screen)
    if as_json:
        put_json(
            {
                "results": str(results),
                "rows": summary.rows,
                "judged": summary.judged,
                "defective": summary.defective,
                "broken": summary.broken,
                "doubtful": summary.doubtful,
            }
        )
    else:
        print(results)
    _tell(summary, options.threshold)
    return FAILED if summary.broken and (not skip_bad or summary.broken == summary.rows) else 0


def _tell(summary: ArchiveSummary, threshold: float | None) -> None:
    """Say on standard error what the results are."""
    from advrad.data.paths import describe_files

    images = summary.rows - summary.broken
    line = (
        f"{summary.defective} of {images} image{'' if images == 1 else 's'} {'is' if images == 1 else 'are'} defective"
    )
    if threshold is not None:
        line += f" at the given threshold {threshold:g}, which promises no false-alarm rate"
    if (known := images - summary.judged) > 0:
        line += f"; {known} of them {'was' if known == 1 else 'were'} judged before"
    say(f"advrad: {line}")
    if summary.doubtful:
        count = f"{summary.doubtful} prediction{' is' if summary.doubtful == 1 else 's are'} doubtful"
        warn([f"{count}; {summary.first_doubt}"])
    if summary.passed_over.count:
        one = summary.passed_over.count == 1
        what = "1 file was" if one else f"{summary.passed_over.count} files were"
        kind = "it is no image" if one else "they are no images"
        first = describe_files(summary.passed_over.first)
        say(f"advrad: {what} not judged, because {kind} that advrad reads: {first}")
    if summary.broken:
        say(f"advrad: {summary.broken} cannot be read; the column error says why:")
        for text in summary.first_broken:
            say(f"advrad: broken: {' '.join(text.split())}")
