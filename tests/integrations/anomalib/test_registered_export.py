"""A detector that finds parts first, exported as a graph: same scores and maps, for debris and a missing part too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib_runs import CLOSE, MARKS, engine, inferencer
from PIL import Image
from torch import Tensor
from turned_parts import BACKGROUND, SIZE, four_bars

from advrad.training.closed_form import fit_closed_form
from advrad.training.closed_form_plan import MemberPlan

pytestmark = [*MARKS, pytest.mark.slow, pytest.mark.filterwarnings("ignore:Converting a tensor:UserWarning")]

PLAN = MemberPlan(name="small", view="registered", size_px=SIZE, cell_px=4 / 3, patch_cells=5, window_cells=(1, 1))


def samples() -> Tensor:
    """A good image, one with a speck outside the parts, and one without one of its parts."""
    images = four_bars(3, seed=77).float()
    images[1, :, 62:, 14:18] += 0.5
    images[2, :, :32, :32] = BACKGROUND
    return images.clamp(0, 1)


def test_a_registered_detector_has_our_scores_when_exported(tmp_path: Path) -> None:
    from advrad.integrations.anomalib import AdvRadClosedForm

    model = AdvRadClosedForm(size_px=SIZE, post_processor=False, evaluator=False)
    model.model.detector = fit_closed_form(four_bars(48).float(), [PLAN])
    file = engine(tmp_path).export(model=model, export_type="onnx", export_root=tmp_path)
    scorer, scores = inferencer("onnx", file), []
    for index, image in enumerate(samples()):
        path = tmp_path / f"{index}.png"
        values = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        Image.fromarray(values).save(path)
        answer = scorer.predict(path)
        expected = model.model(torch.from_numpy(values).permute(2, 0, 1)[None].float() / 255)
        scores.append(float(expected.pred_score))
        assert torch.as_tensor(answer.pred_score).item() == pytest.approx(scores[-1], rel=CLOSE, abs=CLOSE)
        maps = torch.as_tensor(answer.anomaly_map).view_as(expected.anomaly_map)
        torch.testing.assert_close(maps, expected.anomaly_map, rtol=CLOSE, atol=1e-3)
    assert min(scores[1:]) > model.detector.calibration.threshold
