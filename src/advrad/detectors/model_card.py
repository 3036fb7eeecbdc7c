"""The model card: a Markdown page about a detector, with its threshold, its measured figures and its limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.detectors.score_config import describe
from advrad.utils.formatting import number, percent

if TYPE_CHECKING:
    from advrad.detectors.config import DetectorConfig, RecordedFigures

_HEAD = """\
---
library_name: advrad
license: apache-2.0
tags:
- anomaly-detection
- adversarial-robustness
- diffusion
- advrad
---
"""

_LIMITS = """\
## What it does not promise

- The detector is trained for one product, photographed as in its training images. Train another one for another
  product, camera, light or framing.
- The false-alarm rate holds on average, for normal images like those of the calibration. It may be exceeded in a single
  batch of images, and no longer holds after a change of the production or the camera.
- The share of defects found is measured, not guaranteed. Kinds of defects that were not tested may be missed.
- Reconstruction by diffusion makes adversarial perturbations harder, but this is not a proof. Robustness that is not
  among the figures above was not measured.
- Defects smaller than a few pixels at the input size are lost when the image is resized.
"""


def render(config: DetectorConfig) -> str:
    """Write the model card.

    Args:
        config: Configuration of the detector. Without measured figures, the card says so.

    Returns:
        Markdown with a YAML header. It contains no paths of the machine on which the detector was trained.
    """
    product = config.training.category
    title = f"AdvRAD detector for {_plain(product)}" if product else "AdvRAD detector"
    parts = [
        f"{_HEAD}\n# {title}\n",
        "Finds defects in images of an industrial product, after training on normal images only. A diffusion\n"
        "model reconstructs the image without defects; the score measures the difference.\n",
        _use(),
        _decision(config),
        _figures(config.figures),
        _making(config),
        _LIMITS,
    ]
    return "\n".join(parts)


def describe_threshold(config: DetectorConfig) -> str:
    """Say in one sentence how the threshold was set and what it promises.

    Args:
        config: Configuration of the detector.
    """
    calibration = config.calibration
    if calibration is None:
        return "There is no threshold: the detector computes scores but does not decide."
    return (
        f"Set from the scores of {calibration.n} normal images that were used for nothing else; a normal image like"
        f" them exceeds it with a probability of at most {percent(calibration.false_alarm_rate)}."
    )


def _use() -> str:
    return """\
## How to use it

```python
from advrad import AdvRAD

detector = AdvRAD.from_pretrained("path/to/this/folder")
for prediction in detector.predict(["image.png"]):
    print(prediction.score, prediction.defective)
```

Or in a shell: `advrad predict path/to/this/folder image.png -o heat-maps`
"""


def _decision(config: DetectorConfig) -> str:
    rows = []
    if config.calibration is not None:
        rows.append(("Threshold", f"{config.calibration.threshold:.6g}"))
        rows.append(("Promised false-alarm rate", f"at most {percent(config.calibration.false_alarm_rate)}"))
        rows.append(("Calibration images", str(config.calibration.n)))
    rows.append(("Score", describe(config.score)))
    if config.training.reason:
        rows.append(("Why this score", config.training.reason))
    words = "An image is called defective if its score is above the threshold. "
    return f"## How it decides\n\n{words if config.calibration else ''}{describe_threshold(config)}\n\n{_table(rows)}"


def _figures(figures: RecordedFigures) -> str:
    if not figures:
        return (
            "## Measured figures\n\nNot evaluated yet. `advrad evaluate path/to/this/folder DATA --save`"
            " measures the detector\non test images and adds the figures to this page.\n"
        )
    interval = figures.image_auroc_ci
    area = number(figures.image_auroc)
    if interval:
        area += f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f})"
    rows = [
        ("Image AUROC", area),
        ("Pixel AUROC", number(figures.pixel_auroc)),
        ("AUPRO (false-positive rate up to 30 %)", number(figures.aupro)),
        ("Defects found at the threshold (TPR)", percent(figures.tpr)),
        ("False alarms at the threshold (FPR)", percent(figures.fpr)),
        ("Test images", f"{figures.n_normal} good, {figures.n_anomalous} defective"),
    ]
    words = "On test images that were not used for training or calibration."
    warnings = "".join(f"> **Warning.** {_plain(warning)}\n\n" for warning in figures.warnings)
    text = f"## Measured figures\n\n{words}\n\n{warnings}{_table(rows)}"
    if figures.per_defect:
        lines = ["", "| Defect | Images | AUROC | Found |", "|---|---:|---:|---:|"]
        lines += [
            f"| {_plain(name)} | {row.n} | {number(row.auroc)} | {percent(row.tpr)} |"
            for name, row in figures.per_defect.items()
        ]
        text += "\n".join(lines) + "\n"
    return text


def _making(config: DetectorConfig) -> str:
    training, loop = config.training, config.training.loop
    rows = [("Denoiser", config.denoiser.kind), ("Input size", f"{config.size_px} x {config.size_px} px")]
    if training.category:
        rows.insert(0, ("Product", training.category))
    if loop:
        rows += [("Steps", str(loop.steps)), ("Batch size", str(loop.batch_size)), ("Seed", str(loop.seed))]
    if training.images:
        counts = training.images
        parts = f"{counts.train} for training, {counts.selection} for selection, {counts.calibration} for calibration"
        rows.append(("Normal images", parts))
    if training.seconds is not None:
        rows.append(("Training time", f"{training.seconds / 60:.1f} min"))
    if training.versions:
        versions = (f"{name} {version}" for name, version in training.versions.items())
        rows.append(("Versions", ", ".join(versions)))
    return f"## How it was made\n\n{_table(rows)}"


def _table(rows: list[tuple[str, str]]) -> str:
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {_plain(value)} |\n" for name, value in rows)


def _plain(text: object) -> str:
    """The text on one line, escaped for a cell of a Markdown table."""
    line = " ".join(str(text).split())
    for character in ("\\", "|", "<", "`", "*", "["):
        line = line.replace(character, f"\\{character}")
    return line
