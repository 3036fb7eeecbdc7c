"""Train a detector on a folder of images, measure it, and save a heat map of every test image.

python examples/train_and_look.py                       # on a synthetic product, which it renders first
python examples/train_and_look.py images --minutes 5    # on a folder of your own
"""

import argparse
from pathlib import Path

import advrad
from advrad.data.images import read_image
from advrad.data.png import write_image
from advrad.demo import write_product
from advrad.inference import draw_heat_map

parser = argparse.ArgumentParser(description="Train a detector, measure it, and save heat maps.")
parser.add_argument("data", nargs="?", help="folder of images; a synthetic product in flange by default")
parser.add_argument("--output", default="run", help="folder for the model and the heat maps, new or empty")
parser.add_argument("--minutes", type=float, help="time to train a denoiser beside the closed form")
parser.add_argument("--steps", type=int, help="number of training steps, in place of --minutes")
parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
arguments = parser.parse_args()

data = arguments.data or write_product("flange", seed=0)
budget = {"minutes": arguments.minutes, "steps": arguments.steps}
detector = advrad.train(data, arguments.output, size_px=arguments.size, **budget)
result = advrad.evaluate(detector, data)
print(result)

folder = Path(arguments.output) / "heat-maps"
folder.mkdir(exist_ok=True)
for prediction in detector.predict([record.path for record in result.records]):
    image = draw_heat_map(read_image(prediction.path), prediction.anomaly_map, detector.calibration)
    write_image(folder / f"{prediction.path.parent.name}-{prediction.path.stem}.png", image)
print(f"heat maps: {folder}")
