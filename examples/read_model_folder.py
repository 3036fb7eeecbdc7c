"""Read a model folder without advrad: config.json with json, model.safetensors with safetensors.

pip install torch safetensors
python examples/read_model_folder.py run
"""

import argparse
import hashlib
import json
from pathlib import Path

from safetensors.torch import load_file

parser = argparse.ArgumentParser(description="Read a model folder without advrad.")
parser.add_argument("run", nargs="?", default="run", help="model folder")
folder = Path(parser.parse_args().run)

config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
if config["format"] != "advrad" or config["weights_sha256"] != digest:
    raise SystemExit(f"{folder}: is not a model of advrad, or its files do not belong together")

kind = config.get("kind", "advrad")  # "closed_form", "combined", or an AdvRAD
learned = config.get("learned", config)  # the part of a combined detector
print(f"detector: {kind}, images of {learned.get('size_px') or learned.get('image_size_px')} px")
for look in learned.get("score", {}).get("looks", []):
    print(f"score: noise level {look['sigma']}, image scaled to {look['view_px']} px")
calibration = config["calibration"]
if calibration:
    print(f"threshold: {calibration['threshold']:.4g}, for a false-alarm rate of {calibration['false_alarm_rate']}")

tensors = load_file(folder / "model.safetensors")
for name, tensor in tensors.items():
    print(f"{name}: {tuple(tensor.shape)}, {tensor.dtype}")
weights = sum(tensor.numel() for tensor in tensors.values())
print(f"{len(tensors)} tensors with {weights} values")
