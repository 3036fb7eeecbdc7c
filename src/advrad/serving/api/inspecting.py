"""Waiting for the service from a request: images go in together, verdicts or errors come out in the same order.

An image whose ``source`` the history holds already was sent before. It is not inspected again: the answer is the stored
inspection, if it is one of the same image, part and station.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from fastapi.concurrency import run_in_threadpool

from advrad.errors import AdvradError
from advrad.serving.api.failures import Refusal
from advrad.serving.api.parts import Parts
from advrad.serving.records import Inspection, InspectionAnswer, InspectionRequest
from advrad.serving.store import source_key


def marked(requests: Sequence[InspectionRequest], key: str | None, sender: str) -> list[InspectionRequest]:
    """Give images the identity by which they are known when they are sent again.

    Args:
        requests: Images of one request.
        key: Value of the header ``Idempotency-Key``; None for images that count each time they are sent.
        sender: Name of the sender's key: two senders may choose the same value.

    Returns:
        The images, each with a ``source`` of its own.
    """
    if key is None:
        return list(requests)
    return [
        replace(one, source=source_key("request", sender, one.product, key, str(position)))
        for position, one in enumerate(requests)
    ]


async def inspect_all(parts: Parts, requests: Sequence[InspectionRequest]) -> list[InspectionAnswer | AdvradError]:
    """Inspect images, and wait for all of them.

    The service ends each by its deadline, and says whether the inspection is in the history.

    Args:
        parts: The parts of the service.
        requests: The images.

    Returns:
        For each image its answer, or why there is none.
    """
    return list(await asyncio.gather(*(_inspect(parts, request) for request in requests)))


async def _inspect(parts: Parts, request: InspectionRequest) -> InspectionAnswer | AdvradError:
    try:
        if request.source is not None:
            known = await run_in_threadpool(_known, parts, request, request.source)
            if known is not None:
                return known
        answer = await asyncio.wrap_future(parts.service.submit(request))
        if answer.known:  # the same request came twice at once
            await run_in_threadpool(_check_same, answer.inspection, request)
            return answer
    except AdvradError as error:
        return error
    parts.metrics.inspected([answer.inspection])
    return answer


def _known(parts: Parts, request: InspectionRequest, source: str) -> InspectionAnswer | None:
    """The answer to an image that was sent before; None for a new one."""
    found = parts.store.inspections.by_source(source)
    if found is None:
        return None
    _check_same(found, request)
    drawn = parts.service.redraw(found.id, request.artefacts) if request.artefacts else {}
    return InspectionAnswer(found, drawn, known=True)


def _check_same(stored: Inspection, request: InspectionRequest) -> None:
    """Refuse another image under a key that was used.

    Raises:
        Refusal: Image, part or station differ, or a certificate is asked for that the stored inspection does not have.
    """
    differing = [
        name
        for name, same in (
            ("image", stored.picture == sha256(request.picture).hexdigest()),
            ("part_id", stored.part_id == request.part_id),
            ("station", stored.station == request.station),
            ("certify", not request.certify or "certificate" in stored.details),
        )
        if not same
    ]
    if differing:
        raise Refusal(
            422,
            "key_used",
            f"the Idempotency-Key was used for inspection {stored.id}, with another {' and '.join(differing)}",
            "send each new image with a new key, and the same image with the same values",
        )


def first_error(answers: Sequence[InspectionAnswer | AdvradError]) -> AdvradError | None:
    """The first error if no image was inspected; None if one was.

    Args:
        answers: Answers and errors.
    """
    errors = [answer for answer in answers if isinstance(answer, AdvradError)]
    return errors[0] if errors and len(errors) == len(answers) else None
