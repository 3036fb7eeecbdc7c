"""Tiny models of anomalib, trained by its engine without a download, and their checkpoints."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from toy_guarded import SIZE_PX, dents, normals

#: Options of each model, by its name and, after a dash, its backbone.
MODELS: dict[str, dict[str, Any]] = {
    "Patchcore": {"backbone": "resnet18", "layers": ["layer1", "layer2"], "coreset_sampling_ratio": 0.1},
    "Padim": {"backbone": "resnet18", "layers": ["layer1"], "n_features": 10},
    "Stfpm": {"backbone": "resnet18", "layers": ["layer1", "layer2"]},
    "Patchcore-lite0": {"layers": ["blocks.1", "blocks.2"], "coreset_sampling_ratio": 0.1},
}


@dataclass(frozen=True)
class Trained:
    """A trained model and its checkpoint, as anomalib's engine wrote it."""

    model: Any
    path: Path


def product(root: Path) -> Path:
    """Image files of the toy product."""
    for name, images in (("good", normals(16, 0)), ("bad", dents(3, 1))):
        (root / name).mkdir(parents=True)
        for place, image in enumerate(images):
            pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
            Image.fromarray(pixels).save(root / name / f"{place}.png")
    return root


def train(name: str, root: Path, folder: Path) -> Trained:
    """Train a model, with an untrained backbone, or with the packaged EfficientNet-lite0."""
    import timm
    from anomalib import models
    from anomalib.data import Folder
    from anomalib.engine import Engine

    from advrad.baselines.anomalib.backbone import packaged_lite0
    from advrad.utils.substitution import substituted

    kind, options = getattr(models, name.partition("-")[0]), dict(MODELS[name])
    if name.endswith("lite0"):
        options["backbone"] = packaged_lite0()
    create: Callable[..., Any] = timm.create_model

    def untrained(model: str, pretrained: bool = False, **rest: Any) -> Any:
        return create(model, pretrained=pretrained and "lite0" in model, **rest)

    torch.manual_seed(0)
    with substituted(timm, "create_model", untrained):
        model = kind(**options, pre_processor=kind.configure_pre_processor((SIZE_PX, SIZE_PX)))
    data = Folder("part", root=root, normal_dir="good", abnormal_dir="bad", num_workers=0, seed=0)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    runner = Engine(default_root_dir=folder, accelerator="cpu", max_epochs=1, **quiet)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anomalib and Lightning
        runner.fit(model, datamodule=data)
    return Trained(model, Path(runner.trainer.checkpoint_callback.best_model_path))


def changed(path: Path, target: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a checkpoint with a change."""
    from anomalib.utils.serialization import anomalib_safe_globals

    with anomalib_safe_globals():
        content = torch.load(io.BytesIO(path.read_bytes()), weights_only=True, map_location="cpu")
    change(content)
    torch.save(content, target)
    return target
