"""Routes of products: which there are, and where a model and its thresholds come from."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from advrad.serving.access import Principal, Role
from advrad.serving.api.boundary import require
from advrad.serving.api.fields import ProductName
from advrad.serving.api.parts import Parts, parts_of
from advrad.serving.api.schemas import ProductList, ProductOut, ProductRow, ThresholdOut, failures
from advrad.serving.api.versions import versions_of

router = APIRouter(prefix="/v1/products", tags=["products"])
Reader = Annotated[Principal, Depends(require(Role.INSPECT))]
Service = Annotated[Parts, Depends(parts_of)]


@router.get("", response_model=ProductList, responses=failures())
def names(who: Reader, parts: Service) -> ProductList:
    """The products of this service."""
    rows = [
        ProductRow(name=one.name, model=one.model, loaded_at=one.loaded_at.isoformat(), problem=one.problem)
        for one in parts.products.status()
    ]
    return ProductList(products=rows)


@router.get("/{product}", response_model=ProductOut, responses=failures(404))
def facts(product: ProductName, who: Reader, parts: Service) -> ProductOut:
    """A product: its model and where it comes from, its calibration and evaluation, and all its thresholds."""
    found = parts.products.get(product)
    versions = versions_of(parts.store, found)
    figures = found.judge.detector.config.figures.to_dict()
    problems = {one.name: one.problem for one in parts.products.status()}
    return ProductOut(
        name=product,
        model=found.model,
        provenance=found.facts(),
        calibration=found.calibration.model_dump(mode="json"),
        evaluation=figures or None,
        threshold=next(version.threshold for version in versions if version.active),
        thresholds=[ThresholdOut.of(version) for version in versions],
        guarded=found.guarded,
        problem=problems[product],
    )
