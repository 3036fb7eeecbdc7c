"""Reading diffusers checkpoints, and refusing other folders."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

from advrad.denoisers.ddpm import DdpmConfig, build
from advrad.denoisers.diffusers_checkpoint import load
from advrad.errors import CheckpointError

WEIGHTS = "diffusion_pytorch_model.safetensors"
SHAPE: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def network(**changes: Any) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(**{**SHAPE, **changes}).eval()


def plain(folder: Path, **changes: Any) -> Path:
    """A folder with a network only."""
    network(**changes).save_pretrained(folder)
    return folder


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def by_hand(theirs: UNet2DModel, scheduler: DDPMScheduler, z: torch.Tensor, step: int) -> torch.Tensor:
    """The clean image that diffusers' own arithmetic predicts at ``step``, in [0, 1]."""
    abar = scheduler.alphas_cumprod[step]
    x = abar.sqrt() * (2 * z - 1)
    noise = theirs(x, step).sample
    return (((x - (1 - abar).sqrt() * noise) / abar.sqrt()) + 1) / 2


@pytest.mark.parametrize("layout", ["pipeline", "flat", "network alone"])
def test_a_checkpoint_does_what_diffusers_does_with_it(tmp_path: Path, layout: str) -> None:
    theirs = network(attention_head_dim=None, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6)
    scheduler = DDPMScheduler() if layout == "network alone" else DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    theirs.save_pretrained(tmp_path / "unet" if layout == "pipeline" else tmp_path)
    if layout != "network alone":
        scheduler.save_pretrained(tmp_path / "scheduler" if layout == "pipeline" else tmp_path)

    denoiser = load(str(tmp_path))

    assert not denoiser.training
    step = 120
    abar = scheduler.alphas_cumprod[step].double()
    sigma = ((1 - abar) / abar).sqrt() / 2
    z = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        recon = denoiser(z, sigma.float().expand(2))
        torch.testing.assert_close(recon, by_hand(theirs, scheduler, z, step), rtol=1e-4, atol=1e-4)


def test_the_configuration_of_a_checkpoint_is_complete(tmp_path: Path) -> None:
    plain(tmp_path, act_fn="gelu", up_block_types=("UpBlock2D", "UpBlock2D"), attention_head_dim=4)
    DDIMScheduler(num_train_timesteps=50, beta_end=0.1).save_pretrained(tmp_path)
    first = load(tmp_path)
    config = DdpmConfig.model_validate_json(first.config.model_dump_json())
    assert config.schedule.num_train_timesteps == 50
    second = build(config).eval()
    second.load_state_dict(first.state_dict())
    z, sigma = torch.rand(1, 3, 16, 16), torch.tensor([0.2])
    assert torch.equal(first(z, sigma), second(z, sigma))


def test_attention_weights_under_their_old_names_are_read(tmp_path: Path) -> None:
    plain(tmp_path)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {}
    for name, value in load_file(tmp_path / WEIGHTS).items():
        for new, former in old.items():
            name = name.replace(f".{new}.", f".{former}.")
        weights[name] = value
    assert any(".query." in name for name in weights)
    save_file(weights, tmp_path / WEIGHTS)
    for name, value in load(tmp_path).network.state_dict().items():
        assert torch.equal(value, network().state_dict()[name])


