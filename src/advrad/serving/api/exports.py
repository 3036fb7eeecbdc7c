"""The route of exports: the detector of a product as a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse

from advrad.serving.access import Principal, Role
from advrad.serving.api.boundary import require
from advrad.serving.api.fields import ProductName
from advrad.serving.api.parts import Parts, parts_of
from advrad.serving.api.schemas import failures
from advrad.serving.model_export import Form

router = APIRouter(prefix="/v1/products", tags=["exports"])
Admin = Annotated[Principal, Depends(require(Role.ADMIN))]
Service = Annotated[Parts, Depends(parts_of)]

_BLOCK = 1 << 20
_ZIP: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
        "description": "The folder of the export, packed.",
    }
}


@router.get("/{product}/export", response_class=StreamingResponse, responses=failures(404, 409) | _ZIP)
def export(
    product: ProductName,
    who: Admin,
    parts: Service,
    to: Annotated[
        Form | None, Query(description="Form of the graph; openvino if it is left out, or what the product is.")
    ] = None,
) -> StreamingResponse:
    """The detector as a folder that runs without PyTorch, packed as ZIP. The audit log tells who took it.

    Of a product that is an export, it is that folder. Of another it is made now, as 'advrad export' makes it, which
    takes a minute or so and needs the images that set the threshold. Its threshold is that of the model folder.
    """
    found = parts.products.get(product)
    packed = parts.exports.pack(found, to)
    try:
        parts.store.audit.append("export model", product, who.name, {"model": found.model, "file": packed.name})
    except BaseException:
        packed.file.close()
        raise
    headers = {"Content-Length": str(packed.size), "Content-Disposition": f'attachment; filename="{packed.name}"'}
    return StreamingResponse(_blocks(packed.file), media_type="application/zip", headers=headers)


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while block := file.read(_BLOCK):
            yield block
