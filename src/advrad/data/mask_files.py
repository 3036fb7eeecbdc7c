"""Find the mask of each anomalous image: by its folder and name, or by its name alone.

The mask of ``test/scratch/7.png`` may be ``ground_truth/scratch/7_mask.png``, ``masks/7.bmp``, ``scratch/7_gt.png``
beside the image, or the folder ``ground_truth/scratch/7/`` whose masks count together. A mask that fits several images,
and several masks of one image, are not used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from advrad.data.account import Ledger
from advrad.data.folder_names import (
    is_good,
    is_holder,
    is_mask_folder,
    plain_name,
    split_of,
    unmasked,
)
from advrad.data.folders import Folder
from advrad.utils.output_folders import is_own_image

Place = tuple[str, ...]
"""Folders of an image or a mask that say what it shows, such as ``("scratch",)``; in small letters."""


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image that may have a mask.

    Attributes:
        path: Image file.
        place: Folders that say what it shows.
        normal: Whether it is normal, and so needs no mask.
    """

    path: Path
    place: Place
    normal: bool


def mask_paths(mask: Path) -> list[Path]:
    """The files of a mask: itself, or the masks in it if it is a folder.

    Args:
        mask: Mask file, or a folder of masks of one image; what any of them marks is anomalous.

    Raises:
        DataError: The folder cannot be listed.

    Example:
        >>> mask_paths(Path("ground_truth/dent/000_mask.png"))[0].name
        '000_mask.png'
    """
    return Folder(mask).images if mask.is_dir() else [mask]


def place_of(folder: Path, base: Path) -> Place:
    """Folders between a base and a folder, without those that are only parts, masks or holders of images."""
    return tuple(
        "good" if is_good(name) else name.casefold()
        for name in folder.relative_to(base).parts
        if not (split_of(name) or is_mask_folder(name) or is_holder(name))
    )


def masks_beside(images: Sequence[Path]) -> dict[Path, list[Path]]:
    """Masks among the images of one folder, such as 7_mask.png beside 7.png.

    Args:
        images: Image files of one folder.

    Returns:
        For each mask the images that it fits; none if the image is not there, but other masks have theirs.
    """
    named: dict[str, list[Path]] = {}
    for path in images:
        for name in {path.stem.casefold(), path.name.casefold()}:
            named.setdefault(name, []).append(path)
    found: dict[Path, list[Path]] = {}
    for path in images:
        for name in unmasked(path.stem)[1:]:
            if fits := named.get(name.casefold()):
                found[path] = fits
                break
    if found:
        found.update({path: [] for path in images if path not in found and len(unmasked(path.stem)) > 1})
    return found


