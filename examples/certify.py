"""Certify a trained detector: no change of an image within its radius can change the verdict.

python examples/train_and_look.py                    # trains the detector
python examples/certify.py run flange --limit 8
"""

import argparse

import advrad

parser = argparse.ArgumentParser(description="Certify a trained detector.")
parser.add_argument("run", nargs="?", default="run", help="model folder")
parser.add_argument("data", nargs="?", default="flange", help="folder of images with normal and anomalous test images")
parser.add_argument("--radii", type=float, nargs="+", default=[0.02, 0.05], help="l2 radii, for values in [0, 1]")
parser.add_argument("--samples", type=int, default=200, help="noise samples per image")
parser.add_argument("--limit", type=int, default=8, help="number of test images, half of them normal")
arguments = parser.parse_args()

detector = advrad.load_detector(arguments.run)
result = advrad.certify(
    detector, arguments.data, norm="l2", radii=arguments.radii, n_samples=arguments.samples, limit=arguments.limit
)
for radius, auroc in result.certified_auroc.items():
    print(f"radius {radius:g}: the AUROC stays at or above {auroc:.3f} ({result.method})")
for row in result.rows:
    label = "anomalous" if row.label else "normal"
    print(f"{row.name}: {label}, score {row.score:.4g}, verdict certified up to radius {row.radius:.4g}")
