"""Private interfaces of PyTorch and accelerate, and that they are used in one module only."""

from __future__ import annotations

import ast
from pathlib import Path

import accelerate
import pytest
import torch

import advrad
from advrad.utils.compat import cpu_has_bfloat16, is_grad_switch, reset_accelerator_state

SOURCE = Path(advrad.__file__).parent
LIBRARIES = {"torch", "torchvision", "accelerate", "AcceleratorState"}


def dotted_name(node: ast.expr) -> str | None:
    """``a.b.c`` as text, None for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    inner = dotted_name(node.value) if isinstance(node, ast.Attribute) else None
    return f"{inner}.{node.attr}" if inner and isinstance(node, ast.Attribute) else None


def private_names(path: Path) -> list[str]:
    """Private names of PyTorch or accelerate that a module uses or imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Attribute):
            names = [name] if (name := dotted_name(node)) else []
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{name.name}" for name in node.names]
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        for name in names:
            library, *parts = name.split(".")
            if library in LIBRARIES and any(part.startswith("_") and not part.endswith("__") for part in parts):
                found.append(f"{path.relative_to(SOURCE)}:{node.lineno}: {name}")
    return found


def test_private_interfaces_are_used_in_one_module_only() -> None:
    allowed = SOURCE / "utils" / "compat.py"
    assert private_names(allowed)
    found = [name for path in SOURCE.rglob("*.py") if path != allowed for name in private_names(path)]
    assert found == []


def test_the_processor_is_asked_without_an_error() -> None:
    assert cpu_has_bfloat16() in (True, False)


def test_the_switch_of_gradients_is_recognised() -> None:
    seen = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(is_grad_switch(func))
            return func(*args, **(kwargs or {}))

    with Watch():
        torch.zeros(1)
        with torch.no_grad():
            pass
    assert seen[0] is False and any(seen)


def test_a_second_accelerator_may_have_another_precision() -> None:
    reset_accelerator_state()
    accelerate.Accelerator(mixed_precision="bf16")
    with pytest.raises(ValueError, match="mixed_precision"):
        accelerate.Accelerator(mixed_precision="no")
    reset_accelerator_state()
    assert accelerate.Accelerator(mixed_precision="no").mixed_precision == "no"
