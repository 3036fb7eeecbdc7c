"""Lets ``import torchvision`` succeed where its compiled operators do not load.

Some Python packages need torchvision only because another package imports it. A torchvision wheel compiled
against a CUDA build of torch cannot load its operators beside a CPU build, and then stops at the two
operators that it describes without asking whether they exist. Declaring these two is enough: nothing in the
tests calls them.
"""

from __future__ import annotations

import importlib

import torch

# Kept for the life of the process: an operator disappears with the library that declared it.
_declared: list[torch.library.Library] = []


def ensure_torchvision() -> None:
    """Import torchvision, declaring its missing operators if that is what stops it.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: torchvision fails for another reason.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        importlib.import_module("torchvision")
