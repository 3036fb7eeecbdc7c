"""Labelled images from folders, datamodules and tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import toy_datasets

from advrad.data.labelled import load_labelled
from advrad.data.layouts import Dataset, find_records
from advrad.data.loading import load_images, load_masks
from advrad.data.options import DataOptions
from advrad.data.splits import sample_test_records
from advrad.errors import AdvradError, ConfigError, DataError, ImageError

IMAGES = torch.rand(6, 3, 20, 24, generator=torch.Generator().manual_seed(0))
LABELS = [0, 0, 0, 1, 1, 1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return toy_datasets.make_mvtec(tmp_path, good=4, defects={"dent": 2, "scratch": 3})


def test_a_folder(folder: Path) -> None:
    dataset = find_records(folder)
    found = load_labelled(folder, 32)
    wanted = [record for record in dataset.records if record.split == "test"]
    assert found.records == tuple(wanted) and len(found) == 9
    assert found.names[0] == "test/dent/000.png"
    assert found.labels.tolist() == [record.label for record in wanted]
    assert found.defects == tuple(record.defect for record in wanted)
    assert (found.category, found.size, found.skipped) == ("widget", (32, 32), ())
    assert torch.equal(found.images, load_images(wanted, 32).batch(slice(None)))
    assert torch.equal(found.batch([3, 1]), found.images[[3, 1]])
    masks, known = load_masks(wanted, 32)
    assert found.masks is not None and found.mask_known is not None
    assert (found.masks == masks).all() and (found.mask_known == known).all()
    assert load_labelled(str(folder), 32).names == load_labelled(dataset, 32).names == found.names
    bare = load_labelled(folder, 32, masks=False)
    assert bare.masks is None and bare.mask_known is None


def test_a_limit_takes_both_classes(folder: Path) -> None:
    found = load_labelled(folder, 32, limit=4, seed=2)
    assert found.records == sample_test_records(find_records(folder).records, 4, 2)
    assert sorted(found.labels) == [0, 0, 1, 1]
    tensors = load_labelled((IMAGES, LABELS), limit=4)
    assert sorted(tensors.labels) == [0, 0, 1, 1]
    assert torch.equal(tensors.images, IMAGES[[int(name) for name in tensors.names]])


def test_a_datamodule(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import csv\nclass Table(list):\n    def to_dict(self, how): return self\n"
        "class Set:\n    def __init__(self, rows): self.samples = Table(rows)\n"
        "class Mine:\n    name = 'mine'\n    def setup(self):\n"
        f"        from pathlib import Path\n        root = Path({str(folder)!r})\n"
        "        row = lambda path, label: {'image_path': str(path), 'label_index': label}\n"
        "        self.train_data = Set([row(p, 0) for p in sorted((root / 'train/good').iterdir())])\n"
        "        self.test_data = Set([row(p, int(p.parent.name != 'good'))"
        " for p in sorted((root / 'test').rglob('*.png'))])\n"
    )
    named = load_labelled(f"{tmp_path / 'mine.py'}:Mine", 32)
    space: dict[str, Any] = {}
    exec((tmp_path / "mine.py").read_text(), space)
    given = load_labelled(space["Mine"](), 32)
    assert given.names == named.names and given.category == "mine" and len(given) == 9
    assert torch.equal(given.images, load_labelled(folder, 32).images)


def test_tensors(folder: Path) -> None:
    found = load_labelled((IMAGES, torch.tensor(LABELS)))
    assert found.size == (20, 24) and found.masks is None and found.records == ()
    assert torch.equal(found.images, IMAGES)
    assert found.names[:2] == ("00000", "00001")
    assert found.defects == ("good",) * 3 + ("anomaly",) * 3
    assert torch.equal(load_labelled((IMAGES.double().numpy(), np.array(LABELS, bool))).images, IMAGES)
    numbers = (255 * IMAGES).byte()
    for form in (numbers, numbers.permute(0, 2, 3, 1).numpy(), list(numbers)):
        torch.testing.assert_close(load_labelled((form, LABELS)).images, numbers / 255)
    assert load_labelled((IMAGES[:, :1], LABELS)).images.shape[1] == 3
    assert torch.equal(load_labelled((IMAGES[:, :1], LABELS), colour=False).images, IMAGES[:, :1])
    assert torch.equal(load_labelled((IMAGES[:, :2], LABELS), colour=False).images, IMAGES[:, :2])
    found.check_size(None)
    with pytest.raises(DataError, match="24 x 20 px, but the detector takes 32 x 32 px"):
        found.check_size(32)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((IMAGES,), "tuple of 1"),
        (([1.0], LABELS), r"images\[0\]: is of the type float"),
        ((["a.png"], LABELS), "images: a.png is a path; give the folder"),
        ((IMAGES[0], LABELS), r"labels: have the shape \(6,\); give one for each of the 1 images"),
        ((IMAGES[:0], []), "images: there are none"),
        (([*IMAGES, IMAGES[0, :, :19]], LABELS), r"images\[6\]: is 24 x 19 px.*first image is 24 x 20 px"),
        ((IMAGES * 255, LABELS), r"images\[0\]: float32 of shape \(3, 20, 24\) has values from .* divide by 255"),
        ((IMAGES - 0.5, LABELS), r"images\[0\]: float32 .* has values from -0.4"),
        ((IMAGES * float("nan"), LABELS), r"images\[0\]: float32 .* has 1440 values that are NaN or infinite"),
        ((IMAGES, LABELS[:5]), r"labels: have the shape \(5,\); give one for each of the 6"),
        ((IMAGES, [0, 1, 2, 0, 1, 2]), "labels: must be 0 for normal"),
        ((IMAGES, list("aabbcc")), "labels: must be 0 for normal"),
        ((IMAGES, [0] * 6), "labels: no anomalous test images"),
        ((IMAGES, [1] * 6), "labels: no normal test images"),
    ],
)
def test_wrong_tensors_are_refused(data: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_labelled(data)


def without(dataset: Dataset, label: int | None) -> Dataset:
    kept = [r for r in dataset.records if r.split == "train" or (label is not None and r.label != label)]
    return replace(dataset, records=tuple(kept))


def test_a_missing_class_is_named(folder: Path) -> None:
    dataset = find_records(folder)
    for label, words in ((0, "no normal test image"), (1, "no anomalous test image")):
        with pytest.raises(DataError, match=words):
            load_labelled(without(dataset, label), 32)
        assert len(load_labelled(without(dataset, label), 32, both_classes=False)) in (4, 5)
    with pytest.raises(DataError, match="has no test images"):
        load_labelled(without(dataset, None), 32, both_classes=False)


def test_broken_files_are_left_out_if_asked(folder: Path) -> None:
    (folder / "test" / "dent" / "000.png").write_text("no image")
    with pytest.raises(ImageError, match="holds text"):
        load_labelled(folder, 32)
    found = load_labelled(folder, 32, DataOptions(skip_bad=True))
    assert len(found) == 8 and len(found.skipped) == 1


@pytest.mark.parametrize(("data", "error"), [(SimpleNamespace(), ConfigError), ("nowhere", DataError)])
def test_other_sources_are_refused(data: Any, error: type[AdvradError]) -> None:
    with pytest.raises(error):
        load_labelled(data)
