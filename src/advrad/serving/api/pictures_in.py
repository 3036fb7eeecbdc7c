"""Images in the body of a request: one as it is, or several in a form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from advrad.serving.api.failures import Refusal
from advrad.serving.api.fields import Text
from advrad.serving.records import InspectionRequest

ARTEFACTS = ("map", "overlay", "reconstruction")
"""Images that are drawn on request."""

_FORM = "multipart/form-data"
_RAW = ("application/octet-stream", "image/")
_FIELD_BYTES = 64_000

BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "image/png": {"schema": {"type": "string", "format": "binary"}},
        _FORM: {
            "schema": {
                "type": "object",
                "required": ["files"],
                "properties": {
                    "files": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "format": "binary"},
                        "description": "The images.",
                    }
                },
            }
        },
    },
}
"""The body, for OpenAPI."""


class Facts(BaseModel):
    """What comes with images: in the query, or in the fields of a form."""

    model_config = ConfigDict(extra="forbid")

    part_id: Text | None = Field(default=None, description="Identity of the part.", examples=["A-7"])
    station: Text | None = Field(default=None, description="Place of the inspection.", examples=["line 2"])
    certify: bool = Field(default=False, description="Compute how far the verdict is proven.")
    artefacts: str = Field(
        default="",
        max_length=100,
        pattern=r"^(map|overlay|reconstruction)?(,(map|overlay|reconstruction))*$",
        description="Images to draw, separated by commas: map, overlay, reconstruction.",
        examples=["map"],
    )

    @property
    def wanted(self) -> frozenset[str]:
        """Names of the images to draw."""
        return frozenset(part for part in self.artefacts.split(",") if part)


@dataclass(frozen=True, slots=True)
class Sent:
    """What a request brought.

    Attributes:
        pictures: Content of each image file with its name.
        facts: What came with them.
    """

    pictures: list[tuple[str, bytes]] = field(repr=False)
    facts: Facts

    def requests(self, product: str) -> list[InspectionRequest]:
        """The images as the service takes them.

        Args:
            product: Name of the product.
        """
        facts = self.facts
        return [
            InspectionRequest(product, content, name, facts.part_id, facts.station, facts.certify, facts.wanted)
            for name, content in self.pictures
        ]


async def read_pictures(request: Request, facts: Facts, most: int) -> Sent:
    """Read the images of a request.

    Args:
        request: The request.
        facts: What its query says.
        most: Most images.

    Raises:
        Refusal: The content type is not one of images, there is no image, there are too many, or a field is wrong.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == _FORM:
        return await _read_form(request, facts, most)
    if not kind.startswith(_RAW):
        raise Refusal(
            415,
            "content_type",
            "the content type is not one of an image",
            "send image/png, image/jpeg or another image type, application/octet-stream, or multipart/form-data with"
            " files",
        )
    content = await request.body()
    if not content:
        raise Refusal(422, "no_image", "the body is empty", "send the content of an image file")
    return Sent([("", content)], facts)


async def _read_form(request: Request, facts: Facts, most: int) -> Sent:
    _, options = parse_options_header(request.headers["content-type"])
    if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"us-ascii"):
        raise Refusal(422, "bad_form", "the form is not in UTF-8", "leave the charset of the form out")
    try:
        async with request.form(max_files=most, max_fields=16, max_part_size=_FIELD_BYTES) as form:
            uploads = [value for value in form.getlist("files") if isinstance(value, UploadFile)]
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            if not uploads or len(uploads) != len(files) or len(uploads) != len(form.getlist("files")):
                raise Refusal(422, "no_image", "the form has no images", "name each file field, and no other: files")
            rest = [(key, value) for key, value in form.multi_items() if isinstance(value, str)]
            facts = _with_fields(facts, rest)
            return Sent([(upload.filename or "", await upload.read()) for upload in uploads], facts)
    except (HTTPException, LookupError, ValueError) as error:
        reason = str(error.detail).rstrip(".") if isinstance(error, HTTPException) else "it is damaged"
        raise Refusal(
            422,
            "bad_form",
            f"the form cannot be read: {reason}",
            f"send multipart/form-data with up to {most} files",
        ) from error


def _with_fields(facts: Facts, fields: list[tuple[str, str]]) -> Facts:
    """What the query says, with what the fields of the form say."""
    given = facts.model_dump(exclude_unset=True)
    twice = {key for key, _ in fields if key in given or [name for name, _ in fields].count(key) > 1}
    if twice:
        raise Refusal(422, "invalid", f"{min(twice)[:80]} is given twice", "give it once, in the query or in the form")
    try:
        return Facts.model_validate(given | dict(fields))
    except ValidationError as error:
        first = error.errors()[0]
        place = " ".join(str(part) for part in first["loc"])[:80]
        message = first["msg"].removeprefix("Value error, ")
        raise Refusal(422, "invalid", f"form {place}: {message}", "correct this field of the form") from None
