"""Read the layouts that consist of folders: train and test, or good beside one folder for each kind of defect."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from advrad.data.folder_names import is_good, is_holder, is_mask_folder, plain_name, role_of, split_of
from advrad.data.folders import Folder
from advrad.data.image_folders import Collector
from advrad.errors import DataError

HELD_OUT = 5
"""One of so many normal images of a plain folder is kept for testing, if there are images of defects."""

_DEEPEST = 4


@dataclass(frozen=True)
class Arrangement:
    """How the folder of a product is laid out.

    Attributes:
        layout: Layout of the folders.
        chain: Folders from the product's own to the one that holds train/ or good/.
    """

    layout: Literal["mvtec", "btad", "folder"]
    chain: tuple[Folder, ...]

    @property
    def holder(self) -> Folder:
        """The folder that holds train/ or good/."""
        return self.chain[-1]


def find_arrangement(folder: Folder, depth: int = 1) -> Arrangement | None:
    """Recognise the layout of a product by the names of its folders.

    Args:
        folder: Folder that may be that of a product.
        depth: Number of folders above it that are a part of the product, plus one.

    Returns:
        The layout; None if there is neither train/good nor good/, also not below a folder such as images/.
    """
    trained = [part for part in folder.folders if split_of(part.name) == "train"]
    good = [part.name for train in trained for part in train.folders if is_good(part.name)]
    beside = any(is_good(part.name) for part in folder.folders)
    if good or (not beside and any(_holds_images_only(train) for train in trained)):
        return Arrangement("btad" if good and {plain_name(name) for name in good} == {"ok"} else "mvtec", (folder,))
    if beside:
        return Arrangement("folder", (folder,))
    if depth < _DEEPEST:
        below = [find_arrangement(part, depth + 1) for part in folder.folders if is_holder(part.name)]
        found = [arrangement for arrangement in below if arrangement is not None]
        if len(found) == 1:
            return Arrangement(found[0].layout, (folder, *found[0].chain))
    return None


def read_train_test(arrangement: Arrangement) -> Collector:
    """Collect the images of a product with train/ and test/.

    Args:
        arrangement: Layout of the product.

    Raises:
        DataError: The role of a folder is not clear.
    """
    into = _begin(arrangement)
    parts: dict[str, list[Folder]] = {"train": [], "validation": [], "test": []}
    others: list[Folder] = []
    for folder in arrangement.holder.folders:
        if split := split_of(folder.name):
            parts[split].append(folder)
        elif is_mask_folder(folder.name):
            into.masks.add_folder(folder)
        else:
            (into.perhaps_masks if role_of(folder.name) == "perhaps masks" else others).append(folder)
    for path in arrangement.holder.images:
        into.ledger.leave_out(path, "beside train/")
    for test in parts["test"]:
        _read_test(test, into)
    for train in parts["train"]:
        _read_train(train, into)
    for validation in parts["validation"]:
        _read_validation(validation, into)
    for folder in [*others, *into.sort_masks(into.perhaps_masks, beside_defects=False)]:
        if role_of(folder.name) == "unlabelled":
            into.leave_out(folder, "without a label", "whether they are normal is not known")
        else:
            into.leave_out(folder, "beside train/", "images belong into train/ or test/")
    return into


def read_plain(arrangement: Arrangement) -> Collector:
    """Collect the images of a plain folder.

    Args:
        arrangement: Layout of the product.

    Raises:
        DataError: There are no normal images, or the role of a folder is not clear.
    """
    into, holder = _begin(arrangement), arrangement.holder
    if not any(is_good(folder.name) for folder in holder.folders):
        _read_normals_only(holder, into)
        return into
    found = into.sort(holder.folders)
    good = ", ".join(folder.name + "/" for folder in found.good)
    if loose := holder.images:
        into.ledger.notes.append(f"images beside the folder {found.good[0].name}/ are not used: {len(loose)}")
        for path in loose:
            into.ledger.leave_out(path, f"beside {found.good[0].name}/")
    if len(found.good) > 1:
        into.ledger.notes.append(f"normal images are those of {good}")
    for folder in found.defects:
        into.collect(folder, "test", folder.name)
    for folder in into.sort_masks(into.perhaps_masks, beside_defects=False):
        into.leave_out(folder, f"beside {holder.name}/", f"the images of {holder.name}/ are used")
    tested = bool(into.images)
    normals = [path for folder in found.good for path in into.collect(folder, "train", "good")]
    if tested:
        kept = held_out({path: _place_in_good(path, found.good) for path in normals})
        into.ledger.notes.append(
            f"{len(kept)} of {len(normals)} normal images are kept for testing, chosen by their names"
        )
        into.images = [(path, "test" if path in kept else split, defect) for path, split, defect in into.images]
    return into


def held_out(names: dict[Path, str]) -> frozenset[Path]:
    """Choose the normal images of a plain folder that are kept for testing: a fifth, rounded down.

    Those whose names have the lowest hashes are kept. So all machines agree, and few images change their part when
    some are added or removed.

    Args:
        names: Name of each image file relative to the folder of the normal images.
    """

    def place(path: Path) -> tuple[bytes, Path]:
        return hashlib.blake2b(names[path].encode("utf-8", "replace"), digest_size=8).digest(), path

    return frozenset(sorted(names, key=place)[: len(names) // HELD_OUT])


def _place_in_good(path: Path, good: list[Folder]) -> str:
    """Path of a normal image relative to its folder good/."""
    top = next(folder.path for folder in good if path.is_relative_to(folder.path))
    return path.relative_to(top).as_posix()


def _begin(arrangement: Arrangement) -> Collector:
    """A collector that knows the masks above the folder that holds train/ or good/."""
    into = Collector(arrangement.chain[0].path)
    for above, below in zip(arrangement.chain, arrangement.chain[1:], strict=False):
        for path in above.images:
            into.ledger.leave_out(path, f"beside {below.name}/")
        for folder in above.folders:
            if is_mask_folder(folder.name):
                into.masks.add_folder(folder)
            elif role_of(folder.name) == "perhaps masks":
                into.perhaps_masks.append(folder)
            elif folder is not below:
                into.leave_out(folder, f"beside {below.name}/", f"the images of {below.name}/ are used")
    return into


def _read_train(train: Folder, into: Collector) -> None:
    """Collect the images of train/: those of train/good, or those of train/ itself."""
    good = [folder for folder in train.folders if is_good(folder.name)]
    if not good:
        into.ledger.notes.append(f"{into.name(train)} has no folder good: its images are taken as normal")
        into.taken_as_normal = train
        into.collect(train, "train", "good")
        return
    if len(good) > 1:
        into.ledger.notes.append("normal images are those of " + ", ".join(map(into.name, good)))
    for path in train.images:
        into.ledger.leave_out(path, f"beside {into.name(good[0])}")
    if train.images:
        into.ledger.warnings.append(
            f"images in {into.name(train)} beside {good[0].name}/ are not used: {len(train.images)}; move them into it"
            " if they are normal"
        )
    for folder in train.folders:
        if is_mask_folder(folder.name):
            into.masks.add_folder(folder)
        elif folder in good:
            into.collect(folder, "train", "good")
        else:
            into.leave_out(folder, "in train/, but not normal", f"only those of {good[0].name}/ are taken as normal")


def _read_validation(validation: Folder, into: Collector) -> None:
    """Collect the normal images of validation/, which are trained on, too."""
    for path in validation.images:
        into.ledger.leave_out(path, "without a label")
    if validation.images:
        into.ledger.warnings.append(
            f"images in {into.name(validation)} are not used: {len(validation.images)}; move them into"
            f" {into.name(validation)}good/ if they are normal"
        )
    for folder in validation.folders:
        if is_good(folder.name):
            count = len(into.collect(folder, "train", "good"))
            into.ledger.notes.append(f"normal images of {into.name(folder)} are used for training, too: {count}")
        elif is_mask_folder(folder.name):
            into.masks.add_folder(folder)
        else:
            into.leave_out(folder, "of a defect, for validation", "training divides normal images itself")


def _read_test(test: Folder, into: Collector) -> None:
    """Collect the images of test/."""
    found = into.sort(test.folders)
    for path in test.images:
        into.ledger.leave_out(path, "without a label")
    if test.images:
        into.ledger.warnings.append(
            f"images in {into.name(test)} itself are not used: {len(test.images)}; sort them into"
            f" {into.name(test)}good/ and one folder for each defect"
        )
    if len(found.good) > 1:
        into.ledger.notes.append("normal test images are those of " + ", ".join(map(into.name, found.good)))
    for folder in found.good:
        into.collect(folder, "test", "good")
    for folder in found.defects:
        into.collect(folder, "test", folder.name)


def _read_normals_only(holder: Folder, into: Collector) -> None:
    """Collect the images of a folder without folders of normal images: all of them are normal."""
    names = ", ".join(folder.name for folder in holder.folders if not is_mask_folder(folder.name))
    if not holder.images:
        if any(split_of(folder.name) for folder in holder.folders):
            trained = [part for part in holder.folders if split_of(part.name) == "train" and part.folders]
            inside = "".join(
                f"; {part.name}/ holds {', '.join(below.name for below in part.folders)}" for part in trained
            )
            fix = "name the folder of normal images in it good" if trained else "put the normal images there"
            raise DataError(
                f"{holder.path}: has {names}, but neither train/good (MVTec AD) nor train/ok (BTAD), nor images in"
                f" train/ itself{inside}; {fix}"
            )
        fix = f"its folders are {names}: put the normal images into one named good" if names else "check the path"
        raise DataError(f"{holder.path}: no normal images; {fix}")
    into.taken_as_normal = holder
    into.collect(holder, "train", "good", deep=False)
    others = []
    for folder in holder.folders:
        if is_mask_folder(folder.name):
            into.masks.add_folder(folder)
        elif not into.is_output(folder):
            into.ledger.leave_out(folder.path, "beside the normal images")
            others.append(folder)
    if others:
        names = ", ".join(folder.name for folder in others)
        line = f"these folders are not used: {names}; beside folders of defects, normal images belong into good/"
        doubtful = any(folder.images_below() for folder in others)
        (into.ledger.warnings if doubtful else into.ledger.notes).append(line)


def _holds_images_only(folder: Folder) -> bool:
    """Whether a folder holds images, itself or in images/, and no other folders of images but masks."""
    inside = [part for part in folder.folders if not is_mask_folder(part.name) and part.images_below()]
    return bool(folder.images or inside) and all(is_holder(part.name) and not part.folders for part in inside)
