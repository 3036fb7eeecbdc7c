"""Routes of the Open Inference Protocol v2, as KServe and its clients speak it.

What is inferred here is an inspection like every other: it is stored, sent to the sinks, and watched for drift.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from advrad import __version__
from advrad.errors import AdvradError
from advrad.serving.access import Principal, Role
from advrad.serving.api.boundary import require
from advrad.serving.api.fields import ProductName
from advrad.serving.api.health import reasons_against
from advrad.serving.api.inspecting import inspect_all
from advrad.serving.api.parts import Parts, parts_of
from advrad.serving.api.schemas import failures
from advrad.serving.api.tensors import BINARY_HEADER, Inference, InferRequest, read_request
from advrad.serving.records import InspectionAnswer, InspectionRequest

router = APIRouter(prefix="/v2", tags=["open inference protocol"])
Reader = Annotated[Principal, Depends(require(Role.INSPECT))]
Service = Annotated[Parts, Depends(parts_of)]

_DATATYPES = {"score": "FP64", "threshold": "FP64", "defective": "BOOL", "anomaly_map": "BYTES"}


class Live(BaseModel):
    """Whether the server lives."""

    live: bool


class Ready(BaseModel):
    """Whether the server, or a model, can infer."""

    ready: bool


class ModelReady(Ready):
    """Whether a model can infer."""

    name: str


class Server(BaseModel):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class ModelName(BaseModel):
    """A model in the list."""

    name: str


class ModelNames(BaseModel):
    """The models of a server."""

    models: list[ModelName]


class TensorShape(BaseModel):
    """An input or an output."""

    name: str
    datatype: str
    shape: list[int]


class Model(BaseModel):
    """What a model takes and gives."""

    name: str
    platform: str
    inputs: list[TensorShape]
    outputs: list[TensorShape]


_EXAMPLE = {
    "inputs": [{"name": "image", "shape": [1, 2, 3], "datatype": "UINT8", "data": [9, 9, 9, 200, 10, 30]}],
    "outputs": [{"name": "score"}],
}
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": InferRequest.model_json_schema(ref_template="#/components/schemas/{model}"),
            "examples": {"pixels": {"value": _EXAMPLE}},
        }
    },
}


@router.get("/health/live", response_model=Live)
async def live() -> Live:
    """Whether the process lives."""
    return Live(live=True)


@router.get(
    "/health/ready", response_model=Ready, responses={503: {"model": Ready, "description": "It cannot infer now."}}
)
async def ready(response: Response, parts: Service) -> Ready:
    """Whether the service can infer."""
    good = not await reasons_against(parts)
    response.status_code = 200 if good else 503
    return Ready(ready=good)


@router.get("", response_model=Server, responses=failures())
async def server(who: Reader) -> Server:
    """What the server is."""
    return Server(name="advrad", version=__version__, extensions=["binary_tensor_data"])


@router.get("/models", response_model=ModelNames, responses=failures())
async def models(who: Reader, parts: Service) -> ModelNames:
    """The models of this server: one for each product."""
    return ModelNames(models=[ModelName(name=name) for name in parts.products.names()])


@router.get("/models/{product}", response_model=Model, responses=failures(404))
async def model(product: ProductName, who: Reader, parts: Service) -> Model:
    """What a model takes and gives: one image, or several of one size."""
    parts.products.get(product)
    shapes = [TensorShape(name=name, datatype=kind, shape=[-1]) for name, kind in _DATATYPES.items()]
    image = TensorShape(name="image", datatype="UINT8", shape=[-1, -1, -1, 3])
    return Model(name=product, platform="advrad", inputs=[image], outputs=shapes)


@router.get("/models/{product}/ready", response_model=ModelReady, responses=failures(404))
async def model_ready(product: ProductName, who: Reader, parts: Service) -> ModelReady:
    """Whether a model can infer: one that is known is loaded."""
    parts.products.get(product)
    return ModelReady(name=product, ready=True)


@router.post(
    "/models/{product}/infer",
    response_class=Response,
    responses=failures(404, 504)
    | {200: {"content": {"application/json": {"schema": {"type": "object"}}}, "description": "The outputs."}},
    openapi_extra={"requestBody": _BODY},
)
async def infer(request: Request, product: ProductName, who: Reader, parts: Service) -> Response:
    """Inspect images that come as tensors.

    The outputs are score (null where a half of a guarded detector failed), threshold and defective, and on request
    anomaly_map, a PNG file in base64. The identities of the stored inspections stand in the parameters of the answer.
    """
    parts.products.get(product)
    settings = parts.settings
    length = request.headers.get(BINARY_HEADER)
    inference = await run_in_threadpool(
        read_request, await request.body(), length, settings.max_images, settings.max_pixels
    )
    artefacts = frozenset({"map"}) if "anomaly_map" in inference.outputs else frozenset()
    requests = [InspectionRequest(product, content, artefacts=artefacts) for content in inference.pictures]
    answers = []
    for answer in await inspect_all(parts, requests):
        if isinstance(answer, AdvradError):
            raise answer
        answers.append(answer)
    return _answer(product, inference, answers)


def _answer(product: str, inference: Inference, answers: list[InspectionAnswer]) -> Response:
    """The outputs, in JSON or behind it."""
    outputs: list[dict[str, Any]] = []
    tail = b""
    for name, binary in inference.outputs.items():
        values = _values(name, answers)
        output: dict[str, Any] = {"name": name, "datatype": _DATATYPES[name], "shape": [len(values)]}
        if binary:
            raw = _packed(name, values)
            output["parameters"] = {"binary_data_size": len(raw)}
            tail += raw
        else:
            encode = name == "anomaly_map"
            output["data"] = [base64.b64encode(value).decode("ascii") for value in values] if encode else values
        outputs.append(output)
    body: dict[str, Any] = {"model_name": product, "outputs": outputs}
    if inference.request.id is not None:
        body["id"] = inference.request.id
    body["parameters"] = {"inspections": ",".join(answer.inspection.id for answer in answers)}
    text = json.dumps(body, allow_nan=False).encode("ascii")
    if not tail:
        return Response(text, media_type="application/json")
    return Response(text + tail, media_type="application/octet-stream", headers={BINARY_HEADER: str(len(text))})


def _values(name: str, answers: list[InspectionAnswer]) -> list[Any]:
    if name == "anomaly_map":
        return [answer.artefacts.get("map", b"") for answer in answers]
    return [getattr(answer.inspection, name) for answer in answers]


def _packed(name: str, values: list[Any]) -> bytes:
    if name == "anomaly_map":
        return b"".join(struct.pack("<I", len(file)) + file for file in values)
    if name == "defective":
        return np.array(values, np.bool_).tobytes()
    return np.array([math.nan if value is None else value for value in values], "<f8").tobytes()