def test_keys_that_diffusers_would_ignore_are_ignored(tmp_path: Path) -> None:
    edit(plain(tmp_path) / "config.json", name_of_long_ago=3)
    options = load(tmp_path).config.options
    assert options == {"norm_num_groups": 4, "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}


def test_the_size_may_be_chosen(tmp_path: Path) -> None:
    plain(tmp_path, sample_size=None)
    with pytest.raises(CheckpointError, match="give the image size"):
        load(tmp_path)
    assert load(tmp_path, size_px=32).config.size_px == 32


def test_grey_networks_are_read(tmp_path: Path) -> None:
    plain(tmp_path, in_channels=1, out_channels=1)
    assert load(tmp_path)(torch.rand(2, 3, 16, 16), torch.tensor([0.1, 0.2])).shape == (2, 3, 16, 16)


class Trap:
    """Unpickling this raises."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exec, ("raise AssertionError('a pickle was opened')",)


def pickled(folder: Path) -> None:
    (plain(folder) / WEIGHTS).unlink()
    (folder / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Trap()))


def truncated(folder: Path) -> None:
    weights = (plain(folder) / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[: len(weights) // 2])


def garbage(folder: Path) -> None:
    (plain(folder) / WEIGHTS).write_bytes(b"\xff" * 64)


def other_shape(folder: Path) -> None:
    edit(plain(folder) / "config.json", block_out_channels=[8, 32])


def lacking_a_tensor(folder: Path) -> None:
    weights = load_file(plain(folder) / WEIGHTS)
    weights.pop("conv_in.weight")
    save_file(weights, folder / WEIGHTS)


def scheduler_with(**values: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        DDPMScheduler().save_pretrained(plain(folder))
        edit(folder / "scheduler_config.json", **values)

    return make


def without_variances(folder: Path) -> None:
    (plain(folder) / "scheduler_config.json").write_text('{"_class_name": "ScoreSdeVeScheduler"}')


def config_with(**values: Any) -> Callable[[Path], Any]:
    return lambda folder: edit(plain(folder) / "config.json", **values)


def text_in_config(text: str) -> Callable[[Path], Any]:
    return lambda folder: (plain(folder) / "config.json").write_text(text)


REFUSALS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pickled weights": (pickled, "never opened.*use_safetensors=False"),
    "truncated weights": (truncated, "cannot be read.*download it again"),
    "garbage weights": (garbage, "cannot be read"),
    "weights of another shape": (other_shape, "does not fit its config.json"),
    "a tensor missing": (lacking_a_tensor, "does not fit its config.json.*conv_in.weight"),
    "conditional on a class": (lambda folder: plain(folder, num_class_embeds=4), "conditional on a class"),
    "conditional on a time": (lambda folder: plain(folder, class_embed_type="timestep"), "conditional"),
    "conditional on text": (config_with(_class_name="UNet2DConditionModel"), "a UNet2DConditionModel"),
    "fourier embedding": (lambda folder: plain(folder, time_embedding_type="fourier"), "score networks"),
    "learned variance": (lambda folder: plain(folder, out_channels=6), "3 channels in and 6 out"),
    "unknown prediction": (scheduler_with(prediction_type="flow_prediction"), "'flow_prediction'.*epsilon"),
    "infinite noise": (scheduler_with(rescale_betas_zero_snr=True), "rescale_betas_zero_snr"),
    "unknown schedule": (scheduler_with(beta_schedule="laplace"), "beta_schedule"),
    "no schedule": (without_variances, "ScoreSdeVeScheduler has no variance schedule"),
    "not square": (lambda folder: plain(folder, sample_size=(16, 32)), "is not a square"),
    "size of the wrong type": (config_with(sample_size={}), "size_px"),
    "unknown block": (config_with(down_block_types=["DownBlock2D", "Strange"]), "diffusers refuses"),
    "widths of the wrong type": (config_with(block_out_channels="wide"), "block_out_channels"),
    "blocks of the wrong type": (config_with(down_block_types=3), "down_block_types"),
    "up blocks of the wrong type": (config_with(up_block_types=3), "diffusers refuses"),
    "channels of the wrong type": (config_with(in_channels=[3]), "channels"),
    "no JSON": (text_in_config("{"), "cannot be read as JSON"),
    "a list": (text_in_config("[]"), "is not a JSON object"),
    "no config": (lambda folder: (folder / "x").touch(), "config.json: is missing"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_name_the_file_and_the_fix_in_one_line(tmp_path: Path, case: str) -> None:
    make, message = REFUSALS[case]
    make(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_not_searched_on_the_hub(tmp_path: Path) -> None:
    for source in (tmp_path / "nothing", str(tmp_path / "nothing"), "./runs/nothing", Path("owner/name")):
        with pytest.raises(CheckpointError, match="no such folder"):
            load(source)


def test_a_file_in_place_of_a_checkpoint_folder_is_refused(tmp_path: Path) -> None:
    plain(tmp_path)
    with pytest.raises(CheckpointError, match="not a folder"):
        load(tmp_path / WEIGHTS)


def test_a_hub_model_is_fetched_without_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(plain(tmp_path))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert load("someone/ddpm-bottles", revision="abc").config.size_px == 16
    assert (asked["name"], asked["revision"]) == ("someone/ddpm-bottles", "abc")
    assert {Path(pattern).suffix for pattern in asked["allow_patterns"]} == {".json", ".safetensors"}


def test_an_unreachable_hub_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(name: str, **options: Any) -> str:
        raise ConnectionError("name resolution failed\nmany more lines")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(CheckpointError, match=r"someone/ddpm-bottles.*name resolution failed") as caught:
        load("someone/ddpm-bottles")
    assert "\n" not in str(caught.value)