class MaskPool:
    """Masks that were found, to be matched with the images.

    Args:
        base: Folder of the product, above all images and masks.

    Attributes:
        of_normal: Masks of normal images, as far as they were matched.
    """

    def __init__(self, base: Path) -> None:
        self.of_normal: list[Path] = []
        self._base = base
        self._folders: list[tuple[Folder, Place]] = []
        self._beside: list[tuple[Path, list[Path]]] = []

    @property
    def has_folders(self) -> bool:
        """Whether a folder of masks was found."""
        return bool(self._folders)

    def add_folder(self, folder: Folder, subject: str | None = None) -> None:
        """Add all masks in a folder and below it.

        Args:
            folder: Folder of masks.
            subject: Folder of the images that it holds the masks of; None if folders in it say so.
        """
        own = () if subject is None else ("good" if is_good(subject) else subject.casefold(),)
        self._folders.append((folder, (*place_of(folder.path.parent, self._base), *own)))

    def add_beside(self, mask: Path, images: list[Path]) -> None:
        """Add a mask that lies beside the images that it fits."""
        self._beside.append((mask, images))

    def match(self, images: Iterable[FoundImage], ledger: Ledger) -> dict[Path, Path]:
        """Find the mask of each anomalous image.

        Args:
            images: Images in use.
            ledger: Receives the masks that are not used, with the reason.

        Returns:
            Mask by image, each a file or a folder of masks.
        """
        index = _Index(images if self._folders or self._beside else ())
        masks: dict[Path, list[Path]] = {}
        several: list[Path] = []
        alone: list[Path] = []
        for mask, candidates in self._candidates(index):
            anomalous = [image for image in candidates if not image.normal]
            if len(anomalous) > 1:
                several.append(mask)
                ledger.leave_out(mask, "mask that fits several images")
            elif anomalous:
                masks.setdefault(anomalous[0].path, []).append(mask)
            elif candidates:
                self.of_normal.append(mask)
                ledger.leave_out(mask, "mask of a normal image")
            else:
                alone.append(mask)
                ledger.leave_out(mask, "mask without an image")
        doubled = {image: found for image, found in masks.items() if len(found) > 1}
        for mask in (mask for found in doubled.values() for mask in found):
            ledger.leave_out(mask, "one of several masks of one image")
        self._warn(ledger, alone, several, list(doubled))
        return {image: found[0] for image, found in masks.items() if len(found) == 1}

    def _candidates(self, index: _Index) -> Iterator[tuple[Path, list[FoundImage]]]:
        """Each mask with the images that it fits."""
        for mask, images in self._beside:
            yield mask, index.of_paths(images)
        for root, above in self._folders:
            for folder in root.walk():
                place = (*above, *place_of(folder.path, root.path))
                files = [path for path in folder.images if not is_own_image(path.name)]
                whole = index.of_folder(place, folder.name) if files else []
                if whole:
                    yield folder.path, whole
                else:
                    yield from ((path, index.of_mask(place, path.stem)) for path in files)

    def _warn(self, ledger: Ledger, alone: list[Path], several: list[Path], doubled: list[Path]) -> None:
        """Warn of masks that are not used."""
        for paths, words in (
            (alone, "masks without an image are not used: {}; name each as its image, in a folder of the same name"),
            (several, "masks that fit several images are not used: {}; sort them into folders as the images are"),
            (doubled, "images with several masks count as without one: {}; keep one mask for each"),
        ):
            if paths:
                named = ", ".join(path.relative_to(self._base).as_posix() for path in sorted(paths)[:3])
                more = ", ..." if len(paths) > 3 else ""
                ledger.warnings.append(words.format(f"{len(paths)} ({named}{more})"))


class _Index:
    """Images by folder and name."""

    def __init__(self, images: Iterable[FoundImage]) -> None:
        self._paths: dict[Path, FoundImage] = {}
        self._folders: set[Place] = set()
        self._places: dict[tuple[Place, str], list[FoundImage]] = {}
        self._defects: dict[tuple[str, str], list[FoundImage]] = {}
        self._stems: dict[str, list[FoundImage]] = {}
        self._named: dict[str, list[FoundImage]] = {}
        for image in images:
            self._paths[image.path] = image
            self._folders.add(image.place)
            for name in {image.path.stem.casefold(), image.path.name.casefold()}:
                self._places.setdefault((image.place, name), []).append(image)
                self._stems.setdefault(name, []).append(image)
                if image.place:
                    self._defects.setdefault((image.place[0], name), []).append(image)
                    if not image.normal:
                        self._named.setdefault(plain_name(image.place[0] + name), []).append(image)

    def of_paths(self, paths: list[Path]) -> list[FoundImage]:
        """The images of some paths, as far as they are in use."""
        return [self._paths[path] for path in paths if path in self._paths]

    def of_folder(self, place: Place, name: str) -> list[FoundImage]:
        """The images that all masks of a folder fit together: those that are named as the folder."""
        key = name.casefold()
        if place[-1:] != (key,) or place in self._folders:
            return []
        if len(place) > 1:
            return self._places.get((place[:-1], key), [])
        return _anomalous_first(self._stems.get(key, []))

    def of_mask(self, place: Place, stem: str) -> list[FoundImage]:
        """The images that a mask fits."""
        for name in unmasked(stem):
            key = name.casefold()
            if place and (found := self._places.get((place, key), [])):
                return _of_same_case(found, name)
            if place and (found := self._defects.get((place[0], key), [])):
                return _of_same_case(found, name)
            if not place and (found := _anomalous_first(self._stems.get(key, []))):
                return _of_same_case(found, name)
            if not place and (found := self._named.get(plain_name(name), [])):
                return found
        return []


def _anomalous_first(images: list[FoundImage]) -> list[FoundImage]:
    """The anomalous images; the normal ones if there are no others."""
    return [image for image in images if not image.normal] or images


def _of_same_case(images: list[FoundImage], name: str) -> list[FoundImage]:
    """The one image whose name has the same capitals; all images if there is no such one."""
    same = [image for image in images if name in (image.path.stem, image.path.name)]
    return same if len(same) == 1 else images
