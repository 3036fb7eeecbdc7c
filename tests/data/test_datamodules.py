"""Datamodules in place of a folder: the same images, the same answers, and clear errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trained_run
from toy_datasets import make_mvtec
from trained_run import Cli

from advrad.data.layouts import Dataset, find_records
from advrad.data.options import DataOptions
from advrad.errors import AdvradError, ConfigError, DataError

#: A stand-in that offers what every datamodule of anomalib does.
FAKE = """
from pathlib import Path

class Table:
    def __init__(self, rows):
        self.rows = rows
    def to_dict(self, orient):
        assert orient == "records"
        return self.rows

class Part:
    def __init__(self, rows):
        self.samples = Table(rows)

def row(image, label, mask):
    return {"image_path": str(image), "label_index": label, "mask_path": mask}

class Fake:
    name, category, seed = "Fake", "widget", 0
    def __init__(self, train, test):
        self.parts = train, test
    def setup(self, stage=None):
        self.train_data, self.test_data = map(Part, self.parts)

BASE = Path(%r)

def rows(part):
    for image in sorted(BASE.glob(f"{part}/*/*.png")):
        kind = image.parent.name
        mask = BASE / "ground_truth" / kind / f"{image.stem}_mask.png"
        yield row(image, int(kind != "good"), str(mask) if mask.is_file() else "")

def made():
    return Fake(list(rows("train")), list(rows("test")))

widget = made()
"""


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mvtec(
        tmp_path_factory.mktemp("data"), train=48, defects={"dent": 2, "scratch": 2}, size=trained_run.SIZE_PX
    )


def written(folder: Path, product: Path, more: str = "") -> Path:
    path = folder / "mine.py"
    path.write_text(FAKE % str(product) + more)
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, product: Path) -> Path:
    return written(tmp_path_factory.mktemp("file"), product)


def found(name: str, **options: Any) -> Dataset:
    return find_records(Path(name), DataOptions.parse(options))


def refused(name: str, error: type[AdvradError], **options: Any) -> str:
    with pytest.raises(error) as caught:
        found(name, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", ["widget", "made"])
def test_a_datamodule_has_the_records_of_its_folder(name: str, file: Path, product: Path) -> None:
    dataset, folder = found(f"{file}:{name}"), find_records(product)
    assert dataset.records == folder.records
    assert (dataset.root, dataset.layout, dataset.category) == (product, "datamodule", "widget")
    assert dataset.notes == ()


def test_a_class_without_a_category(tmp_path: Path, product: Path) -> None:
    more = (
        "class Own(Fake):\n    category = None\n    def __init__(self):\n        super().__init__(rows('train'), [])\n"
    )
    file = written(tmp_path, product, more)
    assert found(f"{file}:Own").category == "Fake"
    (tmp_path / "mine.py").write_text(file.read_text() + "    name = None\n")
    assert found(f"{file}:Own").category == "good"


def test_several_masks_of_one_image(tmp_path: Path) -> None:
    base = make_mvtec(tmp_path / "data", defects={"dent": 2})
    for number in range(2):
        whole = base / "ground_truth" / "dent" / f"{number:03}_mask.png"
        (base / "ground_truth" / "dent" / f"{number:03}").mkdir()
        for part in range(2):
            whole.with_name(f"{number:03}").joinpath(f"{part}.png").write_bytes(whole.read_bytes())
        whole.unlink()
    more = """
test = list(rows("test"))
for one in test:
    folder = BASE / "ground_truth" / "dent" / Path(one["image_path"]).stem
    if one["label_index"]:
        one["mask_path"] = [str(path) for path in sorted(folder.iterdir())]
loco = Fake(list(rows("train")), test)
"""
    file = written(tmp_path, base, more)
    assert found(f"{file}:loco").records == find_records(base).records
    (base / "ground_truth" / "dent" / "001" / "other.png").touch()
    file = written(tmp_path, base, more + "test[1]['mask_path'] = test[1]['mask_path'][:2]\n")
    assert "001.png has 2 masks that are not alone in one folder" in refused(f"{file}:loco", DataError)


def test_notes_tell_what_is_left_out(tmp_path: Path, product: Path) -> None:
    more = """
