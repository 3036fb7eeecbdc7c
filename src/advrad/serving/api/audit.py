"""Route of the audit log: who did what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from advrad.serving.access import Principal, Role
from advrad.serving.api.boundary import require
from advrad.serving.api.fields import Limit
from advrad.serving.api.parts import Parts, parts_of
from advrad.serving.api.schemas import AuditList, AuditOut, failures

router = APIRouter(prefix="/v1", tags=["audit"])


@router.get("/audit-log", response_model=AuditList, responses=failures())
def rows(
    who: Annotated[Principal, Depends(require(Role.ADMIN))],
    parts: Annotated[Parts, Depends(parts_of)],
    limit: Limit = 100,
    after: Annotated[int, Query(ge=0, le=2**53, description="Value of next in the answer before.")] = 0,
    newest: Annotated[bool, Query(description="Newest rows first.")] = False,
) -> AuditList:
    """Rows of the audit log. Each holds the hash of the one before: 'advrad audit-log verify' checks."""
    found = parts.store.audit.rows(after, limit, newest)
    last = found[-1].n if len(found) == limit else None
    return AuditList(rows=[AuditOut.of(row) for row in found], next=last)
