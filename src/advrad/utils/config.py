"""Base class of all options and configurations: frozen, typed, and strict about unknown keys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from advrad.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class Config(BaseModel):
    """A frozen set of options that reads and writes JSON.

    A field whose Python name differs from its JSON name has the JSON name as its alias: ``parse`` reads both names,
    ``model_dump`` writes the alias.

    Example:
        >>> from pydantic import Field
        >>> from advrad.utils.config import Config
        >>> class Options(Config):
        ...     n_samples: int = Field(100, alias="draws", ge=1)
        >>> Options.parse({"draws": 5}) == Options(n_samples=5)
        True
        >>> Options(n_samples=5).model_dump()
        {'draws': 5}
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    @classmethod
    def parse(cls, values: dict[str, Any], source: str | None = None) -> Self:
        """Validate values.

        Args:
            values: Plain JSON values by field name or alias.
            source: Name of the file that the values come from, for the error; None if they are arguments of a function
                or a command.

        Raises:
            ConfigError: A key is unknown or missing, or a value is out of range. Without a source its ``option`` is the
                field.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            message = _message(first)
            if source is None and first["loc"]:
                name = _option(cls, first["loc"])
                value = first["input"] if isinstance(first["input"], str | int | float) else None
                raise ConfigError(message, option=name, value=value) from None
            where = ".".join(str(part) for part in first["loc"]) or cls.__name__
            raise ConfigError(f"{source or cls.__name__}: {where}: {message}") from None


def _option(model: type[Config], location: tuple[int | str, ...]) -> str:
    """The Python name of the field at fault, inside nested configurations too."""
    key, *rest = location
    for name, field in model.model_fields.items():
        if key in (name, field.alias):
            inner = field.annotation
            return (
                _option(inner, tuple(rest)) if rest and isinstance(inner, type) and issubclass(inner, Config) else name
            )
    return str(key)


#: Words for a limit, and the name of its value in pydantic's error.
_LIMITS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _message(error: ErrorDetails) -> str:
    """A message of pydantic in plain words: "Input should be greater than 0" becomes "must be above 0"."""
    if error["type"] in _LIMITS:
        words, name = _LIMITS[error["type"]]
        return f"must be {words} {error['ctx'][name]:g}"
    if error["type"] == "literal_error":
        choices = re.findall("'([^']*)'", error["ctx"]["expected"])
        return f"is unknown; choose {', '.join(choices)}"
    if error["type"] == "extra_forbidden":
        return "is unknown"
    text = error["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]
    return text.replace("Input should be", "must be", 1) if text.startswith("Input should be") else text
