"""Inspect images with an export of advrad, on a machine that has neither advrad nor PyTorch.

pip install openvino numpy pillow                # or onnxruntime, for an export to ONNX
python examples/inspect_without_advrad.py bottle-export part-0001.png --output heat-maps

It reads images of 8 bits, turns them as their EXIF data say, and shows transparent pixels on mid-grey. Unlike `advrad
predict` it does not refuse images that are half-written, of several frames, or of another shape or range of values than
those of the training, and it does not name the halves of a guarded detector.
"""

import argparse
import hashlib
import json
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

parser = argparse.ArgumentParser(description="Inspect images with an export of advrad.")
parser.add_argument("export", type=Path, help="folder that `advrad export` wrote")
parser.add_argument("images", type=Path, nargs="+", help="image files")
parser.add_argument("--output", type=Path, help="folder for heat maps")
given = parser.parse_args()

config = json.loads((given.export / "detector.json").read_text(encoding="utf-8"))
header = [config.pop(name, None) for name in ("format", "format_version", "sha256")]
if header != ["advrad export", 1, hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()]:
    raise SystemExit(f"{given.export}: detector.json was changed, or is of another format; export again")
for name, digest in config["files"].items():
    if hashlib.sha256((given.export / name).read_bytes()).hexdigest() != digest:
        raise SystemExit(f"{given.export / name}: was changed after the export; copy the folder again")
if openvino := "model.xml" in config["files"]:
    hints = {"INFERENCE_PRECISION_HINT": config["inference_precision"], "EXECUTION_MODE_HINT": config["execution_mode"]}
    model = import_module("openvino").Core().compile_model(given.export / "model.xml", "CPU", hints)
else:
    model = import_module("onnxruntime").InferenceSession(given.export / "model.onnx")
pad, low, high = config["framing"]["pad"], config["calibration"]["heat_low"], config["calibration"]["heat_high"]
white = (config["training"].get("value_range") or {}).get("given") or 255
for number, path in enumerate(given.images):
    try:
        with Image.open(path) as file:
            if file.mode not in ("1", "L", "LA", "P", "RGB", "RGBA") or ";16" in str(file.tile) or white != 255:
                raise OSError(f"{file.mode} with white {white:g}, not of 8 bits with white 255; use `advrad predict`")
            seen = ImageOps.exif_transpose(file).convert("RGBA")
    except OSError as error:
        raise SystemExit(f"{path}: {error}") from None
    shown = Image.new("RGB", seen.size, (128, 128, 128))
    shown.paste(seen, mask=seen.getchannel("A"))
    inputs = {"image": np.asarray(shown)[None]}
    (score,), (anomaly_map,), (defective,), *_ = model(inputs).to_tuple() if openvino else model.run(None, inputs)
    print(json.dumps({"path": str(path), "score": float(score), "verdict": "defective" if defective else "good"}))
    if given.output:  # red where the map is above what is usual in normal images
        inner = np.array(anomaly_map.shape[::-1])
        sides = np.multiply(shown.size, (inner / shown.size).min()) if pad else inner  # without the padding
        values = Image.fromarray(anomaly_map).resize(shown.size, 2, (*(inner - sides) / 2, *(inner + sides) / 2))
        share = np.clip((np.asarray(values) - low) / max(high - low, 1e-6) - 0.5, 0, 1)[:, :, None] / 2
        given.output.mkdir(parents=True, exist_ok=True)
        heat = (1 - share) * np.asarray(shown) + share * (255, 64, 0)
        Image.fromarray(heat.astype(np.uint8)).save(given.output / f"{number:04}-{path.stem}.png")
