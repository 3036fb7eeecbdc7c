"""What the names of folders and files say about their role in a data set.

Capitals, spaces and punctuation do not count: ``Good``, ``DEFECT-FREE`` and ``ground truth`` are understood.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from advrad.data.signatures import RAW_SUFFIXES

FolderRole = Literal["good", "masks", "perhaps masks", "split", "unlabelled", "results", "unclear", "defect"]
"""Roles of a folder beside others, by its name alone. Any name that says nothing else is a kind of defect."""

FolderSplit = Literal["train", "validation", "test"]
"""Parts of a data set that have a folder."""

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".dib", ".tif", ".tiff", ".webp",
    ".gif", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".pcx", ".psd",
})
"""Endings of image files; other files are ignored."""

UNREAD_SUFFIXES = RAW_SUFFIXES | frozenset({
    ".jxl", ".jxr", ".exr", ".hdr",
    ".dcm", ".npy", ".npz", ".mat", ".h5", ".svg", ".pdf", ".eps", ".zip", ".tar", ".7z",
    ".mp4", ".avi", ".mov",
})
"""Endings of files that may hold images which are not read; a warning names them."""

GOOD_NAMES = frozenset({
    "good", "goods", "ok", "okay", "normal", "normals", "nominal", "pass", "passed", "io", "gut", "defectfree",
    "faultfree", "anomalyfree", "nodefect", "nodefects", "nofault", "nofaults", "noanomaly", "noanomalies",
    "nondefective", "良品", "合格", "正常",
})
_BAD_NAMES = frozenset({
    "bad", "ng", "nok", "ko", "nio", "notok", "notgood", "nogood", "defect", "defects", "defective", "anomaly",
    "anomalies", "anomalous", "abnormal", "fail", "failed", "reject", "rejects", "rejected", "faulty",
})
_UNLABELLED_NAMES = frozenset({
    "unlabelled", "unlabeled", "nolabel", "nolabels", "unsorted", "tosort", "unclassified", "unknown", "unchecked",
    "undecided", "unsure", "todo", "tbd", "testprivate", "testprivatemixed",
})
_UNCLEAR_NAMES = frozenset({
    "negative", "negatives", "neg", "positive", "positives", "pos", "clean", "perfect", "healthy", "intact", "golden",
    "reference", "references", "ref", "template", "templates", "master", "background", "backgrounds", "calibration",
    "augmented", "augmentation", "synthetic", "generated", "old", "new", "backup", "archive", "tmp", "temp", "copy",
})
_RESULT_NAMES = frozenset({
    "result", "results", "output", "outputs", "prediction", "predictions", "predicted", "heatmap", "heatmaps",
    "anomalymap", "anomalymaps", "overlay", "overlays", "visualization", "visualizations", "visualisation",
    "visualisations", "report", "reports", "thumbnail", "thumbnails", "thumbs", "preview", "previews",
})
_HOLDERS = frozenset({"data", "dataset", "images", "image", "imgs", "img", "pictures", "rgb"})
_DEPTH_NAMES = frozenset({"xyz", "depth", "depths", "depthmap", "depthmaps", "pointcloud", "pointclouds", "pcd"})
_CLUTTER = frozenset({
    "thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot",
    "#recycle", "#snapshot", "~snapshot", "lost+found", "$recycle.bin", "system volume information", "__pycache__",
})

_MASK_WORDS = frozenset({"mask", "masks", "maske", "masken", "truth", "groundtruth", "gt", "gts"})
_LABEL_WORDS = frozenset({"label", "labels", "annotation", "annotations", "anno", "seg", "segs", "segmentation"})
_SPLIT_WORDS: dict[str, FolderSplit] = {
    "train": "train", "training": "train", "validation": "validation", "val": "validation", "valid": "validation",
    "test": "test", "testing": "test",
}
_GOOD_WORDS = frozenset({"good", "goods", "ok", "okay", "normal", "normals"})
_NEGATIONS = frozenset({"no", "not", "non", "never"})
_NEUTRAL_WORDS = frozenset({
    "image", "images", "img", "imgs", "data", "dataset", "set", "files", "public", "ground", "binary", "pixel", "png",
    "bmp", "tif", "defect", "defects",
})
# fmt: on

_MASK_ENDING = re.compile(
    r"(.+?)(?:[ _.(-]+(?:ground[ _-]?truth|masks?|gt|labels?|seg|segmentation|anno|annotation)\)?|mask)$", re.IGNORECASE
)
_MASK_BEGINNING = re.compile(r"(?:mask|gt|label)[ _.-]+(.+)$", re.IGNORECASE)


def plain_name(name: str) -> str:
    """A name in small letters, without spaces and punctuation.

    Args:
        name: Name of a folder.

    Example:
        >>> plain_name("Defect-Free")
        'defectfree'
    """
    return "".join(c for c in unicodedata.normalize("NFC", name).casefold() if c.isalnum())


def is_good(name: str) -> bool:
    """Whether a folder of this name holds normal images."""
    return plain_name(name) in GOOD_NAMES


def is_bad(name: str) -> bool:
    """Whether a folder of this name holds anomalous images, of whatever defect."""
    return plain_name(name) in _BAD_NAMES


def is_holder(name: str) -> bool:
    """Whether a folder of this name says only that it holds images."""
    return plain_name(name) in _HOLDERS


def holds_depth(name: str) -> bool:
    """Whether a folder of this name holds depths or points in place of images."""
    return plain_name(name) in _DEPTH_NAMES


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or left by a file manager or a file server."""
    return name.startswith(".") or name.casefold() in _CLUTTER


