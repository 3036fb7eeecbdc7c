"""List the images of a data set: which are normal, which are for testing, and where their masks are.

The layouts, recognised by their folders or named by the user:

- ``mvtec``: train/good, test/good, test/<defect>, ground_truth/<defect>/<name>_mask.png (MVTec AD).
- ``btad``: the same with train/ok, test/ok, test/ko, ground_truth/ko/<name>.png or .bmp (BTAD).
- ``visa``: split_csv/1cls.csv beside the category folders (VisA).
- ``folder``: normal images only; or good/ (also ok/ or normal/) beside one folder for each defect. Masks, if there are
  any, lie in masks/<defect>/ or ground_truth/<defect>/.
- ``datamodule``: no folder but a datamodule of anomalib, also as ``FILE.py:NAME``.

A plain folder with defects does not say which normal images are for testing. About a fifth of good/ is kept for
testing. A hash of the file name chooses them, so adding or removing images does not move the others, and all machines
agree.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from advrad.data.datamodules import Datamodule, describe_datamodule, load_datamodule, read_datamodule
from advrad.data.options import DataOptions
from advrad.data.records import Record
from advrad.errors import ConfigError, DataError
from advrad.utils.imports import is_file_name

ImageSource = str | Path | Datamodule
"""Where images come from: a folder, ``FILE.py:NAME`` for a datamodule in a Python file, or a datamodule of anomalib."""

Layout = Literal["mvtec", "visa", "btad", "folder", "datamodule"]

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
"""Names of the layouts."""

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".dib", ".tif", ".tiff", ".webp",
    ".gif", ".avif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".pcx", ".psd",
})
# fmt: on
"""Endings of image files; other files are ignored."""

HELD_OUT_FRACTION = 0.2
"""Share of the normal images of a plain folder that is kept for testing, if there are images of defects."""

_GOOD_NAMES = ("good", "ok", "normal")
_MASK_FOLDERS = ("ground_truth", "masks", "mask")
_MASK_ENDINGS = ("_mask", "", "-mask", "_gt")
CLUTTER = ("Thumbs.db", "desktop.ini", "__MACOSX")
"""Files that file managers leave in folders."""

_TABLE = Path("split_csv", "1cls.csv")
_TABLE_COLUMNS = ("object", "split", "label", "image", "mask")


@dataclass(frozen=True, slots=True)
class Dataset:
    """The images of one product.

    Attributes:
        root: Folder of the product; for VisA, folder of the data set. All records lie below it.
        layout: Layout of the folders.
        category: Name of the product; the folder's name if the layout has no categories.
        records: Images, training images first, then sorted by path.
        notes: Messages for the user, such as images without masks; sentences without a full stop.
    """

    root: Path
    layout: Layout
    category: str
    records: tuple[Record, ...]
    notes: tuple[str, ...] = ()


def find_records(data: ImageSource, options: DataOptions = DataOptions()) -> Dataset:
    """List the images of one product without opening them.

    Args:
        data: Folder of the product, or of a data set with several products; ``FILE.py:NAME`` for a datamodule in a
            Python file, which is run; or a datamodule of anomalib.
        options: Layout of the folders and category.

    Returns:
        The images, with at least two normal ones for training.

    Raises:
        ConfigError: The layout is unknown, or the file holds no datamodule.
        DataError: The folder is missing, does not have this layout, or holds fewer than two normal images for
            training.

    Example:
        >>> from advrad.data import DataOptions, find_records
        >>> find_records("mvtec", DataOptions(category="bottle")).layout  # doctest: +SKIP
        'mvtec'
    """
    layout, category = options.layout, options.category
    if layout != "auto" and layout not in LAYOUTS:
        raise ConfigError(f"is unknown; choose auto, {', '.join(LAYOUTS)}", option="layout", value=layout)
    if not isinstance(data, (str, Path)):
        root = Path(describe_datamodule(data))
        found = _datamodule(data, str(root), layout, category)
    elif is_file_name(str(data)):
        root = Path(data)
        found = _datamodule(load_datamodule(str(data)), str(data), layout, category)
    else:
        root = Path(data)
        found = _images_below(root, layout, category)
    normals = sum(record.split == "train" for record in found.records)
    if normals < 2:
        where = {
            "mvtec": " in train/good",
            "btad": " in train/ok",
            "visa": " in the table's train split",
            "datamodule": " in its train_data",
        }
        raise DataError(
            f"{root if found.layout == 'datamodule' else found.root}:"
            f" {'only one normal image' if normals else 'no normal image'} to train on{where.get(found.layout, '')};"
            " put normal images there, several dozen if possible"
        )
    return found


def _datamodule(datamodule: Datamodule, name: str, layout: str, category: str | None) -> Dataset:
    """The images of a datamodule."""
    if layout not in ("auto", "datamodule"):
        raise ConfigError(f"is for folders, but {name} is a datamodule; leave it out", option="layout", value=layout)
    contents = read_datamodule(datamodule, name)
    if category not in (None, contents.category):
        raise DataError(f"{name}: has no category {category!r}; it holds: {contents.category}")
    notes = _Notes()
    for line in contents.notes:
        notes.add(line)
    return _dataset(contents.root, "datamodule", contents.category, contents.records, notes)


def _images_below(root: Path, layout: str, category: str | None) -> Dataset:
    """The images of a folder."""
    if layout == "datamodule":
        raise DataError(f"{root}: is not a datamodule; name one as FILE.py:NAME")
    if not root.exists():
        raise DataError(f"{root}: there is no such folder; check the path")
    if not root.is_dir():
        raise DataError(f"{root}: is a file; name the folder that holds the images")
    found = _visa(root, category) if layout in ("auto", "visa") else None
    if found is not None:
        return found
    if layout == "visa":
        raise DataError(f"{root}: does not have the layout visa: {_TABLE.as_posix()} is missing here and one folder up")
    base, kind = _product(root, None if layout == "auto" else cast(Layout, layout), category)
    name = base.resolve().name
    return _folder(base, name) if kind == "folder" else _train_test(base, kind, name)


def _product(root: Path, layout: Layout | None, category: str | None) -> tuple[Path, Layout]:
    """Folder of the product, and its layout."""
    # The category of a plain folder is its own name; a resumed run passes it as the category.
    own_name = category == root.resolve().name and not (root / category).is_dir()
    if layout == "folder" and (category is None or own_name):
        return root, "folder"
    own = _layout_of(root)
    if own is not None and category in (None, root.resolve().name):
        base = root
    elif category is not None:
        base = root / category
        if not base.is_dir():
            names = [path.name for path in _folders(root) if _layout_of(path)]
            fix = f"it holds: {', '.join(names)}" if names else "name the product's folder itself"
            raise DataError(f"{root}: has no category {category!r}; {fix}")
        own = _layout_of(base)
    else:
        products = [path for path in _folders(root) if _layout_of(path)]
        if len(products) > 1:
            several = ", ".join(path.name for path in products)
            raise DataError(
                f"{root}: holds several categories ({several}); name one, as {products[0]} or as the category"
            )
        base = products[0] if products else root
        own = _layout_of(base)
    if layout in ("mvtec", "btad") and own != layout:
        good = "train/good" if layout == "mvtec" else "train/ok"
        raise DataError(f"{base}: does not have the layout {layout}: {good} is missing")
    return base, layout or own or "folder"


def _layout_of(base: Path) -> Layout | None:
    if (base / "train" / "good").is_dir():
        return "mvtec"
    return "btad" if (base / "train" / "ok").is_dir() else None


def _train_test(base: Path, layout: Layout, category: str) -> Dataset:
    """Images of the layouts mvtec and btad."""
    good = "good" if layout == "mvtec" else "ok"
    notes = _Notes()
    records = [Record(path, "train", 0, "good") for path in _images(base / "train" / good, notes)]
    for folder in _folders(base / "test") if (base / "test").is_dir() else []:
        paths = _images(folder, notes)
        if folder.name == good:
            records += [Record(path, "test", 0, "good") for path in paths]
        else:
            masks = _masks([base / "ground_truth" / folder.name])
            records += [_defect(path, folder.name, masks) for path in paths]
    return _dataset(base, layout, category, records, notes)


def _folder(base: Path, category: str) -> Dataset:
    """Images of a plain folder."""
    notes = _Notes()
    folders = [folder for folder in _folders(base) if folder.name.lower() not in _MASK_FOLDERS]
    good = [folder for folder in folders if folder.name.lower() in _GOOD_NAMES]
    names = ", ".join(folder.name for folder in folders)
    if not good:
        records = [Record(path, "train", 0, "good") for path in _images(base, notes)]
        if not records:
            if any(folder.name in ("train", "test") for folder in folders):
                raise DataError(f"{base}: has {names}, but neither train/good (MVTec AD) nor train/ok (BTAD)")
            fix = f"its folders are {names}: put the normal images into one named good" if names else "check the path"
            raise DataError(f"{base}: no normal images; {fix}")
        if folders:
            notes.add(
                f"these folders are not used: {names}; beside folders of defects, normal images belong into good/"
            )
        return _dataset(base, "folder", category, records, notes)
    if loose := len(_images(base, _Notes())):
        notes.add(f"images beside the folder {good[0].name}/ are not used: {loose}")
    normals = [path for folder in good for path in _images(folder, notes)]
    records = []
    for folder in folders:
        if folder not in good:
            masks = _masks([base / name / folder.name for name in _MASK_FOLDERS])
            records += [_defect(path, folder.name, masks) for path in _images(folder, notes)]
    kept = _held_out(normals) if records else frozenset()
    if records:
        notes.add(f"{len(kept)} of {len(normals)} normal images are kept for testing, chosen by their names")
    records += [Record(path, "test" if path in kept else "train", 0, "good") for path in normals]
    return _dataset(base, "folder", category, records, notes)


def _held_out(paths: list[Path]) -> frozenset[Path]:
    """The normal images of a plain folder that are kept for testing."""
    place = {
        path: int.from_bytes(hashlib.blake2b(path.name.encode("utf-8", "replace"), digest_size=8).digest()) / 2**64
        for path in paths
    }
    kept = frozenset(path for path in paths if place[path] < HELD_OUT_FRACTION)
    if not kept and len(paths) >= 5:
        kept = frozenset([min(paths, key=lambda path: place[path])])
    # With very few images, all might be kept for testing: then none is.
    return kept if len(paths) - len(kept) >= 2 else frozenset()


def _visa(root: Path, category: str | None) -> Dataset | None:
    """Images of the layout visa; None if there is no table."""
    if (root / _TABLE).is_file():
        base = root
    elif (root.resolve().parent / _TABLE).is_file() and (root / "Data" / "Images").is_dir():
        base, category = root.resolve().parent, category or root.resolve().name
    else:
        return None
    table = base / _TABLE
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as a table ({error}); restore it from the data set") from None
    if not rows or any(row.get(column) is None for row in rows for column in _TABLE_COLUMNS):
        raise DataError(f"{table}: each row needs the columns {', '.join(_TABLE_COLUMNS)}")
    names = sorted({row["object"] for row in rows})
    if category is None and len(names) == 1:
        category = names[0]
    if category is None:
        raise DataError(
            f"{root}: holds several categories ({', '.join(names)}); name one, as {base / names[0]} or as the category"
        )
    if category not in names:
        raise DataError(f"{table}: has no category {category!r}; it holds: {', '.join(names)}")
    notes = _Notes()
    records = []
    for number, row in enumerate(rows, start=2):
        if row["object"] != category:
            continue
        split, label = row["split"], row["label"]
        if (
            split not in ("train", "test")
            or label not in ("normal", "anomaly")
            or (split, label) == ("train", "anomaly")
        ):
            raise DataError(f"{table}: line {number}: split {split!r} with label {label!r} is not in the 1-class split")
        path = base / row["image"]
        if label == "normal":
            records.append(Record(path, "train" if split == "train" else "test", 0, "good"))
        else:
            mask = base / row["mask"] if row["mask"] else None
            records.append(Record(path, "test", 1, "anomaly", mask if mask and mask.is_file() else None))
    return _dataset(base, "visa", category, records, notes)


class _Notes:
    """Collects notes, and counts the files that are ignored."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self.ignored: Counter[str] = Counter()

    def add(self, line: str) -> None:
        self._lines.append(line)

    def finish(self, records: Iterable[Record]) -> tuple[str, ...]:
        lines = list(self._lines)
        if self.ignored:
            endings = ", ".join(f"{count} {ending}" for ending, count in sorted(self.ignored.items()))
            lines.append(f"files that are not images were ignored: {endings}")
        bare = Counter(record.defect for record in records if record.label == 1 and record.mask is None)
        if bare:
            each = ", ".join(f"{name} {count}" for name, count in sorted(bare.items()))
            lines.append(f"anomalous images without a mask: {bare.total()} ({each})")
        return tuple(lines)


