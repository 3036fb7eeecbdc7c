"""The demonstration: a synthetic product that is rendered, trained on, evaluated and reported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

__all__ = ["DemoResult", "run_demo", "write_product"]

if TYPE_CHECKING:
    from advrad.demo.flange.render import write_product
    from advrad.demo.run import DemoResult, run_demo
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "DemoResult": "advrad.demo.run",
            "run_demo": "advrad.demo.run",
            "write_product": "advrad.demo.flange.render",
        },
    )
