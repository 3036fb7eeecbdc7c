"""Attack a detector of your own: any PyTorch module that returns scores, anomaly maps, or both.

python examples/attack_your_model.py [DATA] [--eps 2/255] [--limit 16]
"""

import argparse
from pathlib import Path

import torch

import advrad
from advrad.data.layouts import find_records
from advrad.data.loading import load_images
from advrad.demo import write_product

parser = argparse.ArgumentParser(description="Attack a detector of your own.")
parser.add_argument("data", nargs="?", help="folder of images; a synthetic product in flange by default")
parser.add_argument("--eps", default="2/255", help="largest change of a pixel, for values in [0, 1]")
parser.add_argument("--limit", type=int, default=16, help="number of test images, half of them normal")
arguments = parser.parse_args()


class PixelStatistics(torch.nn.Module):
    """Compares every pixel with the mean and the standard deviation of normal images."""

    def __init__(self, normal_images):  # (n, 3, h, w) in [0, 1]
        super().__init__()
        self.mean, self.std = normal_images.mean(0), normal_images.std(0) + 0.02

    def forward(self, images):  # (b, 3, h, w) in [0, 1]
        """Compute anomaly maps; the score of an image is the maximum of its map."""
        maps = ((images - self.mean) / self.std).square().mean(1, keepdim=True)
        return torch.nn.functional.avg_pool2d(maps, 9, stride=1, padding=4)


data = arguments.data or write_product("flange", seed=0)
normal = [record for record in find_records(Path(data)).records if record.split == "train"]
detector = advrad.wrap(PixelStatistics(load_images(normal, 64).batch(slice(None))), size_px=64, deterministic=True)
print(advrad.attack(detector, data, norm="linf", eps=arguments.eps, budget="quick", limit=arguments.limit))