train, test = list(rows("train")), list(rows("test"))
train[0]["label_index"], train[1]["label_index"] = 1, -1
test[0]["mask_path"] = float("nan")
odd = Fake(train, test)
odd.seed = None
"""
    dataset = found(f"{written(tmp_path, product, more)}:odd")
    assert len(dataset.records) == 48 - 2 + 8
    assert dataset.notes == (
        "images without a label are not used: 1",
        "images of defects in the training data are not used: 1",
        "the datamodule has no seed: if it splits images at random, the test images change each time",
        "anomalous images without a mask: 1 (dent 1)",
    )


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("nothing", ConfigError, "does not define 'nothing'"),
        ("BASE", ConfigError, "is not a datamodule but PosixPath; name one, or a function that makes one"),
        ("three", ConfigError, "is not a datamodule but int"),
        ("Fake", ConfigError, r"cannot be called (TypeError: "),
        ("failing", ConfigError, "cannot be called (ZeroDivisionError: division by zero)"),
        ("unready", DataError, "the datamodule cannot be set up (FileNotFoundError: download it first)"),
        ("bare", ConfigError, "after setup() it has no train_data with a table 'samples'"),
        ("pathless", DataError, "a sample of test_data has no file (image_path None); images must be files"),
        ("empty", DataError, "no normal image to train on in its train_data"),
        ("single", DataError, "only one normal image to train on in its train_data"),
    ],
)
def test_errors_of_datamodules(name: str, error: type[AdvradError], words: str, tmp_path: Path, product: Path) -> None:
    more = """
def three():
    return 3
def failing():
    return 1 / 0
class Unready(Fake):
    def setup(self, stage=None):
        raise FileNotFoundError("download it first")
class Bare(Fake):
    def setup(self, stage=None):
        self.train_data = [1, 2, 3]
unready, bare = Unready([], []), Bare([], [])
pathless = Fake(list(rows("train")), [row(BASE, 0, "") | {"image_path": None}])
empty, single = Fake([], list(rows("test"))), Fake(list(rows("train"))[:1], [])
"""
    file = written(tmp_path, product, more)
    message = refused(f"{file}:{name}", error)
    assert words in message
    assert str(file) in message


def test_a_missing_file_and_contradicting_options(tmp_path: Path, file: Path, product: Path) -> None:
    assert "there is no such file" in refused(f"{tmp_path}/none.py:widget", ConfigError)
    assert "is for folders" in refused(f"{file}:widget", ConfigError, layout="mvtec")
    assert "it holds: widget" in refused(f"{file}:widget", DataError, category="gadget")
    assert found(f"{file}:widget", layout="datamodule", category="widget").records
    assert "name one as FILE.py:NAME" in refused(str(product), DataError, layout="datamodule")


def test_every_command_takes_a_datamodule(
    file: Path, product: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_run.shrink(monkeypatch)
    name, run = f"{file}:widget", tmp_path / "run"
    options = ("--steps", 2, "--size", trained_run.SIZE_PX, "--score", "paper")
    assert cli("train", name, "-o", run, *options).status == 0
    assert cli("train", name, "-o", run, "--resume").status == 0
    assert cli("calibrate", run, name, "-o", tmp_path / "anew").status == 0
    answers = []
    for data in (name, product):
        attack = ("--attack", "pgd", "--steps", 1, "--limit", 2, "-o", tmp_path / f"attack{len(answers)}")
        certify = ("--draws", 60, "--radius", 0.02, "--limit", 2, "-o", tmp_path / f"certify{len(answers)}")
        told = [cli("evaluate", run, data, "--json"), cli("attack", run, data, *attack, "--json")]
        told += [cli("certify", run, data, *certify, "--json"), cli("data", "inspect", data, "--json")]
        assert [done.status for done in told] == [0] * 4, [done.err for done in told]
        answers.append([json.loads(done.out) for done in told])
    for ours, folders in zip(*answers, strict=True):
        for changing in ("folder", "layout", "seconds", "time"):
            ours.pop(changing, None), folders.pop(changing, None)
        assert ours == folders


@pytest.mark.anomalib
@pytest.mark.filterwarnings("ignore:Importing from timm.models.layers:FutureWarning")
@pytest.mark.filterwarnings("ignore:The anomalib.models.components.dinov2 package:FutureWarning")
def test_datamodules_of_anomalib(tmp_path: Path, product: Path) -> None:
    text = f"""
from anomalib.data import Folder, MVTecAD

def folder(**more):
    return Folder(
        name="parts", root={str(product)!r}, normal_dir="train/good", normal_test_dir="test/good",
        abnormal_dir=["test/dent", "test/scratch"], mask_dir=["ground_truth/dent", "ground_truth/scratch"], **more
    )

whole = folder(val_split_mode="same_as_test", seed=0)
half = folder()
mvtec = MVTecAD(root={str(product.parent)!r}, category="widget", val_split_mode="same_as_test", seed=0)
"""
    file = tmp_path / "theirs.py"
    file.write_text(text)
    wanted = find_records(product).records
    whole = found(f"{file}:whole")
    assert whole.records == wanted
    assert whole.category == "parts"
    mvtec = found(f"{file}:mvtec")
    assert mvtec.records == wanted
    assert (mvtec.category, mvtec.root) == ("widget", product)
    half = found(f"{file}:half")  # it validates on the other half
    assert set(half.records) < set(wanted)
    assert sum(record.split == "test" for record in half.records) == 4
    assert any("has no seed" in note for note in half.notes)
