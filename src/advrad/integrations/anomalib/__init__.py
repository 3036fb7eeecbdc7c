"""AdvRAD and the closed form as models of anomalib: trained by its engine, exported by its exporter."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

__all__ = ["AdvRad", "AdvRadClosedForm"]

# anomalib and timm warn about their own code when they are imported; a user can do nothing about it.
for _message in ("Importing from timm.models.layers", "The anomalib.models.components.dinov2 package"):
    warnings.filterwarnings("ignore", message=_message, category=FutureWarning)

if TYPE_CHECKING:
    from advrad.integrations.anomalib.closed_form import AdvRadClosedForm
    from advrad.integrations.anomalib.module import AdvRad
else:
    __getattr__, __dir__ = attach(
        __name__,
        {
            "AdvRad": "advrad.integrations.anomalib.module",
            "AdvRadClosedForm": "advrad.integrations.anomalib.closed_form",
        },
    )
