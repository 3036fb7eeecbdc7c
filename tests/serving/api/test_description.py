"""The service answers as its OpenAPI description says, whatever schemathesis makes of it."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyStrategyDefinition, Unsatisfiable
from hypothesis.stateful import run_state_machine_as_test
from schemathesis.generation import GenerationMode
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi import checks as openapi_checks

CHECKS = [
    schemathesis.checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.use_after_free,
]
HOST = {"host": "localhost"}
SLOWEST_S = 60


@pytest.fixture(scope="module")
def described(client: TestClient, picture: bytes) -> BaseSchema:
    """The description of the running service, with pictures for the bodies that are images."""
    damaged = st.integers(0, len(picture)).map(lambda end: picture[:end])
    for kind in ("image/png", "application/octet-stream"):
        schemathesis.openapi.media_type(kind, st.just(picture) | damaged)

    async def started(scope: Any, receive: Any, send: Any) -> None:
        # The service is started and stopped by its own fixture.
        if scope["type"] == "lifespan":
            for word in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{word}.complete"})
            return
        await client.app(scope, receive, send)

    schema = schemathesis.openapi.from_asgi("/openapi.json", started, headers=HOST)

    @schema.hook
    def map_path_parameters(context: Any, path_parameters: Any) -> Any:
        """Mostly a product that there is: nothing can be inspected otherwise."""
        name = (path_parameters or {}).get("product")
        if isinstance(name, str) and len(name) % 4:
            path_parameters["product"] = "widget"
        return path_parameters

    return schema


def quick(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck), stateful_step_count=6,
    )  # fmt: skip


def ask(operation: Any, mode: GenerationMode, examples: int) -> bool:
    """Ask an operation with values that fit its description, or with some that do not; say whether there are any."""
    asked = False

    @quick(examples)
    @given(case=operation.as_strategy(generation_mode=mode))
    def once(case: schemathesis.Case) -> None:
        nonlocal asked
        asked = True
        case.call_and_validate(headers=HOST, checks=CHECKS, timeout=SLOWEST_S)

    # An operation that takes no values can be given no wrong ones.
    with suppress(Unsatisfiable):
        once()
    return asked


def ask_everything(described: BaseSchema, examples: int) -> int:
    """Ask each operation; returns how many there are."""
    operations = [found.ok() for found in described.get_all_operations()]
    for operation in operations:
        assert ask(operation, GenerationMode.POSITIVE, examples), operation.label
        ask(operation, GenerationMode.NEGATIVE, examples)
    return len(operations)


def run_in_rows(described: BaseSchema, rows: int) -> None:
    """Ask operations in a row, with what earlier answers held, so many times."""
    described.config.generation.update(modes=[GenerationMode.POSITIVE])
    failures: list[Exception] = []

    class Rows(described.as_state_machine()):  # type: ignore[misc]
        def get_call_kwargs(self, case: schemathesis.Case) -> dict[str, Any]:
            # A run that is repeated must be answered the same, and a key that was used is not.
            for name in [name for name in case.headers or {} if name.lower() == "idempotency-key"]:
                del case.headers[name]
            return {"headers": HOST, "timeout": SLOWEST_S}

        def validate_response(self, response: Any, case: schemathesis.Case, **more: Any) -> None:
            try:
                case.validate_response(response, checks=CHECKS)
            except Exception as error:
                failures.append(error)
                raise

    undrawn = 0
    for number in range(rows):
        # Hypothesis begins with the simplest row, which is the same each time, and draws the other one.
        try:
            run_state_machine_as_test(seed(number)(Rows), settings=settings(quick(2), derandomize=False))
        except FlakyStrategyDefinition:
            # What can be drawn depends on what the service holds by now, and Hypothesis expects the same each time.
            undrawn += 1
        if failures:
            raise failures[0]
    assert undrawn < rows / 4


def test_each_operation_answers_as_described(described: BaseSchema, client: TestClient) -> None:
    asked = ask_everything(described, 6)
    assert asked == sum(len(methods) for methods in client.get("/openapi.json").json()["paths"].values())


def test_operations_in_a_row_answer_as_described(described: BaseSchema, client: TestClient) -> None:
    before = counts(client)
    run_in_rows(described, 15)
    after = counts(client)
    # What was made by one request was asked for, and changed, by the next ones.
    for route in ("/v1/inspections/{id}", "/v1/inspections/{id}/review"):
        assert after.get(route, 0) > before.get(route, 0)


def counts(client: TestClient) -> dict[str, float]:
    """Requests of each route that succeeded."""
    found: dict[str, float] = {}
    for line in client.get("/metrics").text.splitlines():
        parts = re.fullmatch(r'advrad_requests_total\{method="\w+",route="([^"]+)",status="20."\} (\S+)', line)
        if parts:
            found[parts[1]] = found.get(parts[1], 0) + float(parts[2])
    return found


@pytest.mark.slow
def test_many_requests_are_answered_as_described(described: BaseSchema) -> None:
    ask_everything(described, 40)


@pytest.mark.slow
def test_many_operations_in_a_row_are_answered_as_described(described: BaseSchema) -> None:
    run_in_rows(described, 100)
