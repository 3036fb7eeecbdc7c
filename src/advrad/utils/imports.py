"""What a user's own Python file holds under a name: ``FILE.py:NAME`` may stand for a detector, or for data."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from advrad.errors import AdvradError, ConfigError


def is_file_name(name: str) -> bool:
    """Whether it has the form ``FILE.py:NAME``."""
    file, colon, attribute = name.rpartition(":")
    return bool(colon and attribute and file.endswith(".py"))


def load_name(name: str) -> Any:
    """Run a file, and take what it holds.

    Args:
        name: ``FILE.py:NAME``.

    Raises:
        ConfigError: the file cannot be run, or holds no such name.
    """
    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"{file}: there is no such file; name one as FILE.py:NAME")
    spec = importlib.util.spec_from_file_location(f"advrad_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file}: cannot be run; it must be a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except AdvradError:
        raise
    except Exception as error:  # whatever the user's own code raises
        raise ConfigError(f"{file}: cannot be run ({type(error).__name__}: {error}); mend it first") from None
    if not hasattr(module, attribute):
        raise ConfigError(f"{file}: holds no '{attribute}'; define a function or an object of that name")
    return getattr(module, attribute)
