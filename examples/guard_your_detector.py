"""Guard a detector of your own: whatever an attack does to it, what the closed form certainly finds is found.

python examples/guard_your_detector.py [DATA] [--rate 0.05] [--limit 8]
"""

import argparse
from pathlib import Path

import advrad
from advrad.data.layouts import find_records
from advrad.data.loading import load_images
from advrad.demo import write_product
from advrad.training.closed_form import fit_closed_form

parser = argparse.ArgumentParser(description="Guard a detector of your own with a closed form.")
parser.add_argument("data", nargs="?", help="folder of images; a synthetic product in flange by default")
parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
parser.add_argument("--rate", type=float, default=0.05, help="share of normal images that may be called defective")
parser.add_argument("--limit", type=int, default=8, help="number of attacked images, half of them normal")
arguments = parser.parse_args()

data = Path(arguments.data or write_product("flange", seed=0))
records = find_records(data).records
normal = load_images([record for record in records if record.split == "train"], arguments.size)
learn, rest = normal.batch(slice(0, None, 2)), normal.batch(slice(1, None, 2))
mean = learn.mean(0)


def mine(images):
    """Your detector: images (b, 3, h, w) in [0, 1], scores (b,), larger is more anomalous."""
    return (images - mean).square().mean(1).flatten(1).amax(1)


memory = fit_closed_form(learn, false_alarm_rate=arguments.rate / 2)  # the other half is for your detector
guarded = advrad.guard(mine, memory, normals=rest, false_alarm_rate=arguments.rate)
tested = [record.path for record in records if record.split == "test"]
for found in guarded.predict(tested):
    print(found.path.relative_to(data), found.verdict, *(half.name for half in found.halves if half.speaks))
print(advrad.attack(guarded, data, eps="2/255", attack="pgd", surrogate="mine", steps=20, limit=arguments.limit))
