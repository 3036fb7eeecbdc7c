"""Base of all configurations: frozen, typed, an unknown key is an error."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from advrad.errors import ConfigError


class Config(BaseModel):
    """A frozen set of options that reads and writes JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, values: dict[str, Any], source: str) -> Self:
        """Validate ``values``.

        Args:
            values: plain JSON values.
            source: where they come from, named in the error.

        Raises:
            ConfigError: a key is unknown or missing, or a value is out of range.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or cls.__name__
            raise ConfigError(f"{source}: {where}: {first['msg']}") from None
