"""Waiting for the service from a request: images go in together, verdicts or errors come out in the same order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from advrad.errors import AdvradError
from advrad.serving.api.parts import Parts
from advrad.serving.records import InspectionAnswer, InspectionRequest


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
        answer = await asyncio.wrap_future(parts.service.submit(request))
    except AdvradError as error:
        return error
    parts.metrics.inspected([answer.inspection])
    return answer


def first_error(answers: Sequence[InspectionAnswer | AdvradError]) -> AdvradError | None:
    """The first error if no image was inspected; None if one was.

    Args:
        answers: Answers and errors.
    """
    errors = [answer for answer in answers if isinstance(answer, AdvradError)]
    return errors[0] if errors and len(errors) == len(answers) else None
