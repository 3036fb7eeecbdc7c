"""The model card: a Markdown page about a detector, with its threshold, its measured figures and its limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from advrad.data.splits import ALL_IN_MEMORY
from advrad.detectors import exported_card, guarded_card
from advrad.detectors.config import TestedFigures
from advrad.detectors.exported_config import ExportedConfig, halves_of
from advrad.utils.formatting import number, percent, radius_text
from advrad.utils.markdown import plain, table

if TYPE_CHECKING:
    from advrad.detectors.config import ImageCounts, RecordedFigures
    from advrad.detectors.saved import SavedConfig

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

#: Beginning of every card's list of limits.
_LIMITS = """\
## What it does not promise

- The detector is trained for one product, photographed as in its training images. Train another one for another
  product, camera, light or framing.
- The false-alarm rate holds on average, for normal images like those of the calibration. It may be exceeded in a single
  batch of images, and no longer holds after a change of the production or the camera.
- The share of defects found is measured, not guaranteed. Kinds of defects that were not tested may be missed.
- Defects smaller than a few pixels at the input size are lost when the image is resized.
"""

_PROOF = """\
## What is proven

For every perturbation within a radius, whatever the attack, the score stays inside an interval that advrad computes:
without noise, without a confidence level, rounding included. The radius bounds the change of every pixel value (`linf`)
or the length of the whole perturbation (`l2`). A verdict is *proven* if the interval lies on one side of the threshold.

```
advrad predict path/to/this/folder image.png --certify --norm linf --radius 2/255
advrad certify path/to/this/folder DATA --norm linf --radius 1/255,2/255,4/255
```
"""


def _by_purpose(counts: ImageCounts) -> str:
    return f"{counts.train} for training, {counts.selection} for selection, {counts.calibration} for calibration"


def _in_memory(counts: ImageCounts) -> str:
    if counts.selection:  # chosen beside a learned denoiser
        return f"{counts.train + counts.selection} for the memory, {counts.calibration} others for the threshold"
    if counts.train and counts.total > ALL_IN_MEMORY:
        return f"{counts.train} in memory; {counts.calibration} others set the threshold"
    return f"{counts.total} in memory; {counts.calibration} of them set the threshold"


@dataclass(frozen=True)
class _Words:
    """What a card says about a kind of detector.

    Attributes:
        name: Name of the kind.
        about: How the detector works.
        code: Python code that loads it.
        threshold: Which normal images set the threshold.
        proof: Section about what is proven; empty for none.
        limit: What is not promised about robustness.
        counts: Function that says what the normal images were used for.
    """

    name: str
    about: str
    code: str
    threshold: str
    proof: str
    limit: str
    counts: Callable[[ImageCounts], str] = _by_purpose


_LOAD_ANY = """\
import advrad

