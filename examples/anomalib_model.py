"""Measure and attack a model of anomalib: a checkpoint, or a PaDiM that is trained here.

pip install "advrad[anomalib]"
python examples/anomalib_model.py [DATA] [--checkpoint model.ckpt]
"""

import argparse

from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import Padim

import advrad
from advrad.baselines.anomalib.backbone import packaged_lite0
from advrad.demo import write_product

parser = argparse.ArgumentParser(description="Measure and attack a model of anomalib.")
parser.add_argument("data", nargs="?", help="folder with train/good and test; a synthetic product by default")
parser.add_argument("--checkpoint", help="checkpoint of a PaDiM, in place of training one")
parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
parser.add_argument("--eps", default="2/255", help="largest change of a pixel, for values in [0, 1]")
parser.add_argument("--limit", type=int, default=16, help="number of test images, half of them normal")
arguments = parser.parse_args()

data = arguments.data or write_product("flange", seed=0)
if arguments.checkpoint:
    model = Padim.load_from_checkpoint(arguments.checkpoint)
else:
    # EfficientNet-lite0, whose ImageNet weights are installed with the extra; anomalib downloads those of others.
    layers, resize = ["blocks.1", "blocks.2", "blocks.4"], Padim.configure_pre_processor((arguments.size,) * 2)
    model = Padim(backbone=packaged_lite0(), layers=layers, n_features=50, pre_processor=resize)
    normal = Folder("product", root=data, normal_dir="train/good", num_workers=0, seed=0)
    Engine(logger=False, default_root_dir="anomalib").fit(model, datamodule=normal)
detector = advrad.wrap(model)
print(advrad.evaluate(detector, data))
print(advrad.attack(detector, data, norm="linf", eps=arguments.eps, budget="quick", limit=arguments.limit))
