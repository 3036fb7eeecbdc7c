"""The errors that advrad raises."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import pytest

import advrad.errors
import advrad.serving.errors as serving
from advrad.errors import AdvradError, ConfigError

#: A value for each kind of argument.
VALUES = {str: "it is wrong", int: 3, Path: Path("part.png")}
#: All classes, by name.
CLASSES = {
    name: kind
    for module in (advrad.errors, serving)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, AdvradError)
}


def made(kind: type[AdvradError]) -> AdvradError:
    """An error with all that its class needs."""
    if kind.__init__ is Exception.__init__:
        return kind(VALUES[str])
    taken = inspect.signature(kind, eval_str=True).parameters.values()
    return kind(*(VALUES[parameter.annotation] for parameter in taken if parameter.default is parameter.empty))


@pytest.mark.parametrize("name", CLASSES)
def test_an_error_arrives_as_it_is_from_another_process(name: str) -> None:
    error = made(CLASSES[name])
    error.add_note("in a file")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is CLASSES[name]
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_the_option_of_an_error_arrives_too() -> None:
    again = pickle.loads(pickle.dumps(ConfigError("must be above 0", option="minutes", value=-1)))
    assert again.named("--minutes") == "--minutes -1: must be above 0"
