"""The model folder: roundtrip, every kind of damage, interrupted writing, and that nothing is unpickled."""

from __future__ import annotations

import ast
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

import advrad
import advrad.detectors.model_folder
from advrad.detectors.model_folder import CONFIG_NAME, FORMAT_VERSION, WEIGHTS_NAME, load_folder, save_folder
from advrad.errors import CheckpointError, OutputError

VALUES = {"kind": "made up", "list": [1, 2.5, None], "name": "Grauß"}


def tensors(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    kernel = torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last)
    return {"kernel": kernel, "whole": torch.arange(5), "half": torch.randn(3).bfloat16(), "one": torch.tensor(2.0)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_folder(tmp_path / "model", VALUES, tensors())
    return tmp_path / "model"


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_folder(folder)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    assert str(folder) in message
    assert ";" in message, "the message must end with a fix"
    return message


def is_the_first_model(folder: Path) -> bool:
    values, loaded = load_folder(folder)
    return values == VALUES and torch.equal(loaded["kernel"], tensors()["kernel"])


def test_roundtrip(folder: Path) -> None:
    values, loaded = load_folder(folder)
    assert values == VALUES
    assert loaded.keys() == tensors().keys()
    for name, value in tensors().items():
        assert torch.equal(loaded[name], value) and loaded[name].dtype == value.dtype
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG_NAME, WEIGHTS_NAME]


def test_equal_models_give_equal_files_in_any_memory_layout(tmp_path: Path) -> None:
    save_folder(tmp_path / "a", VALUES, tensors())
    save_folder(tmp_path / "b", VALUES, {name: value.contiguous() for name, value in tensors().items()})
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_tensors_that_need_gradients_are_saved(tmp_path: Path) -> None:
    parameter = torch.randn(4, 4, requires_grad=True)
    save_folder(tmp_path, {}, {"a": parameter})
    loaded = load_folder(tmp_path)[1]["a"]
    assert torch.equal(loaded, parameter) and not loaded.requires_grad


def test_saving_again_replaces(folder: Path) -> None:
    save_folder(folder, {"kind": "newer"}, tensors(1))
    values, loaded = load_folder(folder)
    assert values == {"kind": "newer"} and torch.equal(loaded["kernel"], tensors(1)["kernel"])


def test_a_missing_folder_is_named_with_the_command_that_makes_one(tmp_path: Path) -> None:
    assert "there is no such model folder" in refused(tmp_path / "nowhere")
    file = tmp_path / "file"
    file.touch()
    refused(file)


def test_an_unfinished_run_is_to_be_resumed(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    assert "name a folder" in refused(tmp_path)
    (tmp_path / "training" / "plan.json").write_text("{}")
    assert "resume its training" in refused(tmp_path)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "last byte": lambda data: data[:-3],
    "flipped": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 255]) + data[len(data) // 2 + 1 :],
    "zeros": lambda data: bytes(len(data)),
    "longer": lambda data: data + b"}",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [CONFIG_NAME, WEIGHTS_NAME])
def test_damage_is_refused(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    refused(folder)


@pytest.mark.parametrize("cut", range(0, 400, 37))
def test_cut_weights_are_refused_even_with_a_matching_digest(folder: Path, cut: int) -> None:
    """As if somebody had 'repaired' the digest: the reader itself must cope."""
    weights, config = folder / WEIGHTS_NAME, folder / CONFIG_NAME
    weights.write_bytes(weights.read_bytes()[:cut])
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"weights_sha256": advrad.detectors.model_folder._digest(weights)}))
    assert WEIGHTS_NAME in refused(folder)


@pytest.mark.parametrize(
    "text", ["[1]", "null", '"text"', "{}", '{"format": "other"}', "[" * 100_000, '{"format": "advrad"}', "NaN"]
)
def test_a_config_of_another_format_is_refused(folder: Path, text: str) -> None:
    (folder / CONFIG_NAME).write_text(text)
    assert CONFIG_NAME in refused(folder)


