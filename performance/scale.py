"""What judging an archive costs: pictures per second by number of processes, memory, and the driver's own work.

Every figure is of the command itself, `advrad predict MODEL FOLDER -o results.parquet --jobs N`, on N processors::

    python performance/scale.py [--jobs 2] [--engines local,ray] [--run RUN --images FOLDER] [--page docs/scale.md]

One process on one processor comes first, then --jobs processes of this machine, then so many tasks at once of Ray.

Each command runs on a long folder and on one of a fifth of it. A rate is the number of pictures between the two by the
time between them, so starting the processes and loading the detector does not count; it is a figure of its own. In the
same way memory has grown by what the long folder takes above the short one. The share of ideal is the rate by N times
that of one process; beside it stands the share of what N processes judge without any engine at the same time, which is
what the machine gives.

Without --run, a closed form with default settings learns from images that are made here, and its OpenVINO export is
measured too. A stand-in, a closed form that looks at 32 px, computes next to nothing: it shows what is left, reading,
rows and the driver, on many more pictures.

All pictures are different files; their pixels repeat. They are in the memory of the machine, so no disk is measured.

The exit status is 1 if memory is not flat. The last line of the output is JSON. --page also stores it beside that page,
and writes the tables of the page from it.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from predict import processor
from scale_command import advrad
from scale_tables import Folder, Row, as_values, broken, row_of, tables, write_page
from soak_client import Pictures
from soak_service import bare_rate

STAND_IN = "stand-in"
MODEL, EXPORT = "closed form", "closed form, OpenVINO"
#: Different images that are made, or taken of a folder at most; the pictures of the archive repeat them.
IMAGES = 64
#: Images from which the stand-in can be made.
LEAST = 4
#: The long folder by the short one.
TIMES = 5
#: Pictures of each folder of an archive; advrad holds the names of one folder at once.
PER_FOLDER = 1024


def made_images(size_px: int) -> Iterator[bytes]:
    """PNG files of a part that always lies in the same place: a smooth surface, with noise and light of its own."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(40, 216, (9, 9, 3), dtype=np.uint8))
    part = np.asarray(coarse.resize((size_px, size_px), Image.Resampling.BICUBIC), dtype=np.float32)
    for _ in range(IMAGES):
        noisy = part * generator.uniform(0.98, 1.02) + generator.normal(0, 1, part.shape)
        yield png(Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)))


def given_images(folder: Path) -> Iterator[bytes]:
    """The first images of a folder and those below it, as PNG files."""
    endings = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in endings)[:IMAGES]
    if len(files) < LEAST:
        raise SystemExit(f"{folder}: {len(files)} images in it; give a folder of at least {LEAST}")
    for path in files:
        with Image.open(path) as image:
            yield png(image.convert("RGB"))


def png(image: Image.Image) -> bytes:
    """An image as a PNG file."""
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def write_pictures(folder: Path, images: Sequence[bytes], count: int) -> Path:
    """Write picture files that are all different, into folders below."""
    pictures = Pictures(images)
    for number in range(count):
        path = folder / f"{number // PER_FOLDER:05}" / f"{number:08}.png"
        if number % PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(pictures.next())
    return folder


def models_of(folder: Path, images: Sequence[bytes]) -> dict[str, Path]:
    """Make the detectors that are measured unless one is given, by name."""
    import advrad as library

    product = folder / "product"
    (product / "good").mkdir(parents=True)
    for number, content in enumerate(images):
        (product / "good" / f"{number:03}.png").write_bytes(content)
    models = {MODEL: folder / "run", EXPORT: folder / "export"}
    library.train(product, models[MODEL])
    library.export(models[MODEL], models[EXPORT], to="openvino", data=product)
    return models


def write_stand_in(folder: Path, images: Sequence[bytes]) -> Path:
    """Write a detector that computes next to nothing, and return its folder."""
    from advrad.training.closed_form import fit_closed_form
    from advrad.training.closed_form_plan import MemberPlan

    small = [Image.open(io.BytesIO(content)).convert("RGB").resize((32, 32)) for content in images]
    normals = np.stack([np.asarray(image).transpose(2, 0, 1) for image in small])
    plan = MemberPlan(name="small", size_px=32, cell_px=4, patch_cells=3, sheets=8)
    fit_closed_form(normals, [plan], false_alarm_rate=0.2).save_pretrained(folder)
    return folder


