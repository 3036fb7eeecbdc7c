"""Routes of drift: whether camera, light or product changed."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from advrad.serving.access import Principal, Role
from advrad.serving.api.boundary import require
from advrad.serving.api.fields import ProductName
from advrad.serving.api.parts import Parts, parts_of
from advrad.serving.api.schemas import DriftOut, ReferenceIn, failures

router = APIRouter(prefix="/v1/products/{product}/drift", tags=["drift"])
Reader = Annotated[Principal, Depends(require(Role.INSPECT))]
Reviewer = Annotated[Principal, Depends(require(Role.REVIEW))]
Service = Annotated[Parts, Depends(parts_of)]


@router.get("", response_model=DriftOut, responses=failures(404))
def status(product: ProductName, who: Reader, parts: Service) -> Any:
    """What the drift monitor sees: evidence by what is watched, the alarm if there is one, and the stated rate."""
    parts.products.get(product)
    return parts.monitor.status(product)


@router.post("/acknowledge", response_model=DriftOut, responses=failures(404))
def acknowledge(product: ProductName, who: Reviewer, parts: Service) -> Any:
    """Say that an alarm was looked into. The monitor begins anew; the audit log tells who said it."""
    parts.products.get(product)
    before = parts.monitor.status(product)
    parts.monitor.acknowledge(product)
    parts.store.audit.append("acknowledge drift", product, who.name, {"before": before})
    return parts.monitor.status(product)


@router.post("/reference", response_model=DriftOut, responses=failures(404))
def learn_reference(product: ProductName, who: Reviewer, parts: Service, wanted: ReferenceIn | None = None) -> Any:
    """Begin anew, and compare with the next images instead of those of the calibration."""
    parts.products.get(product)
    statistics = (wanted or ReferenceIn()).statistics
    parts.monitor.learn_reference(product, statistics)
    parts.store.audit.append("learn reference", product, who.name, {"statistics": list(statistics)})
    return parts.monitor.status(product)
