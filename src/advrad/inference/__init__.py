"""Prediction, evaluation and heat maps with a finished detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advrad.utils.lazy import attach

if TYPE_CHECKING:
    from advrad.inference.evaluation import EvaluationResult as EvaluationResult
    from advrad.inference.evaluation import evaluate as evaluate
    from advrad.inference.heatmaps import draw_heat_map as draw_heat_map
    from advrad.inference.heatmaps import draw_proven_area as draw_proven_area
    from advrad.inference.heatmaps import heat_overlay as heat_overlay
    from advrad.inference.heatmaps import outline as outline
    from advrad.inference.prediction import PredictionRecord as PredictionRecord
    from advrad.inference.prediction import predict_paths as predict_paths

__all__ = [
    "EvaluationResult",
    "PredictionRecord",
    "draw_heat_map",
    "draw_proven_area",
    "evaluate",
    "heat_overlay",
    "outline",
    "predict_paths",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "EvaluationResult": "advrad.inference.evaluation",
        "PredictionRecord": "advrad.inference.prediction",
        "draw_heat_map": "advrad.inference.heatmaps",
        "draw_proven_area": "advrad.inference.heatmaps",
        "evaluate": "advrad.inference.evaluation",
        "heat_overlay": "advrad.inference.heatmaps",
        "outline": "advrad.inference.heatmaps",
        "predict_paths": "advrad.inference.prediction",
    },
)
