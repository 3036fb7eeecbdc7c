"""Sort the folders of a data set by their role, and collect the images in and below them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from advrad.data.account import Ledger
from advrad.data.folder_names import (
    GOOD_NAMES,
    holds_depth,
    is_bad,
    is_good,
    is_mask_folder,
    plain_name,
    role_of,
    split_of,
    subject_of_masks,
    unmasked,
)
from advrad.data.folders import Folder
from advrad.data.mask_files import FoundImage, MaskPool, masks_beside, place_of
from advrad.data.records import Record, Split
from advrad.errors import DataError
from advrad.utils.output_folders import contents_of, is_own_image


@dataclass
class SortedFolders:
    """Folders beside each other, by role.

    Attributes:
        good: Folders of normal images.
        defects: One folder for each kind of defect.
    """

    good: list[Folder] = field(default_factory=list)
    defects: list[Folder] = field(default_factory=list)


class Collector:
    """Collects the images of a product.

    Args:
        base: Folder of the product.

    Attributes:
        ledger: What is not used, and what is doubtful.
        masks: Masks that were found so far.
        images: Images with their part of the data set and the name of their defect, ``good`` if they are normal.
        perhaps_masks: Folders that may hold masks and are no kinds of defect, by their place.
        taken_as_normal: Folder whose images are taken as normal without a name that says so; None if there is none.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.ledger = Ledger()
        self.masks = MaskPool(base)
        self.images: list[tuple[Path, Split, str]] = []
        self.perhaps_masks: list[Folder] = []
        self.taken_as_normal: Folder | None = None
        self._kinds: list[Folder] = []
        self._deeper: Counter[str] = Counter()

    def name(self, folder: Folder) -> str:
        """Name of a folder relative to the product's, with a slash at its end."""
        return folder.path.relative_to(self.base).as_posix() + "/"

    def sort(self, folders: list[Folder]) -> SortedFolders:
        """Sort folders that lie beside each other by their role.

        Raises:
            DataError: A name may mean normal images as well as a kind of defect.
        """
        found = SortedFolders()
        perhaps: list[Folder] = []
        for folder in folders:
            role = role_of(folder.name)
            if role == "good":
                found.good.append(folder)
            elif self.is_output(folder):
                continue
            elif role == "masks":
                self.masks.add_folder(folder)
            elif role == "perhaps masks":
                perhaps.append(folder)
            elif role == "unlabelled":
                self.leave_out(folder, "without a label", "whether they are normal is not known")
            elif role == "results":
                self.leave_out(folder, "results or previews", "its name says that they are results or previews")
            elif role == "defect":
                found.defects.append(folder)
            elif folder.images_below():
                self._refuse(folder, role)
        self._kinds += found.defects
        found.defects += self.sort_masks(perhaps)
        self._kinds = [*self._kinds, *(folder for folder in found.defects if folder in perhaps)]
        self._warn_of_same_names(found.defects)
        return found

    def sort_masks(self, folders: list[Folder], *, beside_defects: bool = True) -> list[Folder]:
        """Tell masks from images in folders such as labels/: masks are named as the images of defects.

        Args:
            folders: Folders that may hold masks, by their names.
            beside_defects: Whether they may be kinds of defect as well, by their place.

        Returns:
            Those that hold other images; masks are added to :attr:`masks`.

        Raises:
            DataError: They may hold masks as well as images.
        """
        kinds = {folder.name.casefold() for folder in self._kinds}
        subjects = {plain_name(folder.name): folder.name for folder in self._kinds} | {
            name: name for name in GOOD_NAMES
        }
        stems = {path.stem.casefold() for folder in self._kinds for path in folder.images_below()}
        others = []
        for folder in folders:
            images = folder.images_below()
            names = [[name.casefold() for name in unmasked(path.stem)] for path in images]
            fitting = [any(name in stems for name in tried[1 if beside_defects else 0 :]) for tried in names]
            subject = subjects.get(subject_of_masks(folder.name))
            if images and subject is not None:
                self.masks.add_folder(folder, subject)
            elif any(below.name.casefold() in kinds for below in folder.folders) or (images and all(fitting)):
                self.masks.add_folder(folder)
            elif (
                beside_defects
                and not self.masks.has_folders
                and (any(fitting) or any(tried[0] in stems for tried in names))
            ):
                raise DataError(
                    f"{folder.path}: does it hold masks or a kind of defect? Rename it masks if it holds masks; if not,"
                    " give its images other names than those of other defects"
                )
            elif images:
                others.append(folder)
            else:
                self.ledger.ignore(path for below in folder.walk() for path in below.others)
        return others

    def is_output(self, folder: Folder) -> bool:
        """Whether advrad wrote a folder, or all images in it; then it is left out, and a note or a warning says so."""
        images = folder.images
        own = bool(images) and all(is_own_image(path.name) for path in images)
        if not own and contents_of(folder.path) is None:
            return False
        self.ledger.leave_out(folder.path, "in a folder that advrad wrote")
        if own or not (count := len(folder.images_below())):
            self.ledger.notes.append(f"{self.name(folder)} is not used: advrad wrote it")
        else:
            self.ledger.warnings.append(
                f"images in {self.name(folder)} are not used, because advrad wrote this folder: {count}; move them"
                " elsewhere if they are yours"
            )
        return True

    def leave_out(self, folder: Folder, reason: str, words: str) -> None:
        """Leave out a folder with all below it, and warn if it holds images."""
        if self.is_output(folder):
            return
        self.ledger.leave_out(folder.path, reason)
        if count := len(folder.images_below()):
            self.ledger.warnings.append(f"images in {self.name(folder)} are not used: {count}; {words}")

    def collect(self, folder: Folder, split: Split, defect: str, *, deep: bool = True) -> list[Path]:
        """Collect the images in a folder and below it.

        Args:
            folder: Folder of normal images, or of one kind of defect.
            split: Part of the data set.
            defect: Name of the defect; ``good`` for normal images.
            deep: Whether images in folders below it are collected, too.

        Returns:
            The images, which are added to :attr:`images`, too.

        Raises:
            DataError: A folder below contradicts the role of this one.
        """
        found = self._below(folder, folder, defect == "good") if deep else self._in(folder, defect == "good")
        if not found and defect != "good":
            self.ledger.warnings.append(f"{self.name(folder)} holds no images; it is not counted as a kind of defect")
        self.images += [(path, split, defect) for path in found]
        return found

    def records(self) -> list[Record]:
        """The collected images with their masks."""
        for name, count in self._deeper.items():
            self.ledger.notes.append(f"images in folders below {name} are used, too: {count}")
        places = {parent: place_of(parent, self.base) for parent in {path.parent for path, _, _ in self.images}}
        found = [FoundImage(path, places[path.parent], defect == "good") for path, _, defect in self.images]
        masks = self.masks.match(found, self.ledger)
        if self.taken_as_normal is not None and self.masks.of_normal:
            raise DataError(
                f"{self.masks.of_normal[0]}: is a mask of an image in {self.taken_as_normal.path}, where no folder says"
                " which images are normal; put those into a folder named good, and those of each defect beside it"
            )
        return [
            Record(path, split, 0, "good") if defect == "good" else Record(path, "test", 1, defect, masks.get(path))
            for path, split, defect in self.images
        ]

    def _in(self, folder: Folder, normal: bool) -> list[Path]:
        """Images in a folder, without masks."""
        self.ledger.ignore(folder.others)
        images = [path for path in folder.images if not is_own_image(path.name)]
        beside = masks_beside(images)
        for mask, fits in beside.items():
            self.masks.add_beside(mask, fits)
        if beside and normal:
            self.ledger.warnings.append(
                f"{self.name(folder)} holds masks beside its normal images, such as {next(iter(beside)).name}: are the"
                " images normal? If so, move the masks elsewhere"
            )
        return [path for path in images if path not in beside]

    def _below(self, folder: Folder, top: Folder, normal: bool) -> list[Path]:
        """Images in a folder and below it, without masks."""
        found = self._in(folder, normal)
        if folder is not top and found:
            self._deeper[self.name(top)] += len(found)
        for below in folder.folders:
            if self.is_output(below):
                continue
            if is_mask_folder(below.name):
                self.masks.add_folder(below)
            elif holds_depth(below.name):
                self.leave_out(below, "depth in place of an image", "their name says that they hold depth")
            else:
                self._check_place(below, top, normal)
                found += self._below(below, top, normal)
        return found

    def _check_place(self, folder: Folder, top: Folder, normal: bool) -> None:
        """Refuse a folder whose name contradicts the one that it lies in."""
        name = folder.name
        if normal:
            contradicts = is_bad(name) or name.casefold() in {kind.name.casefold() for kind in self._kinds}
            says, fix = "anomalous", f"move it beside {top.name}/ if they are anomalous"
        else:
            contradicts = is_good(name)
            says, fix = "normal", f"move it beside {top.name}/ if they are normal"
        if split_of(name):
            contradicts, says = True, f"for {'training' if split_of(name) == 'train' else 'testing'}"
            fix = "lay them out as train/good, test/good and test/<defect> if they are"
        if contradicts and folder.images_below():
            own = "normal" if normal else "anomalous"
            raise DataError(
                f"{folder.path}: its name says that its images are {says}, but it lies in {top.name}/, whose images are"
                f" {own}; {fix}, or else rename it"
            )

    def _warn_of_same_names(self, folders: list[Folder]) -> None:
        names = Counter(folder.name.casefold() for folder in folders)
        for folder in folders:
            if names[folder.name.casefold()] > 1:
                self.ledger.warnings.append(
                    f"{self.name(folder)} differs from another kind of defect in capitals only; are they the same?"
                )

    def _refuse(self, folder: Folder, role: str) -> None:
        if role == "split":
            raise DataError(
                f"{folder.path}: lies beside folders of normal or anomalous images; is it a part of the data set or a"
                " kind of defect? Lay out all images as train/good, test/good and test/<defect>, or move it elsewhere"
            )
        raise DataError(
            f"{folder.path}: does it hold normal images or a kind of defect? Put them into good/ if they are normal,"
            " name the folder after the defect if not, or move it elsewhere"
        )
