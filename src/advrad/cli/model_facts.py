"""What 'advrad info' shows of a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from advrad.cli.tables import show_facts, show_halves, show_table, show_warnings
from advrad.utils.formatting import number, percent, quoted

if TYPE_CHECKING:
    from advrad.detectors.saved import SavedConfig

# Stored lists that fill screens; JSON has them.
_LONG = ("held_out", "members")


def stored_facts(folder: Path) -> dict[str, Any]:
    """Read every stored value of a model folder.

    Args:
        folder: Model folder.

    Raises:
        CheckpointError: The folder holds no model, or a damaged one.
    """
    from advrad.detectors.exported_folder import check_files, is_export, read_export_config
    from advrad.detectors.loading import load_config
    from advrad.detectors.model_folder import load_folder

    if is_export(folder):
        export = read_export_config(folder)
        check_files(folder, export)
        size = sum((folder / name).stat().st_size for name in export.files)
        facts = {"folder": str(folder), "megabytes": round(size / 1e6, 3), "description": export.describe()}
        return facts | export.model_dump(mode="json")
    tensors = load_folder(folder)[1]
    config = load_config(folder)
    weights = [tensor for name, tensor in tensors.items() if "denoiser." in name]
    return {
        "folder": str(folder),
        "parameters": sum(tensor.numel() for tensor in weights),
        "megabytes": round(sum(tensor.nbytes for tensor in tensors.values()) / 1e6, 3),
        "description": config.describe(),
        **config.model_dump(mode="json"),
    }


def show_model(config: SavedConfig, folder: Path) -> None:
    """Print what a user of the model needs: threshold and promise, measured figures, and how it was made.

    Args:
        config: Configuration of the detector.
        folder: Model folder.
    """
    from advrad.detectors import model_card as card
    from advrad.detectors.exported_card import comparison_rows, export_rows, proven_words
    from advrad.detectors.exported_config import ExportedConfig

    figures = config.figures
    show_table("Threshold and promise", card.threshold_rows(config))
    print(card.describe_threshold(config))
    if meanings := card.verdict_rows(config):
        show_table("What the verdicts mean", meanings)
    if card.is_evaluated(figures):
        show_table("Measured on test images", card.figure_rows(figures))
        show_halves(figures.guarded)
        listed = [(name, str(row.n), number(row.auroc), percent(row.tpr)) for name, row in figures.per_defect.items()]
        if listed:
            show_table("By defect", listed, ("defect", "images", "AUROC", "found"))
    else:
        print(f"not evaluated yet: advrad evaluate {quoted(folder)} DATA --save")
    if proven := card.proven_rows(figures):
        show_table("Proven: no attack within the radius leaves less", proven, ("radius", "AUROC"))
    if isinstance(config, ExportedConfig):
        show_table("Export", export_rows(config))
        show_table("Compared with the PyTorch detector", comparison_rows(config))
        print(proven_words(config))
    show_table("How it was made", [*card.making_rows(config), *card.score_rows(config)])
    print(card.about(config))
    show_warnings(figures.warnings)


def show_everything(facts: dict[str, Any]) -> None:
    """Print every stored value as a table of dotted names, without the longest lists.

    Args:
        facts: What :func:`stored_facts` returns.
    """
    shown = {name: value for name, value in facts.items() if name not in _LONG}
    # The report shows the candidates for the score; here they would fill the screen. The description says the rest.
    for part, long in (("training", "tried"), ("calibration", "scores")):
        if isinstance(shown.get(part), dict):
            shown[part] = {name: value for name, value in shown[part].items() if name != long}
    if shown.get("kind") == "guarded":
        names = ["memory", *(part["name"] for part in shown["others"])]
        tests = ({key: value for key, value in test.items() if key != "scores"} for test in shown["tests"])
        shown["tests"] = dict(zip(names, tests, strict=False))
        shown["others"] = {part["name"]: part["detector"] for part in shown["others"]}
    show_facts("Model", shown)