def _dataset(root: Path, layout: Layout, category: str, records: list[Record], notes: _Notes) -> Dataset:
    ordered = tuple(sorted(records, key=lambda record: (record.split != "train", record.path.as_posix())))
    return Dataset(root, layout, category, ordered, notes.finish(ordered))


def _defect(path: Path, name: str, masks: dict[str, Path]) -> Record:
    mask = next((masks[path.stem + ending] for ending in _MASK_ENDINGS if path.stem + ending in masks), None)
    return Record(path, "test", 1, name, mask)


def _masks(folders: list[Path]) -> dict[str, Path]:
    """Mask files by name without the ending."""
    return {path.stem: path for folder in folders if folder.is_dir() for path in _images(folder, _Notes())}


def _images(folder: Path, notes: _Notes) -> list[Path]:
    images = []
    for path in _listing(folder):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            # A folder with such a name is listed, too: the error comes when it is read.
            images.append(path)
        elif not path.is_dir():
            notes.ignored[path.suffix.lower() or path.name] += 1
    return images


def _folders(folder: Path) -> list[Path]:
    return [path for path in _listing(folder) if path.is_dir()]


def _listing(folder: Path) -> list[Path]:
    """The contents of a folder by name, without hidden files and those of file managers."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from None
    return [path for path in paths if not path.name.startswith(".") and path.name not in CLUTTER]