def judged(model: Path, pictures: Path, table: Path, jobs: int, engine: str, seen: dict[str, float]) -> Folder:
    """Judge a folder, and check that every picture has its one row.

    Args:
        model: Model folder or export.
        pictures: Folder of images.
        table: Parquet file to write.
        jobs: Number of processes that judge, each on a processor of its own.
        engine: Engine, ``local`` or ``ray``.
        seen: Scores by file name that are known from other runs; new ones are added.

    Raises:
        SystemExit: The command failed, rows are missing, double or without a score, or a score is another.
    """
    import pyarrow.parquet

    processors = sorted(os.sched_getaffinity(0))[:jobs]
    asked = ["predict", str(model), str(pictures), "-o", str(table), "--jobs", str(jobs), "--engine", engine]
    taken = advrad(asked, processors)
    rows = pyarrow.parquet.read_table(table, columns=["path", "score"]).to_pydict()
    names = [f"{pictures.name}/{Path(path).name}" for path in rows["path"]]
    files = {f"{pictures.name}/{path.name}": path.stat().st_size for path in pictures.rglob("*.png")}
    if sorted(names) != sorted(files) or None in rows["score"]:
        raise SystemExit(f"{table}: its {len(names)} rows are not one with a score for each of {len(files)} pictures")
    scores = dict(zip(names, rows["score"], strict=True))
    if other := [name for name, score in scores.items() if seen.setdefault(name, score) != score]:
        raise SystemExit(f"{model.name}: {len(other)} scores depend on the number of processes, such as {other[0]}")
    return Folder(len(files), sum(files.values()), size_with_different_scores(table), taken)


def size_with_different_scores(table: Path) -> int:
    """Size of results if all scores differed, as those of pictures with pixels of their own do: equal ones pack better.

    Args:
        table: Parquet file.
    """
    from pyarrow import array, parquet

    from advrad.archive.rows import WRITING

    rows = parquet.read_table(table)
    place = rows.schema.get_field_index("score")
    changed = np.asarray(rows["score"]) * np.random.default_rng(0).uniform(1, 1.001, rows.num_rows)
    copy = table.with_suffix(".copy")
    parquet.write_table(rows.set_column(place, rows.schema.field(place), array(changed)), copy, **WRITING)
    size = copy.stat().st_size
    copy.unlink()
    return size


def measure(
    name: str, model: Path, ways: Sequence[tuple[str, int]], short: Path, long: Path, seconds: float
) -> list[Row]:
    """Measure a detector.

    Args:
        name: Its name in the tables.
        model: Model folder or export.
        ways: Engines with numbers of processes.
        short: Folder of some pictures.
        long: Folder of more.
        seconds: Time to judge without an engine.
    """
    rows: list[Row] = []
    seen: dict[str, float] = {}
    files = sorted(short.rglob("*.png"))[:IMAGES]
    for engine, jobs in ways:
        print(f"measuring: {name}, {engine}, {jobs} at once", file=sys.stderr, flush=True)
        start = short.parent / f"{model.name}-{engine}-{jobs}"
        few = judged(model, short, start.with_suffix(".short.parquet"), jobs, engine, seen)
        many = judged(model, long, start.with_suffix(".long.parquet"), jobs, engine, seen)
        with ThreadPoolExecutor(jobs) as pool:
            bare = sum(pool.map(lambda _: bare_rate(model, files, 1, seconds), range(jobs)))
        rows.append(row_of(name, engine, jobs, few, many, bare))
    return rows


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print tables and a line of JSON, and return the values of that line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="model folder or export; a closed form and its export by default")
    parser.add_argument("--images", type=Path, help="folder of images that suit --run")
    parser.add_argument("--judged", type=int, default=2560, help="pictures of the long folder")
    parser.add_argument("--pictures", type=int, default=20480, help="pictures of the long folder of the stand-in")
    parser.add_argument("--jobs", type=int, default=2, help="number of processes, at least 2")
    parser.add_argument("--engines", default="local,ray", help="engines, separated by commas")
    parser.add_argument("--size", type=int, default=256, help="side of the images that are made, pixels")
    parser.add_argument("--seconds", type=float, default=10, help="time to judge without an engine")
    parser.add_argument("--page", type=Path, help="page whose tables are written")
    given = parser.parse_args(arguments)
    usable = len(os.sched_getaffinity(0))
    if not 2 <= given.jobs <= usable:
        raise SystemExit(f"--jobs {given.jobs}: must be from 2 to {usable}, the number of processors")
    ways = [("local", 1), *((engine, given.jobs) for engine in given.engines.split(","))]
    if (given.run is None) != (given.images is None):
        raise SystemExit("--run and --images are given together: the images must suit the detector")
    with tempfile.TemporaryDirectory(prefix="advrad-") as name:
        folder, rows = Path(name), list[Row]()
        images = list(made_images(given.size) if given.images is None else given_images(given.images))
        models = models_of(folder, images) if given.run is None else {given.run.name: given.run}
        models[STAND_IN] = write_stand_in(folder / "stand-in", images)
        for detector, model in models.items():
            pictures = given.pictures if detector == STAND_IN else given.judged
            long = write_pictures(folder / detector / "long", images, pictures)
            short = write_pictures(folder / detector / "short", images, pictures // TIMES)
            rows += measure(detector, model, ways, short, long, given.seconds)
            shutil.rmtree(folder / detector)
    result = {
        "benchmark": "scale",
        "processor": processor(),
        "date": datetime.date.today().isoformat(),
        "images": f"{given.size} px, made" if given.images is None else given.images.name,
        "rows": as_values(rows),
        "broken": broken(rows),
    }
    print("\n".join(tables(result).values()))
    print(json.dumps(result))
    if given.page is not None:
        write_page(given.page, result)
    return result


if __name__ == "__main__":
    sys.exit(1 if main()["broken"] else 0)
