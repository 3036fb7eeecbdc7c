"""A second process that writes into a store: ``python store_writer.py DB DATA audit N`` or ``... stream``.

``audit`` appends N rows to the audit log. ``stream`` stores an image and three inspections for two sinks and a review,
over and over, and prints the identities of the inspections after they were acknowledged.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from toy_inspections import toy_inspection, toy_review

from advrad.serving.store import Store


def start_writer(db: str, data: Path, *what: str, **other: Any) -> subprocess.Popen[str]:
    """Start a second process that writes into a store as soon as it is sent a line."""
    command = [sys.executable, "-W", "error", __file__, db, str(data), *what]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **other)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(writer: subprocess.Popen[str]) -> None:
    """Let a writer begin."""
    assert writer.stdin is not None
    writer.stdin.write("\n")
    writer.stdin.flush()


def main() -> None:
    db, data, what, *rest = sys.argv[1:]
    with Store.open(db, Path(data)) as store:
        print("ready", flush=True)
        sys.stdin.readline()
        if what == "audit":
            for n in range(int(rest[0])):
                store.audit.append("test", f"row {n}", rest[1])
            return
        n = 0
        while True:
            picture = store.pictures.put(f"image {n}".encode() * 1000)
            group = [toy_inspection(store, picture=picture, at=datetime.now(UTC)) for _ in range(3)]
            stored = store.inspections.add_many(group, ["mqtt", "hook"])
            store.reviews.put(stored[0].id, toy_review("good"))
            print(*(one.id for one in stored), flush=True)
            n += 1


if __name__ == "__main__":
    main()
