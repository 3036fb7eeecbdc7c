"""What the card, the screen and the report of an export say beside what they say of any detector."""

from __future__ import annotations

from advrad.detectors.exported_config import ExportedConfig
from advrad.utils.markdown import table

#: What the card of an exported guarded detector says in place of that of the detector itself.
GUARDED_ABOUT = (
    "Finds defects in images of an industrial product, from normal images only. A memory of the patches of normal\n"
    "images decides, and beside it sharper detectors that an attack can fool. An image is called defective if one of\n"
    "them finds a defect, and every verdict says which did.\n"
)

#: What an export does not promise.
LIMIT = """\
- Images of more than 8 bits are rounded to 8 bits.
- An attacker finds no gradients here, but can make images on the model that was exported. That attacks with queries
  find little is no robustness: measure it on that model.
"""

#: How to use an export, in Python.
CODE = 'import advrad\n\ndetector = advrad.load_detector("path/to/this/folder")'

_USE = """\
It needs neither advrad nor PyTorch: `detector.json` describes the graph, which maps an 8-bit image of any size, `image`
(1, height, width, 3), to `score`, `anomaly_map` and `defective`.
"""


def comparison_rows(config: ExportedConfig) -> list[tuple[str, str]]:
    """List how the export was compared with the PyTorch detector, as names and texts.

    Args:
        config: What ``detector.json`` says.
    """
    if (parity := config.parity) is None:
        return [("Compared on", "no images")]
    worst = f" ({parity.worst})" if parity.worst and parity.score_difference else ""
    return [
        ("Compared on", f"{parity.n} calibration images, in {config.engine}"),
        (
            "Largest difference of scores",
            f"{parity.score_difference:.2g} relative{worst}; {parity.score_tolerance:.2g} allowed",
        ),
        (
            "Largest difference of anomaly maps",
            f"{parity.map_difference:.2g} of the largest value; {parity.map_tolerance:.2g} allowed",
        ),
        ("Other verdicts", str(parity.flips)),
    ]


def export_rows(config: ExportedConfig) -> list[tuple[str, str]]:
    """List what the export is and where it comes from, as names and texts.

    Args:
        config: What ``detector.json`` says.
    """
    source = config.provenance
    hints = f"INFERENCE_PRECISION_HINT {config.inference_precision}, EXECUTION_MODE_HINT {config.execution_mode}"
    rows = [
        ("Made for", config.engine),
        ("Precision", config.precision),
        *([("OpenVINO settings", hints)] if config.engine == "openvino" else []),
        ("Threshold set from", "scores of the exported graph" if config.rescored else _KEPT),
        ("Exported model", f"{config.source_kind}, configuration {source.config_sha256[:12]}"),
    ]
    if source.data is not None:
        rows.append(("Data", source.data))
    if source.fitted_on is not None:
        rows.append(("Fitted on", source.fitted_on))
    versions = (f"{name} {version}" for name, version in config.versions.items())
    rows.append(("Exported with", ", ".join(versions)))
    return rows


_KEPT = "PyTorch's scores: the detector keeps its calibration images, and leaves each out to score it"


def threshold_words(config: ExportedConfig) -> str:
    """Say what set the threshold, in words that follow ``the scores of 39``.

    Args:
        config: What ``detector.json`` says.
    """
    if config.rescored:
        return "normal images, as the exported graph computes them"
    return "normal images, each compared with the others, as PyTorch computes them"


def proven_words(config: ExportedConfig) -> str:
    """Say what holds for certificates, in a sentence.

    Args:
        config: What ``detector.json`` says.
    """
    words = config.rounding.words
    return f"{words[:1].upper()}{words[1:]}."


def sections(config: ExportedConfig) -> str:
    """Sections of the card about the export.

    Args:
        config: What ``detector.json`` says.
    """
    return (
        f"## The export\n\n{_USE}\n{table(export_rows(config))}\n"
        f"## Compared with the PyTorch detector\n\n{table(comparison_rows(config))}\n"
        f"## What is proven\n\n{proven_words(config)}\n"
    )
