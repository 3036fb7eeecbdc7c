"""Export anomalib's PatchCore to OpenVINO, to be timed by ``performance/predict.py --patchcore``.

Run it where anomalib is installed::

    .venv-anomalib/bin/python performance/patchcore.py patchcore

The networks are drawn at random and the memory is filled with random numbers: neither changes what an image costs. The
memory is as large as anomalib's defaults make it of the given number of images: one patch in ten. The graphs are those
that anomalib writes, with its pre-processing and its post-processing, for one image at a time.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

#: Backbone of timm, and the layers of its features, by the name of the folder.
BACKBONES = {
    "efficientnet-lite0": ("tf_efficientnet_lite0", ("blocks.2", "blocks.4")),
    "wide-resnet50": ("wide_resnet50_2", ("layer2", "layer3")),
}


def export(folder: Path, name: str, size_px: int, images: int, share: float) -> Path:
    """Export one PatchCore.

    Args:
        folder: Folder for the graph; made if missing.
        name: One of :data:`BACKBONES`.
        size_px: Side of the images, pixels.
        images: Number of normal images whose patches the memory would hold.
        share: Share of the patches that are kept.

    Returns:
        The graph, ``model.xml``.
    """
    import torch
    from anomalib.models import Patchcore

    torch.manual_seed(0)
    backbone, layers = BACKBONES[name]
    pre = Patchcore.configure_pre_processor(image_size=(size_px, size_px))
    model = Patchcore(backbone=backbone, layers=layers, pre_trained=False, pre_processor=pre).eval()
    inner = model.model
    with torch.no_grad():
        features = inner.generate_embedding(inner.feature_extractor(torch.rand(1, 3, size_px, size_px)))
    channels, patches = features.shape[1], features.shape[2] * features.shape[3]
    inner.memory_bank = torch.randn(round(images * patches * share), channels)
    print(f"{name}: {tuple(inner.memory_bank.shape)} values in the memory", flush=True)
    one_image = {"dynamic_shapes": None}  # otherwise the graph takes pairs of images
    size = (size_px, size_px)
    return Path(model.to_openvino(folder, model_file_name=name, input_size=size, onnx_kwargs=one_image))


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Export PatchCore with each network, print the paths of the graphs, and return them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for the graphs")
    parser.add_argument("--size", type=int, default=256, help="side of the images, pixels")
    parser.add_argument("--images", type=int, default=209, help="number of normal images")
    parser.add_argument("--share", type=float, default=0.1, help="share of their patches in the memory")
    parser.add_argument("--networks", nargs="+", choices=BACKBONES, default=list(BACKBONES), help="networks")
    given = parser.parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anomalib, about its dependencies
        graphs = [export(given.output, name, given.size, given.images, given.share) for name in given.networks]
    print(*graphs, sep="\n")
    return graphs


if __name__ == "__main__":
    main()