def test_a_diffusers_folder_is_no_model(folder: Path) -> None:
    (folder / CONFIG_NAME).write_text(
        json.dumps({"_class_name": "UNet2DModel", "_diffusers_version": "0.30.0", "sample_size": 32})
    )
    assert "is not a model of advrad" in refused(folder)


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 99, None, "1", 1.5, []])
def test_newer_and_nonsensical_formats_are_refused(folder: Path, version: object) -> None:
    path = folder / CONFIG_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": version}))
    assert "install a newer advrad" in refused(folder)


def test_weights_of_another_model_are_noticed(folder: Path, tmp_path: Path) -> None:
    save_folder(tmp_path / "other", VALUES, tensors(1))
    (tmp_path / "other" / WEIGHTS_NAME).replace(folder / WEIGHTS_NAME)
    assert "is not what config.json describes" in refused(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / WEIGHTS_NAME).unlink()
    assert WEIGHTS_NAME in refused(folder)


# --- interrupted saving --------------------------------------------------------------------------------------------


def half_written(data: dict[str, Tensor], path: Path, **options: object) -> None:
    Path(path).write_bytes(b"half a file")
    raise KeyboardInterrupt


def test_interrupted_while_the_weights_are_written_the_old_model_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(safetensors.torch, "save_file", half_written)
        save_folder(folder, {"kind": "newer"}, tensors(1))
    assert is_the_first_model(folder)
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG_NAME, WEIGHTS_NAME]


def test_interrupted_between_weights_and_config_it_is_recognised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Path, values: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(advrad.detectors.model_folder, "write_json", interrupt)
        save_folder(folder, {"kind": "newer"}, tensors(1))
    assert "is not what config.json describes" in refused(folder)
    save_folder(folder, VALUES, tensors())
    assert is_the_first_model(folder)


def test_a_full_disk_leaves_the_old_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(data: dict[str, Tensor], path: Path, **options: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch, pytest.raises(OutputError, match="No space left"):
        patch.setattr(safetensors.torch, "save_file", full)
        save_folder(folder, {"kind": "newer"}, tensors(1))
    assert is_the_first_model(folder)


def test_nan_is_not_written(folder: Path) -> None:
    with pytest.raises(ValueError):
        save_folder(folder, {"threshold": float("nan")}, tensors())
    assert is_the_first_model(folder)


# --- nothing is unpickled ------------------------------------------------------------------------------------------

UNPICKLING_CALLS = ("torch.load", "torch.jit.load", "pd.read_pickle")
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unpickling(source: str) -> list[str]:
    """Imports and calls in a piece of Python that can run code hidden in a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in UNPICKLERS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLERS:
            found.append(str(node.module))
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in (
            "torch.load",
            "torch.jit.load",
            "pd.read_pickle",
        ):
            found.append(ast.unparse(node))
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only"):
            found.append(f"{node.arg}={ast.unparse(node.value)}")
    return found


def test_the_search_for_unpickling_finds_it() -> None:
    assert unpickling("import pickle") and unpickling("from joblib import load")
    assert unpickling("torch.load(path)") and unpickling("np.load(path, allow_pickle=True)")
    assert not unpickling('"""torch.load"""\nnp.load(path)')


def test_no_source_file_can_unpickle() -> None:
    sources = sorted(Path(advrad.__file__).parent.rglob("*.py"))
    assert len(sources) > 20
    # Weights that others publish, in this form only; with that option PyTorch builds tensors and nothing else.
    tensors_only = ["torch.load", "weights_only=True"]
    readers = ("anomalib_checkpoint.py", "backbone.py", "builders.py", "feature_network.py")
    allowed = dict.fromkeys(readers, tensors_only)
    assert {path.name: found for path in sources if (found := unpickling(path.read_text(encoding="utf-8")))} == allowed


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", [CONFIG_NAME, WEIGHTS_NAME])
def test_a_pickle_in_the_folder_is_not_opened(folder: Path, tmp_path: Path, name: str) -> None:
    mark = tmp_path / "sprung"
    trap = pickle.dumps(Trap(mark))
    (folder / name).write_bytes(trap)
    if name == WEIGHTS_NAME:
        config = folder / CONFIG_NAME
        digest = advrad.detectors.model_folder._digest(folder / name)
        config.write_text(json.dumps(json.loads(config.read_text()) | {"weights_sha256": digest}))
    refused(folder)
    assert not mark.exists()
    pickle.loads(trap)
    assert mark.exists(), "the trap itself does not work"
