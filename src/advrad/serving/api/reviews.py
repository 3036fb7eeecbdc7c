"""Routes of reviews: what a person says about a verdict, and what to look at next."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query

from advrad.serving.access import Principal, Role
from advrad.serving.api.boundary import require
from advrad.serving.api.fields import InspectionId, Limit, ProductName
from advrad.serving.api.parts import Parts, parts_of
from advrad.serving.api.schemas import InspectionOut, ReviewIn, ReviewQueue, failures
from advrad.serving.records import Review
from advrad.serving.store import InspectionFilter

router = APIRouter(prefix="/v1", tags=["reviews"])
Reviewer = Annotated[Principal, Depends(require(Role.REVIEW))]
Service = Annotated[Parts, Depends(parts_of)]


@router.put("/inspections/{id}/review", response_model=InspectionOut, responses=failures(404, 409))
def put(id: InspectionId, said: ReviewIn, who: Reviewer, parts: Service) -> InspectionOut:
    """Say what an image shows. An earlier review is replaced, and stays in the audit log."""
    review = Review(said.label, said.note, who.name, datetime.now(UTC), chosen=said.chosen)
    checked: dict[str, Any] = {"seen": said.seen} if "seen" in said.model_fields_set else {}
    return InspectionOut.of(parts.store.reviews.put(id, review, **checked))


@router.delete("/inspections/{id}/review", response_model=InspectionOut, responses=failures(404))
def undo(id: InspectionId, who: Reviewer, parts: Service) -> InspectionOut:
    """Take back the last review of an inspection; the one before it stands again."""
    return InspectionOut.of(parts.store.reviews.undo(id, who.name))


@router.get("/products/{product}/review-queue", response_model=ReviewQueue, responses=failures(404))
def queue(
    product: ProductName,
    who: Reviewer,
    parts: Service,
    limit: Limit = 50,
    order: Annotated[
        Literal["closest", "random"], Query(description="Closest to the threshold first, or a random sample.")
    ] = "closest",
) -> ReviewQueue:
    """Inspections that nobody has reviewed, in the order in which to look at them."""
    parts.products.get(product)
    found = parts.store.reviews.queue(product, limit, order)
    counts = parts.store.inspections.counts(InspectionFilter(product=product))
    return ReviewQueue(
        inspections=[InspectionOut.of(one) for one in found],
        remaining=counts.n_unreviewed,
        reviewed=counts.n - counts.n_unreviewed,
    )
