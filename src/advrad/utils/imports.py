"""Objects from a user's own Python file, named ``FILE.py:NAME``: a detector, or data."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
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


def load_name(name: str, convert: Callable[[Any], Any] | None = None) -> Any:
    """Run a Python file and return one of its objects.

    The file may import others beside it. What it prints goes to standard error, and what it changes in PyTorch's
    settings or in the working folder is undone.

    Args:
        name: Path of the file and name of the object, ``FILE.py:NAME``.
        convert: Function of the object whose result is returned instead; the settings of the file still hold for it.

    Raises:
        ConfigError: The file cannot be run, or does not define the name.
    """
    from advrad.utils.torch_state import torch_state_kept

    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"{file}: there is no such file; name an object as FILE.py:NAME")
    beside = str(path.resolve().parent)
    if beside not in sys.path:
        sys.path.append(beside)  # behind all others, so that nothing beside the file replaces a library
    with torch_state_kept(), _folder_kept(), redirect_stdout(sys.stderr):
        module = _run(file, path)
        if not hasattr(module, attribute):
            raise ConfigError(
                f"{file}: does not define '{attribute}'; define a function or an object of that name{_defined(module)}"
            )
        found = getattr(module, attribute)
        return found if convert is None else convert(found)


def place_of(error: BaseException) -> str:
    """Where an error was raised in a user's own code, such as ``mine.py, line 3``; empty if it is not known.

    Args:
        error: Error with its traceback.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_OURS) and not _OTHERS.search(frame.filename)]
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""


_OURS = str(Path(__file__).parents[1]) + os.sep
#: Paths of other code that is not the user's own: installed packages, Python itself, and what it makes as it runs.
_OTHERS = re.compile(r"[/\\](site|dist)-packages[/\\]|[/\\]lib[/\\]python3|^<")


def _run(file: str, path: Path) -> ModuleType:
    """Run a Python file as a module.

    Raises:
        ConfigError: It cannot be run.
    """
    spec = importlib.util.spec_from_file_location(f"advrad_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file}: cannot be run; name a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except AdvradError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        place = "" if isinstance(error, SyntaxError) else place_of(error)
        words = f"{type(error).__name__}: {error}{'; ' if place else ''}{place}"
        raise ConfigError(f"{file}: cannot be run ({words}); fix it first") from None
    return module


def _defined(module: ModuleType) -> str:
    """The names that a file defines itself, for a message; empty if there are none or many."""
    names = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and getattr(value, "__module__", module.__name__) == module.__name__
    ]
    return f", or name one of {', '.join(names)}" if 0 < len(names) <= 6 else ""


@contextmanager
def _folder_kept() -> Iterator[None]:
    """Return to the working folder after the block."""
    before = Path.cwd()
    try:
        yield
    finally:
        os.chdir(before)
