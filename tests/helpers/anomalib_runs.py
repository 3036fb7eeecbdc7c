"""What the tests of our models in anomalib share: its data, its engine, its inferencers and its warnings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

MARKS = [
    pytest.mark.anomalib,
    pytest.mark.filterwarnings("ignore:Importing from timm.models.layers:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The anomalib.models.components.dinov2 package:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # Lightning, of PyTorch
    pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning"),  # every engine has its own folder
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning"),  # by anomalib, without a GPU
]
#: Between a score and that of an exported graph, relative: other runtimes sum in another order.
CLOSE = 1e-4


def datamodule(product: Path, **changes: Any) -> Any:
    """The images of `toy_datasets.make_mvtec` with the defect `dent`."""
    from anomalib.data import Folder

    values = {"normal_dir": "train/good", "abnormal_dir": "test/dent", "normal_test_dir": "test/good"}
    values |= {"mask_dir": "ground_truth/dent", "train_batch_size": 5, "eval_batch_size": 3}
    return Folder(name="widget", root=product, **values | {"seed": 0, "num_workers": 0} | changes)


def engine(folder: Path) -> Any:
    from anomalib.engine import Engine

    return Engine(default_root_dir=folder, logger=False, accelerator="cpu", enable_progress_bar=False)


def read_tests(product: Path) -> tuple[list[Path], Tensor]:
    """Paths of the test images, and the images, (n, 3, h, w), as in their files."""
    paths = sorted(product.glob("test/*/*.png"))
    values = np.stack([np.asarray(Image.open(path)) for path in paths]).astype(np.float32) / 255
    return paths, torch.from_numpy(values).permute(0, 3, 1, 2)


def inferencer(kind: str, file: Path) -> Any:
    """What anomalib scores an export with; `kind` is torch, onnx or openvino."""
    from anomalib.deploy import OpenVINOInferencer, TorchInferencer

    if kind == "torch":
        return TorchInferencer(file, device="cpu")
    # Without this it computes in bfloat16 where the processor supports it.
    return OpenVINOInferencer(file, device="CPU", config={"INFERENCE_PRECISION_HINT": "f32"})