detector = advrad.load_detector("path/to/this/folder")"""

#: What a card says, by kind of detector.
_WORDS = {
    "advrad": _Words(
        name="AdvRAD",
        about="Finds defects in images of an industrial product, after training on normal images only. A diffusion\n"
        "model reconstructs the image without defects; the score measures the difference.\n",
        code='from advrad import AdvRAD\n\ndetector = AdvRAD.from_pretrained("path/to/this/folder")',
        threshold="normal images that were used for nothing else",
        proof="",
        limit="- Reconstruction by diffusion makes adversarial perturbations harder, but this is not a proof.\n"
        "  Robustness that is not among the figures above was not measured.\n",
    ),
    "closed_form": _Words(
        name="closed form",
        about="Finds defects in images of an industrial product, from normal images only. It keeps the patches of the\n"
        "normal images in memory, as the best denoiser of these images would; the score measures how far the\n"
        "patches of an image are from all of them. Nothing is trained.\n",
        code=_LOAD_ANY,
        threshold="normal images, each compared with the others",
        proof=_PROOF,
        limit="- The proof is about small perturbations of an image. It does not say that every defect is found.\n",
        counts=_in_memory,
    ),
    "combined": _Words(
        name="closed form and AdvRAD",
        about="Finds defects in images of an industrial product, from normal images only. Two detectors decide\n"
        "together: a memory of the patches of normal images, and a diffusion model that reconstructs the image\n"
        "without defects.\n",
        code=_LOAD_ANY,
        threshold="normal images that were used for nothing else",
        proof=_PROOF,
        limit="- The proof is about small perturbations of an image. It does not say that every defect is found.\n",
    ),
    "features": _Words(
        name="features",
        about="Finds defects in images of an industrial product, from normal images only. It compares features of a\n"
        "network, trained on ImageNet, with those of the normal images; the score is the largest distance to the\n"
        "nearest of them. Nothing is trained.\n",
        code=_LOAD_ANY,
        threshold="normal images that the detector was not fitted on, or each compared with the others",
        proof="",
        limit="- Nothing is proven: a perturbation that nobody sees can hide a defect. Robustness that is not among\n"
        "  the figures above was not measured.\n",
    ),
    "guarded": _Words(
        name="closed form guarding attackable detectors",
        about=guarded_card.ABOUT,
        code=_LOAD_ANY,
        threshold="normal images that were used for nothing else",
        proof=guarded_card.PROOF,
        limit=guarded_card.LIMIT,
    ),
    "tiled": _Words(
        name="closed form of tiles",
        about="Finds defects in long or large images of an industrial product, from normal images only. It cuts an\n"
        "image into tiles and keeps the patches of normal tiles in memory; the score measures how far the patches\n"
        "of the worst tile are from all of them. Nothing is trained.\n",
        code=_LOAD_ANY,
        threshold="normal images that were used for nothing else",
        proof=_PROOF,
        limit="- The proof is about small perturbations of an image. It does not say that every defect is found.\n",
    ),
}


def render(config: SavedConfig) -> str:
    """Write the model card.

    Args:
        config: Configuration of the detector. Without measured figures, the card says so.

    Returns:
        Markdown with a YAML header. It contains no paths of the machine on which the detector was trained.
    """
    product = config.training.category
    title = f"AdvRAD detector for {plain(product)}" if product else "AdvRAD detector"
    words, export = _words(config), config if isinstance(config, ExportedConfig) else None
    parts = [
        f"{_HEAD}\n# {title}{', exported' if export else ''}\n",
        _about(config),
        _use(exported_card.CODE if export else words.code),
        _decision(config),
        exported_card.sections(export) if export else words.proof,
        _figures(config.figures),
        f"## How it was made\n\n{table(making_rows(config))}",
        _LIMITS + (exported_card.LIMIT if export else words.limit),
    ]
    return "\n".join(part for part in parts if part)


def _words(config: SavedConfig) -> _Words:
    """What a card says about the kind of a detector; of an export, about the kind that was exported."""
    return _WORDS[config.source_kind if isinstance(config, ExportedConfig) else config.kind]


def describe_threshold(config: SavedConfig) -> str:
    """Say in one sentence how the threshold was set and what it promises.

    Args:
        config: Configuration of the detector.
    """
    if (guarded := halves_of(config)) is not None:
        return guarded_card.describe_tests(guarded)
    calibration = config.calibration
    if calibration is None:
        return "There is no threshold: the detector computes scores but does not decide."
    images = _words(config).threshold
    if isinstance(config, ExportedConfig):
        images = exported_card.threshold_words(config)
    return (
        f"Set from the scores of {calibration.n} {images}; a normal image like"
        f" them exceeds it with a probability of at most {percent(calibration.false_alarm_rate)}."
    )


def _use(code: str) -> str:
    return f"""\
## How to use it

```python
{code}
for prediction in detector.predict(["image.png"]):
    print(prediction.score, prediction.defective)
```

