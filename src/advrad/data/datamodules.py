"""List the images of a datamodule of anomalib.

The datamodule is given as an object, or by name as ``FILE.py:NAME``; anomalib is imported by the user's code, not here.
Used are its ``setup()`` and its data sets ``train_data`` and ``test_data``, whose table ``samples`` has the columns
``image_path``, ``label_index`` (0 normal, 1 anomalous, otherwise unknown) and ``mask_path`` (a file, or a list of files
whose union is the mask). The image files are read by advrad, without the datamodule's augmentations.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from advrad.data.mask_files import mask_paths
from advrad.data.records import Record, Split
from advrad.errors import AdvradError, ConfigError, DataError
from advrad.utils.imports import load_name


class Datamodule(Protocol):
    """What is used of a datamodule of anomalib; its data sets appear with ``setup``."""

    def setup(self) -> object:
        """Find the images."""


class Contents(NamedTuple):
    """Images of a datamodule.

    Attributes:
        root: Folder that holds all images.
        category: Name of the product: the datamodule's category, or else its name.
        records: Images, in no particular order.
        notes: Messages for the user.
    """

    root: Path
    category: str
    records: list[Record]
    notes: list[str]


def read_datamodule(datamodule: Datamodule, name: str) -> Contents:
    """Set up a datamodule and list its images.

    Nothing is downloaded: ``prepare_data`` is not called.

    Args:
        datamodule: The datamodule.
        name: Its name in errors.

    Raises:
        ConfigError: It is no datamodule of anomalib.
        DataError: It cannot be set up, or a sample names no image.
    """
    if not callable(getattr(datamodule, "setup", None)):
        raise ConfigError(
            f"{name}: is not a datamodule but {type(datamodule).__name__}; name one, or a function that makes one"
        )
    try:
        datamodule.setup()
        train, test = (getattr(datamodule, key, None) for key in ("train_data", "test_data"))
        tables = {"train": _rows(train), "test": _rows(test)}
    except AdvradError:
        raise
    except Exception as error:  # anything that the datamodule raises
        raise DataError(f"{name}: the datamodule cannot be set up ({type(error).__name__}: {error})") from None
    if tables["train"] is None:
        raise ConfigError(
            f"{name}: is not a datamodule of anomalib: after setup() it has no train_data with a table 'samples'"
        )
    records: list[Record] = []
    splits: tuple[Split, ...] = ("train", "test")
    left_out = {"without a label": 0, "of defects in the training data": 0}
    for split in splits:
        for row in tables[split] or ():
            label = row.get("label_index")
            if label not in (0, 1):
                left_out["without a label"] += 1
            elif label == 1 and split == "train":
                left_out["of defects in the training data"] += 1
            else:
                records.append(_record(name, row, split))
    notes = [f"images {what} are not used: {count}" for what, count in left_out.items() if count]
    if getattr(datamodule, "seed", 0) is None:
        notes.append("the datamodule has no seed: if it splits images at random, the test images change each time")
    folders = {record.path.parent for record in records}
    root = Path(os.path.commonpath(folders)) if folders else Path(name).parent
    category = getattr(datamodule, "category", None) or getattr(datamodule, "name", None) or root.name
    return Contents(root, str(category), records, notes)


def describe_datamodule(datamodule: Datamodule) -> str:
    """The name of a datamodule in errors: its own, or that of its class."""
    return str(getattr(datamodule, "name", None) or type(datamodule).__name__)


def load_datamodule(name: str) -> Datamodule:
    """Run a Python file and take the datamodule in it.

    Args:
        name: ``FILE.py:NAME``, where NAME is a datamodule, or a function or class that makes one when called without
            arguments.

    Raises:
        ConfigError: The file cannot be run, or holds no such name.
    """
    found: Any = load_name(name)
    if callable(found) and (isinstance(found, type) or not hasattr(found, "setup")):
        try:
            found = found()
        except AdvradError:
            raise
        except Exception as error:  # anything that the user's code raises
            raise ConfigError(f"{name}: cannot be called ({type(error).__name__}: {error}); fix it first") from None
    made: Datamodule = found
    return made


def _rows(dataset: Any) -> list[dict[str, Any]] | None:
    """Rows of the table of a data set; None if it has none."""
    table = getattr(dataset, "samples", None)
    return None if table is None else list(table.to_dict("records"))


def _record(name: str, row: Mapping[str, Any], split: Split) -> Record:
    image, mask = row.get("image_path"), row.get("mask_path")
    if not (isinstance(image, (str, Path)) and str(image)):
        raise DataError(f"{name}: a sample of {split}_data has no file (image_path {image!r}); images must be files")
    path = Path(os.path.abspath(image))
    if row["label_index"] == 0:
        return Record(path, split, 0, "good")
    return Record(path, "test", 1, path.parent.name, _mask(name, path, mask))


def _mask(name: str, image: Path, mask: Any) -> Path | None:
    """The mask of an image: a file, or the folder of several; without a mask there is an empty text, or no text."""
    if isinstance(mask, (list, tuple)):
        folders = {Path(os.path.abspath(one)).parent for one in mask}
        if len(mask) > 1 and len(folders) == 1 and len(mask_paths(next(iter(folders)))) == len(mask):
            return folders.pop()
        if len(mask) > 1:
            raise DataError(
                f"{name}: {image.name} has {len(mask)} masks that are not alone in one folder, so they cannot be taken"
                " together; give one mask for each image"
            )
        mask = mask[0] if mask else None
    return Path(os.path.abspath(mask)) if isinstance(mask, (str, Path)) and str(mask) else None
