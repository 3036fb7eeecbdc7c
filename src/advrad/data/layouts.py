"""List the images of a data set: which are normal, which are for testing, and where their masks are.

The layouts, recognised by their folders or named by the user:

- ``mvtec``: train/good, test/good, test/<defect>, ground_truth/<defect>/<name>_mask.png (MVTec AD). Normal images may
  also lie in train/ itself, and more of them in validation/good.
- ``btad``: the same with train/ok, test/ok, test/ko, ground_truth/ko/<name>.png or .bmp (BTAD).
- ``visa``: split_csv/1cls.csv beside the category folders (VisA).
- ``folder``: normal images only; or good/ beside one folder for each defect, also below images/ or Data/Images/.
- ``datamodule``: no folder but a datamodule of anomalib, also as ``FILE.py:NAME``.

Capitals do not count, and normal images may be named ok or normal as well as good, in every layout; see
:mod:`advrad.data.folder_names`. Masks lie in a folder named masks or ground_truth, or beside the images; see
:mod:`advrad.data.mask_files`. Images in folders below are used, too. What is not used is accounted for; see
:mod:`advrad.data.account`.

A plain folder with defects does not say which normal images are for testing. A fifth of good/ is kept for testing,
chosen by hashes of the file names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

from advrad.data.account import Account, Ledger
from advrad.data.datamodules import Datamodule, describe_datamodule, load_datamodule, read_datamodule
from advrad.data.folder_layouts import Arrangement, find_arrangement, read_plain, read_train_test
from advrad.data.folder_names import role_of
from advrad.data.folders import Folder
from advrad.data.options import DataOptions
from advrad.data.records import Record
from advrad.data.visa import TABLE, read_visa
from advrad.errors import ConfigError, DataError
from advrad.utils.imports import is_file_name

ImageSource = str | Path | Datamodule
"""Where images come from: a folder, ``FILE.py:NAME`` for a datamodule in a Python file, or a datamodule of anomalib."""

Layout = Literal["mvtec", "visa", "btad", "folder", "datamodule"]

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
"""Names of the layouts."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """The images of one product.

    Attributes:
        root: Folder of the product; for VisA, folder of the data set. All records lie below it.
        layout: Layout of the folders.
        category: Name of the product; the folder's name if the layout has no categories.
        records: Images, training images first, then sorted by path.
        notes: Messages for the user, such as images without masks; sentences without a full stop.
        warnings: What is doubtful, such as masks without an image; sentences without a full stop.
        account: What every file below the folder is used as, or why it is left out.
    """

    root: Path
    layout: Layout
    category: str
    records: tuple[Record, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    account: Account = field(default_factory=Account)


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
            training; or it is not clear whether the images of a folder are normal.

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
    ledger = Ledger()
    ledger.notes += contents.notes
    return _dataset(contents.root, "datamodule", contents.category, contents.records, ledger, [])


def _images_below(root: Path, layout: str, category: str | None) -> Dataset:
    """The images of a folder."""
    if layout == "datamodule":
        raise DataError(f"{root}: is not a datamodule; name one as FILE.py:NAME")
    if not root.exists():
        raise DataError(f"{root}: there is no such folder; check the path")
    if not root.is_dir():
        raise DataError(f"{root}: is a file; name the folder that holds the images")
    visa = read_visa(root, category) if layout in ("auto", "visa") else None
    if visa is not None:
        product = visa.root / visa.category
        folders = [Folder(product)] if product.is_dir() else []
        return _dataset(visa.root, "visa", visa.category, visa.records, visa.ledger, folders)
    if layout == "visa":
        raise DataError(f"{root}: does not have the layout visa: {TABLE.as_posix()} is missing here and one folder up")
    top = Folder(root)
    arrangement = _product(top, None if layout == "auto" else cast(Layout, layout), category)
    base = arrangement.chain[0]
    into = read_plain(arrangement) if arrangement.layout == "folder" else read_train_test(arrangement)
    records = into.records()
    if category is None and base is not top:  # the only product; the rest of the folder is accounted for, too
        into.ledger.leave_out(top.path, f"beside the product {base.name}/")
        into.ledger.leave_out(base.path, "")
    everything = [top] if category is None else [base]
    return _dataset(base.path, arrangement.layout, base.path.resolve().name, records, into.ledger, everything)


def _product(root: Folder, layout: Layout | None, category: str | None) -> Arrangement:
    """The product in a folder, and its layout."""
    own_name = root.path.resolve().name
    # The category of a plain folder is its own name; a resumed run passes it as the category.
    if layout == "folder" and (category is None or (category == own_name and not (root.path / category).is_dir())):
        own = find_arrangement(root)
        return own if own is not None and own.layout == "folder" else Arrangement("folder", (root,))
    own = find_arrangement(root)
    if own is not None and category in (None, own_name):
        return _checked(own, layout)
    if category is not None:
        base = Folder(root.path / category)
        named = find_arrangement(base) if base.path.is_dir() else None
        if not base.path.is_dir() or (named is None and own is not None):
            names = [folder.name for folder in _products(root) if find_arrangement(folder)]
            fix = f"it holds: {', '.join(names)}" if names and own is None else "name the product's folder itself"
            raise DataError(f"{root.path}: has no category {category!r}; {fix}")
        return _checked(named or Arrangement("folder", (base,)), layout)
    products = [found for folder in _products(root) if (found := find_arrangement(folder)) is not None]
    if len(products) > 1:
        names = [found.chain[0].name for found in products]
        raise DataError(
            f"{root.path}: holds several categories ({', '.join(names)}); name one, as {products[0].chain[0].path} or"
            " as the category"
        )
    if products and root.images and products[0].layout == "folder":
        raise DataError(
            f"{root.path}: holds images itself, and normal images in a folder of {products[0].chain[0].name}/; name"
            f" {products[0].chain[0].path} to use that alone, or put all normal images into one folder named good"
        )
    candidates = _products(root)
    if not products and not root.images and len(candidates) == 1 and candidates[0].folders:
        return _product(candidates[0], layout, None)
    return _checked(products[0] if products else Arrangement("folder", (root,)), layout)


def _products(root: Folder) -> list[Folder]:
    """Folders that may be those of products."""
    return [folder for folder in root.folders if role_of(folder.name) not in ("good", "masks", "split")]


def _checked(found: Arrangement, layout: Layout | None) -> Arrangement:
    """A layout, if it is the one that was asked for."""
    if layout in ("mvtec", "btad") and found.layout != layout:
        good = "train/good" if layout == "mvtec" else "train/ok"
        raise DataError(f"{found.chain[0].path}: does not have the layout {layout}: {good} is missing")
    return Arrangement("folder", found.chain[:1]) if layout == "folder" and found.layout != "folder" else found


def _dataset(
    root: Path, layout: Layout, category: str, records: list[Record], ledger: Ledger, folders: list[Folder]
) -> Dataset:
    """A data set with its records in order, and its account."""
    ordered = tuple(sorted(records, key=lambda record: (record.split != "train", record.path.as_posix())))
    notes, warnings = ledger.finish(ordered)
    return Dataset(root, layout, category, ordered, notes, warnings, ledger.account(folders, root, ordered))
