"""Routes of thresholds: what another one would change, new versions from reviewed images, and their activation."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query

from advrad.serving.access import Principal, Role
from advrad.serving.api.boundary import require
from advrad.serving.api.failures import Refusal
from advrad.serving.api.fields import ProductName
from advrad.serving.api.parts import Parts, parts_of
from advrad.serving.api.schemas import ThresholdIn, ThresholdList, ThresholdOut, WhatIf, failures
from advrad.serving.api.versions import versions_of
from advrad.serving.thresholds import new_threshold, what_if

router = APIRouter(prefix="/v1/products/{product}", tags=["thresholds"])
Reader = Annotated[Principal, Depends(require(Role.INSPECT))]
Reviewer = Annotated[Principal, Depends(require(Role.REVIEW))]
Admin = Annotated[Principal, Depends(require(Role.ADMIN))]
Service = Annotated[Parts, Depends(parts_of)]
Version = Annotated[int, Path(ge=0, le=2**31 - 1, description="Number of the version; 0 is that of the model folder.")]


@router.get("/calibrations", response_model=ThresholdList, responses=failures(404))
def versions(product: ProductName, who: Reader, parts: Service) -> ThresholdList:
    """All versions of the threshold for the model that inspects now."""
    found = versions_of(parts.store, parts.products.get(product))
    return ThresholdList(calibrations=[ThresholdOut.of(version) for version in found])


@router.post("/calibrations", status_code=201, response_model=ThresholdOut, responses=failures(404))
def make(product: ProductName, wanted: ThresholdIn, who: Reviewer, parts: Service) -> ThresholdOut:
    """Make a new version from images that were reviewed as good. It decides nothing until somebody activates it."""
    found = parts.products.get(product)
    made = new_threshold(
        parts.store, found, false_alarm_rate=wanted.false_alarm_rate, by=who.name, images=wanted.images
    )
    return ThresholdOut.of(made)


@router.get("/what-if", response_model=WhatIf, responses=failures(404))
def what(
    product: ProductName,
    threshold: Annotated[float, Query(allow_inf_nan=False, description="Threshold to try.")],
    who: Reader,
    parts: Service,
) -> Any:
    """What another threshold would do: expected false alarms, and misses among reviewed images, with intervals."""
    return what_if(parts.store, parts.products.get(product), threshold)


@router.post("/calibrations/{version}/activate", response_model=ThresholdOut, responses=failures(404, 409))
def activate(product: ProductName, version: Version, who: Admin, parts: Service) -> ThresholdOut:
    """Let a version decide from now on. The one before stays, and the audit log tells who changed it."""
    found = parts.products.get(product)
    if found.guarded and version != 0:
        raise Refusal(
            409, "guarded", "a test for each half of this detector decides, so no threshold suits it",
            "calibrate the model folder by 'advrad calibrate RUN DATA -o NEW' and serve NEW",
        )  # fmt: skip
    parts.store.thresholds.activate(product, found.model, version, who.name)
    return ThresholdOut.of(next(one for one in versions_of(parts.store, found) if one.active))
