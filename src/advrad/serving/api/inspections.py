"""Routes of inspections: send images, read and search the history, look at its images, delete."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from advrad.data.images import read_pixels8
from advrad.errors import AdvradError
from advrad.serving.access import Principal, Role
from advrad.serving.api.boundary import require
from advrad.serving.api.failures import Refusal, detail_of
from advrad.serving.api.fields import Cursor, InspectionId, Limit, Moment, ProductName, Text
from advrad.serving.api.inspecting import first_error, inspect_all, marked
from advrad.serving.api.parts import Parts, parts_of
from advrad.serving.api.pictures_in import BODY, Facts, read_pictures
from advrad.serving.api.schemas import (
    FailedInspection,
    FreshInspection,
    FreshInspections,
    InspectionList,
    InspectionOut,
    failures,
)
from advrad.serving.csv_text import csv_header, csv_line
from advrad.serving.records import InspectionAnswer
from advrad.serving.store import InspectionFilter
from advrad.serving.store.filters import ReviewState

router = APIRouter(prefix="/v1", tags=["inspections"])
Reader = Annotated[Principal, Depends(require(Role.INSPECT))]
Admin = Annotated[Principal, Depends(require(Role.ADMIN))]
Service = Annotated[Parts, Depends(parts_of)]

_BLOCK = 500


_TABLE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "The table."}
}


#: What can be asked about the first inspection of an answer.
_LINKS: dict[int | str, dict[str, Any]] = {
    200: {"model": FreshInspections, "description": "All were sent before; these are the stored inspections."},
    201: {
        "links": {
            name: {"operationId": name, "parameters": {"id": "$response.body#/inspections/0/id"}}
            for name in ("inspections_get", "inspections_picture", "reviews_put", "reviews_undo", "inspections_delete")
        }
    },
}

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern="^[!-~]{1,200}$",
        description="A value that the sender makes anew for each request, such as a UUID, and repeats when it sends the"
        " same request again. An image that is in the history under it is not inspected again.",
    ),
]


class Filter(BaseModel):
    """Which inspections: all that fit every value that is given."""

    model_config = ConfigDict(extra="forbid")

    product: Annotated[str | None, Field(pattern="^[A-Za-z0-9._-]{1,64}$")] = None
    verdict: Literal["good", "defective"] | None = None
    review: Annotated[ReviewState | None, Field(description="What a person said; none or any.")] = None
    part_id: Text | None = None
    station: Text | None = None
    since: Annotated[Moment | None, Field(description="From this time on, such as 2026-11-27T08:30:00Z.")] = None
    until: Annotated[Moment | None, Field(description="Before this time.")] = None
    text: Annotated[Text | None, Field(description="Part of a file name, part or note.")] = None

    def of_store(self) -> InspectionFilter:
        """The filter as the history takes it."""
        return InspectionFilter(
            product=self.product,
            defective=None if self.verdict is None else self.verdict == "defective",
            review=self.review,
            part_id=self.part_id,
            station=self.station,
            since=self.since,
            until=self.until,
            text=self.text,
        )


class Page(Filter):
    """Which inspections, and how many at once."""

    limit: Limit = 50
    after: Cursor = None


@router.post(
    "/products/{product}/inspections",
    status_code=201,
    response_model=FreshInspections,
    responses=failures(404, 415, 504) | _LINKS,
    openapi_extra={"requestBody": BODY},
)
async def inspect(
    request: Request,
    response: Response,
    product: ProductName,
    facts: Annotated[Facts, Query()],
    who: Reader,
    parts: Service,
    key: Key = None,
) -> FreshInspections:
    """Inspect one image, or several of one part, and store what was found.

    Send one image as the body, or several in the form field ``files``. The other values stand in the query, or in
    fields of the form. Each inspection is in the history when the answer comes. Of several images, one that fails has
    an error in its place; where all fail, the answer is the first error.

    Whoever does not know whether a request arrived sends it again with the same Idempotency-Key: what is in the history
    comes from there, and the status is 200 if that is all. Another image, part or station under a used key is refused.
    """
    parts.products.get(product)
    sent = await read_pictures(request, facts, parts.settings.max_images)
    answers = await inspect_all(parts, marked(sent.requests(product), key, who.name))
    error = first_error(answers)
    if error is not None:
        raise error
    if not any(isinstance(answer, InspectionAnswer) and not answer.known for answer in answers):
        response.status_code = 200
    named = zip(sent.pictures, answers, strict=True)
    return FreshInspections(inspections=[_fresh(name, answer) for (name, _), answer in named])


def _fresh(name: str, answer: InspectionAnswer | AdvradError) -> FreshInspection | FailedInspection:
    if isinstance(answer, AdvradError):
        return FailedInspection(file_name=name[-255:], error=detail_of(answer))
    drawn = {key: base64.b64encode(png).decode("ascii") for key, png in answer.artefacts.items()}
    return FreshInspection.model_validate(answer.inspection.to_dict() | {"artefacts": drawn})


@router.get("/inspections", response_model=InspectionList, responses=failures())
def find(page: Annotated[Page, Query()], who: Reader, parts: Service) -> InspectionList:
    """A part of the history, newest first.

    A search for a text looks at 500,000 inspections for each answer. It may find none of these, and go on with next.
    """
    found = parts.store.inspections.page(page.of_store(), page.limit, page.after)
    return InspectionList(inspections=[InspectionOut.of(one) for one in found.inspections], next=found.next)


@router.get(
    "/inspections.csv",
    response_class=StreamingResponse,
    responses=failures() | _TABLE,
)
def export(wanted: Annotated[Filter, Query()], who: Reader, parts: Service) -> StreamingResponse:
    """The history as a table, newest first. A text that a spreadsheet would run as a formula gets an apostrophe."""
    parts.store.ping()

    def lines() -> Iterator[str]:
        yield csv_header()
        yield from map(csv_line, parts.store.inspections.iterate(wanted.of_store()))

    headers = {"Content-Disposition": 'attachment; filename="inspections.csv"'}
    return StreamingResponse(_joined(lines()), media_type="text/csv; charset=utf-8", headers=headers)


def _joined(lines: Iterator[str]) -> Iterator[str]:
    """Many lines at once: each piece of a stream crosses threads."""
    while block := "".join(islice(lines, _BLOCK)):
        yield block


@router.get("/inspections/{id}", response_model=InspectionOut, responses=failures(404))
def get(id: InspectionId, who: Reader, parts: Service) -> InspectionOut:
    """One inspection."""
    return InspectionOut.of(parts.store.inspections.get(id))


@router.delete("/inspections/{id}", status_code=204, response_class=Response, responses=failures(404))
def delete(id: InspectionId, who: Admin, parts: Service) -> Response:
    """Delete an inspection, and its picture if no other one has it. The audit log tells who did it."""
    parts.store.inspections.delete(id, who.name)
    return Response(status_code=204)


_IMAGE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
        "description": "The image.",
    }
}


@router.get("/inspections/{id}/picture", response_class=Response, responses=failures(404, 410) | _IMAGE)
def picture(
    id: InspectionId,
    who: Reader,
    parts: Service,
    side: Annotated[
        int | None, Query(ge=16, le=4096, description="Longest side in pixels of a PNG file to make of it.")
    ] = None,
) -> Response:
    """The image file as it was sent, a file to download where no browser shows it; or, with side, a smaller PNG."""
    digest = parts.store.inspections.get(id).picture
    content = parts.store.pictures.read(digest)
    headers = {"Cache-Control": "private, max-age=3600"}
    if side is not None:
        small = reduced(parts.store.pictures.path(digest), side, parts.settings.max_pixels)
        return Response(small, media_type="image/png", headers=headers)
    kind = _shown_as(content)
    if kind is None:
        headers["Content-Disposition"] = 'attachment; filename="picture.bin"'
    return Response(content, media_type=kind or "application/octet-stream", headers=headers)


@router.get("/inspections/{id}/{artefact}", response_class=Response, responses=failures(404, 410, 504) | _IMAGE)
async def artefact(
    id: InspectionId, artefact: Literal["map", "overlay", "reconstruction"], who: Reader, parts: Service
) -> Response:
    """An image drawn anew from the picture: where the score comes from, or what the model expected to see."""
    drawn = await run_in_threadpool(parts.service.redraw, id, frozenset({artefact}))
    if artefact not in drawn:
        raise Refusal(404, "no_artefact", f"the detector makes no {artefact}", "look at the map or the overlay")
    return Response(drawn[artefact], media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


_SHOWN = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"BM": "image/bmp",
}


def reduced(path: Path, side_px: int, max_pixels: int) -> bytes:
    """Make a small PNG of an image file of any format that can be inspected.

    Args:
        path: The file.
        side_px: Longest side in pixels, of what is never made larger.
        max_pixels: Largest accepted image, width times height.

    Raises:
        ImageError: The file cannot be read.
    """
    from PIL import Image

    image = Image.fromarray(read_pixels8(path, max_pixels=max_pixels))
    image.thumbnail((side_px, side_px))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _shown_as(content: bytes) -> str | None:
    """Content type of an image that browsers show, from its first bytes; never one that can hold a script."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in _SHOWN.items() if content.startswith(start)), None)
