"""Archives: any number of images, from folders, lists, tar files, Parquet files and buckets, judged into one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

if TYPE_CHECKING:
    from advrad.archive.options import ArchiveOptions as ArchiveOptions
    from advrad.archive.run import ArchiveSummary as ArchiveSummary
    from advrad.archive.run import judge_archive as judge_archive

__all__ = ["ArchiveOptions", "ArchiveSummary", "judge_archive"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "ArchiveOptions": "advrad.archive.options",
        "ArchiveSummary": "advrad.archive.run",
        "judge_archive": "advrad.archive.run",
    },
)
