"""How errors are told: always ``{"error": {"code", "message", "fix"}}``, with the status that fits."""

from __future__ import annotations

import json
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from advrad.errors import AdvradError, ImageError, OutputError, UserError
from advrad.serving import errors

#: Status of each error; a class that is not here has that of its base class.
_STATUS: dict[type[Exception], int] = {
    errors.TooManyGuesses: 429,
    errors.QueueFull: 503,
    errors.Stopping: 503,
    errors.StoreUnavailable: 503,
    errors.DeadlineExceeded: 504,
    errors.UnknownProduct: 404,
    errors.UnknownInspection: 404,
    errors.UnknownThreshold: 404,
    errors.ReviewChanged: 409,
    errors.ExportUnavailable: 409,
    errors.ArtefactUnavailable: 410,
    OutputError: 503,
    AdvradError: 422,
}
_WORDS = {
    404: ("not_found", "there is nothing at this address", "see /openapi.json for the addresses"),
    405: ("method_not_allowed", "this address does not know the method", "see /openapi.json for the methods"),
}


class ErrorDetail(BaseModel):
    """One error."""

    code: str = Field(description="Name of the kind of error, for programs; it does not change.")
    message: str = Field(description="What is wrong.")
    fix: str = Field(description="What to do about it.")


class ErrorAnswer(BaseModel):
    """The body of every answer that tells an error."""

    error: ErrorDetail

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "error": {
                        "code": "unknown_product",
                        "message": "there is no product screw",
                        "fix": "see /v1/products for the names",
                    }
                }
            ]
        }
    }


class Refusal(errors.ServingError):
    """A request that is refused before or beside the work of the service.

    Args:
        status: Status of HTTP.
        code: Name of the kind of error.
        message: What is wrong.
        fix: What to do about it.
        headers: Further headers of the answer.
    """

    def __init__(self, status: int, code: str, message: str, fix: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message, fix)
        self.status, self.kind, self.headers = status, code, headers or {}


def detail_of(error: AdvradError) -> ErrorDetail:
    """An error as answers tell it.

    Args:
        error: The error.
    """
    if isinstance(error, Refusal):
        return ErrorDetail(code=error.kind, message=error.message, fix=error.fix)
    if isinstance(error, errors.ServingError):
        return ErrorDetail(code=error.code, message=error.message, fix=error.fix)
    text = error.reason if isinstance(error, ImageError) else str(error)
    message, _, fix = " ".join(text.split()).partition("; ")
    code = "bad_image" if isinstance(error, ImageError) else "refused"
    return ErrorDetail(code=code, message=message, fix=fix or "change what was sent, and send it again")


def status_of(error: AdvradError) -> int:
    """Status of HTTP for an error.

    Args:
        error: The error.
    """
    if isinstance(error, Refusal):
        return error.status
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def answer_of(error: AdvradError) -> Response:
    """The answer that tells an error.

    Args:
        error: The error.
    """
    headers = dict(error.headers) if isinstance(error, Refusal) else {}
    status = status_of(error)
    if status in (429, 503):
        after = error.retry_after_s if isinstance(error, errors.QueueFull | errors.TooManyGuesses) else 1
        headers.setdefault("Retry-After", str(after))
    return error_response(status, detail_of(error), headers)


def error_response(status: int, detail: ErrorDetail, headers: dict[str, str] | None = None) -> Response:
    """Build the answer for an error.

    Args:
        status: Status of HTTP.
        detail: The error.
        headers: Further headers.
    """
    # ASCII alone: what a stranger sent may stand in the message, also halves of characters that UTF-8 cannot hold.
    body = json.dumps({"error": detail.model_dump()})
    return Response(body, status, headers, media_type="application/json")


def handle_failures(app: FastAPI) -> None:
    """Let an app tell its errors in this form.

    Args:
        app: The app.
    """

    def expected(request: Request, error: Exception) -> Response:
        if not isinstance(error, AdvradError):
            raise error
        if not isinstance(error, UserError | errors.ServingError):
            structlog.get_logger("advrad.api").error("unexpected failure", reason=str(error))
        return answer_of(error)

    def invalid(request: Request, error: Exception) -> Response:
        rows = error.errors() if isinstance(error, RequestValidationError) else []
        return error_response(422, _invalid(rows))

    def unrouted(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 400
        headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
        words = ("bad_request", "the request cannot be read", "correct the request, and send it again")
        code, message, fix = _WORDS.get(status, words)
        return error_response(status, ErrorDetail(code=code, message=message, fix=fix), headers)

    app.add_exception_handler(AdvradError, expected)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, unrouted)


def _invalid(rows: Any) -> ErrorDetail:
    """The first value that is wrong, by its place. The value itself is not repeated."""
    first = next(iter(rows), None)
    if first is None:
        return ErrorDetail(code="invalid", message="the request is wrong", fix="see /openapi.json for what is expected")
    if first["type"] == "json_invalid":
        return ErrorDetail(code="invalid", message="the body is not JSON", fix="send JSON in UTF-8")
    place = " ".join(str(part) for part in first["loc"])[:200]
    message = str(first["msg"]).removeprefix("Value error, ")
    return ErrorDetail(
        code="invalid", message=f"{place}: {message}", fix="correct this value; /openapi.json says what is expected"
    )