Or in a shell: `advrad predict path/to/this/folder image.png -o heat-maps`
"""


def threshold_rows(config: SavedConfig) -> list[tuple[str, str]]:
    """List the threshold and what it promises, as names and texts.

    Args:
        config: Configuration of the detector.
    """
    rows: list[tuple[str, str]] = []
    if (guarded := halves_of(config)) is not None:
        rows += guarded_card.half_rows(guarded)
    elif config.calibration is not None:
        rows.append(("Threshold", f"{config.calibration.threshold:.6g}"))
        rows.append(("Promised false-alarm rate", f"at most {percent(config.calibration.false_alarm_rate)}"))
        rows.append(("Calibration images", str(config.calibration.n)))
    if (robust := config.robust_calibration) is not None:
        rate, radius = percent(robust.false_alarm_rate), radius_text(robust.radius, robust.norm)
        rows.append(("Threshold under attack", f"{robust.threshold:.6g}"))
        rows.append(("Its false-alarm rate", f"at most {rate}, after any {robust.norm} perturbation up to {radius}"))
    return rows


def score_rows(config: SavedConfig) -> list[tuple[str, str]]:
    """List how images are scored, as names and texts.

    Args:
        config: Configuration of the detector.
    """
    rows = [("" if index else "Score", line) for index, line in enumerate(config.describe())]
    if config.training.reason:
        rows.append(("Why this score", config.training.reason))
    return rows


def verdict_rows(config: SavedConfig) -> list[tuple[str, str]]:
    """List the verdicts of a detector with halves and their meanings; empty for another, whose verdicts need no words.

    Args:
        config: Configuration of the detector.
    """
    guarded = halves_of(config)
    return [] if guarded is None else guarded_card.verdict_meanings(guarded)


def _decision(config: SavedConfig) -> str:
    words = "An image is called defective if its score is above the threshold. " if config.calibration else ""
    verdicts = ""
    if meanings := verdict_rows(config):
        words = "An image is called defective if one of the halves finds a defect. "
        verdicts = f"\n{table(meanings)}"
    rows = table(threshold_rows(config) + score_rows(config))
    return f"## How it decides\n\n{words}{describe_threshold(config)}\n{verdicts}\n{rows}"


def is_evaluated(figures: RecordedFigures) -> bool:
    """Whether figures on test images are stored.

    Args:
        figures: Stored figures.
    """
    return bool(figures.model_fields_set & TestedFigures.model_fields.keys())


def figure_rows(figures: RecordedFigures) -> list[tuple[str, str]]:
    """List the figures on test images, as names and texts.

    Args:
        figures: Stored figures.
    """
    interval = figures.image_auroc_ci
    area = number(figures.image_auroc)
    if interval:
        area += f" (95 % interval {interval[0]:.4f} to {interval[1]:.4f})"
    where = "at the threshold" if figures.guarded is None else "by either half"
    return [
        ("Image AUROC", area),
        ("Pixel AUROC", number(figures.pixel_auroc)),
        ("AUPRO (false-positive rate up to 30 %)", number(figures.aupro)),
        (f"Defects found {where} (TPR)", percent(figures.tpr)),
        (f"False alarms {where} (FPR)", percent(figures.fpr)),
        *([] if figures.guarded is None else guarded_card.joint_rows(figures.guarded)),
        ("Test images", f"{figures.n_normal} good, {figures.n_anomalous} defective"),
    ]


def _figures(figures: RecordedFigures) -> str:
    proven = _proven_figures(figures)
    if not is_evaluated(figures):
        return (
            "## Measured figures\n\nNot evaluated yet. `advrad evaluate path/to/this/folder DATA --save`"
            f" measures the detector\non test images and adds the figures to this page.\n{proven}"
        )
    words = "On test images that were not used for training or calibration."
    warnings = "".join(f"> **Warning.** {plain(warning)}\n\n" for warning in figures.warnings)
    text = f"## Measured figures\n\n{words}\n\n{warnings}{table(figure_rows(figures))}"
    if (guarded := figures.guarded) is not None:
        cells = table(
            guarded_card.half_cells(guarded), [name[:1].upper() + name[1:] for name in guarded_card.HALF_HEADS]
        )
        text += f"\n{guarded_card.half_caption(guarded)}:\n\n{cells}"
        if guarded.words is not None:
            counted = [(word, str(anomalous), str(normal)) for word, anomalous, normal in guarded.counted]
            cells = table(counted, ("Verdict", "Anomalous images", "Normal images"))
            text += f"\n{guarded_card.word_caption(guarded)}:\n\n{cells}"
    if figures.per_defect:
        rows = [(name, str(row.n), number(row.auroc), percent(row.tpr)) for name, row in figures.per_defect.items()]
        text += "\n" + table(rows, ("Defect", "Images", "AUROC", "Found"))
    return text + proven


def proven_rows(figures: RecordedFigures) -> list[tuple[str, str]]:
    """List the certified AUROC at each radius, as names and texts; empty if none is recorded.

    Args:
        figures: Stored figures.
    """
    return [
        (f"{norm} {radius}", number(area))
        for norm, areas in (("linf", figures.certified_linf), ("l2", figures.certified_l2))
        for radius, area in areas.items()
    ]


def _proven_figures(figures: RecordedFigures) -> str:
    """The certified AUROC at each radius, as a table; empty if none is recorded."""
    rows = proven_rows(figures)
    words = "Certified AUROC: no attack within the radius, on all test images at once, leaves less."
    return f"\n{words}\n\n{table(rows)}" if rows else ""


def making_rows(config: SavedConfig) -> list[tuple[str, str]]:
    """List how the detector was made, as names and texts.

    Args:
        config: Configuration of the detector.
    """
    training, loop = config.training, config.training.loop
    framing = config.framing
    rows = [("Product", training.category)] if training.category else []
    rows += [("Detector", _words(config).name), ("Input size", f"{framing.width_px} x {framing.height_px} px")]
    trained = () if loop.steps == 0 else (("Steps", loop.steps), ("Batch size", loop.batch_size))
    given = (*trained, ("Seed", loop.seed))
    rows += [(name, str(value)) for name, value in given if value is not None]
    if training.images:
        rows.append(("Normal images", _words(config).counts(training.images)))
    if training.seconds is not None:
        rows.append(("Training time", f"{training.seconds / 60:.1f} min"))
    if training.versions:
        versions = (f"{name} {version}" for name, version in training.versions.items())
        rows.append(("Versions", ", ".join(versions)))
    if training.threads:
        rows.append(("Threads", str(training.threads)))
    return rows


def about(config: SavedConfig) -> str:
    """Say in plain words what the detector does.

    Args:
        config: Configuration of the detector.
    """
    return " ".join(_about(config).split())


def _about(config: SavedConfig) -> str:
    """How the detector works, in lines."""
    guarded_export = isinstance(config, ExportedConfig) and config.guarded is not None
    return exported_card.GUARDED_ABOUT if guarded_export else _words(config).about
