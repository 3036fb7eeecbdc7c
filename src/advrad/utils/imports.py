"""Objects from a user's own Python file, named ``FILE.py:NAME``: a detector, or data."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from advrad.errors import AdvradError, ConfigError


def is_file_name(name: str) -> bool:
    """Whether a name has the form ``FILE.py:NAME``.

    Args:
        name: Name to test.

    Example:
        >>> is_file_name("detector.py:make"), is_file_name("runs/widget")
        (True, False)
    """
    file, colon, attribute = name.rpartition(":")
    return bool(colon and attribute and file.endswith(".py"))


def load_name(name: str) -> Any:
    """Run a Python file and return one of its objects.

    Args:
        name: Path of the file and name of the object, ``FILE.py:NAME``.

    Raises:
        ConfigError: The file cannot be run, or does not define the name.
    """
    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"{file}: there is no such file; name an object as FILE.py:NAME")
    spec = importlib.util.spec_from_file_location(f"advrad_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file}: cannot be run; name a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except AdvradError:
        raise
    except Exception as error:  # whatever the user's own code raises
        raise ConfigError(f"{file}: cannot be run ({type(error).__name__}: {error}); fix it first") from None
    if not hasattr(module, attribute):
        raise ConfigError(f"{file}: does not define '{attribute}'; define a function or an object of that name")
    return getattr(module, attribute)
