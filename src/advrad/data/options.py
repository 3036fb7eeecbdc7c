"""How the images of a data set are found and read."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator
from pydantic.fields import FieldInfo

from advrad.data.records import MAX_PIXELS
from advrad.utils.config import Config


def limit_field() -> Any:
    """The option ``limit`` of attacks and certificates: how many test images are used."""
    return Field(
        None,
        ge=2,
        description="Use only this many test images, half of them normal.",
        json_schema_extra={"when_none": "all"},
    )


def seed_field() -> Any:
    """The option ``seed`` of training, attacks and certificates."""
    return Field(0, ge=0, description="Seed for all random draws.")


class DataOptions(Config):
    """How the images of a data set are found and read; each field's description says what it is.

    Example:
        >>> DataOptions(category="bottle").layout
        'auto'
    """

    layout: str = Field("auto", description="Folder structure of DATA: auto, mvtec, visa, btad or folder.")
    category: str | None = Field(None, description="Product category, if DATA holds several.")
    skip_bad: bool = Field(False, description="Leave out images that cannot be read.")
    max_pixels: int = Field(MAX_PIXELS, ge=1, description="Refuse images with more pixels (width times height).")
    value_range: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Value of white in the image files, such as 4095 for 12 bits in files of 16.",
        json_schema_extra={"when_none": "auto, as each file says"},
    )

    @field_validator("value_range", mode="before")
    @classmethod
    def _read_auto(cls, value: Any) -> Any:
        return None if value == "auto" else value


class WithDataOptions(Config):
    """Base of options that include data options.

    In Python these are one field, ``data``. In JSON and TOML its fields stand beside the others:
    ``{"seed": 0, "layout": "auto", ...}``.

    Attributes:
        data: How the images are found and read.
    """

    data: DataOptions = DataOptions()

    @classmethod
    def flat_fields(cls) -> dict[str, FieldInfo]:
        """All options by Python name, with the data options in place of the field ``data``."""
        fields: dict[str, FieldInfo] = {}
        for name, field in cls.model_fields.items():
            fields |= DataOptions.model_fields if name == "data" else {name: field}
        return fields

    @model_validator(mode="before")
    @classmethod
    def _nest(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not (flat := values.keys() & DataOptions.model_fields.keys()):
            return values
        if "data" in values:
            raise ValueError(f"give either data or {', '.join(sorted(flat))}")
        own = {name: value for name, value in values.items() if name not in flat}
        return own | {"data": {name: values[name] for name in flat}}

    @model_serializer(mode="wrap")
    def _flatten(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        nested: dict[str, Any] = values.pop("data", {})
        # Results that were stored before this option was added depend on the same options.
        return values | {name: value for name, value in nested.items() if name != "value_range" or value is not None}
