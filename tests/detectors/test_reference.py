"""Detectors that stay in their own file: they are known again, and nothing that changed is run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from toy_models import generator, random_images

from advrad.detectors.anomalib_checkpoint import PACKAGED, READABLE
from advrad.detectors.reference import ReferenceConfig, is_reference, load_reference, refer
from advrad.errors import CheckpointError, ConfigError, DetectorError

PLAIN = "from advrad import wrap\ndef spread(images): return images.std((1, 2, 3))\n"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(PLAIN)
    return path


def described(path: Path, name: str = "spread") -> ReferenceConfig:
    """The description as a model folder keeps it."""
    config, _ = refer(f"{path}:{name}", size_px=32)
    return ReferenceConfig.parse(json.loads(json.dumps(config.model_dump(mode="json"))))


def runs(path: Path) -> int:
    """How often a file that counts its runs was run."""
    log = path.with_suffix(".log")
    return len(log.read_text()) if log.exists() else 0


def counting(path: Path, text: str = PLAIN) -> None:
    path.write_text(f"with open({str(path.with_suffix('.log'))!r}, 'a') as log: log.write('x')\n{text}")


def test_a_detector_is_loaded_again(mine: Path) -> None:
    config, detector = refer(f"{mine}:spread", size_px=32)
    again, images = load_reference(described(mine)), random_images(3, 32)
    scores = [found.infer(images, generator()).scores for found in (detector, again)]
    assert torch.equal(*scores) and scores[0].unique().numel() == 3
    assert (config.what, config.path, config.name) == ("python", mine, "spread")
    assert (config.file_bytes, config.image_size_px, config.probe_px) == (mine.stat().st_size, None, 32)
    assert config.describe() == [f"{mine}:spread, a Python file that is run"]


def test_the_path_is_stored_whole(mine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(mine.parent)
    config, _ = refer("mine.py:spread")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert config.target == f"{mine}:spread"
    assert load_reference(config).threshold is None


def test_a_file_that_changed_is_not_run(mine: Path) -> None:
    counting(mine)
    config = described(mine)
    assert runs(mine) == 1
    counting(mine, PLAIN + "# another\n")
    with pytest.raises(CheckpointError, match=r"mine\.py: is not the file with which .* has changed .* is not opened"):
        load_reference(config)
    assert runs(mine) == 1
    counting(mine)
    load_reference(config)
    assert runs(mine) == 2


@pytest.mark.parametrize("package", [False, True])
def test_what_it_imports_from_its_folder_is_compared(
    mine: Path, package: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = f"parts_{mine.parent.name.replace('-', '_')}"
    deep = mine.parent / f"deep_{beside}.py"
    other = mine.parent / beside / "__init__.py" if package else mine.parent / f"{beside}.py"
    other.parent.mkdir(exist_ok=True)
    other.write_text(f"import json, {deep.stem}\nfactor = {deep.stem}.factor\n")
    deep.write_text("factor = 2.0\n")
    counting(mine, f"from {beside} import factor\ndef spread(images): return factor * images.std((1, 2, 3))\n")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    config = described(mine)
    assert set(config.imports) == {other.relative_to(mine.parent).as_posix(), deep.name}
    for module in (beside, deep.stem):
        del sys.modules[module]
    deep.write_text("factor = -2.0\n")
    with pytest.raises(CheckpointError, match=rf"{deep.name}: is not the file"):
        load_reference(config)
    assert runs(mine) == 1
    deep.unlink()
    with pytest.raises(CheckpointError, match=rf"{deep.name}: is not the file"):
        load_reference(config)


def test_a_file_that_moved(mine: Path) -> None:
    config = described(mine)
    mine.rename(mine.with_name("other.py"))
    with pytest.raises(CheckpointError, match=r"mine\.py: this file is needed by the model, and is not there; put it"):
        load_reference(config)


def test_weights_that_changed_are_noticed(mine: Path) -> None:
    weights = mine.with_suffix(".txt")
    mine.write_text(
        f"from pathlib import Path\nfactor = float(Path({str(weights)!r}).read_text())\n"
        "def spread(x): return factor * x.std((1, 2, 3))\n"
    )
    weights.write_text("3.0")
    config = described(mine)
    load_reference(config)
    weights.write_text("3.1")
    with pytest.raises(CheckpointError, match=r"scores a test image .* weights that it reads, or a library, have"):
        load_reference(config)


def test_noise_from_seeded_generators_is_known_again(mine: Path) -> None:
    mine.write_text(
        "import torch, numpy, random\n"
        "def spread(x): return x.std((1, 2, 3)) + torch.rand(()) + numpy.random.rand() + random.random()\n"
    )
    before = torch.get_rng_state()
    load_reference(described(mine))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "text",
    [
        "calls = []\ndef spread(x):\n    calls.append(1)\n    return x.std((1, 2, 3)) + len(calls)\n",
        "import torch\nbias = torch.zeros(())\ndef spread(x): return x.std((1, 2, 3)) + bias.add_(x.mean())\n",
        "import secrets\ndef spread(x): return x.std((1, 2, 3)) + secrets.randbelow(10**9) / 10**9\n",
    ],
    ids=["counts its calls", "trains in place", "draws noise of the system"],
)
def test_a_score_that_cannot_be_repeated_is_refused(mine: Path, text: str) -> None:
    mine.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.py:spread: scores the same image .* changes as it scores, or"):
        refer(f"{mine}:spread", size_px=32)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("def spread(x): raise ValueError('no such layer')", DetectorError, "ValueError: no such layer"),
        ("def spread(x): return x.mean((1, 2, 3)) * float('nan')", DetectorError, "not a finite number .nan. for a te"),
        ("def other(x): return x.mean((1, 2, 3))", ConfigError, "does not define 'spread'.*other"),
    ],
)
def test_a_detector_that_cannot_be_used(mine: Path, text: str, error: type[Exception], words: str) -> None:
    mine.write_text(text)
    with pytest.raises(error, match=words):
        refer(f"{mine}:spread", size_px=32)


def test_one_score_for_a_batch_is_taken_one_by_one(mine: Path) -> None:
    mine.write_text("def spread(x): return x.std()\n")
    detector, images = load_reference(described(mine)), random_images(3, 32)
    alone = [detector.infer(image, generator()).scores for image in images.split(1)]
    torch.testing.assert_close(detector.infer(images, generator()).scores, torch.cat(alone))


def test_a_detector_with_a_size_of_its_own_is_tested_at_that(mine: Path) -> None:
    mine.write_text(
        "import advrad\nspread = advrad.wrap(lambda x: x.reshape(-1, 3, 64, 64).mean((1, 2, 3)), size_px=64)"
    )
    config = described(mine)
    assert (config.image_size_px, config.probe_px) == (64, 64)
    load_reference(config)


def test_what_is_a_reference(tmp_path: Path) -> None:
    assert is_reference("a/b.ckpt") and is_reference(Path("a.py:b"))
    assert not any(is_reference(name) for name in ("run", "a.py", "patchcore", "model.pt"))
    with pytest.raises(ConfigError, match=r"run: is no detector; name FILE\.py:NAME, or a checkpoint"):
        refer("run")
    for name in ("no.ckpt", "no.py:spread"):
        with pytest.raises(ConfigError, match="there is no such file"):
            refer(tmp_path / name)
    (tmp_path / "folder.ckpt").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        refer(tmp_path / "folder.ckpt")


def checkpoint(path: Path, **changes: object) -> ReferenceConfig:
    import hashlib

    path.write_bytes(b"tensors")
    values = {"what": "anomalib", "target": str(path), "sha256": hashlib.sha256(b"tensors").hexdigest()}
    return ReferenceConfig.parse(values | {"file_bytes": 7, "model": "Padim", "version": "2.7.0"} | changes)


def test_without_anomalib_its_checkpoints_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = checkpoint(tmp_path / "model.ckpt")
    monkeypatch.setitem(sys.modules, "anomalib", None)
    monkeypatch.setitem(sys.modules, "anomalib.models", None)
    for load in (lambda: load_reference(config), lambda: refer(config.target)):
        with pytest.raises((ConfigError, CheckpointError), match=r"model\.ckpt: .*install advrad\[anomalib\]"):
            load()


def test_a_checkpoint_that_changed_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = checkpoint(tmp_path / "model.ckpt")
    config.path.write_bytes(b"tensor5")
    monkeypatch.setattr(torch, "load", pytest.fail)
    with pytest.raises(CheckpointError, match=r"model\.ckpt: is not the file with which the model was made"):
        load_reference(config)


def test_the_description_of_a_checkpoint(tmp_path: Path) -> None:
    config = checkpoint(tmp_path / "model.ckpt")
    assert config.name == "padim" and config.path == tmp_path / "model.ckpt"
    assert config.describe() == [f"Padim of anomalib 2.7.0, in {config.target}"]
    assert "Padim" in READABLE and PACKAGED