def is_mask_folder(name: str) -> bool:
    """Whether a folder of this name holds masks: its words are masks or ground truth, and none says more."""
    words = set(_words(name))
    return bool(words & _MASK_WORDS) and words <= _MASK_WORDS | _NEUTRAL_WORDS | _SPLIT_WORDS.keys()


def subject_of_masks(name: str) -> str:
    """What the name of a folder says besides that it holds masks, in small letters.

    Args:
        name: Name of a folder of masks.

    Example:
        >>> subject_of_masks("Deep-Scratch_masks")
        'deepscratch'
    """
    return "".join(word for word in _words(name) if word not in _MASK_WORDS | _LABEL_WORDS)


def split_of(name: str) -> FolderSplit | None:
    """The part of a data set that a folder of this name holds; None if it is no part."""
    first, *others = _words(name) or [""]
    return _SPLIT_WORDS.get(first) if set(others) <= _NEUTRAL_WORDS else None


def role_of(name: str) -> FolderRole:
    """The role of a folder that lies beside others.

    Args:
        name: Name of the folder.

    Example:
        >>> [role_of(name) for name in ("OK", "Masks", "scratch", "good_old")]
        ['good', 'masks', 'defect', 'unclear']
    """
    plain, words = plain_name(name), set(_words(name))
    if plain in GOOD_NAMES:
        return "good"
    if plain in _UNLABELLED_NAMES:
        return "unlabelled"
    if plain in _RESULT_NAMES:
        return "results"
    if is_mask_folder(name):
        return "masks"
    if split_of(name) is not None:
        return "split"
    if words & _MASK_WORDS or (words & _LABEL_WORDS and words <= _LABEL_WORDS | _NEUTRAL_WORDS):
        return "perhaps masks"
    if plain in _UNCLEAR_NAMES | _HOLDERS or (words & _GOOD_WORDS and not words & _NEGATIONS):
        return "unclear"
    return "defect"


def unmasked(stem: str) -> tuple[str, ...]:
    """Names that an image may have, given the name of its mask without the ending.

    Args:
        stem: Name of the mask file without its suffix.

    Returns:
        The names, the most exact one first.

    Example:
        >>> unmasked("part-7_mask")
        ('part-7_mask', 'part-7')
    """
    found = [stem]
    if match := _MASK_ENDING.match(stem):
        found.append(match.group(1).rstrip(" _.-") or match.group(1))
    if match := _MASK_BEGINNING.match(stem):
        found.append(match.group(1))
    return tuple(found)


def _words(name: str) -> list[str]:
    """The words of a name, in small letters; digits and punctuation part them, and so does a capital after a letter."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFC", name))
    return re.findall(r"[^\W\d_]+", parted.casefold())
